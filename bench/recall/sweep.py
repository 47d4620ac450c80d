"""Many configurations over one fed engine, the data sets side by side in processes of their own."""

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.recall.baseline_rows import baseline_rows
from bench.recall.configurations import Changes, Configuration, RecallMaker
from bench.recall.dataset import DataSet
from bench.recall.lab_engine import ask, fed_engine, turn_ids
from bench.recall.memories import DEPTH
from bench.recall.report import Row

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
REFUSED = (ValueError, ZeroDivisionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One data set: its baselines, the row of every configuration by name, and the names the engine refused."""

    data_set: DataSet
    baselines: tuple[Row, ...]
    rows: dict[str, Row]
    refused: tuple[str, ...]


def sweeps(
    root: Path, data_sets: Sequence[DataSet], configurations: Sequence[Configuration], *, threads: int
) -> list[Sweep]:
    """The sweep of each data set, in order."""
    # The processes are the parallelism; a second thread of the linear algebra only waits for the other core.
    os.environ |= dict.fromkeys(_ONE_THREAD, "1")
    workers = min(len(data_sets), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_sweep_alone, root, each, tuple(configurations), threads) for each in data_sets]
        return [each.result() for each in running]


def _sweep_alone(root: Path, data_set: DataSet, configurations: Sequence[Configuration], threads: int) -> Sweep:
    return asyncio.run(sweep(root, data_set, configurations, threads=threads))


async def sweep(root: Path, data_set: DataSet, configurations: Sequence[Configuration], *, threads: int) -> Sweep:
    """Every configuration is asked every question of a data set; one whose weights make no sense is refused."""
    rows: dict[str, Row] = {}
    refused = []
    started = time.perf_counter()
    async with fed_engine(root, data_set, threads=threads) as engine:
        baselines = await baseline_rows(engine, data_set)
        maker = RecallMaker(engine)
        for number, each in enumerate(configurations, 1):
            try:
                rows[each.name] = await _row(maker, data_set, each.name, each.changes)
            except REFUSED as problem:
                refused.append(each.name)
                print(f"{each.name}: {problem}", file=sys.stderr)
            if number % 10 == 0:
                seconds = time.perf_counter() - started
                print(f"{data_set.name}: {number} of {len(configurations)} in {seconds:.0f} s", file=sys.stderr)
    return Sweep(data_set, tuple(baselines), rows, tuple(refused))


async def _row(maker: RecallMaker, data_set: DataSet, name: str, changes: Changes) -> Row:
    row = Row(name)
    recall = maker.recall(changes)
    for number, history in enumerate(data_set.histories):
        found = {}
        for question in history.scored:
            page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=DEPTH)
            found[question.id] = turn_ids(history, page)
        row.add(history, found)
    return row
