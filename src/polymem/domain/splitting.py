"""Large JSON files cut into their records, block by block, in bounded memory; pure.

Only the structure is looked at here: where a record begins and ends. Each record is parsed by itself, so that
a broken one costs nothing but itself. The splitters take bytes in pieces of any size and give the same records
for any cut of the same bytes.
"""

import json
import re
from dataclasses import dataclass

from polymem.domain.model import JsonValue

MAX_RECORD_BYTES = 4 * 1024 * 1024
MAX_RECORD_DEPTH = 64
_MAX_MEMBER_BYTES = 64 * 1024

_STRUCTURE = re.compile(rb'["{}\[\],]')
_NESTED_STRUCTURE = re.compile(rb'"|[{\[]++|[}\]]++')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_WHITE_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, counted from 1; `problem` says why it has no value."""

    number: int
    value: JsonValue
    problem: str | None = None


def parse_record(number: int, text: bytes) -> Record:
    """The record that the text holds, or what is wrong with it."""
    try:
        return Record(number, json.loads(text.decode(), parse_constant=_refuse_constant))
    except UnicodeDecodeError:
        return Record(number, None, "not valid UTF-8")
    except json.JSONDecodeError as error:
        return Record(number, None, f"not valid JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        return Record(number, None, "nested too deeply")
    except ValueError as error:
        return Record(number, None, f"not valid JSON: {error}")


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is no JSON number")


class _Capture:
    """The bytes of the piece at hand, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.text = bytearray()
        self.is_too_large = False
        self.is_too_deep = False

    def add(self, block: bytes, start: int, end: int) -> None:
        if len(self.text) + end - start > self.limit:
            self.is_too_large = True
            self.text.clear()
        elif not self.is_too_large:
            self.text += block[start:end]

    def restart(self, limit: int) -> None:
        self.limit = limit
        self.text.clear()
        self.is_too_large = False
        self.is_too_deep = False

    def record(self, number: int) -> Record | None:
        """What was captured, or None when there is only white space."""
        if self.is_too_large:
            return Record(number, None, f"larger than {self.limit} bytes")
        if self.is_too_deep:
            return Record(number, None, "nested too deeply")
        text = bytes(self.text).strip(_WHITE_SPACE)
        return parse_record(number, text) if text else None


