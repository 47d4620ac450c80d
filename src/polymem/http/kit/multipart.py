"""Multipart forms with one file, taken in as they arrive: the file goes to disk, never whole into memory."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from polymem.errors import InvalidInput, StorageUnavailable, TooLarge
from polymem.http.kit.faults import EdgeCode, EdgeError
from polymem.http.kit.strict_json import text_fault

PIECE_BYTES = 256 * 1024
_MEMORY_BYTES = 1024 * 1024
_LARGEST_FIELD_BYTES = 64 * 1024
_MOST_PARTS = 32
_DISCARD_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class UploadedFile:
    """A file that has been received whole; `digest` is its SHA-256."""

    name: str
    size: int
    digest: bytes
    content: IO[bytes]

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from the start, in pieces of at most `PIECE_BYTES`."""
        await asyncio.to_thread(self.content.seek, 0)
        while piece := await asyncio.to_thread(self.content.read, PIECE_BYTES):
            yield piece


@dataclass(slots=True)
class Form:
    """A form that has been received whole; of a field that comes twice the last one counts."""

    fields: dict[str, str]
    file: UploadedFile | None

    def digest(self) -> bytes:
        """The SHA-256 of what the form says, whatever the boundary and the order of its parts."""
        digest = hashlib.sha256()
        for name, value in sorted(self.fields.items()):
            for text in (name, value):
                digest.update(len(text.encode()).to_bytes(8, "big") + text.encode())
        if self.file is not None:
            digest.update(self.file.name.encode() + b"\x00" + self.file.digest)
        return digest.digest()


@asynccontextmanager
async def received_form(request: Request, *, file_field: str, limit: int) -> AsyncIterator[Form]:
    """The request's form; its file is gone afterwards.

    Raises `EdgeError` for another media type, `InvalidInput` for what is no form or names the file field twice,
    `TooLarge` when the whole body exceeds `limit`, `StorageUnavailable` when there is no room for the file.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise EdgeError(EdgeCode.UNSUPPORTED_MEDIA_TYPE, "content-type: must be multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidInput("content-type", "multipart boundary required")
    with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as content:
        receiver = _Receiver(boundary, file_field, content)
        await _feed(request, receiver, limit)
        yield receiver.form()


async def _feed(request: Request, receiver: "_Receiver", limit: int) -> None:
    """The whole body has gone through the receiver, or up to a bound been dropped once it was refused."""
    size = 0
    refusal: InvalidInput | TooLarge | StorageUnavailable | None = None
    async for chunk in request.stream():
        size += len(chunk)
        if refusal is None and size > limit:
            refusal = TooLarge("body", limit, "bytes")
        if refusal is not None:
            if size > _DISCARD_BYTES:
                break
            continue
        try:
            await receiver.take(chunk)
        except FormParserError:
            refusal = InvalidInput("body", "is not a well-formed multipart form")
        except OSError:
            refusal = StorageUnavailable("no room for the uploaded file")
        except InvalidInput as error:
            refusal = error
    if refusal is not None:
        raise refusal


@dataclass(slots=True)
class _Part:
    """The part that is arriving."""

    headers: dict[str, bytes] = field(default_factory=dict)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


class _Receiver:
    """Turns the parser's events into fields and one file. What the file holds is written outside the loop's thread."""

    def __init__(self, boundary: bytes, file_field: str, content: IO[bytes]) -> None:
        self._file_field = file_field
        self._content = content
        self._fields: dict[str, str] = {}
        self._file: UploadedFile | None = None
        self._hash = hashlib.sha256()
        self._part = _Part()
        self._parts = 0
        self._pending: list[bytes] = []
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._head_ends,
                    "on_part_data": self._part_bytes,
                    "on_part_end": self._part_ends,
                    "on_end": self._ends,
                },
            )
        except FormParserError:
            raise InvalidInput("content-type", "multipart boundary is not usable") from None

    async def take(self, chunk: bytes) -> None:
        """The chunk has been parsed and the file's part of it written."""
        self._parser.write(chunk)
        if self._pending:
            piece = b"".join(self._pending)
            self._pending.clear()
            await asyncio.to_thread(self._store, piece)

    def _store(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._content.write(piece)

    def form(self) -> Form:
        """What was received. Raises `InvalidInput` when the end is missing."""
        if not self._is_complete:
            raise InvalidInput("body", "is not a well-formed multipart form")
        if self._file is not None:
            self._file.digest = self._hash.digest()
        return Form(self._fields, self._file)

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidInput("body", f"too many parts (max {_MOST_PARTS})")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _header_ends(self) -> None:
        part = self._part
        part.headers[part.header_name.decode("latin-1").lower()] = bytes(part.header_value)
        part.header_name.clear()
        part.header_value.clear()

    def _head_ends(self) -> None:
        part = self._part
        _, options = parse_options_header(part.headers.get("content-disposition", b""))
        part.name = _text("body", options.get(b"name", b""))
        part.is_file = part.name == self._file_field
        if not part.is_file:
            return
        if self._file is not None:
            raise InvalidInput(self._file_field, "only one file is taken")
        name = _text(self._file_field, options.get(b"filename", b""))
        self._file = UploadedFile(name=name, size=0, digest=b"", content=self._content)

    def _part_bytes(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_file and self._file is not None:
            self._file.size += end - start
            self._pending.append(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > _LARGEST_FIELD_BYTES:
            raise InvalidInput(part.name or "body", f"too long (max {_LARGEST_FIELD_BYTES})")

    def _part_ends(self) -> None:
        part = self._part
        if not part.is_file:
            self._fields[part.name] = _text(part.name or "body", bytes(part.value))

    def _ends(self) -> None:
        self._is_complete = True


def _text(name: str, raw: bytes) -> str:
    """The bytes as text that can be stored. Raises `InvalidInput`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(name, "must be UTF-8") from None
    if (reason := text_fault(text)) is not None:
        raise InvalidInput(name, reason)
    return text
