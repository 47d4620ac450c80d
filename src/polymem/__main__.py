"""The `polymem` program: the edge where errors become one line and an exit status."""
# ruff: noqa: E402 - what the imports cost and how numpy is set up is decided before them

import gc
import os

# Imports make many objects and no garbage: a tenth of a start went into looking for some.
gc.disable()

# Products of our size are slower on several BLAS threads than on one, and those threads would compete with the
# encoder's. Read once, when numpy is loaded: hence before every other import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from polymem.cli import app
from polymem.cli.output import ExitStatus, complain, exit_status
from polymem.errors import PolymemError

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command named by the arguments has run; ends the process with its exit status."""
    gc.enable()
    try:
        app(args=arguments, prog_name="polymem")
    except PolymemError as error:
        complain(error.message)
        sys.exit(exit_status(error.code))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(ExitStatus.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the outermost edge of the process
        _log.exception("unexpected error")
        complain(f"unexpected error ({type(error).__name__}); this is a fault of polymem, please report it")
        sys.exit(ExitStatus.FAULT)
    sys.exit(ExitStatus.OK)


if __name__ == "__main__":
    main()
