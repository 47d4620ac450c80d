"""A commit as one unit of work: claim, changes, guards, quota and the tenant's counts, all or nothing.

The tenant's row is locked first, so that the commits of a tenant come one after another and each sees all earlier
ones. Statements are sent without waiting for the answers of those before them wherever none is needed.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, TypeVar, assert_never
from uuid import UUID

from psycopg import AsyncCursor

from polymem.errors import NotFound
from polymem.ports.changes import (
    AddJob,
    AddSpace,
    Applied,
    Associate,
    Audit,
    Change,
    DeleteMemory,
    FinishJob,
    MoveValence,
    Outcome,
    ProgressJob,
    PutMemory,
    SetEmbedding,
    SetMember,
    SetStanding,
    Supersede,
    UpdateMemory,
)
from polymem.storage.outcomes import Commit, Refused, outcomes_to_json, require_end, require_quota, used_before
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.job_changes import add_jobs, finish_job, progress_job
from polymem.storage.postgres.learning_changes import associate, move_valences
from polymem.storage.postgres.memory_changes import delete_memories, put_memories, set_embeddings, update_memories
from polymem.storage.postgres.memory_lists import LAST_SEQ, last_seq_of
from polymem.storage.postgres.space_changes import add_space, append_audit, set_member
from polymem.storage.postgres.standing_changes import set_standings, supersede
from polymem.storage.postgres.transaction import Transaction, fetch_one
from polymem.storage.rows import microseconds

Kind = TypeVar("Kind", bound=Change)
Cursor = AsyncCursor[tuple[Any, ...]]

# How many of a tenant's latest commits can be asked for by their token.
COMMITS_KEPT: Final = 256

_LOCK: Final = (
    "SELECT tenant_no, change_no, memory_count, terms_total FROM tenants WHERE tenant_id = %s FOR NO KEY UPDATE"
)

_FIND_CLAIM: Final = "SELECT digest, outcomes FROM idempotency WHERE tenant_id = %s AND key = %s"
_NOTE_COMMIT: Final = (
    "INSERT INTO commits (tenant_id, slot, token) VALUES (%s, %s, %s)"
    " ON CONFLICT (tenant_id, slot) DO UPDATE SET token = excluded.token"
)


async def run_commit(connection: Connection, commit: Commit, token: UUID) -> Applied:
    """Everything the commit asks for is written; `was_committed` finds it by its token.

    Raises `Refused` when nothing of it may be.
    """
    async with connection.pipeline():
        tenant = await connection.execute(_LOCK, (commit.tenant_id,))
        # Sent along with the lock, and run by the server when the lock is held.
        claim, end = commit.idempotency, commit.ends_at
        used = None if claim is None else await connection.execute(_FIND_CLAIM, (commit.tenant_id, claim.key))
        last = (
            None
            if end is None
            else await connection.execute(LAST_SEQ, (commit.tenant_id, end.session_id, end.space_id))
        )
        row = await tenant.fetchone()
        if row is None:
            raise NotFound("tenant", commit.tenant_id)
        await _require_first(commit, used, last)
        tenant_no, change_no, memory_count, terms_total = row
        outcomes: tuple[Outcome, ...] = ()
        if commit.changes:
            change_no += 1
            transaction = Transaction(
                connection=connection,
                tenant_id=commit.tenant_id,
                tenant_no=tenant_no,
                change_no=change_no,
                now=microseconds(commit.now),
            )
            outcomes = await _apply_all(transaction, commit.changes)
            held = memory_count + transaction.memories_added
            require_quota(commit.max_memories, held=held, added=transaction.memories_added)
            await connection.execute(
                "UPDATE tenants SET change_no = %s, memory_count = %s, terms_total = %s WHERE tenant_id = %s",
                (change_no, held, terms_total + transaction.terms_added, commit.tenant_id),
            )
            await connection.execute(_NOTE_COMMIT, (commit.tenant_id, change_no % COMMITS_KEPT, token))
        if claim is not None:
            await connection.execute(
                "INSERT INTO idempotency (tenant_id, key, digest, outcomes, created_at) VALUES (%s, %s, %s, %s, %s)",
                (commit.tenant_id, claim.key, claim.digest, outcomes_to_json(outcomes), microseconds(commit.now)),
            )
    return Applied(outcomes, change_no)


async def was_committed(connection: Connection, commit: Commit, token: UUID) -> bool:
    """True when the commit went through: the tenant's latest have its token, or, without changes, its key is kept."""
    if commit.changes:
        found = await fetch_one(
            connection,
            "SELECT 1 FROM commits WHERE tenant_id = %s AND token = %s",
            (commit.tenant_id, token),
        )
        return found is not None
    if commit.idempotency is None:
        return True
    found = await fetch_one(
        connection,
        "SELECT 1 FROM idempotency WHERE tenant_id = %s AND key = %s AND digest = %s",
        (commit.tenant_id, commit.idempotency.key, commit.idempotency.digest),
    )
    return found is not None


