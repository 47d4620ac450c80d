"""The copy port over a PostgreSQL database: its rows told in neutral form, and neutral rows stored as its own.

Each end holds one connection for the whole copy. A source is read in one snapshot, row by row as the other end takes
them; a destination is held by an advisory lock, so that two copies never write to it at once.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import psycopg
from psycopg.rows import TupleRow

from polymem.domain.model import TenantId
from polymem.errors import Conflict, SettingsInvalid, StorageDamaged
from polymem.ports.copy import (
    INDEX_ENTRIES,
    JOBS,
    MEMORIES,
    PIECE_BYTES,
    PIECE_ROWS,
    PLANS,
    TENANTS,
    CopiedTable,
    CopyRow,
    DestinationState,
    Mark,
    Occupied,
    Page,
    TenantExtent,
    Unfinished,
    Unused,
    row_bytes,
    told_as_queued,
)
from polymem.storage.copies import (
    EMPTIED_TABLES,
    FIRST_PLANS,
    MARK_COLUMNS,
    TAG_COLUMNS,
    UNFINISHED_COPY,
    after_key,
    copied_concept_rows,
    dispatch_statement,
    extents,
    mark_row,
    marks_from_rows,
    model_name,
    model_of,
    put_mark_statement,
    put_shared_statement,
    rows_statement,
    tag_rows,
)
from polymem.storage.postgres.codes import tenant_codes
from polymem.storage.postgres.connection import BinaryCursor, Database
from polymem.storage.postgres.copy_rows import (
    CHUNK_TYPES,
    ENTRIES,
    ENTRY_TYPES,
    TOLD_OF_MEMORIES,
    EntryWriter,
    NamedModel,
    entry_teller,
)
from polymem.storage.postgres.driver import Connection, translated
from polymem.storage.postgres.index_rows import CHUNK_COLUMNS, ENTRY_COLUMNS
from polymem.storage.postgres.migrate import migrate, packaged_migrations, pending
from polymem.storage.rows import CONCEPT_COLUMNS, Row, columns

# One copy at a time writes to a database; `MIGRATING` has number 1.
COPYING: Final = (0x706D656D, 8)

_PATIENCE_SECONDS: Final = 5.0
# A copy holds its connection through long pauses and long statements, and reads along the primary keys: a table that
# is sorted first would be read whole before its first row comes.
_SESSION: Final = (
    "SELECT set_config('idle_in_transaction_session_timeout', '0', false),"
    " set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
    " set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false)"
)
_EMPTIED_TABLES: Final = ("vector_graphs", "commits", "term_counts", "chunks", "index_entries", *EMPTIED_TABLES)
_SETTLED_TABLES: Final = (
    "memories, memory_tags, memory_concepts, associations, memory_versions, index_entries, chunks, term_counts, jobs,"
    " job_dispatch, audit_log"
)
_COUNT_TERMS: Final = (
    "INSERT INTO term_counts (tenant_id, code, documents) SELECT e.tenant_id, c.code # %s::bigint, count(*)::integer"
    " FROM index_entries AS e CROSS JOIN LATERAL unnest(e.codes) AS c (code) WHERE e.tenant_id = %s"
    " GROUP BY e.tenant_id, c.code"
)


class PostgresCopyEnd:
    """A database that is read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models: dict[int, NamedModel] = {}

    async def tenants(self) -> Sequence[TenantExtent]:
        """All tenants, by id."""
        return extents(await self._all("SELECT tenant_id, change_no, memory_count FROM tenants ORDER BY tenant_id"))

    async def rows(
        self, table: CopiedTable, tenant_id: TenantId | None, *, after: CopyRow | None = None
    ) -> AsyncIterator[Sequence[CopyRow]]:
        """The rows of one table of a tenant after a key, in key order."""
        parameters = (*(() if tenant_id is None else (tenant_id,)), *(after or ()))
        told: Callable[[Row], CopyRow] = told_as_queued if table is JOBS else tuple
        statement = rows_statement(table, is_shared=tenant_id is None, is_resumed=after is not None, mark="%s")
        if table is INDEX_ENTRIES and tenant_id is not None:
            told = entry_teller(await self._tenant_no(tenant_id), await self._known_models())
            statement = ENTRIES.format(after="" if after is None else f" AND {after_key(('e.memory_id',), mark='%s')}")
        piece: list[CopyRow] = []
        size = 0
        with _fitting():
            async for row in BinaryCursor(self._connection).stream(statement.encode(), parameters):
                piece.append(told(row))
                size += row_bytes(piece[-1])
                if len(piece) >= PIECE_ROWS or size >= PIECE_BYTES:
                    yield piece
                    piece, size = [], 0
        if piece:
            yield piece

    async def close(self) -> None:
        """The connection is closed."""
        await self._connection.close()

    async def _all(self, statement: str, parameters: Row = ()) -> list[TupleRow]:
        with _fitting():
            cursor = await self._connection.execute(statement.encode(), parameters)
            return await cursor.fetchall()

    async def _tenant_no(self, tenant_id: TenantId) -> int:
        rows = await self._all("SELECT tenant_no FROM tenants WHERE tenant_id = %s", (tenant_id,))
        if not rows:
            raise StorageDamaged("rows belong to no tenant")
        return int(rows[0][0])

    async def _known_models(self) -> Mapping[int, NamedModel]:
        """The models by number; all are there before the first index entry is."""
        if not self._models:
            found = await self._all("SELECT model_no, name, revision, dimension, token_dimension FROM models")
            self._models = {row[0]: NamedModel(row[0], model_name(row[1:]), model_of(row[1:])) for row in found}
        return self._models


