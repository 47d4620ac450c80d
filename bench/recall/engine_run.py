"""`engine`: the engine in this process, beside every baseline."""

import time
from pathlib import Path

from bench.recall import report
from bench.recall.baseline_rows import BM25_RECIPE, BM25_TERMS, PLAIN, baseline_rows
from bench.recall.dataset import DataSet
from bench.recall.lab_engine import LabEngine, ask, fed_engine, recall_of, stored_bytes, turn_ids
from bench.recall.memories import DEPTH

OURS = "polymem"


async def measure(root: Path, data_set: DataSet, *, threads: int) -> bool:
    """The figures of one data set are printed; True when recall is better than each BM25 alone."""
    async with fed_engine(root, data_set, threads=threads) as engine:
        ours = await _ours(engine, data_set)
        others = await baseline_rows(engine, data_set)
    rows = [*others, ours]
    parts = [
        report.title(data_set, ours),
        report.figures(rows),
        "Differences with 95 % intervals (paired bootstrap over the questions):",
        report.differences(ours, others),
        report.kinds([row for row in rows if row.name in {BM25_TERMS, PLAIN, OURS}]),
        report.latency([ours]),
        report.size(data_set, stored_bytes(root, data_set)),
    ]
    print("\n\n".join(parts), end="\n\n")
    return all(report.is_better(ours, other) for other in others if other.name in {BM25_TERMS, BM25_RECIPE})


async def _ours(engine: LabEngine, data_set: DataSet) -> report.Row:
    """The engine as it is, each question asked once, one after another."""
    row, recall = report.Row(OURS), recall_of(engine)
    for number, history in enumerate(data_set.histories):
        found: dict[str, list[str]] = {}
        for question in history.scored:
            started, cpu_started = time.perf_counter(), time.process_time()
            page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=DEPTH)
            row.cpu_seconds += time.process_time() - cpu_started
            row.seconds.append(time.perf_counter() - started)
            found[question.id] = turn_ids(history, page)
        row.add(history, found)
    return row
