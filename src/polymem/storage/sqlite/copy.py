"""The copy port over a data directory: its rows told in neutral form, and neutral rows stored as its own.

One connection in one thread at a time. The lock of the directory keeps servers out; a source is read in one snapshot.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from polymem.domain.model import ModelIdentity, TenantId
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
    after_key,
    copied_concept_rows,
    dispatch_statement,
    extents,
    mark_row,
    marks_from_rows,
    model_name,
    model_named,
    put_mark_statement,
    put_shared_statement,
    rows_statement,
    tag_rows,
)
from polymem.storage.rows import columns, insert_into
from polymem.storage.sqlite.driver import connect, storage_error
from polymem.storage.sqlite.index_rows import find_model
from polymem.storage.sqlite.lock import DirectoryLock
from polymem.storage.sqlite.migrate import migrate
from polymem.storage.sqlite.storage import DATABASE_FILE, make_private, require_whole
from polymem.storage.sqlite.transaction import next_number

Result = TypeVar("Result")

_TOMBSTONES: Final = "tombstones"
_ENTRIES = (
    "SELECT m.memory_id, e.length, e.model_no, e.is_complete, e.terms, e.counts, e.traits, e.chunks, e.embeddings,"
    " coalesce(t.vectors, x'') FROM memories AS m"
    " CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no"
    " LEFT JOIN token_vectors AS t ON t.doc_no = m.doc_no WHERE m.tenant_id = ?{after} ORDER BY m.memory_id"
)
_MODEL = INDEX_ENTRIES.columns.index("model")
_INSERT_ENTRY = (
    "INSERT INTO index_entries"
    " (doc_no, tenant_no, length, model_no, is_complete, terms, counts, traits, chunks, embeddings)"
    " SELECT m.doc_no, n.tenant_no, ?, ?, ?, ?, ?, ?, ?, ? FROM memories AS m"
    " JOIN tenants AS n ON n.tenant_id = m.tenant_id WHERE m.tenant_id = ? AND m.memory_id = ?"
)
_INSERT_TOKENS = (
    "INSERT INTO token_vectors (doc_no, tenant_no, vectors) SELECT m.doc_no, n.tenant_no, ? FROM memories AS m"
    " JOIN tenants AS n ON n.tenant_id = m.tenant_id WHERE m.tenant_id = ? AND m.memory_id = ?"
)

_INSERT_CONCEPT = (
    "INSERT INTO memory_concepts (tenant_id, space_id, concept, memory_id, doc_no)"
    " SELECT ?1, ?2, ?3, ?4, doc_no FROM memories WHERE tenant_id = ?1 AND memory_id = ?4"
)


class SqliteCopyEnd:
    """A data directory that is read."""

    def __init__(self, data_dir: Path, lock: DirectoryLock, connection: sqlite3.Connection) -> None:
        self._data_dir = data_dir
        self._lock = lock
        self._connection = connection

    async def tenants(self) -> Sequence[TenantExtent]:
        """All tenants, by id."""
        return await self._run(
            lambda connection: extents(
                connection.execute("SELECT tenant_id, change_no, memory_count FROM tenants ORDER BY tenant_id")
            )
        )

    async def rows(
        self, table: CopiedTable, tenant_id: TenantId | None, *, after: CopyRow | None = None
    ) -> AsyncIterator[Sequence[CopyRow]]:
        """The rows of one table of a tenant after a key, in key order."""
        name = _named(table, tenant_id)
        found = await self._run(lambda connection: _told(connection, table, tenant_id, after), rows=name)
        while piece := await self._run(lambda _: _piece(found), rows=name):
            yield piece

    async def close(self) -> None:
        """The database is closed and the directory free."""
        await asyncio.to_thread(self._connection.close)
        self._lock.release()

    async def _run(self, unit: Callable[[sqlite3.Connection], Result], *, rows: str = "a table") -> Result:
        """What the unit returns, run on a thread; `rows` names what it is about."""

        def called() -> Result:
            with _translated(rows):
                return unit(self._connection)

        return await asyncio.to_thread(called)


class SqliteCopySource(SqliteCopyEnd):
    """A data directory that is copied; nothing in it changes. Made by `open`."""

    @classmethod
    async def open(cls, data_dir: Path) -> "SqliteCopySource":
        """The directory is locked, and its database read as it is now.

        Raises `SettingsInvalid` when there is none, `DataDirectoryLocked` while a server owns it, the storage errors.
        """

        def opened() -> SqliteCopySource:
            if not (data_dir / DATABASE_FILE).is_file():
                raise SettingsInvalid(f"no database in {data_dir}")
            lock, connection = _opened(data_dir, is_reader=True)
            try:
                with _translated():
                    connection.execute("BEGIN")
                    require_whole(connection)
            except BaseException:
                connection.close()
                lock.release()
                raise
            return cls(data_dir, lock, connection)

        return await asyncio.to_thread(opened)

    async def identity(self) -> str:
        """The file itself: a copy of it is another one."""
        found = await asyncio.to_thread((self._data_dir / DATABASE_FILE).stat)
        return f"sqlite {found.st_dev:x} {found.st_ino:x}"


class SqliteCopyTarget(SqliteCopyEnd):
    """A data directory that is written. Made by `open`."""

    @classmethod
    async def open(cls, data_dir: Path) -> "SqliteCopyTarget":
        """The directory is there, locked, and has a database. Raises `DataDirectoryLocked` and the storage errors."""

        def opened() -> SqliteCopyTarget:
            make_private(data_dir)
            return cls(data_dir, *_opened(data_dir, is_reader=False))

        return await asyncio.to_thread(opened)

    async def state(self) -> DestinationState:
        """What is there."""
        return await self._run(_state)

    async def begin(self, copy_id: str, source: str) -> None:
        """The copy is under way; no server opens the directory any more."""

        def unit(connection: sqlite3.Connection) -> None:
            if not isinstance(_state(connection), Unused):
                raise Conflict("the destination is not empty")
            connection.execute("INSERT INTO copies (copy_id, source) VALUES (?, ?)", (copy_id, source))

        await self._write(unit)

    async def write_shared(self, table: CopiedTable, rows: Sequence[CopyRow]) -> None:
        """Rows of these keys are as given."""
        statement = put_shared_statement(table, mark="?")
        await self._write(lambda connection: connection.executemany(statement, rows))

    async def marks(self, tenant_id: TenantId) -> Mapping[str, Mark]:
        """How far each table of the tenant is."""
        statement = f"SELECT {columns(MARK_COLUMNS[1:])} FROM copy_marks WHERE tenant_id = ?"
        return await self._run(lambda connection: marks_from_rows(connection.execute(statement, (tenant_id,))))

    async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
        """The pages and their marks are stored, and what is derived of the settled tenants."""

        def unit(connection: sqlite3.Connection) -> None:
            for page in pages:
                with _translated(_named(page.table, page.tenant_id)):
                    _store(connection, page)
            for tenant_id in settled:
                _derive(connection, tenant_id)

        await self._write(unit)

    async def wipe(self, tenant_id: TenantId) -> None:
        """Nothing of the tenant is stored, nor a mark of it."""
        await self._write(lambda connection: _wipe(connection, tenant_id))

    async def distrust(self, tenant_id: TenantId) -> None:
        """The tenant has no marks."""
        await self._write(
            lambda connection: connection.execute("DELETE FROM copy_marks WHERE tenant_id = ?", (tenant_id,))
        )

    async def finish(self) -> None:
        """The data directory is one like any other."""

        def unit(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE counters SET value = max(value, (SELECT coalesce(max(sequence), 0) FROM jobs))"
                " WHERE name = 'job_sequence'"
            )
            connection.execute("DELETE FROM copy_marks")
            connection.execute("DELETE FROM copies")

        await self._write(unit)

    async def _write(self, unit: Callable[[sqlite3.Connection], object]) -> None:
        """What the unit wrote is durable, all of it or nothing."""

        def called(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                unit(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        await self._run(called)


def _opened(data_dir: Path, *, is_reader: bool) -> tuple[DirectoryLock, sqlite3.Connection]:
    """The lock of the directory, and a connection to its database with this program's schema."""
    lock = DirectoryLock.acquire(data_dir)
    try:
        migrate(data_dir / DATABASE_FILE)
        with _translated():
            return lock, connect(data_dir / DATABASE_FILE, is_reader=is_reader)
    except BaseException:
        lock.release()
        raise


