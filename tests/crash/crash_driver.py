"""Writes to a server over HTTP while the server is killed with SIGKILL, restarts it each time, and judges what is left.

Run by test_sigkill.py, and by hand:

    python tests/crash/crash_driver.py writes --directory /tmp/crash --memories 1000 --kills 20 --seed 1
    python tests/crash/crash_driver.py import --directory /tmp/crash --memories 5000 --kills 6 --seed 1

Prints one JSON object; `problems` is empty when nothing acknowledged was lost, doubled or made unfindable.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

START_SECONDS = 30.0
CALL_SECONDS = 30.0
WRITERS = 6
PAGE = 200
POLL_SECONDS = 0.02
OK, CREATED, ACCEPTED, NO_CONTENT, NOT_FOUND = 200, 201, 202, 204, 404


# --- the server under test -----------------------------------------------------------------------------------


@dataclass
class Server:
    """A server process on one data directory, killed and started again at will."""

    data_dir: Path
    process: asyncio.subprocess.Process | None = None
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    starts_seconds: list[float] = field(default_factory=list)
    url: str = ""

    async def start(self) -> None:
        """The server answers; the time it took is noted."""
        began = time.monotonic()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "polymem", "serve", "--port", "0", "--data-dir", str(self.data_dir),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), START_SECONDS)
        assert b"answers at" in line, f"the server did not start: {line!r}"
        self.starts_seconds.append(time.monotonic() - began)
        self.url = json.loads((self.data_dir / "server.json").read_text())["url"]
        self.is_up.set()

    async def kill(self) -> None:
        """The process is gone, with no chance to clean up."""
        assert self.process is not None
        self.is_up.clear()
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """The process has stopped cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.process.wait(), START_SECONDS)
        assert status == 0, f"a clean stop ended with {status}"

    def key(self) -> str:
        """The secret of the first key."""
        return (self.data_dir / "key").read_text().strip()


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[Server]:
    """A running server; afterwards its process has ended, whatever happened."""
    server = Server(data_dir)
    await server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.returncode is None:
            await server.kill()


