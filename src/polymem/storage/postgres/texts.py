"""Texts as PostgreSQL stores them: it takes every character but NUL, which is written in two others.

Different texts stay different and equal ones equal, so that they are compared and found as they are.
"""

from typing import Final

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.string import StrBinaryDumper, StrDumper, StrDumperUnknown

_ESCAPE: Final = "\x10"  # DATA LINK ESCAPE: never typed, and meant for this
_NUL: Final = _ESCAPE + "0"
_ESCAPE_ITSELF: Final = _ESCAPE + "1"
_ESCAPE_BYTE: Final = _ESCAPE.encode()
_TYPES: Final = ("text", "varchar")


def register_texts(connection: AsyncConnection[object]) -> None:
    """Texts travel on this connection as they are stored."""
    for dumper in (_BinaryDumper, _TypedDumper, _Dumper):  # the last one is taken where nothing says which
        connection.adapters.register_dumper(str, dumper)
    for name in _TYPES:
        connection.adapters.register_loader(name, _TextLoader)
        connection.adapters.register_loader(name, _BinaryTextLoader)


def _stored(text: str) -> str:
    """NUL and the escape are written in two characters each."""
    if "\0" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE_ITSELF).replace("\0", _NUL)
    return text


class _Dumper(StrDumperUnknown):
    """A text whose type the statement tells."""

    def dump(self, obj: str) -> Buffer | None:
        """The text as it is stored."""
        return super().dump(_stored(obj))


class _TypedDumper(StrDumper):
    """A text that says that it is one."""

    def dump(self, obj: str) -> Buffer | None:
        """The text as it is stored."""
        return super().dump(_stored(obj))


class _BinaryDumper(StrBinaryDumper):
    """A text in a binary COPY."""

    def dump(self, obj: str) -> Buffer | None:
        """The text as it is stored."""
        return super().dump(_stored(obj))


class _TextLoader(Loader):
    """A text as it was given."""

    def load(self, data: Buffer) -> str:
        """The text that was stored."""
        stored = bytes(data)
        text = stored.decode()
        if _ESCAPE_BYTE in stored:
            return text.replace(_NUL, "\0").replace(_ESCAPE_ITSELF, _ESCAPE)
        return text


class _BinaryTextLoader(_TextLoader):
    """The same in a binary answer."""

    format = Format.BINARY