async def _require_first(commit: Commit, claim: Cursor | None, end: Cursor | None) -> None:
    """The claim was never used, and the session ends where it should. Raises `Refused` otherwise.

    `claim`: digest and outcomes of the claim's first use; `end`: the highest seq of the session.
    """
    if commit.idempotency is not None and claim is not None:
        used = await claim.fetchone()
        if used is not None:
            raise Refused(used_before(commit.idempotency, digest=used[0], outcomes=used[1]))
    if commit.ends_at is not None and end is not None:
        require_end(commit.ends_at, last_seq_of(await end.fetchone()))


async def _apply_all(transaction: Transaction, changes: Sequence[Change]) -> tuple[Outcome, ...]:
    """The changes are applied in their order, neighbours of one kind together; the outcome of each."""
    outcomes: list[Outcome] = []
    for _, run in groupby(changes, key=type):
        outcomes += await _apply(transaction, tuple(run))
    return tuple(outcomes)


async def _apply(transaction: Transaction, run: Sequence[Change]) -> Sequence[Outcome]:  # noqa: PLR0911 - one for each kind
    """The changes, all of one kind, are applied; the outcome of each."""
    match run[0]:
        case PutMemory() | UpdateMemory() | DeleteMemory() | SetEmbedding() as first:
            return await _apply_to_memories(transaction, first, run)
        case Supersede() | SetStanding() | MoveValence() | Associate() as first:
            return await _apply_what_was_learned(transaction, first, run)
        case AddJob():
            return await add_jobs(transaction, [change.job for change in _all(AddJob, run)])
        case ProgressJob():
            return [await progress_job(transaction, change) for change in _all(ProgressJob, run)]
        case FinishJob():
            return [await finish_job(transaction, change) for change in _all(FinishJob, run)]
        case AddSpace():
            return [await add_space(transaction, change) for change in _all(AddSpace, run)]
        case SetMember():
            return [await set_member(transaction, change) for change in _all(SetMember, run)]
        case Audit():
            return await append_audit(transaction, _all(Audit, run))
        case _ as never:
            assert_never(never)


async def _apply_to_memories(
    transaction: Transaction, first: PutMemory | UpdateMemory | DeleteMemory | SetEmbedding, run: Sequence[Change]
) -> Sequence[Outcome]:
    match first:
        case PutMemory():
            return await put_memories(transaction, _all(PutMemory, run))
        case UpdateMemory():
            return await update_memories(transaction, _all(UpdateMemory, run))
        case DeleteMemory():
            return await delete_memories(transaction, _all(DeleteMemory, run))
        case SetEmbedding():
            return await set_embeddings(transaction, _all(SetEmbedding, run))
        case _:
            assert_never(first)


async def _apply_what_was_learned(
    transaction: Transaction, first: Supersede | SetStanding | MoveValence | Associate, run: Sequence[Change]
) -> Sequence[Outcome]:
    match first:
        case Supersede():
            return await supersede(transaction, _all(Supersede, run))
        case SetStanding():
            return await set_standings(transaction, _all(SetStanding, run))
        case MoveValence():
            return await move_valences(transaction, _all(MoveValence, run))
        case Associate():
            return await associate(transaction, _all(Associate, run))
        case _:
            assert_never(first)


def _all(kind: type[Kind], run: Sequence[Change]) -> list[Kind]:
    """The run as what it is known to be."""
    return [change for change in run if isinstance(change, kind)]
