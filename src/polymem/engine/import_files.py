"""Import files read as a stream of records, whatever their layout: bounded memory, parsed off the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a whole file holds.

    Its layout, its records, how many of them can be imported, what it says of itself, and where it broke off,
    if it did.
    """

    layout: Layout
    records: int
    usable: int
    members: Mapping[str, JsonValue]
    problem: str | None


async def survey(blocks: Blocks, file_format: ImportFormat) -> Survey:
    """What the file holds; it is read to its end, twice when its beginning does not tell its layout."""
    head = await anext(_from_beginning(blocks()), b"")
    opening = opening_of(head)
    if opening is Opening.JSON:
        splitter = DocumentSplitter(LIST_KEYS[file_format])
        records, usable = await _count(blocks, splitter, file_format)
        if splitter.has_list:
            return Survey(
                layout=Layout.DOCUMENT,
                records=records,
                usable=usable,
                members=splitter.members,
                problem=splitter.problem,
            )
    is_note = opening is Opening.TEXT and file_format is ImportFormat.MEMORY
    layout = Layout.TEXT if is_note else Layout.LINES
    records, usable = await _count(blocks, _splitter(layout, file_format), file_format)
    return Survey(layout=layout, records=records, usable=usable, members={}, problem=None)


async def items(blocks: Blocks, layout: Layout, file_format: ImportFormat) -> AsyncIterator[list[Item]]:
    """The records of the file in order, as many at a time as end in one block."""
    async for found in _items(blocks, _splitter(layout, file_format), file_format):
        yield found


async def _count(blocks: Blocks, splitter: Splitter, file_format: ImportFormat) -> tuple[int, int]:
    """How many records there are, and how many of them can be imported."""
    records = usable = 0
    async for found in _items(blocks, splitter, file_format):
        records += len(found)
        usable += sum(not isinstance(item, Refused) for item in found)
    return records, usable


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
