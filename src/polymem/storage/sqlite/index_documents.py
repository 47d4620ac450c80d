"""The columns of a tenant's memories that filters and evidence ask for, in memory, in step with the rows.

A memory has a position here, given once and kept: the arrays only grow at their end. A deleted memory keeps
its position as a dead one until the whole index is built anew. Not safe for threads: the owner holds a lock.
"""

import sqlite3
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, MemoryType, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageDamaged
from polymem.storage.rows import microseconds
from polymem.storage.sqlite.filters import where_clause
from polymem.storage.sqlite.index_arrays import with_room
from polymem.storage.sqlite.index_postings import Postings
from polymem.storage.sqlite.index_records import Records

BATCH_ROWS: Final = 2048
# Memories whose postings are sorted together.
POSTING_ROWS: Final = 1 << 15

_CHANGED = (
    "SELECT m.doc_no, m.memory_id, e.length, m.created_at, m.updated_at,"
    " m.space_id, m.state, m.memory_type, m.agent_id, m.source, m.created_by,"
    " m.session_id, m.turn_role, m.turn_seq, m.superseded_by, e.traits, e.terms, e.counts"
    " FROM memories AS m CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no AND e.tenant_no = ?"
    " WHERE m.tenant_id = ? AND m.change_no > ? ORDER BY m.doc_no"
)
# Of a row, what filters ask for stands before this column.
_TOLD_FROM: Final = 11
_PASSING = "SELECT group_concat(m.doc_no) FROM memories AS m"
_DELETED = "SELECT doc_no FROM tombstones WHERE tenant_id = ? AND change_no > ?"

# The arrays of `Documents`, by position.
_COLUMNS = ("doc_nos", "ids", "lengths", "_created", "_updated", "_is_alive")

# What a dictionary entry and the text in it cost beside the characters.
_ENTRY_BYTES = 120