class PostgresCopySource(PostgresCopyEnd):
    """A database that is copied as it was at one moment; nothing in it changes. Made by `open`."""

    @classmethod
    async def open(cls, url: str) -> "PostgresCopySource":
        """The database is read as it is now.

        Raises `SettingsInvalid` when it is none of ours, `StorageDamaged` for an unfinished copy, the storage errors.
        """
        connection = await _connect(url)
        try:
            await _require_ours(connection)
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    async def identity(self) -> str:
        """The database on its server, and its first tenant: what is restored from a backup is another one."""
        rows = await self._all(
            "SELECT d.oid::bigint, (SELECT tenant_id FROM tenants ORDER BY created_at, tenant_id LIMIT 1)"
            " FROM pg_database AS d WHERE d.datname = current_database()"
        )
        oid, first = rows[0]
        return f"postgresql {oid:x} {first}"


class PostgresCopyTarget(PostgresCopyEnd):
    """A database that is written. Made by `open`."""

    @classmethod
    async def open(cls, url: str) -> "PostgresCopyTarget":
        """The database has this program's schema and is this copy's alone.

        Raises `Conflict` while another copy writes to it, `SettingsInvalid` and the storage errors.
        """
        connection = await _connect(url)
        try:
            await migrate(connection)
            await _require_alone(connection)
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    async def state(self) -> DestinationState:
        """What is there."""
        rows = await self._all("SELECT copy_id, source FROM copies")
        if rows:
            return Unfinished(*rows[0])
        used = await self._all(
            "SELECT EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM models)"
            f" OR (SELECT count(*) FROM {PLANS.name}) > {FIRST_PLANS}"
        )
        return Occupied() if used[0][0] else Unused()

    async def begin(self, copy_id: str, source: str) -> None:
        """The copy is under way; no server opens the database any more."""
        with _fitting():
            async with self._connection.transaction():
                # Whoever makes the first tenant waits, and finds the copy; or was first, and is found.
                await self._connection.execute("LOCK TABLE tenants IN SHARE ROW EXCLUSIVE MODE")
                if not isinstance(await self.state(), Unused):
                    raise Conflict("the destination is not empty")
                await self._connection.execute(
                    "INSERT INTO copies (copy_id, source) VALUES (%s, %s)", (copy_id, source)
                )

    async def write_shared(self, table: CopiedTable, rows: Sequence[CopyRow]) -> None:
        """Rows of these keys are as given."""
        with _fitting():
            async with self._connection.transaction(), self._connection.cursor() as cursor:
                await cursor.executemany(put_shared_statement(table, mark="%s").encode(), rows)

    async def marks(self, tenant_id: TenantId) -> Mapping[str, Mark]:
        """How far each table of the tenant is."""
        statement = f"SELECT {columns(MARK_COLUMNS[1:])} FROM copy_marks WHERE tenant_id = %s"
        return marks_from_rows(await self._all(statement, (tenant_id,)))

    async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
        """The pages and their marks are stored, and what is derived of the settled tenants."""
        with _fitting():
            async with self._connection.transaction():
                for page in pages:
                    if page.rows:
                        with _fitting(f"{page.table.name} of tenant {page.tenant_id}"):
                            await self._store(page)
                latest = {(page.tenant_id, page.table.name): page for page in pages}.values()
                async with self._connection.cursor() as cursor:
                    await cursor.executemany(
                        put_mark_statement(mark="%s").encode(),
                        [mark_row(page.tenant_id, page.table, page.mark) for page in latest],
                    )
                for tenant_id in settled:
                    await self._derive(tenant_id)

    async def wipe(self, tenant_id: TenantId) -> None:
        """Nothing of the tenant is stored, nor a mark of it."""
        with _fitting():
            async with self._connection.transaction():
                for table in _EMPTIED_TABLES:
                    await self._connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s".encode(), (tenant_id,))

    async def distrust(self, tenant_id: TenantId) -> None:
        """The tenant has no marks."""
        with _fitting():
            await self._connection.execute("DELETE FROM copy_marks WHERE tenant_id = %s", (tenant_id,))

    async def finish(self) -> None:
        """The database is one like any other, and what plans queries knows its tables."""
        with _fitting():
            async with self._connection.transaction():
                await self._connection.execute(
                    "SELECT setval('job_sequence', greatest((SELECT coalesce(max(sequence), 0) FROM jobs),"
                    " (SELECT last_value FROM job_sequence)))"
                )
                await self._connection.execute("DELETE FROM copy_marks")
                await self._connection.execute("DELETE FROM copies")
            await self._connection.execute(f"VACUUM (ANALYZE) {_SETTLED_TABLES}".encode())

    async def _store(self, page: Page) -> None:
        tenant_id, table = page.tenant_id, page.table
        if table is INDEX_ENTRIES:
            await self._store_entries(tenant_id, page.rows)
        elif table is TENANTS:
            numbers = await self._all("SELECT nextval('tenant_no') FROM generate_series(1, %s)", (len(page.rows),))
            rows = [(number, *row) for (number,), row in zip(numbers, page.rows, strict=True)]
            await self._copy_in(table.name, ("tenant_no", *table.columns), rows)
        else:
            await self._copy_in(table.name, ("tenant_id", *table.columns), [(tenant_id, *row) for row in page.rows])
        if table is MEMORIES:
            await self._copy_in("memory_tags", TAG_COLUMNS, tag_rows(tenant_id, page.rows))
            await self._copy_in("memory_concepts", CONCEPT_COLUMNS, copied_concept_rows(tenant_id, page.rows))

    async def _store_entries(self, tenant_id: TenantId, rows: Sequence[CopyRow]) -> None:
        memories = await self._all(TOLD_OF_MEMORIES, (tenant_id, [row[0] for row in rows]))
        models = {model.name: model for model in (await self._known_models()).values()}
        writer = EntryWriter(tenant_id, await self._tenant_no(tenant_id), models, {row[0]: row[1:] for row in memories})
        await self._copy_in("index_entries", ENTRY_COLUMNS, writer.entries(rows), types=ENTRY_TYPES)
        await self._copy_in("chunks", CHUNK_COLUMNS, writer.chunks(rows), types=CHUNK_TYPES)

    async def _copy_in(
        self, table: str, names: Sequence[str], rows: Iterable[Row], *, types: Sequence[str] = ()
    ) -> None:
        """The rows are in the table; where the columns' types are given they are sent in binary form."""
        form = " (FORMAT BINARY)" if types else ""
        async with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN{form}".encode()) as copy,
        ):
            if types:
                copy.set_types(types)
            for row in rows:
                await copy.write_row(row)

    async def _derive(self, tenant_id: TenantId) -> None:
        """The tenant's terms are counted, and workers find its jobs."""
        # A code is stored mixed with the tenant's number by an exclusive or: that of 0 is what it is mixed with.
        mix = int(tenant_codes(await self._tenant_no(tenant_id), np.zeros(1, dtype=np.uint64))[0])
        await self._connection.execute(_COUNT_TERMS, (mix, tenant_id))
        await self._connection.execute(dispatch_statement(mark="%s").encode(), (tenant_id,))


