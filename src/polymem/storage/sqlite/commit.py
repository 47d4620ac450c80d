"""A commit as one unit of work: claim, changes, guards, quota and the tenant's count, all or nothing."""

import sqlite3
from typing import assert_never

from polymem.domain.model import IdempotencyClaim, TenantId
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
    SessionEnd,
    SetEmbedding,
    SetMember,
    SetStanding,
    Supersede,
    UpdateMemory,
)
from polymem.storage.outcomes import Commit, Refused, outcomes_to_json, require_end, require_quota, used_before
from polymem.storage.rows import microseconds
from polymem.storage.sqlite.job_changes import change_job
from polymem.storage.sqlite.learning_changes import change_learning
from polymem.storage.sqlite.memory_changes import change_memory
from polymem.storage.sqlite.memory_lists import last_seq
from polymem.storage.sqlite.space_changes import append_audit, change_space
from polymem.storage.sqlite.transaction import Transaction


def run_commit(connection: sqlite3.Connection, commit: Commit) -> Applied:
    """Everything the commit asks for is written. Raises `Refused` when nothing of it may be."""
    if commit.idempotency is not None:
        _check_claim(connection, commit.tenant_id, commit.idempotency)
    if commit.ends_at is not None:
        _check_end(connection, commit.tenant_id, commit.ends_at)
    row = connection.execute(
        "SELECT tenant_no, change_no, memory_count FROM tenants WHERE tenant_id = ?", (commit.tenant_id,)
    ).fetchone()
    if row is None:
        raise NotFound("tenant", commit.tenant_id)
    tenant_no, change_no, memory_count = row
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
        outcomes = tuple([_apply(transaction, change) for change in commit.changes])
        _count(transaction, memory_count, commit.max_memories)
    if commit.idempotency is not None:
        connection.execute(
            "INSERT INTO idempotency (tenant_id, key, digest, outcomes, created_at) VALUES (?, ?, ?, ?, ?)",
            (
                commit.tenant_id,
                commit.idempotency.key,
                commit.idempotency.digest,
                outcomes_to_json(outcomes),
                microseconds(commit.now),
            ),
        )
    return Applied(outcomes, change_no)


def _check_claim(connection: sqlite3.Connection, tenant_id: TenantId, claim: IdempotencyClaim) -> None:
    """The key was never used. Raises `Refused` with what its first use did, or that it was another request."""
    row = connection.execute(
        "SELECT digest, outcomes FROM idempotency WHERE tenant_id = ? AND key = ?", (tenant_id, claim.key)
    ).fetchone()
    if row is None:
        return
    digest, outcomes = row
    raise Refused(used_before(claim, digest, outcomes))


def _check_end(connection: sqlite3.Connection, tenant_id: TenantId, expected: SessionEnd) -> None:
    """The session ends where it is expected to. Raises `Refused` with its end otherwise."""
    require_end(expected, last_seq(connection, tenant_id, expected.session_id, expected.space_id))


def _apply(transaction: Transaction, change: Change) -> Outcome:
    match change:
        case PutMemory() | UpdateMemory() | DeleteMemory() | SetEmbedding():
            return change_memory(transaction, change)
        case Supersede() | SetStanding() | MoveValence() | Associate():
            return change_learning(transaction, change)
        case AddJob() | ProgressJob() | FinishJob():
            return change_job(transaction, change)
        case AddSpace() | SetMember():
            return change_space(transaction, change)
        case Audit():
            return append_audit(transaction, change)
        case _:
            assert_never(change)


def _count(transaction: Transaction, memories_before: int, max_memories: int | None) -> None:
    """The tenant's counts are moved on. Raises `Refused` when the memories grew beyond what is allowed."""
    count = memories_before + transaction.memories_added
    require_quota(max_memories, held=count, added=transaction.memories_added)
    transaction.connection.execute(
        "UPDATE tenants SET change_no = ?, memory_count = ? WHERE tenant_id = ?",
        (transaction.change_no, count, transaction.tenant_id),
    )
