"""The command line of the learning bench."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.learning import bridges, feedback_run
from bench.learning.feedback_run import METRICS, OTHERS, Row
from bench.learning.world import copied, feed, open_world
from bench.recall.dataset import load
from polymem.inference.embedder import LocalEmbedder

# What questions that were never rewarded may lose.
MOST_LOST: Final = 0.01


def main() -> None:
    """The bench has run; status 1 when learning gains nothing on what it learned from, or costs others too much."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    parser.add_argument("--lme", type=Path, default=Path("../shared/data/longmemeval-pooled.dev.json"))
    parser.add_argument("--halves", type=int, default=2, help="how often the questions are dealt into halves (2)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each rewarded question is asked (2)")
    parser.add_argument("--keep", type=Path, help="where to keep the fed storage for the next run")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        base: Path = given.keep or Path(scratch) / "base"
        is_good = asyncio.run(_run(given, base, Path(scratch), is_fed=base.exists()))
    print(f"\nThis took {time.perf_counter() - started:.0f} s.")
    sys.exit(0 if is_good else 1)


async def _run(given: argparse.Namespace, base: Path, scratch: Path, *, is_fed: bool) -> bool:
    history = load(given.lme).histories[0]
    built = bridges.bridges(history)
    if not is_fed:
        await feed(base, history, bridges.named(built))
    embedder = LocalEmbedder.open(threads=2)
    try:
        async with open_world(copied(base, scratch / "bridges"), history, embedder) as world:
            crossed = await bridges.cross(world, built)
        salts = [f"deal {number}" for number in range(given.halves)]
        rows = await feedback_run.measure(base, scratch, history, embedder, salts=salts, rounds=given.rounds)
    finally:
        await embedder.close()
    print(
        f"Bridges: {crossed.with_associations} of {crossed.bridges} crossed with associations"
        f" ({crossed.told_as_hebbian} told as `hebbian`), {crossed.without} without.\n"
    )
    print(table(rows))
    return all(_is_good(row) for row in rows if row.mode == rows[-1].mode)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: the figure before, then the paired gain with its 95 % interval."""
    lines = [
        f"| learned | asked | n | {' | '.join(METRICS)} |",
        f"|---|---|---|{'---|' * len(METRICS)}",
    ]
    for row in rows:
        cells = " | ".join(f"{row.before[name]:.3f} {row.gains[name]}" for name in METRICS)
        lines.append(f"| {row.mode} | {row.asked} | {row.questions} | {cells} |")
    return "\n".join(lines)


def _is_good(row: Row) -> bool:
    """Positive with its interval where something was learned; elsewhere no more lost than is allowed."""
    if row.asked == OTHERS:
        return row.gains["turn all@10"].mean >= -MOST_LOST and row.gains["turn any@5"].mean >= -MOST_LOST
    return row.gains["turn mrr"].low > 0.0
