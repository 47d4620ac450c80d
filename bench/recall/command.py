"""The command line of the laboratory."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.recall import ablation, calibrate, crossval, engine_run, fit, http_run
from bench.recall.configurations import Configuration, read_configurations
from bench.recall.dataset import DataSet, load
from bench.recall.files import data_files
from bench.recall.sweep import sweeps
from bench.scale.server import LabServer, lab_server

SQLITE, POSTGRES = "sqlite", "postgres"

_COMMANDS = {
    "engine": "the engine in this process beside the baselines; status 1 when not clearly better than BM25",
    "http": "a server of our own beside BM25; status 1 when not clearly better",
    "ablation": "each weight off, halved and doubled",
    "crossval": "a configuration chosen on one half of the questions, reported on the other; status 1 below the gate",
    "fit": "the weights that one half of the questions asks for, reported on the other; then those of all",
    "calibrate": "what turns scores into relevance, and what a cut keeps",
}


def main() -> None:
    """The command asked for has run; the status says whether its figures are good enough."""
    given = _arguments()
    data_sets = [load(path) for path in data_files(given.files)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.keep or Path(scratch)
        is_good = _run(given, root, data_sets)
    print(f"`{given.command}` took {time.perf_counter() - started:.0f} s.")
    sys.exit(0 if is_good else 1)


def _run(given: argparse.Namespace, root: Path, data_sets: Sequence[DataSet]) -> bool:
    match given.command:
        case "engine":
            with ExitStack() as stack:
                is_asked = given.storage == POSTGRES
                server = stack.enter_context(lab_server(given.database_url)) if is_asked else None
                return asyncio.run(_each_engine(root, data_sets, given.threads, server))
        case "http":
            # Each is measured, also when the one before was not good enough.
            better = [http_run.measure(root, data_set) for data_set in data_sets]
            return all(better)
        case "calibrate":
            asyncio.run(calibrate.measure(root, data_sets, threads=given.threads))
            return True
        case "fit":
            fit.measure(root, data_sets, threads=given.threads, splits=given.splits)
            return True
        case "ablation":
            found = sweeps(root, data_sets, _configurations(given), threads=given.threads)
            for each in found:
                ablation.print_report(each)
            ablation.print_objective(found)
            return True
        case _:
            found = sweeps(root, data_sets, _configurations(given), threads=given.threads)
            return crossval.print_report(found, given.splits)


async def _each_engine(root: Path, data_sets: Sequence[DataSet], threads: int, server: LabServer | None) -> bool:
    return all([await engine_run.measure(root, each, threads=threads, server=server) for each in data_sets])


def _configurations(given: argparse.Namespace) -> list[Configuration]:
    more = read_configurations(given.configurations) if given.configurations else []
    every = ablation.configurations(more)
    return [each for each in every if each.name in {"defaults", *(one.name for one in more)}] if given.only else every


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recall", description="The recall laboratory.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
        command.add_argument("--keep", type=Path, help="keep what is stored in this directory; the next run reuses it")
        command.add_argument("--threads", type=int, default=2, help="threads that embed documents")
        if name == "engine":
            command.add_argument(
                "--storage",
                choices=(SQLITE, POSTGRES),
                default=SQLITE,
                help="postgres: the engine on PostgreSQL too, beside the one on SQLite",
            )
            command.add_argument("--database-url", help="a server with pgvector (default: one of our own)")
        if name in {"ablation", "crossval"}:
            command.add_argument("--configurations", type=Path, help="JSON: names, each with its changed weights")
            command.add_argument("--only", action="store_true", help="the defaults and the file's configurations alone")
        if name in {"crossval", "fit"}:
            splits = 10 if name == "crossval" else 3
            command.add_argument("--splits", type=int, default=splits, help="random splits into halves")
    return parser.parse_args()
