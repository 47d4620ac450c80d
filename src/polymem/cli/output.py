"""What commands print: tables for people, JSON for programs, one line for an error; and the exit statuses."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import IntEnum

from polymem.domain.model import JsonValue
from polymem.errors import ErrorCode


class ExitStatus(IntEnum):
    """How a command ends; scripts may rely on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LOCKED = 3
    STORAGE = 4
    UNAVAILABLE = 5
    FAULT = 70
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """When a command ends so."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.OK: "done",
    ExitStatus.FAILED: "refused: no such thing, not allowed, or (`doctor`) something was found",
    ExitStatus.USAGE: "a setting, option or argument is wrong, or (`doctor`) the data directory cannot be opened",
    ExitStatus.LOCKED: "another server owns the data directory",
    ExitStatus.STORAGE: "the storage is full, read-only, damaged or not reachable",
    ExitStatus.UNAVAILABLE: "the port is taken, or the running server does not answer",
    ExitStatus.FAULT: "a fault of polymem; the traceback is on standard error",
    ExitStatus.INTERRUPTED: "interrupted from the keyboard",
}

# Stored text may hold what would move the cursor or change the colours of a terminal.
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
_WHOLE = frozenset({"id", "confidence", "created_at"})
_UNFOLDED = 10_000

_STATUSES = {
    ErrorCode.INVALID_INPUT: ExitStatus.USAGE,
    ErrorCode.SETTINGS_INVALID: ExitStatus.USAGE,
    ErrorCode.DATA_DIRECTORY_LOCKED: ExitStatus.LOCKED,
    ErrorCode.STORAGE_UNAVAILABLE: ExitStatus.STORAGE,
    ErrorCode.STORAGE_FULL: ExitStatus.STORAGE,
    ErrorCode.STORAGE_READ_ONLY: ExitStatus.STORAGE,
    ErrorCode.STORAGE_DAMAGED: ExitStatus.STORAGE,
    ErrorCode.UNAVAILABLE: ExitStatus.UNAVAILABLE,
    ErrorCode.INFERENCE_UNAVAILABLE: ExitStatus.UNAVAILABLE,
    ErrorCode.INTERNAL: ExitStatus.FAULT,
}


def exit_status(code: ErrorCode) -> ExitStatus:
    """The exit status that tells this error."""
    return _STATUSES.get(code, ExitStatus.FAILED)


def complain(message: str) -> None:
    """The message stands on one line of standard error."""
    sys.stderr.write(f"polymem: {' '.join(message.split())}\n")


def say(line: str = "") -> None:
    """The line stands on standard output, as it is, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_json(value: JsonValue) -> None:
    """The value stands on standard output as JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(
    rows: Sequence[Mapping[str, JsonValue]], *, as_json: bool, empty: str, columns: Sequence[str] | None = None
) -> None:
    """The rows stand on standard output: a JSON list of whole objects, or a table of some columns, or `empty`.

    A terminal's width folds the table; elsewhere each row is one line.
    """
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        say(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - only tables need rich, and the server should start at once
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    names = tuple(rows[0]) if columns is None else columns
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in names))
    Console(width=None if sys.stdout.isatty() else _UNFOLDED).print(table)


def in_print(text: str) -> str:
    """The text with a space for each control character, line ends among them."""
    return text.translate(_CONTROL)


def moment(at: datetime | None) -> str | None:
    """The time as ISO 8601 in UTC, to the second."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _cell(value: JsonValue) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return in_print(value)
        case list() | tuple():
            return ", ".join(_cell(item) for item in value)
        case _:
            return str(value)
