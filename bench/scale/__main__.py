"""The command of the laboratory for size."""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

# As the server does: a second thread of the linear algebra spins beside the first and beside PostgreSQL.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench import scale
from bench.scale.run import ScaleOrder, run

SHAPES = ("one", "many")


def main() -> None:
    """The report is printed."""
    given = _parser().parse_args()
    shapes = tuple(given.shapes.split(","))
    if unknown := set(shapes) - set(SHAPES):
        sys.exit(f"no such shape: {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    if given.memories < given.tenants:
        sys.exit("fewer memories than tenants")
    order = ScaleOrder(
        memories=given.memories,
        tenants=given.tenants,
        shapes=shapes,
        questions=given.questions,
        writes=given.writes,
        database_url=given.database_url,
        data=given.data,
        cache=given.cache,
        keep=given.keep,
        threads=given.threads,
    )
    started = time.perf_counter()
    asyncio.run(run(order))
    print(f"`python -m bench.scale {' '.join(sys.argv[1:])}` took {time.perf_counter() - started:.0f} s.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=scale.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memories", type=int, default=100_000, help="in each shape")
    parser.add_argument("--tenants", type=int, default=50, help="of the shape `many`")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--writes", type=int, default=200)
    parser.add_argument("--database-url", help="a PostgreSQL server with pgvector, as one who may make databases")
    parser.add_argument("--cache", type=Path, help="file that keeps the embedded pieces")
    parser.add_argument("--keep", type=Path, help="keep what is stored: here, and on the given server")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--threads", type=int, default=2, help="threads that embed documents")
    return parser


if __name__ == "__main__":
    main()