class Memories(Protocol):
    """The mem9 API of one tenant, through whatever may die meanwhile."""

    async def call(self, method: str, path: str, **parts: Any) -> httpx.Response | None:
        """The answer, or None when none came."""
        ...

    async def insist(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer, asking again as often as none comes."""
        ...

    async def rows(self, **where: str) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        ...


async def all_rows(api: Memories, where: Mapping[str, str]) -> list[dict[str, Any]]:
    """All rows of a list, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        parameters = {**where, "limit": str(PAGE), "offset": str(len(found))}
        page = (await api.insist("GET", "/memories", params=parameters)).json()
        found += page["memories"]
        if not page["memories"]:
            return found


class Api:
    """The mem9 API of the server, wherever it answers at the moment."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self._server = server
        self._client = client

    async def call(self, method: str, path: str, **parts: Any) -> httpx.Response | None:
        """The answer, or None when the server died before it came."""
        await self._server.is_up.wait()
        headers = {"X-API-Key": self._server.key(), **parts.pop("headers", {})}
        url = f"{self._server.url}/v1alpha2/mem9s{path}"
        try:
            return await self._client.request(method, url, headers=headers, **parts)
        except httpx.TransportError:
            return None

    async def insist(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer, asking again as often as the server dies."""
        while True:
            answer = await self.call(method, path, **parts)
            if answer is not None:
                return answer

    async def rows(self, **where: str) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        return await all_rows(self, where)


# --- what is written -----------------------------------------------------------------------------------------


@dataclass
class Told:
    """One memory as its writer knows it: every text that may stand there now; none means that it may be gone."""

    word: str
    may_be: set[str] = field(default_factory=set)
    may_be_gone: bool = False
    is_turn: bool = False


@dataclass
class Report:
    """The judgement, and figures about the run."""

    problems: list[str] = field(default_factory=list)
    kills: int = 0
    calls_cut: int = 0
    memories: int = 0
    starts_seconds: list[float] = field(default_factory=list)
    doctor: dict[str, Any] = field(default_factory=dict)


class Writer:
    """Writes memories, and keeps the books on what was acknowledged."""

    def __init__(self, api: Memories, chance: random.Random, on_acknowledged: Callable[[], None]) -> None:
        self._api = api
        self._chance = chance
        self._on_acknowledged = on_acknowledged
        self.told: list[Told] = []
        self.cut = 0
        self.problems: list[str] = []

    async def memory(self, number: int) -> None:
        """One memory is created with an Idempotency-Key, perhaps changed, perhaps deleted."""
        word = f"mark{number:05d}"
        text = f"The ledger of {word} was opened on a quiet morning"
        told = Told(word=word, may_be={text})
        self.told.append(told)
        body = {"content": text, "tags": ["crash"], "sync": self._chance.random() < 0.5}
        answer = await self._retried("POST", "/memories", json=body, headers={"Idempotency-Key": f"key-{number}"})
        memory_id = answer.json()["id"]
        for change in range(self._chance.choice((0, 0, 1, 2))):
            await self._update(told, memory_id, f"The ledger of {word} was changed, entry {change}")
        if self._chance.random() < 0.2:
            await self._delete(told, memory_id)

    async def turns(self, number: int) -> None:
        """Two messages of a session are captured; sending them again adds nothing."""
        words = [f"turn{number:05d}{side}" for side in "ab"]
        texts = [f"We spoke about {word} for a while" for word in words]
        self.told += [Told(word=word, may_be={text}, is_turn=True) for word, text in zip(words, texts, strict=True)]
        roles = ("user", "assistant")
        messages = [
            {"role": role, "content": text, "seq": seq}
            for seq, (role, text) in enumerate(zip(roles, texts, strict=True), start=1)
        ]
        body = {"messages": messages, "session_id": f"session-{number}", "mode": "raw", "sync": True}
        await self._retried("POST", "/memories", json=body)

    async def _update(self, told: Told, memory_id: str, text: str) -> None:
        told.may_be.add(text)
        answer = await self._api.call("PUT", f"/memories/{memory_id}", json={"content": text})
        if answer is None:
            self.cut += 1
            return
        self._acknowledge(answer, "PUT", OK)
        told.may_be = {text}

    async def _delete(self, told: Told, memory_id: str) -> None:
        told.may_be_gone = True
        answer = await self._api.call("DELETE", f"/memories/{memory_id}")
        if answer is None:
            self.cut += 1
            if self._chance.random() < 0.5:
                return
            answer = await self._api.insist("DELETE", f"/memories/{memory_id}")
        self._acknowledge(answer, "DELETE", NO_CONTENT)
        told.may_be = set()

    async def _retried(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer to a call that may be repeated; half of the acknowledged ones are repeated to no effect."""
        answer = await self._api.call(method, path, **parts)
        if answer is None:
            self.cut += 1
            answer = await self._api.insist(method, path, **parts)
        elif self._chance.random() < 0.1:
            again = await self._api.insist(method, path, **parts)
            if again.json() != answer.json():
                self.problems.append(f"a repeated call answered {again.text} after {answer.text}")
        self._acknowledge(answer, method, OK, ACCEPTED)
        return answer

    def _acknowledge(self, answer: httpx.Response, method: str, *expected: int) -> None:
        if answer.status_code not in expected:
            self.problems.append(f"{method} {answer.url.path} answered {answer.status_code}: {answer.text[:200]}")
        self._on_acknowledged()


class Killer:
    """Kills the server at given counts of acknowledged calls, each time while other calls are in flight."""

    def __init__(self, server: Server, at: list[int]) -> None:
        self._server = server
        self._at = sorted(at)
        self._count = 0
        self._due = asyncio.Event()
        self.kills = 0

    def count_one(self) -> None:
        """One more call was acknowledged."""
        self._count += 1
        if self.kills < len(self._at) and self._count >= self._at[self.kills]:
            self._due.set()

    async def run(self) -> None:
        """All kills have happened, and the server answers again."""
        while self.kills < len(self._at):
            await self._due.wait()
            self._due.clear()
            await self._server.kill()
            self.kills += 1
            await self._server.start()


# --- the two runs --------------------------------------------------------------------------------------------


async def run_writes(directory: Path, memories: int, kills: int, seed: int) -> Report:
    """Memories were written by several writers at once under kills; what is left was judged."""
    chance = random.Random(seed)
    # Every sixth step writes a session of two turns, the others one memory each.
    steps: Iterator[tuple[bool, int]] = iter([(number % 6 == 0, number) for number in range(memories * 6 // 7 + 1)])
    async with running(directory) as server, httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False) as client:
        killer = Killer(server, chance.sample(range(5, memories * 6 // 7 - 5), kills))
        writer = Writer(Api(server, client), chance, killer.count_one)

        async def work() -> None:
            for is_session, number in steps:
                await (writer.turns(number) if is_session else writer.memory(number))

        killing = asyncio.create_task(killer.run())
        await asyncio.gather(*(work() for _ in range(WRITERS)))
        await asyncio.wait_for(killing, START_SECONDS)
        problems = writer.problems + await judge(Api(server, client), writer.told)
        doctor = await examine(directory)
        await server.stop()
    return Report(
        problems=problems + ailments(doctor),
        kills=killer.kills,
        calls_cut=writer.cut,
        memories=len(writer.told),
        starts_seconds=server.starts_seconds,
        doctor=doctor,
    )


async def run_import(directory: Path, memories: int, kills: int, seed: int) -> Report:
    """A file was imported under kills; exactly its rows are there."""
    chance = random.Random(seed)
    file = json.dumps(
        [{"content": f"Item mark{number:05d} stands on shelf {number % 97}"} for number in range(memories)]
    )
    problems: list[str] = []
    async with running(directory) as server, httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False) as client:
        api = Api(server, client)
        upload = {"files": {"file": ("items.json", file, "application/json")}, "data": {"file_type": "memory"}}
        task = (await api.insist("POST", "/imports", headers={"Idempotency-Key": "one-import"}, **upload)).json()
        shares = sorted(chance.uniform(0.02, 0.9) for _ in range(kills))
        done = 0
        for share in shares:
            state = await poll(api, task["id"], share)
            if state["status"] not in {"pending", "processing"}:
                problems.append(f"the import was {state['status']} before kill {done + 1}: too early to test it")
                break
            await server.kill()
            await server.start()
            done += 1
        state = await poll(api, task["id"], 2.0)
        if state["status"] != "done":
            problems.append(f"the import ended as {state}")
        rows = await api.rows(state="all")
        problems += doubled_or_missing(Counter(row["content"] for row in rows), memories)
        doctor = await examine(directory)
        await server.stop()
    return Report(
        problems=problems + ailments(doctor),
        kills=done,
        memories=len(rows),
        starts_seconds=server.starts_seconds,
        doctor=doctor,
    )


async def poll(api: Api, task_id: str, share: float) -> dict[str, Any]:
    """The import's state, once this share of it is done or it has ended."""
    async with asyncio.timeout(120):
        while True:
            state: dict[str, Any] = (await api.insist("GET", f"/imports/{task_id}")).json()
            is_reached = state["total"] > 0 and state["done"] >= share * state["total"]
            if is_reached or state["status"] in {"done", "failed"}:
                return state
            await asyncio.sleep(POLL_SECONDS)


# --- the judgement -------------------------------------------------------------------------------------------


async def judge(api: Memories, told: list[Told], *, searched: int | None = None) -> list[str]:
    """What is wrong: a memory lost, doubled, stale, back from the dead, or not found by its own word.

    Every memory is looked at; of `searched` of them, evenly picked, it is asked whether their words find them.
    """
    rows = await api.rows(state="all") + await api.rows(memory_type="session", state="all")
    by_word: dict[str, list[str]] = {}
    for row in rows:
        words = [word for word in row["content"].replace(",", " ").split() if word.startswith(("mark", "turn"))]
        by_word.setdefault(words[0], []).append(row["content"])
    problems = [f"nobody wrote {word}" for word in by_word.keys() - {each.word for each in told}]
    for each in told:
        there = by_word.get(each.word, [])
        if len(there) > 1:
            problems.append(f"{each.word} is there {len(there)} times")
        elif not there and not each.may_be_gone:
            problems.append(f"{each.word} was acknowledged and is lost")
        elif there and there[0] not in each.may_be:
            problems.append(f"{each.word} reads {there[0]!r}, expected one of {sorted(each.may_be)}")
    step = 1 if searched is None else max(1, len(told) // searched)
    problems += await unfound(api, told[::step], by_word)
    return problems


async def unfound(api: Memories, told: list[Told], by_word: dict[str, list[str]]) -> list[str]:
    """Words whose memory is there but is not among the first that the word finds, or is gone but still found.

    Among the first, not the first: the words of an import differ in a digit, and the model sees little of that.
    """

    async def check(each: Told) -> str | None:
        answer = await api.insist("GET", "/memories", params={"q": each.word, "limit": "10"})
        found = [row["content"] for row in answer.json()["memories"]]
        if each.word in by_word and by_word[each.word][0] not in found:
            return f"{each.word} is there and not found: {found}"
        if each.word not in by_word and any(each.word in content for content in found):
            return f"{each.word} is gone and still found"
        return None

    return [problem for problem in await together(check(each) for each in told) if problem is not None]


async def together(calls: Iterator[Awaitable[str | None]]) -> list[str | None]:
    """The results of all calls, a few at a time."""
    results: list[str | None] = []

    async def work() -> None:
        for call in calls:
            results.append(await call)  # noqa: PERF401 - one shared iterator, several workers

    await asyncio.gather(*(work() for _ in range(WRITERS)))
    return results


async def examine(directory: Path) -> dict[str, Any]:
    """What `polymem doctor` says while the server runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "polymem", "doctor", "--json", "--data-dir", str(directory),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    found: dict[str, Any] = json.loads(output)
    return {**found, "status": process.returncode}


def ailments(doctor: dict[str, Any]) -> list[str]:
    """The doctor's findings that are not well."""
    found = [f"doctor: {each['check']}: {each['message']}" for each in doctor["findings"] if not each["ok"]]
    return found if found or doctor["status"] == 0 else [f"doctor ended with {doctor['status']}"]


def doubled_or_missing(contents: Counter[str], expected: int) -> list[str]:
    """What is wrong with the rows of an import."""
    doubled = [content for content, count in contents.items() if count > 1]
    problems = [f"doubled: {content}" for content in doubled[:10]]
    if contents.total() != expected:
        problems.append(f"{contents.total()} rows instead of {expected}")
    return problems


def main() -> None:
    """One run, its report on standard output."""
    parser = argparse.ArgumentParser(description="Kill a server while it is written to.")
    parser.add_argument("run", choices=("writes", "import"))
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--memories", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    run = run_writes if chosen.run == "writes" else run_import
    report = asyncio.run(run(chosen.directory, chosen.memories, chosen.kills, chosen.seed))
    sys.stdout.write(json.dumps(asdict(report), indent=2) + os.linesep)


if __name__ == "__main__":
    main()
