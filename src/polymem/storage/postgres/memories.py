"""All that is stored of one tenant: commits, and the reads of memories, spaces and jobs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

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
from polymem.ports.changes import AddJob, Change, CommitResult, SessionEnd
from polymem.storage.outcomes import Commit, Refused
from polymem.storage.postgres.commit import run_commit, was_committed
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.filters import one_of
from polymem.storage.postgres.index_rows import find_model
from polymem.storage.postgres.learned import LearnedReads
from polymem.storage.postgres.memory_lists import last_seq, list_page, list_turns
from polymem.storage.postgres.notices import Notices
from polymem.storage.postgres.transaction import fetch_all
from polymem.storage.rows import (
    JOB_COLUMNS,
    MEMORY_COLUMNS,
    SPACE_COLUMNS,
    columns,
    job_from_row,
    membership_of,
    memory_from_row,
    space_from_row,
    version_from_row,
)

_MEMORY: Final = columns(MEMORY_COLUMNS, "m")
_KNOWN_IDENTITIES: Final = (
    "SELECT m.identity FROM memories AS m WHERE m.tenant_id = %s AND m.identity = ANY(%s::text[])"
    " UNION SELECT f.identity FROM forgotten_identities AS f WHERE f.tenant_id = %s AND f.identity = ANY(%s::text[])"
)
# A bounded walk of the index for each model and completeness, so that what has its vectors is never looked at.
_WITHOUT_VECTORS: Final = (
    "(SELECT e.memory_id FROM index_entries AS e WHERE e.tenant_id = %s AND e.model_no IS NULL AND NOT e.is_complete"
    " ORDER BY e.memory_id LIMIT %s)"
    " UNION ALL SELECT e.memory_id FROM models AS o CROSS JOIN (VALUES (false), (true)) AS f (is_complete)"
    " CROSS JOIN LATERAL (SELECT e.memory_id FROM index_entries AS e WHERE e.tenant_id = %s"
    " AND e.model_no = o.model_no AND e.is_complete = f.is_complete ORDER BY e.memory_id LIMIT %s) AS e"
    " WHERE NOT (f.is_complete AND o.model_no = %s) ORDER BY memory_id LIMIT %s"
)


class PostgresTenantStore(LearnedReads):
    """The `TenantStore` of one tenant; an unknown tenant has nothing, and a commit to it raises `NotFound`."""

    def __init__(self, database: Database, notices: Notices, tenant_id: TenantId) -> None:
        super().__init__(database, tenant_id)
        self._notices = notices

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
        # One for all tries of this call: it tells whether a commit whose answer was lost went through.
        token = uuid4()
        try:
            applied = await self._database.write(
                lambda connection: run_commit(connection, commit, token),
                was_stored=lambda connection: was_committed(connection, commit, token),
            )
        except Refused as refused:
            return refused.result
        if any(isinstance(change, AddJob) for change in commit.changes):
            self._notices.job_added()
        return applied

    async def get_memories(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Memory]:
        """The memories of these ids in these spaces, in the order of the ids."""
        in_spaces, space_ids = one_of("m.space_id", spaces)
        asked = list(dict.fromkeys(ids))
        rows = await self._rows(
            f"SELECT {_MEMORY} FROM memories AS m"
            f" WHERE m.tenant_id = %s AND m.memory_id = ANY(%s::text[]) AND {in_spaces}",
            (self._tenant_id, asked, *space_ids),
        )
        found = {memory.id: memory for memory in map(memory_from_row, rows)}
        return {memory_id: found[memory_id] for memory_id in asked if memory_id in found}

    async def is_deleted(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> bool:
        """True when there is a tombstone of this id in one of these spaces."""
        in_spaces, space_ids = one_of("space_id", spaces)
        rows = await self._rows(
            f"SELECT 1 FROM tombstones WHERE tenant_id = %s AND memory_id = %s AND {in_spaces}",
            (self._tenant_id, memory_id, *space_ids),
        )
        return bool(rows)

    async def list_memories(self, where: MemoryFilter, *, order: ListOrder, limit: int, offset: int) -> MemoryPage:
        """One page in `order` with the exact count of all that pass, both of one moment."""

        async def unit(connection: Connection) -> MemoryPage:
            return await list_page(connection, self._tenant_id, where, order=order, limit=limit, offset=offset)

        return await self._database.read(unit)

    async def list_versions(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> tuple[MemoryVersion, ...]:
        """The earlier states of a memory that is now in one of these spaces, newest first."""
        in_spaces, space_ids = one_of("m.space_id", spaces)
        rows = await self._rows(
            "SELECT v.body, v.replaced_at, v.replaced_by, v.reason FROM memories AS m"
            " JOIN memory_versions AS v ON v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id"
            f" WHERE m.tenant_id = %s AND m.memory_id = %s AND {in_spaces} ORDER BY v.revision DESC",
            (self._tenant_id, memory_id, *space_ids),
        )
        return tuple(version_from_row(row) for row in rows)

    async def list_session_messages(
        self, session_ids: Sequence[str], spaces: frozenset[SpaceId], *, limit_per_session: int
    ) -> tuple[Memory, ...]:
        """The first turns of each session, ordered by session id, time, seq and id."""

        async def unit(connection: Connection) -> tuple[Memory, ...]:
            return await list_turns(
                connection, self._tenant_id, session_ids, spaces, limit_per_session=limit_per_session
            )

        return await self._database.read(unit)

    async def last_seq(self, session_id: str, space_id: SpaceId) -> int | None:
        """The highest seq among the turns of a session in a space, or None when it has no turn there."""
        return await self._database.read(lambda connection: last_seq(connection, self._tenant_id, session_id, space_id))

    async def known_identities(self, identities: Sequence[str]) -> frozenset[str]:
        """Those of these identities that a memory has, or that were forgotten."""
        if not identities:
            return frozenset()
        asked = list(dict.fromkeys(identities))
        rows = await self._rows(_KNOWN_IDENTITIES, (self._tenant_id, asked, self._tenant_id, asked))
        return frozenset(identity for (identity,) in rows)

    async def count_memories(self) -> int:
        """How many memories the tenant holds, in every state and space."""
        return await self._tenant_number("memory_count")

    async def change_no(self) -> int:
        """The tenant's count of committed changes."""
        return await self._tenant_number("change_no")

    async def list_without_vectors(self, model: ModelIdentity, *, limit: int) -> tuple[MemoryId, ...]:
        """Ids of memories that lack complete vectors of the model, in the order of their ids."""

        async def unit(connection: Connection) -> tuple[MemoryId, ...]:
            own = await find_model(connection, model)
            # No model has the number 0.
            asked = (self._tenant_id, limit, self._tenant_id, limit, own or 0, limit)
            return tuple(MemoryId(row[0]) for row in await fetch_all(connection, _WITHOUT_VECTORS, asked))

        return await self._database.read(unit)

    async def list_spaces(self, user_id: UserId) -> tuple[tuple[Space, Membership | None], ...]:
        """Every space of the tenant, with this user's membership in it if there is one."""
        rows = await self._rows(
            f"SELECT {columns(SPACE_COLUMNS, 's')}, b.role FROM spaces AS s LEFT JOIN members AS b"
            " ON b.tenant_id = s.tenant_id AND b.space_id = s.space_id AND b.user_id = %s"
            " WHERE s.tenant_id = %s ORDER BY s.created_at, s.space_id",
            (user_id, self._tenant_id),
        )
        return tuple((space_from_row(row), membership_of(row[0], user_id, row[-1])) for row in rows)

    async def get_job(self, job_id: JobId) -> Job | None:
        """The job of this id, or None."""
        rows = await self._rows(
            f"SELECT {columns(JOB_COLUMNS)} FROM jobs WHERE tenant_id = %s AND job_id = %s", (self._tenant_id, job_id)
        )
        return job_from_row(rows[0]) if rows else None

    async def list_jobs(self, kinds: frozenset[JobKind], spaces: frozenset[SpaceId], *, limit: int) -> tuple[Job, ...]:
        """The jobs of these kinds in these spaces, newest first."""
        of_kinds, kind_names = one_of("kind", kinds)
        in_spaces, space_ids = one_of("space_id", spaces)
        rows = await self._rows(
            f"SELECT {columns(JOB_COLUMNS)} FROM jobs WHERE tenant_id = %s AND {of_kinds} AND {in_spaces}"
            " ORDER BY created_at DESC, sequence DESC LIMIT %s",
            (self._tenant_id, *kind_names, *space_ids, limit),
        )
        return tuple(job_from_row(row) for row in rows)

    async def _tenant_number(self, column: str) -> int:
        rows = await self._rows(f"SELECT {column} FROM tenants WHERE tenant_id = %s", (self._tenant_id,))
        return int(rows[0][0]) if rows else 0
