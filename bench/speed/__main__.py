"""The commands of the speed laboratory."""

import argparse
import asyncio
from pathlib import Path

from bench import speed
from bench.speed.fill import FillOrder, fill
from bench.speed.load import LoadOrder, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed", description=speed.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill", help="make a data directory; what is there is removed first")
    filling.add_argument("directory", type=Path)
    filling.add_argument("--memories", type=int, default=100_000)
    filling.add_argument("--tenants", type=int, default=1)
    filling.add_argument("--turn-share", type=float, default=0.5, help="how many are turns of sessions, 0 to 1")
    filling.add_argument("--distinct-pieces", type=int, default=8_000)
    filling.add_argument("--cache", type=Path, help="file that keeps the embedded pieces")
    loading = commands.add_parser("load", help="measure a server on a filled directory")
    loading.add_argument("directory", type=Path)
    loading.add_argument("--in-place", action="store_true", help="no copy: the load's writes stay in the directory")
    loading.add_argument("--recalls", type=int, default=400)
    loading.add_argument("--concurrent-recalls", type=int, default=2_000)
    loading.add_argument("--writes", type=int, default=200)
    loading.add_argument("--ingest-100", type=int, default=10, help="calls of 100 messages")
    loading.add_argument("--ingest-1000", type=int, default=2, help="calls of 1000 messages")
    loading.add_argument("--seed", type=int, default=1)
    for command in (filling, loading):
        command.add_argument("--data", type=Path, help="folder of the data sets")
        command.add_argument("--threads", type=int, default=2, help="threads of the encoder alone")
    return parser


def main() -> None:
    """The command was run."""
    asked = _parser().parse_args()
    if asked.command == "fill":
        order = FillOrder(
            directory=asked.directory,
            memories=asked.memories,
            tenants=asked.tenants,
            turn_share=asked.turn_share,
            distinct_pieces=asked.distinct_pieces,
            data=asked.data,
            cache=asked.cache,
            threads=asked.threads,
        )
        asyncio.run(fill(order))
        return
    load(
        LoadOrder(
            directory=asked.directory,
            data=asked.data,
            is_in_place=asked.in_place,
            recalls=asked.recalls,
            concurrent_recalls=asked.concurrent_recalls,
            writes=asked.writes,
            ingests={100: asked.ingest_100, 1000: asked.ingest_1000},
            threads=asked.threads,
            seed=asked.seed,
        )
    )


if __name__ == "__main__":
    main()
