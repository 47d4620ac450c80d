"""Import files read as a stream of records, whatever their layout: bounded memory, parsed off the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from polymem.domain.imports import (
    MemoryRecord,
    NotAMessage,
    Opening,
    TurnRecord,
    memory_record,
    opening_of,
    turn_record,
    without_mark,
)
from polymem.domain.model import JsonValue
from polymem.domain.splitting import DocumentSplitter, LineSplitter, Record, WholeText
from polymem.engine.requests import ImportFormat
from polymem.errors import InvalidInput, TooLarge

Blocks = Callable[[], AsyncIterator[bytes]]
"""Opens the file anew and gives its bytes from the beginning."""

Splitter = DocumentSplitter | LineSplitter | WholeText
LIST_KEYS: Mapping[ImportFormat, str] = {ImportFormat.MEMORY: "memories", ImportFormat.SESSION: "messages"}
RECORDS_PER_CHUNK: Mapping[ImportFormat, int] = {ImportFormat.MEMORY: 100, ImportFormat.SESSION: 50}
# What one commit takes in holds other writers up; long records make a chunk of fewer.
BYTES_PER_CHUNK = 1_000_000
_HEAD_BYTES = 4096


class Layout(StrEnum):
    """How a file holds its records."""

    DOCUMENT = "document"
    LINES = "lines"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be imported; `number` counts from 1, items of a list or else lines."""

    number: int
    error: str


Item = MemoryRecord | TurnRecord | Refused


class Chunks:
    """Cuts records into chunks of at most `RECORDS_PER_CHUNK` and some `BYTES_PER_CHUNK`; the same at every reading."""

    def __init__(self, file_format: ImportFormat) -> None:
        self._most = RECORDS_PER_CHUNK[file_format]
        self._open: list[Item] = []
        self._bytes = 0

    def add(self, found: Sequence[Item]) -> Iterator[list[Item]]:
        """Takes the records in; gives the chunks that are whole by now."""
        for item in found:
            size = 0 if isinstance(item, Refused) else len(item.content.encode())
            if self._open and (len(self._open) == self._most or self._bytes + size > BYTES_PER_CHUNK):
                yield self._taken()
            self._open.append(item)
            self._bytes += size

    def rest(self) -> Iterator[list[Item]]:
        """Gives the last chunk, unless there is none."""
        if self._open:
            yield self._taken()

    def _taken(self) -> list[Item]:
        chunk, self._open, self._bytes = self._open, [], 0
        return chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a whole file holds.

    Its layout, its records, the chunks they are stored in, how many of them can be imported, what it says of itself,
    and where it broke off, if it did.
    """

    layout: Layout
    records: int
    chunks: int
    usable: int
    members: Mapping[str, JsonValue]
    problem: str | None


async def survey(blocks: Blocks, file_format: ImportFormat) -> Survey:
    """What the file holds; it is read to its end, twice when its beginning does not tell its layout."""
    head = await anext(_from_beginning(blocks()), b"")
    opening = opening_of(head)
    if opening is Opening.JSON:
        splitter = DocumentSplitter(LIST_KEYS[file_format])
        counts = await _count(blocks, splitter, file_format)
        if splitter.has_list:
            return Survey(
                layout=Layout.DOCUMENT,
                records=counts.records,
                chunks=counts.chunks,
                usable=counts.usable,
                members=splitter.members,
                problem=splitter.problem,
            )
    is_note = opening is Opening.TEXT and file_format is ImportFormat.MEMORY
    layout = Layout.TEXT if is_note else Layout.LINES
    counts = await _count(blocks, _splitter(layout, file_format), file_format)
    return Survey(
        layout=layout,
        records=counts.records,
        chunks=counts.chunks,
        usable=counts.usable,
        members={},
        problem=None,
    )


async def items(blocks: Blocks, layout: Layout, file_format: ImportFormat) -> AsyncIterator[list[Item]]:
    """The records of the file in order, as many at a time as end in one block."""
    async for found in _items(blocks, _splitter(layout, file_format), file_format):
        yield found


@dataclass(slots=True)
class _Counts:
    """How many records there are, how many of them can be imported, in how many chunks."""

    records: int = 0
    usable: int = 0
    chunks: int = 0


async def _count(blocks: Blocks, splitter: Splitter, file_format: ImportFormat) -> _Counts:
    counts, cutter = _Counts(), Chunks(file_format)
    async for found in _items(blocks, splitter, file_format):
        counts.records += len(found)
        counts.usable += sum(not isinstance(item, Refused) for item in found)
        counts.chunks += sum(1 for _ in cutter.add(found))
    counts.chunks += sum(1 for _ in cutter.rest())
    return counts


async def _items(blocks: Blocks, splitter: Splitter, file_format: ImportFormat) -> AsyncIterator[list[Item]]:
    async for block in _from_beginning(blocks()):
        yield await asyncio.to_thread(_feed, splitter, block, file_format)
    yield _read_all(splitter.finish(), file_format)


def _feed(splitter: Splitter, block: bytes, file_format: ImportFormat) -> list[Item]:
    return _read_all(splitter.feed(block), file_format)


def _splitter(layout: Layout, file_format: ImportFormat) -> Splitter:
    match layout:
        case Layout.DOCUMENT:
            return DocumentSplitter(LIST_KEYS[file_format])
        case Layout.LINES:
            return LineSplitter()
        case Layout.TEXT:
            return WholeText()
        case _ as never:
            assert_never(never)


def _read_all(records: list[Record], file_format: ImportFormat) -> list[Item]:
    found = [_read(record, file_format) for record in records]
    return [item for item in found if not isinstance(item, NotAMessage)]


def _read(record: Record, file_format: ImportFormat) -> Item | NotAMessage:
    if record.problem is not None:
        return Refused(record.number, record.problem)
    try:
        match file_format:
            case ImportFormat.MEMORY:
                return memory_record(record.value)
            case ImportFormat.SESSION:
                return turn_record(record.value)
            case _ as never:
                assert_never(never)
    except InvalidInput as error:
        return Refused(record.number, f"{error.field}: {error.message}")
    except TooLarge as error:
        return Refused(record.number, error.message)


async def _from_beginning(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, the first block long enough to tell what the file is, without a byte order mark."""
    head = b""
    is_open = False
    async for block in blocks:
        if is_open:
            yield block
            continue
        head += block
        if len(head) >= _HEAD_BYTES:
            yield without_mark(head)
            is_open = True
    if not is_open:
        yield without_mark(head)