@contextmanager
def _translated(rows: str = "a table") -> Iterator[None]:
    """Errors of the driver leave as storage errors; a row of `rows` that does not fit or read back is damage."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError) as error:
        raise StorageDamaged(f"a row of {rows} contradicts others, or holds what SQLite cannot") from error
    except sqlite3.Error as error:
        raise storage_error(error) or StorageDamaged(f"a row of {rows} cannot be read") from error


def _named(table: CopiedTable, tenant_id: TenantId | None) -> str:
    return table.name if tenant_id is None else f"{table.name} of tenant {tenant_id}"


# --- reading ---------------------------------------------------------------------------------------------


def _told(
    connection: sqlite3.Connection, table: CopiedTable, tenant_id: TenantId | None, after: CopyRow | None
) -> Iterator[CopyRow]:
    """The rows in neutral form, read as they are asked for."""
    parameters = (*(() if tenant_id is None else (tenant_id,)), *(after or ()))
    if table is INDEX_ENTRIES:
        return _told_entries(connection, parameters)
    statement = rows_statement(table, is_shared=tenant_id is None, is_resumed=after is not None, mark="?")
    found = connection.execute(statement, parameters)
    return map(told_as_queued, found) if table is JOBS else iter(found)


def _told_entries(connection: sqlite3.Connection, parameters: tuple[object, ...]) -> Iterator[CopyRow]:
    models = {
        row[0]: model_name(row[1:])
        for row in connection.execute("SELECT model_no, name, revision, dimension, token_dimension FROM models")
    }
    is_resumed = len(parameters) > 1
    after = f" AND {after_key(('m.memory_id',), mark='?')}" if is_resumed else ""
    for row in connection.execute(_ENTRIES.format(after=after), parameters):
        model = None if row[_MODEL] is None else models[row[_MODEL]]
        yield (*row[:_MODEL], model, *row[_MODEL + 1 :])


def _piece(rows: Iterator[CopyRow]) -> list[CopyRow]:
    """The next rows, of a bounded size."""
    piece: list[CopyRow] = []
    size = 0
    while len(piece) < PIECE_ROWS and size < PIECE_BYTES and (row := next(rows, None)) is not None:
        piece.append(row)
        size += row_bytes(row)
    return piece


# --- writing ---------------------------------------------------------------------------------------------


def _state(connection: sqlite3.Connection) -> DestinationState:
    copy = connection.execute("SELECT copy_id, source FROM copies").fetchone()
    if copy is not None:
        return Unfinished(*copy)
    (is_used,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM models)"
        f" OR (SELECT count(*) FROM {PLANS.name}) > {FIRST_PLANS}"
    ).fetchone()
    return Occupied() if is_used else Unused()


def _store(connection: sqlite3.Connection, page: Page) -> None:
    """The rows of the page and its mark are stored."""
    tenant_id, table = page.tenant_id, page.table
    if table is TENANTS:
        statement = insert_into(table.name, ("tenant_no", *table.columns))
        connection.executemany(statement, [(next_number(connection, "tenant_no"), *row) for row in page.rows])
    elif table is INDEX_ENTRIES:
        _store_entries(connection, tenant_id, page.rows)
    elif table is MEMORIES or table.name == _TOMBSTONES:
        statement = insert_into(table.name, ("tenant_id", "doc_no", *table.columns))
        first = _take_documents(connection, len(page.rows)) + 1
        connection.executemany(statement, [(tenant_id, doc_no, *row) for doc_no, row in enumerate(page.rows, first)])
        if table is MEMORIES:
            connection.executemany(insert_into("memory_tags", TAG_COLUMNS), tag_rows(tenant_id, page.rows))
            connection.executemany(_INSERT_CONCEPT, copied_concept_rows(tenant_id, page.rows))
    else:
        statement = insert_into(table.name, ("tenant_id", *table.columns))
        connection.executemany(statement, [(tenant_id, *row) for row in page.rows])
    connection.execute(put_mark_statement(mark="?"), mark_row(tenant_id, table, page.mark))


def _take_documents(connection: sqlite3.Connection, count: int) -> int:
    """So many numbers of documents after the returned one are taken."""
    row = connection.execute(
        "UPDATE counters SET value = value + ?1 WHERE name = 'doc_no' RETURNING value - ?1", (count,)
    ).fetchone()
    return int(row[0])


def _store_entries(connection: sqlite3.Connection, tenant_id: TenantId, rows: Sequence[CopyRow]) -> None:
    models: dict[str, int] = {}
    for memory_id, length, model, is_complete, codes, counts, traits, chunks, embeddings, token_vectors in rows:
        model_no = None
        if model is not None:
            name = str(model)
            if name not in models:
                models[name] = _number(connection, model_named(name))
            model_no = models[name]
            connection.execute(_INSERT_TOKENS, (token_vectors, tenant_id, memory_id))
        stored = connection.execute(
            _INSERT_ENTRY,
            (length, model_no, is_complete, codes, counts, traits, chunks, embeddings, tenant_id, memory_id),
        )
        if not stored.rowcount:
            raise StorageDamaged("an index entry belongs to no memory")


def _number(connection: sqlite3.Connection, model: ModelIdentity) -> int:
    """The number of a model, which was copied before what it made. Raises `StorageDamaged`."""
    number = find_model(connection, model)
    if number is None:
        raise StorageDamaged("an index entry names a model that is not there")
    return number


def _derive(connection: sqlite3.Connection, tenant_id: TenantId) -> None:
    """Workers find the tenant's jobs."""
    connection.execute(dispatch_statement(mark="?"), (tenant_id,))


def _wipe(connection: sqlite3.Connection, tenant_id: TenantId) -> None:
    for table in ("token_vectors", "index_entries"):
        connection.execute(
            f"DELETE FROM {table} WHERE doc_no IN (SELECT doc_no FROM memories WHERE tenant_id = ?)", (tenant_id,)
        )
    for table in EMPTIED_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE tenant_id = ?", (tenant_id,))
