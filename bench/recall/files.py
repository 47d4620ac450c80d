"""Where the development sets are: in `shared/data` beside the repository, unless a path is given."""

import sys
from collections.abc import Sequence
from pathlib import Path

_NAMES = ("longmemeval-pooled.dev.json", "locomo-fixed.dev.json")


def data_files(given: Sequence[Path]) -> list[Path]:
    """The files asked for, or both development sets; ends the program when one is not there."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    files = list(given) or [folder / name for name in _NAMES]
    for path in files:
        if not path.is_file():
            sys.exit(f"no such data set: {path}")
    return files