class DocumentSplitter:
    """Cuts a JSON list, or the list under one key of a JSON object, into its items.

    `has_list` tells that such a list began; `members` holds the other, small members of the object seen so
    far; `problem` says where the document stopped making sense, after which nothing more is read.
    """

    def __init__(self, list_key: str) -> None:
        self.has_list = False
        self.members: dict[str, JsonValue] = {}
        self.problem: str | None = None
        self._list_opening = re.compile(rb'\s*"' + re.escape(list_key.encode()) + rb'"\s*:\s*\Z')
        self._is_object = False
        self._is_open = False
        self._is_complete = False
        self._in_list = False
        self._in_string = False
        self._held = b""
        self._depth = 0
        self._base = 1
        self._count = 0
        self._piece_start = 0
        self._capture = _Capture(_MAX_MEMBER_BYTES)

    def feed(self, block: bytes) -> list[Record]:
        """The items that end in this block, in order."""
        found: list[Record] = []
        block = self._held + block
        self._held = b""
        self._piece_start = 0
        position = 0
        while position < len(block) and self.problem is None:
            if self._in_string:
                position = self._through_string(block, position)
            elif self._is_open and not self._is_complete:
                position = self._to_structure(block, position, found)
            else:
                position = self._outside(block, position)
        self._capture.add(block, self._piece_start, len(block) - len(self._held))
        return found

    def finish(self) -> list[Record]:
        """The last item of a list that breaks off, if it is a whole object; an end too early is the `problem`."""
        found: list[Record] = []
        if self.problem is None and not self._is_complete:
            is_between_items = self._in_list and not self._in_string and self._depth == self._base
            if is_between_items and bytes(self._capture.text).rstrip(_WHITE_SPACE).endswith(b"}"):
                self._end_piece(found)
            self.problem = f"the file breaks off after item {self._count}"
        return found

    def _outside(self, block: bytes, position: int) -> int:
        """Past white space before or after the document; anything else opens it, or is its problem."""
        position = len(block) - len(block[position:].lstrip(_WHITE_SPACE))
        character = block[position : position + 1]
        if not character:
            return position
        if self._is_complete:
            self.problem = f"the file goes on behind its end, after item {self._count}"
        elif character == b"[":
            self._enter_list()
        elif character == b"{":
            self._is_object = True
        else:
            self.problem = "the file is not a JSON object or list"
        self._is_open = True
        self._depth = 1
        self._piece_start = position + 1
        return position + 1

    def _enter_list(self) -> None:
        self.has_list = True
        self._in_list = True
        self._capture.restart(MAX_RECORD_BYTES)

    def _through_string(self, block: bytes, position: int) -> int:
        """Behind the closing quote, or to where the block ends inside the string."""
        match = _IN_STRING.match(block, position)
        end = position if match is None else match.end()
        if end == len(block):
            return end
        if block[end : end + 1] == b'"':
            self._in_string = False
            return end + 1
        self._held = block[end:]  # a backslash whose character stands in the next block
        return len(block)

    def _to_structure(self, block: bytes, position: int, found: list[Record]) -> int:
        """Behind the next quote or bracket, or comma between pieces, that is not inside a string."""
        if self._depth > self._base:
            return self._to_nested_structure(block, position)
        match = _STRUCTURE.search(block, position)
        if match is None:
            return len(block)
        token = match[0]
        if token == b'"':
            self._in_string = True
        elif token in b"[{":
            self._descend(block, match)
        else:
            self._capture.add(block, self._piece_start, match.start())
            self._end_piece(found)
            self._piece_start = match.end()
            if token != b",":
                self._ascend(token)
        return match.end()

    def _to_nested_structure(self, block: bytes, position: int) -> int:
        """Behind the next quote or run of brackets inside a piece, but not out of the piece."""
        match = _NESTED_STRUCTURE.search(block, position)
        if match is None:
            return len(block)
        if match[0] == b'"':
            self._in_string = True
            return match.end()
        run = match.end() - match.start()
        if match[0][0] in b"[{":
            self._depth += run
            self._capture.is_too_deep |= self._depth - self._base > MAX_RECORD_DEPTH
            return match.end()
        run = min(run, self._depth - self._base)
        self._depth -= run
        return match.start() + run

    def _descend(self, block: bytes, match: re.Match[bytes]) -> None:
        """Into a value of the piece at hand, or into the list when the value is that."""
        self._depth += 1
        if self._is_object and not self._in_list and match[0] == b"[":
            self._capture.add(block, self._piece_start, match.start())
            self._piece_start = match.start()
            if self._list_opening.match(self._capture.text):
                self._piece_start = match.end()
                self._base = self._depth
                self._enter_list()

    def _ascend(self, token: bytes) -> None:
        """Out of the list, or of the document."""
        expected = b"]" if self._in_list else b"}"
        if token != expected:
            self.problem = f"the file breaks after item {self._count}: unexpected {token.decode()!r}"
        self._depth -= 1
        self._in_list = False
        self._base = 1
        self._capture.restart(_MAX_MEMBER_BYTES)
        self._is_complete = self._depth == 0

    def _end_piece(self, found: list[Record]) -> None:
        if self._in_list:
            record = self._capture.record(self._count + 1)
            if record is not None:
                self._count += 1
                found.append(record)
            self._capture.restart(MAX_RECORD_BYTES)
        else:
            self._keep_member()
            self._capture.restart(_MAX_MEMBER_BYTES)

    def _keep_member(self) -> None:
        """The member just read is known, when it is small and whole."""
        if not self._capture.is_too_large and not self._capture.is_too_deep:
            member = parse_record(0, b"{" + bytes(self._capture.text) + b"}").value
            if isinstance(member, dict):
                self.members.update(member)


class LineSplitter:
    """Cuts a file into its lines, each a JSON record numbered as its line; blank lines are no records."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._number = 1
        self._capture = _Capture(MAX_RECORD_BYTES)

    def feed(self, block: bytes) -> list[Record]:
        """The records of the lines that end in this block, in order."""
        found: list[Record] = []
        position = 0
        while (end := block.find(b"\n", position)) >= 0:
            self._capture.add(block, position, end)
            self._end_line(found)
            position = end + 1
        self._capture.add(block, position, len(block))
        return found

    def finish(self) -> list[Record]:
        """The record of a last line without an end."""
        found: list[Record] = []
        self._end_line(found)
        return found

    def _end_line(self, found: list[Record]) -> None:
        record = self._capture.record(self._number)
        if record is not None:
            found.append(record)
        self._number += 1
        self._capture.restart(MAX_RECORD_BYTES)


class WholeText:
    """Takes a file that is no JSON as one record, whose `content` is its text."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._capture = _Capture(MAX_RECORD_BYTES)

    def feed(self, block: bytes) -> list[Record]:
        """Nothing yet: the record ends with the file."""
        self._capture.add(block, 0, len(block))
        return []

    def finish(self) -> list[Record]:
        """The one record."""
        if self._capture.is_too_large:
            return [Record(1, None, f"larger than {MAX_RECORD_BYTES} bytes")]
        try:
            return [Record(1, {"content": self._capture.text.decode()})]
        except UnicodeDecodeError:
            return [Record(1, None, "neither JSON nor UTF-8 text")]
