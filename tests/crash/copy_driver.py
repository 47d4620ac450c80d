"""Runs one `polymem copy` in small transactions and tells every step, for a test that kills it at one of them.

python tests/crash/copy_driver.py sqlite:/tmp/from postgresql://postgres@/to?host=/tmp/socket
"""

import asyncio
import sys
from dataclasses import asdict

from polymem.bootstrap.copying import copy_all, place_of
from polymem.config import Settings
from polymem.engine import copy as engine_copy
from polymem.engine.copy import Copied, Progress
from polymem.storage.postgres import copy as postgres_copy
from polymem.storage.sqlite import copy as sqlite_copy

BATCH_ROWS = 10
PIECE_ROWS = 4


def tell(progress: Progress) -> None:
    """The step stands on standard output."""
    sys.stdout.write(f"{progress.stage} {progress.memories}\n")
    sys.stdout.flush()


def main() -> None:
    """The copy is done, or this process was killed."""
    # Small, so that there are many places to be killed at.
    engine_copy.__dict__["BATCH_ROWS"] = BATCH_ROWS
    for reader in (sqlite_copy, postgres_copy):
        reader.__dict__["PIECE_ROWS"] = PIECE_ROWS
    source, destination = (place_of("place", text, None, Settings()) for text in sys.argv[1:])
    result = asyncio.run(copy_all(source, destination, tell))
    assert isinstance(result, Copied), result
    sys.stdout.write(f"done {asdict(result)}\n")


if __name__ == "__main__":
    main()
