"""Measures recall of a running server over HTTP: `make bench-recall`, or `python -m bench.recall_http [FILE ...]`.

Starts a server on an empty data directory, feeds each history through the mem9 API under a key of its own, asks
every scored question, and prints recall, latency and size beside BM25 alone over the same indexed terms. Ends
with status 1 when the interval of the difference in turn all@10 reaches zero on any data set.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.recall_lab import http_run, report
from bench.recall_lab.dataset import DataSet, History, load
from bench.recall_lab.files import data_files
from bench.recall_lab.memories import DEPTH, plain_rankings


def measure(scratch: Path, data_set: DataSet) -> bool:
    """The figures of one data set are printed; True when recall is better than BM25 alone."""
    ours, plain = report.Row("polymem over HTTP"), report.Row("BM25 alone")
    data_dir = scratch / data_set.name / "data"
    data_dir.mkdir(parents=True)
    turns, fed_seconds = 0, 0.0
    with http_run.running_server(data_dir) as server:
        keys: list[str] = []
        for history in data_set.histories:
            key, seconds = http_run.feed(server, history)
            keys.append(key)
            turns += len(history.turns)
            fed_seconds += seconds
        job_seconds = http_run.wait_for_jobs(server)
        for history, key in zip(data_set.histories, keys, strict=True):
            ours.add(history, _rankings(server, key, history, ours.seconds))
            plain.add(history, plain_rankings(history))
    size = http_run.size_of(data_dir)
    print(report.table(data_set.name, [plain, ours]))
    print()
    print(report.comparison(ours, plain))
    print(report.kinds(ours))
    print(report.latency(ours))
    print(f"stored: {turns} turns in {fed_seconds:.1f} s ({turns / fed_seconds:.0f}/s), jobs {job_seconds:.1f} s more")
    print(f"size: {size / 1e6:.1f} MB, {size / turns:.0f} bytes a turn")
    print()
    return report.is_better(ours, plain)


def _rankings(server: http_run.LabServer, key: str, history: History, seconds: list[float]) -> dict[str, list[str]]:
    turn_of = {(turn.session_id, turn.seq): turn.id for turn in history.turns}
    found: dict[str, list[str]] = {}
    for question in history.scored:
        places, taken = http_run.ask(server, key, question.text, limit=DEPTH)
        seconds.append(taken)
        found[question.id] = [turn_of[place] for place in places]
    return found


def _main(files: Sequence[Path]) -> bool:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        better = [measure(Path(scratch), load(path)) for path in files]
    print(f"took {time.perf_counter() - started:.0f} s")
    return all(better)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    sys.exit(0 if _main(data_files(parser.parse_args().files)) else 1)