async def _connect(url: str) -> Connection:
    """A connection of its own to a database that we can work with. Raises `SettingsInvalid` and the storage errors."""
    database = await Database.open(url, connections=1, patience_seconds=_PATIENCE_SECONDS)
    try:
        connection = await database.alone()
    finally:
        await database.close()
    with translated():
        await connection.execute(_SESSION)
    return connection


async def _require_ours(connection: Connection) -> None:
    """A snapshot of a whole database of ours is open."""
    lacking = await pending(connection)
    if len(lacking) == len(packaged_migrations()):
        raise SettingsInvalid("the PostgreSQL database holds nothing of polymem")
    if lacking:
        raise SettingsInvalid("the PostgreSQL database has an older schema; run `polymem migrate` first")
    with translated():
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await require_whole(connection)


async def require_whole(connection: Connection) -> None:
    """The database is no unfinished copy. Raises `StorageDamaged`."""
    with translated():
        cursor = await connection.execute("SELECT 1 FROM copies")
        if await cursor.fetchone() is not None:
            raise StorageDamaged(UNFINISHED_COPY)


async def _require_alone(connection: Connection) -> None:
    """No other copy writes to the database as long as the connection stands."""
    with translated():
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", COPYING)
        if await cursor.fetchone() != (True,):
            raise Conflict("another copy is writing to the destination")


@contextmanager
def _fitting(rows: str = "a table") -> Iterator[None]:
    """Errors of the driver leave as storage errors; a row of `rows` that does not fit or read back is damage."""
    try:
        with translated():
            yield
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
        raise StorageDamaged(f"a row of {rows} contradicts others, or holds what PostgreSQL cannot") from error
