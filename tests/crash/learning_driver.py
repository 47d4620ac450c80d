"""Writes atoms, judges them and lets them sleep over HTTP while the server is killed; then checks what was learned.

Run by test_learning_killed.py, and by hand:

    python tests/crash/learning_driver.py --directory /tmp/learning --atoms 300 --kills 8 --seed 1

Each atom is said twice in other words, so that sleep has something to merge, and judged a number of times, each time
under an idempotency key that is sent again until it is answered. So its valence is known to the last bit. Prints one
JSON object; `problems` is empty when nothing acknowledged was lost, doubled or made unreachable.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it finds what stands beside it

from crash.crash_driver import (
    CALL_SECONDS,
    OK,
    START_SECONDS,
    Killer,
    Report,
    Server,
    ailments,
    examine,
    running,
)

CLIENTS = 4
DOMAIN = "project:crash"
SLEEP_EVERY = 12
RATE = 0.3
FORMS = (
    "Gate word{0} of the harbour opens when the tide is low",
    "When the tide is low, gate word{0} of the harbour opens",
)


@dataclass
class Books:
    """What was acknowledged: of each reference the id of its atom and the outcomes that it was given."""

    ids: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, list[float]] = field(default_factory=dict)
    cut: int = 0
    problems: list[str] = field(default_factory=list)


class Client:
    """The mnemoverse API of the server, through its deaths."""

    def __init__(self, server: Server, client: httpx.AsyncClient, killer: Killer, books: Books) -> None:
        self._server = server
        self._client = client
        self._killer = killer
        self.books = books

    async def insist(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """The answer, asking again as often as the server dies."""
        while True:
            await self._server.is_up.wait()
            key = {"X-Api-Key": self._server.key()}
            try:
                answer = await self._client.request(
                    method, f"{self._server.url}/api/v1/memory{path}", json=body, headers=key | headers
                )
            except httpx.TransportError:
                self.books.cut += 1
                continue
            self._killer.count_one()
            return answer

    async def teach(self, number: int, chance: random.Random) -> None:
        """The atom is written in both forms, and each judged a few times."""
        for form, text in enumerate(FORMS):
            reference = f"{number}-{form}"
            body = {
                "content": text.format(number),
                "domain": DOMAIN,
                "external_ref": reference,
                "concepts": ["harbour"],
            }
            written = await self.insist("POST", "/write", body)
            if written.status_code != OK:
                self.books.problems.append(f"{reference}: {written.status_code} {written.text}")
                continue
            self.books.ids[reference] = written.json()["atom_id"]
            for judged in range(chance.randrange(3)):
                outcome = chance.choice((-0.2, 0.1, 0.3))
                feedback = {"atom_ids": [self.books.ids[reference]], "outcome": outcome, "query_concepts": ["tide"]}
                given = await self.insist("POST", "/feedback", feedback, **{"Idempotency-Key": f"{reference}-{judged}"})
                if given.json().get("updated_count") == 1:
                    self.books.outcomes.setdefault(reference, []).append(outcome)
                else:
                    self.books.problems.append(f"{reference}: feedback {given.text}")

    async def sleep(self) -> None:
        """The domain was consolidated, however often the server died over it."""
        status = 0
        while status != OK:
            status = (await self.insist("POST", "/consolidate", {"domain": DOMAIN})).status_code


async def check(client: Client) -> list[str]:
    """What is wrong with the export, against what was acknowledged."""
    lines = (await client.insist("GET", "/export")).text.splitlines()
    atoms = {atom["atom_id"]: atom for atom in map(json.loads, lines)}
    problems = [] if len(atoms) == len(lines) else ["an atom was exported twice"]
    for reference, atom_id in client.books.ids.items():
        atom = atoms.get(atom_id)
        if atom is None or atom["external_ref"] != reference:
            problems.append(f"{reference}: lost")
            continue
        expected = 0.0
        for outcome in client.books.outcomes.get(reference, []):
            expected += RATE * (outcome - expected)
        if not isclose(atom["valence"], expected, abs_tol=1e-12):
            problems.append(f"{reference}: valence {atom['valence']} instead of {expected}")
        if atom["state"] == "archived" and atom_id not in atoms[atom["superseded_by"]]["source_ids"]:
            problems.append(f"{reference}: its prototype does not know it")
    edges = [(edge["source"], edge["target"]) for atom in atoms.values() for edge in atom["associations"]]
    if len(set(edges)) != len(edges):
        problems.append("an association was exported twice")
    told = (await client.insist("GET", "/stats")).json()
    if told["total_atoms"] != sum(atom["state"] == "active" for atom in atoms.values()):
        problems.append("the statistics count other atoms than the export has")
    return problems


async def run(directory: Path, atoms: int, kills: int, seed: int) -> Report:
    """Atoms were written, judged and merged under kills; what is left was judged."""
    chance = random.Random(seed)
    numbers: Iterator[int] = iter(range(atoms))
    async with running(directory) as server, httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False) as http:
        killer = Killer(server, chance.sample(range(10, 2 * atoms), kills))
        client = Client(server, http, killer, Books())

        async def work() -> None:
            for number in numbers:
                await client.teach(number, chance)
                if number % SLEEP_EVERY == SLEEP_EVERY - 1:
                    await client.sleep()

        killing = asyncio.create_task(killer.run())
        await asyncio.gather(*(work() for _ in range(CLIENTS)))
        await asyncio.wait_for(killing, START_SECONDS)
        await client.sleep()
        problems = client.books.problems + await check(client)
        doctor = await examine(directory)
        stats: dict[str, Any] = (await client.insist("GET", "/stats")).json()
        if not stats["prototypes"]:
            problems.append("nothing was merged: the run proved nothing of sleep")
        await server.stop()
    return Report(
        problems=problems + ailments(doctor),
        kills=killer.kills,
        calls_cut=client.books.cut,
        memories=len(client.books.ids),
        starts_seconds=server.starts_seconds,
        doctor=doctor,
    )


def main() -> None:
    """The run has happened; its report is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--atoms", type=int, default=300)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = asyncio.run(run(given.directory, given.atoms, given.kills, given.seed))
    sys.stdout.write(f"{json.dumps(asdict(report), indent=2)}\n")


if __name__ == "__main__":
    main()
