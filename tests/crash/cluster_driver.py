"""Two API processes and two workers on one PostgreSQL, used by many clients while everything is killed at random.

Run by test_cluster.py for a while, and by hand for as long as one likes:

    python tests/crash/cluster_driver.py --seconds 300 --clients 16 --seed 1

Killed are API processes and workers (SIGKILL), single connections of the database, and the database as a whole (all
its processes at once, without a checkpoint). Files of imports lie in an S3-compatible storage. Prints one JSON object;
`problems` is empty when nothing acknowledged was lost, doubled, made unfindable, or seen by another tenant.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx

from crash.crash_driver import OK, Report, Told, Writer, ailments, all_rows, judge
from object_storage import Bucket, object_server
from postgres import PostgresServer, running_postgres

CALL_SECONDS = 30.0
START_SECONDS = 60.0
SETTLE_SECONDS = 180.0
PAUSE_SECONDS = 0.05
UNAVAILABLE = 503
TENANTS = 4
# Of each tenant so many words are searched for at the end.
SEARCHED = 1000
IMPORTED = 40
# Memories of a tenant bear numbers of its own range: a row tells whose it is.
RANGE = 1_000_000


# --- the processes -------------------------------------------------------------------------------------------


@dataclass
class Process:
    """One of our processes, killed and started again at will."""

    command: str
    folder: Path
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    url: str | None = None
    starts: int = 0

    async def start(self) -> None:
        """The process runs; an API process answers. One that ends at its start is started again."""
        async with asyncio.timeout(START_SECONDS):
            while not await self._started():  # noqa: ASYNC110 - a process tells by its words, no event of ours
                await asyncio.sleep(PAUSE_SECONDS)

    async def _started(self) -> bool:
        arguments = ["--data-dir", str(self.folder), *(["--port", "0"] if self.command == "serve" else [])]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "polymem", self.command, *arguments,
                stdout=asyncio.subprocess.PIPE, stderr=log, env=self.environment,
            )  # fmt: skip
        self.starts += 1
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            await self.process.wait()
            return False
        if self.command == "serve":
            self.url = json.loads((self.folder / "server.json").read_text())["url"]
        return True

    async def kill(self) -> None:
        """The process is gone, with no chance to clean up."""
        assert self.process is not None
        self.url = None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """The process has stopped cleanly; its status."""
        assert self.process is not None
        self.url = None
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), START_SECONDS)


@dataclass
class Cluster:
    """All processes on one database."""

    server: PostgresServer
    environment: dict[str, str]
    apis: list[Process]
    workers: list[Process]
    kills: Counter[str] = field(default_factory=Counter)

    def address(self, chance: random.Random) -> str | None:
        """The URL of an API process that is up, if one is."""
        urls = [each.url for each in self.apis if each.url is not None]
        return chance.choice(urls) if urls else None

    async def strike(self, chance: random.Random) -> None:
        """Something has been killed and started again."""
        match chance.choices(("api", "worker", "connections", "database"), weights=(50, 25, 15, 10))[0]:
            case "api":
                await self._again(chance.choice(self.apis), "api")
            case "worker":
                await self._again(chance.choice(self.workers), "worker")
            case "connections":
                self.kills["connections"] += 1
                await asyncio.to_thread(
                    self.server.run,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'polymem' AND random() < 0.5",
                )
            case _:
                self.kills["database"] += 1
                await asyncio.to_thread(self.server.stop, at_once=True)
                await asyncio.to_thread(self.server.start)

    async def _again(self, process: Process, kind: str) -> None:
        self.kills[kind] += 1
        await process.kill()
        await process.start()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A running cluster; afterwards all its processes have ended, whatever happened."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_postgres(fsync="on"))
        store = Bucket(stack.enter_context(object_server())).make()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYMEM_")}
        environment = {
            **kept,
            "POLYMEM_DATABASE_URL": server.new_database(is_empty=True),
            "POLYMEM_KEY": secrets.token_urlsafe(24),
            "POLYMEM_BLOB_URL": f"s3://{store.name}/blobs",
            "POLYMEM_S3_ENDPOINT": store.endpoint,
            "POLYMEM_S3_REGION": "us-east-1",
            "POLYMEM_S3_ACCESS_KEY_ID": "cluster",
            "POLYMEM_S3_SECRET_ACCESS_KEY": "cluster-secret",
        }
        alone = {**environment, "POLYMEM_WORKER_CONCURRENCY": "0"}
        apis = [Process("serve", folder / f"api{number}", alone) for number in range(2)]
        workers = [Process("work", folder / f"worker{number}", environment) for number in range(2)]

        async def end() -> None:
            for each in (*apis, *workers):
                if each.process is not None:
                    await each.kill()

        stack.push_async_callback(end)
        # All at once: they race for the schema and for the first account.
        await asyncio.gather(*(each.start() for each in (*apis, *workers)))
        yield Cluster(server, environment, apis, workers)


# --- the clients ---------------------------------------------------------------------------------------------


class ClusterApi:
    """The mem9 API of one tenant, at whichever process answers."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient, chance: random.Random, key: str) -> None:
        self._cluster = cluster
        self._client = client
        self._chance = chance
        self._key = key
        self.seconds: list[float] = []
        self.refused = 0

    async def call(self, method: str, path: str, **parts: Any) -> httpx.Response | None:
        """The answer, or None when none came, or that nothing could be done now."""
        headers = {"X-API-Key": self._key, **parts.pop("headers", {})}
        began = time.perf_counter()
        try:
            address = self._cluster.address(self._chance)
            if address is None:
                await asyncio.sleep(PAUSE_SECONDS)
                return None
            answer = await self._client.request(method, f"{address}/v1alpha2/mem9s{path}", headers=headers, **parts)
        except httpx.TransportError:
            await asyncio.sleep(PAUSE_SECONDS)
            return None
        if answer.status_code == UNAVAILABLE:
            self.refused += 1
            await asyncio.sleep(PAUSE_SECONDS)
            return None
        self.seconds.append(time.perf_counter() - began)
        return answer

    async def insist(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer, asking again as often as none comes."""
        while True:
            answer = await self.call(method, path, **parts)
            if answer is not None:
                return answer

    async def rows(self, **where: str) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        return await all_rows(self, where)


@dataclass
class Tenant:
    """One tenant with its books."""

    number: int
    api: ClusterApi
    writer: Writer
    chance: random.Random
    problems: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    made: int = 0
    acknowledged: int = 0

    def next_number(self) -> int:
        """A number that no other memory bears."""
        self.made += 1
        return self.number * RANGE + self.made

    async def act(self) -> None:
        """One thing that a client does."""
        match self.chance.choices(("memory", "turns", "recall", "import"), weights=(45, 15, 38, 2))[0]:
            case "memory":
                await self.writer.memory(self.next_number())
            case "turns":
                await self.writer.turns(self.next_number())
            case "recall":
                await self._recall()
            case _:
                await self._import()

    async def _recall(self) -> None:
        """A question answers with this tenant's rows alone, whoever's words it holds."""
        word = f"mark{self.chance.randrange(TENANTS) * RANGE + self.chance.randint(1, max(self.made, 1)):05d}"
        answer = await self.api.call("GET", "/memories", params={"q": f"the ledger of {word}", "limit": "10"})
        if answer is None:
            return
        if answer.status_code != OK:
            self.problems.append(f"a recall answered {answer.status_code}: {answer.text[:200]}")
            return
        self.problems += [
            f"tenant {self.number} was shown {row['content']!r}"
            for row in answer.json()["memories"]
            if _owner(row["content"]) != self.number
        ]

    async def _import(self) -> None:
        numbers = [self.next_number() for _ in range(IMPORTED)]
        texts = [f"Item mark{number:05d} stands on a shelf" for number in numbers]
        self.writer.told += [
            Told(word=f"mark{number:05d}", may_be={text}) for number, text in zip(numbers, texts, strict=True)
        ]
        file = json.dumps([{"content": text} for text in texts])
        answer = await self.api.insist(
            "POST",
            "/imports",
            headers={"Idempotency-Key": f"import-{numbers[0]}"},
            files={"file": ("items.json", file, "application/json")},
            data={"file_type": "memory"},
        )
        self.imports.append(answer.json()["id"])

    async def settle(self) -> None:
        """Every import has ended well."""
        async with asyncio.timeout(SETTLE_SECONDS):
            for task in self.imports:
                state: dict[str, Any] = {}
                while state.get("status") not in {"done", "failed"}:
                    state = (await self.api.insist("GET", f"/imports/{task}")).json()
                    await asyncio.sleep(PAUSE_SECONDS)
                if state["status"] != "done":
                    self.problems.append(f"an import ended as {state}")


def _owner(content: str) -> int:
    """Whose the text is, by the number in it."""
    words = [word for word in content.replace(",", " ").split() if word.startswith(("mark", "turn"))]
    return int("".join(letter for letter in words[0] if letter.isdigit())) // RANGE


# --- the run -------------------------------------------------------------------------------------------------


@dataclass
class ClusterReport(Report):
    """The judgement, and figures about the run."""

    strikes: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    refused: int = 0
    calls_per_second: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    longest_ms: float = 0.0
    imports: int = 0
    stops: list[int] = field(default_factory=list)


async def run(folder: Path, *, seconds: float, clients: int, pause_seconds: float, seed: int) -> ClusterReport:
    """The cluster was used and struck for this time; what is left was judged."""
    chance = random.Random(seed)
    limits = httpx.Limits(max_connections=2 * clients)
    async with (
        cluster(folder) as running,
        httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False, limits=limits) as client,
    ):
        tenants = [await _tenant(number, running, client, chance) for number in range(TENANTS)]
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(_use(tenants[number % TENANTS], ends_at))
            group.create_task(_strike(running, chance, ends_at, pause_seconds))
        for tenant in tenants:
            await tenant.settle()
        problems = [problem for tenant in tenants for problem in (*tenant.problems, *tenant.writer.problems)]
        times = [each for tenant in tenants for each in tenant.api.seconds]
        for tenant in tenants:
            problems += await judge(tenant.api, tenant.writer.told, searched=SEARCHED)
        doctor = await _examine(running)
        stops = [await each.stop() for each in (*running.apis, *running.workers)]
        return ClusterReport(
            problems=problems + ailments(doctor) + [f"a clean stop ended with {stop}" for stop in stops if stop],
            kills=running.kills.total(),
            calls_cut=sum(tenant.writer.cut for tenant in tenants),
            memories=sum(len(tenant.writer.told) for tenant in tenants),
            doctor=doctor,
            strikes=dict(running.kills),
            calls=len(times),
            refused=sum(tenant.api.refused for tenant in tenants),
            calls_per_second=round(len(times) / seconds, 1),
            p50_ms=round(median(times) * 1000, 1),
            p95_ms=round(quantiles(times, n=20)[-1] * 1000, 1),
            longest_ms=round(max(times) * 1000, 1),
            imports=sum(len(tenant.imports) for tenant in tenants),
            stops=stops,
        )


async def _tenant(number: int, running: Cluster, client: httpx.AsyncClient, chance: random.Random) -> Tenant:
    """A new tenant with its own key."""
    address = running.address(chance)
    assert address is not None
    key = (await client.post(f"{address}/v1alpha1/mem9s")).json()["id"]
    api = ClusterApi(running, client, chance, key)
    tenant = Tenant(number, api, Writer(api, chance, lambda: None), chance)
    # The first question of a tenant finds something, and no number is drawn from an empty range.
    await tenant.writer.memory(tenant.next_number())
    return tenant


async def _use(tenant: Tenant, ends_at: float) -> None:
    while time.monotonic() < ends_at:
        await tenant.act()


async def _strike(running: Cluster, chance: random.Random, ends_at: float, pause_seconds: float) -> None:
    while time.monotonic() < ends_at:
        await asyncio.sleep(chance.uniform(0.2, 1.8) * pause_seconds)
        await running.strike(chance)


async def _examine(running: Cluster) -> dict[str, Any]:
    """What `polymem doctor` says while the servers run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "polymem", "doctor", "--json", "--data-dir", str(running.apis[0].folder),
        stdout=asyncio.subprocess.PIPE, env=running.environment,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 300)
    found: dict[str, Any] = json.loads(output)
    return {**found, "status": process.returncode}


def main() -> None:
    """One run, its report on standard output."""
    parser = argparse.ArgumentParser(description="Kill a cluster's processes while it is used.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pause-seconds", type=float, default=5.0, help="mean time between two strikes")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polymem-cluster-") as folder:
        report = asyncio.run(
            run(
                Path(folder),
                seconds=chosen.seconds,
                clients=chosen.clients,
                pause_seconds=chosen.pause_seconds,
                seed=chosen.seed,
            )
        )
    sys.stdout.write(json.dumps(asdict(report), indent=2) + os.linesep)


if __name__ == "__main__":
    main()
