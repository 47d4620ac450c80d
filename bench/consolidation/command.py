"""The command line of the consolidation laboratory."""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.consolidation import large
from bench.consolidation.planting import FAMILIES
from bench.consolidation.run import Figures, measured
from bench.recall.dataset import load
from bench.recall.files import data_files

# What the product promises of repeats planted among real turns.
_LEAST_MERGED, _MOST_STRAYED, _MOST_LOST_RECALL = 0.8, 0.01, 0.01
_LONGEST_SECONDS = 60.0


def main() -> None:
    """The command asked for has run; the status says whether its figures are good enough."""
    given = _arguments()
    if given.command == "large":
        seconds = large.print_report(given.atoms)
        sys.exit(0 if seconds <= _LONGEST_SECONDS else 1)
    good = [_planted(path, family, given.threads) for path in data_files(given.files) for family in given.families]
    sys.exit(0 if all(good) else 1)


def _planted(path: Path, family: str, threads: int) -> bool:
    """One data set with one family of repeats, told as rows of a table; True when good enough."""
    data_set = load(path)
    good = True
    for history in data_set.histories:
        with tempfile.TemporaryDirectory() as scratch:
            figures = measured(Path(scratch) / "data", history, family, threads=threads)
        if figures.planted:
            print(_row(f"{data_set.name} {history.id}", family, figures), flush=True)
            good = good and is_good(figures)
    return good


def is_good(figures: Figures) -> bool:
    """True when enough repeats merged, few others did, recall is kept and nothing is lost."""
    before, after = figures.all_at_10
    return (
        figures.merged >= _LEAST_MERGED * figures.planted
        and figures.strayed <= _MOST_STRAYED * figures.distinct
        and after >= before - _MOST_LOST_RECALL
        and figures.lost == 0
        and figures.again == 0
    )


def _row(name: str, family: str, figures: Figures) -> str:
    rules = ", ".join(f"{rule} {hits}/{count}" for rule, (hits, count) in figures.by_rule.items())
    before, after = figures.all_at_10
    slept = figures.slept
    return (
        f"| {name} | {family} | {figures.distinct + figures.planted} | {figures.merged}/{figures.planted}"
        f" ({figures.merged / figures.planted:.1%}) | {figures.strayed}/{figures.distinct}"
        f" ({figures.strayed / figures.distinct:.2%}) | {before:.3f} | {after:.3f} | {figures.lost} | {figures.again}"
        f" | {slept.job.result['singletons']} | {slept.seconds:.1f} s | {slept.after_mb - slept.before_mb:.0f} MB |\n"
        f"  {rules}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.consolidation", description="Repeats planted among real turns, and consolidated."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("planted", help="merged repeats, strayed turns, recall before and after")
    command.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    command.add_argument("--families", nargs="+", choices=sorted(FAMILIES), default=["rewordings", "retellings"])
    command.add_argument("--threads", type=int, default=2, help="threads that embed documents")
    command = commands.add_parser("large", help="time and memory of a large domain")
    command.add_argument("--atoms", type=int, default=50_000)
    return parser.parse_args()