class Labels:
    """One column of short texts, each kept as the number of its value."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {}
        self._values: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._text_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The memory this column holds."""
        return self._values.nbytes + self._text_bytes

    def pack(self, count: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """The first `count` numbers, and the values in the order of their numbers as JSON."""
        return self._values[:count], np.frombuffer(orjson.dumps(list(self._numbers)), dtype=np.uint8)

    @classmethod
    def unpack(cls, numbers: NDArray[np.int32], values: NDArray[np.uint8]) -> "Labels":
        """The column that `pack` took apart."""
        labels = cls()
        labels._values = numbers
        labels._number(orjson.loads(values.tobytes()))
        return labels

    def make_room(self, used: int, more: int) -> None:
        """There is room for `more` values after the first `used`."""
        self._values = with_room(self._values, used, more)

    def write(self, positions: NDArray[np.int64], values: Sequence[str | None]) -> None:
        """Each position has its value."""
        self._number(sorted(set(values) - self._numbers.keys(), key=str))
        numbers = self._numbers
        self._values[positions] = [numbers[value] for value in values]

    def read(self, positions: NDArray[np.int64]) -> list[str | None]:
        """The value of each position."""
        values = list(self._numbers)
        return [values[number] for number in self._values[positions].tolist()]

    def is_one_of(self, wanted: Collection[str], count: int) -> NDArray[np.bool_]:
        """For each of the first `count` positions, whether its value is one of the wanted."""
        numbers = [self._numbers[value] for value in wanted if value in self._numbers]
        if len(numbers) == 1:
            return np.equal(self._values[:count], numbers[0])
        return np.isin(self._values[:count], numbers)

    def _number(self, values: Sequence[str | None]) -> None:
        for value in values:
            self._numbers[value] = len(self._numbers)
            self._text_bytes += sys.getsizeof(value) + _ENTRY_BYTES


class Told(NamedTuple):
    """What is kept of a memory for its evidence; `created_at` in microseconds, as stored."""

    length: int
    created_at: int
    memory_type: MemoryType
    session_id: str | None
    role: str | None
    seq: int | None
    superseded_by: MemoryId | None
    traits: bytes


class Documents:
    """What filters ask of a tenant's memories, by position; `change_no` is the tenant's count it is in step with."""

    def __init__(self) -> None:
        self.change_no = -1
        self.count = 0
        self.dead_count = 0
        self.doc_nos: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.ids: NDArray[np.bytes_] = np.empty(0, dtype="S36")
        self.postings = Postings()
        self.lengths: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._created: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._updated: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._is_alive: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._told = Records()
        self._labels = {name: Labels() for name in ("space", "state", "type", "agent", "source", "user")}

    @property
    def size_bytes(self) -> int:
        """The memory the columns hold."""
        arrays = (self.doc_nos, self.ids, self.lengths, self._created, self._updated, self._is_alive)
        labels = sum(label.size_bytes for label in self._labels.values())
        return sum(array.nbytes for array in arrays) + labels + self._told.size_bytes + self.postings.size_bytes

    def catch_up(self, connection: sqlite3.Connection, tenant_id: TenantId, tenant_no: int, change_no: int) -> None:
        """The columns are what the connection's snapshot holds, whose change count is `change_no`."""
        if change_no == self.change_no:
            return
        was_empty = self.count == 0
        cursor = connection.execute(_CHANGED, (tenant_no, tenant_id, self.change_no))
        while batch := cursor.fetchmany(POSTING_ROWS):
            self._write(batch)
        if was_empty:
            self.postings.settle()
        else:
            gone = [row[0] for row in connection.execute(_DELETED, (tenant_id, self.change_no))]
            self._bury(self.find(np.array(gone, dtype=np.int64)))
        self.change_no = change_no

    def pack(self) -> dict[str, NDArray[Any]]:
        """All of it as named arrays, without names and terms of what is gone."""
        count = self.count
        columns = {name: getattr(self, name)[:count] for name in _COLUMNS}
        columns["ids"] = np.where(self._is_alive[:count], self.ids[:count], b"")
        told, told_sizes = self._told.pack(self._is_alive[:count])
        labels = {name: label.pack(count) for name, label in self._labels.items()}
        return {
            "state": np.array([self.change_no, self.count, self.dead_count], dtype=np.int64),
            **columns,
            "told": told,
            "told_sizes": told_sizes,
            **{f"{name}_numbers": numbers for name, (numbers, _) in labels.items()},
            **{f"{name}_values": values for name, (_, values) in labels.items()},
            **self.postings.pack(),
        }

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[Any]]) -> "Documents":
        """What `pack` took apart. Raises `KeyError` or `ValueError` for anything else."""
        documents = cls()
        documents.change_no, documents.count, documents.dead_count = arrays["state"].tolist()
        for name in _COLUMNS:
            setattr(documents, name, arrays[name])
        for name in documents._labels:
            documents._labels[name] = Labels.unpack(arrays[f"{name}_numbers"], arrays[f"{name}_values"])
        documents._told = Records.unpack(arrays["told"], arrays["told_sizes"])
        documents.postings = Postings.unpack(arrays)
        return documents

    def find(self, doc_nos: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of those of the documents that are known, dead ones included."""
        known = self.doc_nos[: self.count]
        positions = np.searchsorted(known, doc_nos)
        positions[positions == self.count] = 0
        return positions[known[positions] == doc_nos] if self.count else positions[:0]

    def tell(self, positions: NDArray[np.int64]) -> list["Told"]:
        """What is kept of the memories at these positions."""
        return [
            Told(length, created_at, MemoryType(str(memory_type)), *_unpack_record(record))
            for length, created_at, memory_type, record in zip(
                self.lengths[positions].tolist(),
                self._created[positions].tolist(),
                self._labels["type"].read(positions),
                self._told.read(positions),
                strict=True,
            )
        ]

    def named(self, positions: NDArray[np.int64], ids: Sequence[str]) -> NDArray[np.bool_]:
        """For each of the positions, whether the living memory of this id stands there."""
        named = np.array([each.encode() for each in ids], dtype=np.bytes_)
        is_there: NDArray[np.bool_] = self._is_alive[positions] & (self.ids[positions] == named)
        return is_there

    def passing(self, where: MemoryFilter) -> NDArray[np.bool_]:
        """For each position, whether its memory is alive and passes what is kept here of the filter: see `select`."""
        count = self.count
        passes = self._is_alive[:count].copy()
        for name, wanted in (
            ("space", where.spaces),
            ("state", where.states),
            ("type", where.memory_types),
            ("agent", _just(where.agent_id)),
            ("source", _just(where.source)),
        ):
            if wanted is not None:
                passes &= self._labels[name].is_one_of(wanted, count)
        if where.except_author is not None:
            for name in ("agent", "user"):
                passes &= ~self._labels[name].is_one_of((where.except_author,), count)
        for column, first_at, end_at in (
            (self._created, where.created_from_at, where.created_until_at),
            (self._updated, where.updated_from_at, where.updated_until_at),
        ):
            if first_at is not None:
                passes &= column[:count] >= microseconds(first_at)
            if end_at is not None:
                passes &= column[:count] < microseconds(end_at)
        return passes

    def select(self, connection: sqlite3.Connection, tenant_id: TenantId, where: MemoryFilter) -> NDArray[np.bool_]:
        """For each position, whether its memory passes the whole filter.

        Conditions that an index of the database answers well, and that have too many values to keep here, are
        asked there; the connection's snapshot is the one these columns are in step with.
        """
        if not where.tags and not where.metadata and where.session_ids is None:
            return self.passing(where)
        condition, parameters = where_clause(where, tenant_id)
        listed = connection.execute(
            f"{_PASSING} WHERE {condition}",
            parameters,
        ).fetchone()[0]
        passes = np.zeros(self.count, dtype=np.bool_)
        passes[self.find(parse_numbers(listed))] = True
        return passes

    def _write(self, batch: Sequence[tuple[object, ...]]) -> None:
        doc_nos, ids, lengths, created, updated, *texts = zip(*[row[:_TOLD_FROM] for row in batch], strict=True)
        *told, terms, counts = zip(*[row[_TOLD_FROM:] for row in batch], strict=True)
        positions = self._place(np.array(doc_nos, dtype=np.int64))
        self._name(positions, ids)
        self.lengths[positions] = lengths
        self._created[positions] = created
        self._updated[positions] = updated
        self._is_alive[positions] = True
        for label, values in zip(self._labels.values(), texts, strict=True):
            label.write(positions, values)
        self._told.write(positions, [_pack_record(*each) for each in zip(*told, strict=True)])
        self.postings.write(positions, list(zip(terms, counts, strict=True)))

    def _name(self, positions: NDArray[np.int64], ids: Sequence[str]) -> None:
        encoded = np.array([name.encode() for name in ids])
        if encoded.dtype.itemsize > self.ids.dtype.itemsize:
            self.ids = self.ids.astype(encoded.dtype)
        self.ids[positions] = encoded

    def _place(self, doc_nos: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of these documents, in order; those after the last known one get new positions."""
        last = int(self.doc_nos[self.count - 1]) if self.count else -1
        fresh = doc_nos[doc_nos > last]
        known = self.find(doc_nos[doc_nos <= last])
        if len(known) + len(fresh) != len(doc_nos):
            raise StorageDamaged("the numbers of new documents do not grow")
        used, more = self.count, len(fresh)
        self.doc_nos = with_room(self.doc_nos, used, more)
        self.ids = with_room(self.ids, used, more)
        self.lengths = with_room(self.lengths, used, more)
        self._created = with_room(self._created, used, more)
        self._updated = with_room(self._updated, used, more)
        self._is_alive = with_room(self._is_alive, used, more)
        self._told.make_room(used, more)
        for label in self._labels.values():
            label.make_room(used, more)
        self.doc_nos[used : used + more] = fresh
        self.count = used + more
        return np.concatenate([known, np.arange(used, used + more, dtype=np.int64)])

    def _bury(self, positions: NDArray[np.int64]) -> None:
        self.postings.forget(positions)
        self.dead_count += int(np.count_nonzero(self._is_alive[positions]))
        self._is_alive[positions] = False


def _pack_record(
    session_id: str | None, role: str | None, seq: int | None, superseded_by: str | None, traits: bytes
) -> bytes:
    """What filters do not ask for, in one record: JSON has no line feed in it, the traits stand after the first."""
    return orjson.dumps((session_id, role, seq, superseded_by)) + b"\n" + traits


def _unpack_record(record: bytes) -> tuple[str | None, str | None, int | None, MemoryId | None, bytes]:
    told, _, traits = record.partition(b"\n")
    session_id, role, seq, superseded_by = orjson.loads(told)
    return session_id, role, seq, superseded_by, traits


def parse_numbers(listed: str | None) -> NDArray[np.int64]:
    """The numbers that SQLite joined by commas: one row instead of many, one step without the interpreter lock."""
    return np.empty(0, dtype=np.int64) if listed is None else np.fromstring(listed, dtype=np.int64, sep=",")


def _just(value: str | None) -> frozenset[str] | None:
    return None if value is None else frozenset({value})
