"""All that is stored of one tenant: commits, and the reads of memories, spaces and jobs."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import orjson

from polymem.domain.model import (
    IdempotencyClaim,
    Job,
    JobId,
    JobKind,
    Membership,
    Memory,
    MemoryId,
    MemoryVersion,
    ModelIdentity,
    Space,
    SpaceId,
    TenantId,
    UserId,
)
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.ports.changes import Change, CommitResult, SessionEnd
from polymem.storage.outcomes import Commit, Refused
from polymem.storage.rows import (
    JOB_COLUMNS,
    MEMORY_COLUMNS,
    SPACE_COLUMNS,
    columns,
    job_from_row,
    membership_of,
    memory_from_row,
    space_from_row,
    to_json,
    version_from_row,
)
from polymem.storage.sqlite.commit import run_commit
from polymem.storage.sqlite.filters import one_of
from polymem.storage.sqlite.index_rows import find_model
from polymem.storage.sqlite.learned_reads import SqliteLearnedReads
from polymem.storage.sqlite.memory_lists import last_seq, list_page, list_turns

# A commit of so many changes has a transaction of its own.
_MANY_CHANGES = 1_000
_MEMORY = columns(MEMORY_COLUMNS, "m")
_KNOWN_IDENTITIES = (
    "SELECT m.identity FROM json_each(:identities) AS asked"
    " CROSS JOIN memories AS m ON m.tenant_id = :tenant AND m.identity = asked.value"
    " UNION SELECT f.identity FROM json_each(:identities) AS asked"
    " CROSS JOIN forgotten_identities AS f ON f.tenant_id = :tenant AND f.identity = asked.value"
)


class SqliteTenantStore(SqliteLearnedReads):
    """The `TenantStore` of one tenant; an unknown tenant has nothing, and a commit to it raises `NotFound`."""

    @property
    def tenant_id(self) -> TenantId:
        """The tenant this store is bound to."""
        return self._tenant_id

    async def commit(
        self,
        changes: Sequence[Change],
        *,
        now: datetime,
        idempotency: IdempotencyClaim | None = None,
        max_memories: int | None = None,
        ends_at: SessionEnd | None = None,
    ) -> CommitResult:
        """All changes are durable, or none is and the result says why."""
        commit = Commit(
            tenant_id=self._tenant_id,
            changes=tuple(changes),
            now=now,
            idempotency=idempotency,
            max_memories=max_memories,
            ends_at=ends_at,
        )
        try:
            return await self._database.write(
                lambda connection: run_commit(connection, commit), is_large=len(commit.changes) >= _MANY_CHANGES
            )
        except Refused as refused:
            return refused.result

    async def get_memories(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Memory]:
        """The memories of these ids in these spaces, in the order of the ids."""
        in_spaces, space_ids = one_of("m.space_id", spaces)
        asked = dict.fromkeys(ids)

        def unit(connection: sqlite3.Connection) -> list[Memory]:
            # CROSS JOIN keeps the order: from the few ids to their rows, never through a space's whole index.
            rows = connection.execute(
                f"SELECT {_MEMORY} FROM json_each(?) AS asked CROSS JOIN memories AS m"
                f" ON m.tenant_id = ? AND m.memory_id = asked.value WHERE {in_spaces}",
                (to_json(tuple(asked)), self._tenant_id, *space_ids),
            )
            return [memory_from_row(row) for row in rows]

        found = {memory.id: memory for memory in await self._database.read(unit)}
        return {memory_id: found[memory_id] for memory_id in asked if memory_id in found}

    async def is_deleted(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> bool:
        """True when there is a tombstone of this id in one of these spaces."""
        in_spaces, space_ids = one_of("space_id", spaces)

        def unit(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                f"SELECT 1 FROM tombstones WHERE tenant_id = ? AND memory_id = ? AND {in_spaces}",
                (self._tenant_id, memory_id, *space_ids),
            ).fetchone()
            return row is not None

        return await self._database.read(unit)

    async def list_memories(self, where: MemoryFilter, *, order: ListOrder, limit: int, offset: int) -> MemoryPage:
        """One page in `order` with the exact count of all that pass, both from one snapshot."""

        def unit(connection: sqlite3.Connection) -> MemoryPage:
            return list_page(connection, self._tenant_id, where, order=order, limit=limit, offset=offset)

        return await self._database.read(unit)

    async def list_versions(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> tuple[MemoryVersion, ...]:
        """The earlier states of a memory that is now in one of these spaces, newest first."""
        in_spaces, space_ids = one_of("m.space_id", spaces)

        def unit(connection: sqlite3.Connection) -> tuple[MemoryVersion, ...]:
            rows = connection.execute(
                "SELECT v.body, v.replaced_at, v.replaced_by, v.reason FROM memories AS m"
                " JOIN memory_versions AS v ON v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id"
                f" WHERE m.tenant_id = ? AND m.memory_id = ? AND {in_spaces} ORDER BY v.revision DESC",
                (self._tenant_id, memory_id, *space_ids),
            )
            return tuple(version_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def list_session_messages(
        self, session_ids: Sequence[str], spaces: frozenset[SpaceId], *, limit_per_session: int
    ) -> tuple[Memory, ...]:
        """The first turns of each session, ordered by session id, time, seq and id."""

        def unit(connection: sqlite3.Connection) -> tuple[Memory, ...]:
            return list_turns(connection, self._tenant_id, session_ids, spaces, limit_per_session=limit_per_session)

        return await self._database.read(unit)

    async def last_seq(self, session_id: str, space_id: SpaceId) -> int | None:
        """The highest seq among the turns of a session in a space, or None when it has no turn there."""
        return await self._database.read(lambda connection: last_seq(connection, self._tenant_id, session_id, space_id))

    async def known_identities(self, identities: Sequence[str]) -> frozenset[str]:
        """Those of these identities that a memory has, or that were forgotten."""
        if not identities:
            return frozenset()

        def unit(connection: sqlite3.Connection) -> frozenset[str]:
            asked = {"tenant": self._tenant_id, "identities": orjson.dumps(list(identities)).decode()}
            return frozenset(row[0] for row in connection.execute(_KNOWN_IDENTITIES, asked))

        return await self._database.read(unit)

    async def count_memories(self) -> int:
        """How many memories the tenant holds, in every state and space."""
        return await self._tenant_number("memory_count")

    async def change_no(self) -> int:
        """The tenant's count of committed changes."""
        return await self._tenant_number("change_no")

    async def list_without_vectors(self, model: ModelIdentity, *, limit: int) -> tuple[MemoryId, ...]:
        """Ids of memories that lack complete vectors of the model, in the order they were stored."""

        def unit(connection: sqlite3.Connection) -> tuple[MemoryId, ...]:
            own = find_model(connection, model)
            numbers: list[int | None] = [None]
            numbers += [number for (number,) in connection.execute("SELECT model_no FROM models")]
            lacking = [
                (number, flag) for number in numbers for flag in (0, 1) if number is None or (number, flag) != (own, 1)
            ]
            found: list[tuple[int, str]] = []
            for number, is_complete in lacking:
                found += connection.execute(
                    "SELECT m.doc_no, m.memory_id FROM tenants AS t"
                    " CROSS JOIN index_entries AS e ON e.tenant_no = t.tenant_no"
                    " CROSS JOIN memories AS m ON m.tenant_id = t.tenant_id AND m.doc_no = e.doc_no"
                    " WHERE t.tenant_id = ? AND e.model_no IS ? AND e.is_complete = ? ORDER BY e.doc_no LIMIT ?",
                    (self._tenant_id, number, is_complete, limit),
                )
            return tuple(MemoryId(memory_id) for _, memory_id in sorted(found)[:limit])

        return await self._database.read(unit)

    async def list_spaces(self, user_id: UserId) -> tuple[tuple[Space, Membership | None], ...]:
        """Every space of the tenant, with this user's membership in it if there is one."""

        def unit(connection: sqlite3.Connection) -> tuple[tuple[Space, Membership | None], ...]:
            rows = connection.execute(
                f"SELECT {columns(SPACE_COLUMNS, 's')}, b.role FROM spaces AS s LEFT JOIN members AS b"
                " ON b.tenant_id = s.tenant_id AND b.space_id = s.space_id AND b.user_id = ?"
                " WHERE s.tenant_id = ? ORDER BY s.created_at, s.space_id",
                (user_id, self._tenant_id),
            )
            return tuple((space_from_row(row), membership_of(row[0], user_id, row[-1])) for row in rows)

        return await self._database.read(unit)

    async def get_job(self, job_id: JobId) -> Job | None:
        """The job of this id, or None."""

        def unit(connection: sqlite3.Connection) -> Job | None:
            row = connection.execute(
                f"SELECT {columns(JOB_COLUMNS)} FROM jobs WHERE tenant_id = ? AND job_id = ?",
                (self._tenant_id, job_id),
            ).fetchone()
            return None if row is None else job_from_row(row)

        return await self._database.read(unit)

    async def list_jobs(self, kinds: frozenset[JobKind], spaces: frozenset[SpaceId], *, limit: int) -> tuple[Job, ...]:
        """The jobs of these kinds in these spaces, newest first."""
        of_kinds, kind_names = one_of("kind", kinds)
        in_spaces, space_ids = one_of("space_id", spaces)

        def unit(connection: sqlite3.Connection) -> tuple[Job, ...]:
            rows = connection.execute(
                f"SELECT {columns(JOB_COLUMNS)} FROM jobs WHERE tenant_id = ? AND {of_kinds} AND {in_spaces}"
                " ORDER BY created_at DESC, sequence DESC LIMIT ?",
                (self._tenant_id, *kind_names, *space_ids, limit),
            )
            return tuple(job_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def _tenant_number(self, column: str) -> int:
        def unit(connection: sqlite3.Connection) -> int:
            row = connection.execute(f"SELECT {column} FROM tenants WHERE tenant_id = ?", (self._tenant_id,)).fetchone()
            return 0 if row is None else int(row[0])

        return await self._database.read(unit)
