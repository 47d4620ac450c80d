"""`engine`: the engine in this process, beside every baseline, and if asked for on PostgreSQL beside SQLite."""

import time
from collections.abc import Sequence
from pathlib import Path

from bench.recall import report
from bench.recall.baseline_rows import BM25_RECIPE, BM25_TERMS, PLAIN, baseline_rows
from bench.recall.dataset import DataSet
from bench.recall.lab_engine import LabEngine, ask, fed_engine, recall_of, stored_bytes, turn_ids
from bench.recall.memories import DEPTH
from bench.recall.postgres_engine import fed_on_postgres
from bench.scale.server import LabServer

OURS = "polymem"
ON_POSTGRES = "polymem on PostgreSQL"
_TOLD = frozenset({BM25_TERMS, PLAIN, OURS, ON_POSTGRES})

Rankings = list[list[str]]
"""The turns found for each question, best first."""


async def measure(root: Path, data_set: DataSet, *, threads: int, server: LabServer | None = None) -> bool:
    """The figures of one data set are printed; True when recall is better than each BM25 alone, on each storage.

    With a server the engine on PostgreSQL is asked too, and told beside the one on SQLite.
    """
    async with fed_engine(root, data_set, threads=threads, remembers=server is not None) as engine:
        ours, rankings = await _asked(OURS, engine, data_set)
        others = await baseline_rows(engine, data_set)
        engines, agreement = [ours], []
        if server is not None:
            async with fed_on_postgres(server, data_set, engine) as beside:
                theirs, found = await _asked(ON_POSTGRES, beside, data_set)
            engines.append(theirs)
            agreement = [report.differences(theirs, [ours]), _agreement(rankings, found)]
    rows = [*others, *engines]
    parts = [
        report.title(data_set, ours),
        report.figures(rows),
        "Differences with 95 % intervals (paired bootstrap over the questions):",
        *(report.differences(each, others) for each in engines),
        *agreement,
        report.kinds([row for row in rows if row.name in _TOLD]),
        report.latency(engines),
        report.size(data_set, stored_bytes(root, data_set)),
    ]
    print("\n\n".join(parts), end="\n\n")
    plain = [other for other in others if other.name in {BM25_TERMS, BM25_RECIPE}]
    return all(report.is_better(each, other) for each in engines for other in plain)


async def _asked(name: str, engine: LabEngine, data_set: DataSet) -> tuple[report.Row, Rankings]:
    """The engine as it is, each question asked once, one after another."""
    row, recall = report.Row(name), recall_of(engine)
    rankings: Rankings = []
    for number, history in enumerate(data_set.histories):
        found: dict[str, list[str]] = {}
        for question in history.scored:
            started, cpu_started = time.perf_counter(), time.process_time()
            page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=DEPTH)
            row.cpu_seconds += time.process_time() - cpu_started
            row.seconds.append(time.perf_counter() - started)
            found[question.id] = turn_ids(history, page)
        row.add(history, found)
        rankings += found.values()
    return row, rankings


def _agreement(ours: Rankings, theirs: Rankings) -> str:
    """How many rankings are the same on both storages, to two depths."""
    told = [f"{_same(ours, theirs, cut)} in the first {cut}" for cut in (10, DEPTH)]
    return f"Of {len(ours)} questions both storages rank the same turns in the same order: {', '.join(told)}."


def _same(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], cut: int) -> int:
    return sum(one[:cut] == other[:cut] for one, other in zip(ours, theirs, strict=True))
