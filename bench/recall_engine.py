"""Measures recall of the engine in this process: `python -m bench.recall_engine [FILE ...]`.

Feeds each history of each data set to the real storage and model, asks every scored question without a
relevance cut, and prints the figures beside BM25 alone over the same indexed terms. With `--keep` the data
directory stays, and the next run asks without feeding.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.recall_lab import report
from bench.recall_lab.dataset import DataSet, History, load
from bench.recall_lab.engine_run import LabEngine, ask, feed, open_engine
from bench.recall_lab.files import data_files
from bench.recall_lab.memories import DEPTH, plain_rankings, position_of


async def measure(directory: Path, data_set: DataSet, *, threads: int) -> bool:
    """The figures of one data set are printed; True when recall is better than BM25 alone."""
    ours, plain, dense = report.Row("polymem"), report.Row("BM25 alone"), report.Row("dense alone")
    async with open_engine(directory / data_set.name, threads=threads) as engine:
        for number, history in enumerate(data_set.histories):
            seconds = await feed(engine, number, history)
            if seconds:
                print(f"{history.id}: {len(history.turns)} turns in {seconds:.1f} s", file=sys.stderr)
            ours.add(history, await _rankings(engine, number, history, ours.seconds))
            plain.add(history, plain_rankings(history))
            dense.add(history, await _dense_rankings(engine, number, history))
    print(report.table(data_set.name, [plain, dense, ours]))
    print()
    for line in (report.comparison(ours, plain), report.kinds(ours), report.latency(ours)):
        print(line)
    print()
    return report.is_better(ours, plain)


async def _rankings(engine: LabEngine, number: int, history: History, seconds: list[float]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for question in history.scored:
        started = time.perf_counter()
        page = await ask(engine, number, question.text, limit=DEPTH)
        seconds.append(time.perf_counter() - started)
        found[question.id] = [history.turns[position_of(hit.memory.id)].id for hit in page.hits]
    return found


async def _dense_rankings(engine: LabEngine, number: int, history: History) -> dict[str, list[str]]:
    """The rankings of the dense arm alone, as every hit's trace tells them."""
    found: dict[str, list[str]] = {}
    for question in history.scored:
        page = await ask(engine, number, question.text, limit=128)
        ranked = sorted(
            (arm.rank, position_of(hit.memory.id)) for hit in page.hits for arm in hit.trace.arms if arm.arm == "dense"
        )
        found[question.id] = [history.turns[position].id for _, position in ranked]
    return found


async def _main(files: Sequence[Path], keep: Path | None, threads: int) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        better = [await measure(keep or Path(scratch), load(path), threads=threads) for path in files]
    return all(better)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    parser.add_argument("--keep", type=Path, help="data directory to keep and reuse")
    parser.add_argument("--threads", type=int, default=2, help="threads that embed documents")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(_main(data_files(given.files), given.keep, given.threads)) else 1)
