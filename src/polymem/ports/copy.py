"""The copy port: everything that is stored as neutral rows, read from one end, written to another.

A row is a tuple of plain values in the order of its table's columns, the key first. Times are microseconds since
1970-01-01 UTC, JSON is canonical text, booleans are 0 or 1. An index entry carries its terms as `codes` (8 bytes each,
unsigned, ascending, little-endian) and `counts` (one byte each, or four), and its vectors as they are stored, bit for
bit: `chunks` (start, end and number of tokens of each, int32), `embeddings` (float16) and `token_vectors` (int8).
A model is named by the JSON list of its name, revision, dimension and token dimension. A running job is told as a
queued one: whoever ran it does not go on at the other end.

What a database derives from these rows (tags and concepts by memory, counts of terms, the dispatch of jobs, indexes)
is no part of a copy: each end derives it again.

All methods may raise the storage errors.
"""

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from hashlib import blake2b
from typing import Final, Protocol

from polymem.domain.model import TenantId

Value = None | int | float | str | bytes
CopyRow = tuple[Value, ...]

# A batch of rows as `rows` gives it ends after so many rows, or when it holds so many bytes; one row may hold more.
PIECE_ROWS: Final = 256
PIECE_BYTES: Final = 1 << 20

_DIGEST_BYTES = 16
_MODULUS = 1 << (8 * _DIGEST_BYTES)
_VALUE_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedTable:
    """One kind of row. The first `key_size` columns are its key within the tenant (or, outside of tenants, at all).

    `moves_with_changes`: such rows change only in commits, which move the tenant's `change_no`.
    """

    name: str
    columns: tuple[str, ...]
    key_size: int = 1
    moves_with_changes: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The columns by which rows are told apart, and in whose order they are read."""
        return self.columns[: self.key_size]


def _table(name: str, columns: str, *, key_size: int = 1, moves_with_changes: bool = False) -> CopiedTable:
    return CopiedTable(
        name=name, columns=tuple(columns.split()), key_size=key_size, moves_with_changes=moves_with_changes
    )


PLANS: Final = _table("plans", "name requests_per_minute burst max_memories queries_per_day")
MODELS: Final = _table("models", "name revision dimension token_dimension", key_size=4)
TENANTS: Final = _table("tenants", "tenant_id name plan is_active created_at change_no memory_count terms_total")
MEMORIES: Final = _table(
    "memories",
    "memory_id space_id memory_type state source agent_id session_id turn_role turn_seq content_type identity"
    " created_by updated_by superseded_by derived_from version revision created_at updated_at change_no role"
    " importance valence external_ref fingerprint content_key supersedes concepts tags metadata content",
    moves_with_changes=True,
)
INDEX_ENTRIES: Final = _table(
    "index_entries",
    "memory_id length model is_complete codes counts traits chunks embeddings token_vectors",
    moves_with_changes=True,
)
JOBS: Final = _table(
    "jobs",
    "job_id space_id user_id kind queue ordering_key blocks_key_when_failed sequence state priority attempts"
    " max_attempts fence payload result progress_total progress_done error reference_at run_after_at lease_until_at"
    " created_at updated_at finished_at",
)

# In this order, which is that in which rows refer to one another.
SHARED_TABLES: Final = (PLANS, MODELS)
TENANT_TABLES: Final = (
    TENANTS,
    _table("users", "user_id name personal_space_id created_at"),
    _table("keys", "key_id key_hash user_id name prefix scopes allowed_spaces created_at expires_at revoked_at"),
    _table("spaces", "space_id kind name is_restricted created_at"),
    _table("members", "space_id user_id role", key_size=2, moves_with_changes=True),
    MEMORIES,
    INDEX_ENTRIES,
    _table(
        "memory_versions",
        "memory_id revision body replaced_at replaced_by reason",
        key_size=2,
        moves_with_changes=True,
    ),
    _table(
        "associations",
        "space_id source target weight valence count updated_at",
        key_size=3,
        moves_with_changes=True,
    ),
    _table("tombstones", "memory_id space_id deleted_at change_no", moves_with_changes=True),
    _table("forgotten_identities", "identity", moves_with_changes=True),
    JOBS,
    _table("idempotency", "key digest outcomes created_at"),
    _table(
        "audit_log",
        "change_no entry_no at user_id key_id action target request_id",
        key_size=2,
        moves_with_changes=True,
    ),
    _table("daily_queries", "day used"),
)


def told_as_queued(row: CopyRow) -> CopyRow:
    """A row of `JOBS`; a job that somebody runs is queued, held by nobody."""
    values = dict(zip(JOBS.columns, row, strict=True))
    if values["state"] != "running":
        return row
    return tuple((values | {"state": "queued", "lease_until_at": None}).values())


# --- how far a copy is -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many rows there are, and a sum of their 128-bit hashes, the same in whatever order they came."""

    rows: int = 0
    digest: int = 0

    def plus(self, rows: Sequence[CopyRow]) -> "Tally":
        """The tally with these rows, too."""
        digest = reduce(lambda total, row: total + row_hash(row), rows, self.digest)
        return Tally(rows=self.rows + len(rows), digest=digest % _MODULUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far one table of a tenant is at the destination: up to the key `after` (None: nothing), or all of it."""

    tally: Tally = Tally()
    after: CopyRow | None = None
    is_done: bool = False

    def moved(self, table: CopiedTable, rows: Sequence[CopyRow]) -> "Mark":
        """The mark after these rows, which follow those before."""
        return replace(self, tally=self.tally.plus(rows), after=rows[-1][: table.key_size])


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of one table of a tenant, in order, and how far the table is with them."""

    tenant_id: TenantId
    table: CopiedTable
    rows: Sequence[CopyRow]
    mark: Mark


def row_hash(row: CopyRow) -> int:
    """128 bits that tell this row from every other."""
    parts = []
    for value in row:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, int):
            parts.append(b"i%d;" % int(value))
        elif isinstance(value, float):
            parts += [b"f", struct.pack("<d", value)]
        else:
            kind, content = (b"s", value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else (b"b", value)
            parts += [kind, len(content).to_bytes(_VALUE_BYTES, "little"), content]
    return int.from_bytes(blake2b(b"".join(parts), digest_size=_DIGEST_BYTES).digest(), "little")


def row_bytes(row: CopyRow) -> int:
    """About how much memory the row's values take."""
    return sum(len(value) if isinstance(value, str | bytes) else _VALUE_BYTES for value in row)


# --- the two ends ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantExtent:
    """A tenant as one end has it: how many changes it saw, and how many memories it holds."""

    tenant_id: TenantId
    change_no: int
    memory_count: int


class CopyReader(Protocol):
    """An end that is read; of a source, everything as it was at one moment."""

    async def tenants(self) -> Sequence[TenantExtent]:
        """All tenants, by id."""
        ...

    def rows(
        self, table: CopiedTable, tenant_id: TenantId | None, *, after: CopyRow | None = None
    ) -> AsyncIterator[Sequence[CopyRow]]:
        """The rows of one table of a tenant (None: of a shared table) after a key, in key order, no piece empty.

        Only one table is read at a time. Raises `StorageDamaged` for a row that does not read back.
        """
        ...

    async def close(self) -> None:
        """The end is released; closing twice is harmless."""
        ...


class CopySource(CopyReader, Protocol):
    """What is copied."""

    async def identity(self) -> str:
        """What tells this database from every other, also from one made out of the same backup."""
        ...


@dataclass(frozen=True, slots=True)
class Unused:
    """Nothing but the plans that every database begins with is stored."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A copy from the source of this identity began and was not finished."""

    copy_id: str
    source: str


@dataclass(frozen=True, slots=True)
class Occupied:
    """Something is stored that no unfinished copy brought."""


DestinationState = Unused | Unfinished | Occupied


class CopyTarget(CopyReader, Protocol):
    """Where it is copied to. No server opens it from `begin` to `finish`."""

    async def state(self) -> DestinationState:
        """What is there."""
        ...

    async def begin(self, copy_id: str, source: str) -> None:
        """The copy is under way. The state was `Unused`."""
        ...

    async def write_shared(self, table: CopiedTable, rows: Sequence[CopyRow]) -> None:
        """Rows of these keys are as given."""
        ...

    async def marks(self, tenant_id: TenantId) -> Mapping[str, Mark]:
        """How far each table of the tenant is, by name; a table without a mark has no rows."""
        ...

    async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
        """The pages and their marks are stored, all or none, and what is derived of the settled tenants stands.

        A page follows what its table's mark says. Settled is a tenant of which the last rows are in these pages.
        Raises `StorageDamaged` for a row that this end cannot hold.
        """
        ...

    async def wipe(self, tenant_id: TenantId) -> None:
        """Nothing of the tenant is stored, nor a mark of it."""
        ...

    async def distrust(self, tenant_id: TenantId) -> None:
        """The tenant has no marks: who resumes the copy makes it anew."""
        ...

    async def finish(self) -> None:
        """The copy is a database like any other: servers may open it. The numbers it gives out next are free."""
        ...
