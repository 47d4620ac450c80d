"""A commit as one unit of work: claim, changes, guards, quota and the tenant's count, all or nothing."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from polymem.domain.model import IdempotencyClaim, TenantId
from polymem.errors import NotFound
from polymem.ports.storage import (
    AddJob,
    AddSpace,
    AlreadyDeleted,
    Applied,
    Audit,
    Change,
    Deleted,
    DeleteMemory,
    Duplicate,
    FinishJob,
    Forgotten,
    KeyReused,
    Missing,
    Outcome,
    OverQuota,
    ProgressJob,
    PutMemory,
    Replayed,
    SetEmbedding,
    SetMember,
    Stored,
    Updated,
    UpdateMemory,
)
from polymem.storage.sqlite.filters import microseconds
from polymem.storage.sqlite.job_changes import change_job
from polymem.storage.sqlite.memory_changes import change_memory
from polymem.storage.sqlite.rows import to_json
from polymem.storage.sqlite.space_changes import append_audit, change_space
from polymem.storage.sqlite.transaction import Refused, Transaction

_WITH_ID: dict[str, type[Stored | Duplicate | Updated | Deleted | AlreadyDeleted | Missing]] = {
    "stored": Stored,
    "duplicate": Duplicate,
    "updated": Updated,
    "deleted": Deleted,
    "already_deleted": AlreadyDeleted,
    "missing": Missing,
}
_NAMES = {kind: name for name, kind in _WITH_ID.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one call of `TenantStore.commit` asks for."""

    tenant_id: TenantId
    changes: tuple[Change, ...]
    now: datetime
    idempotency: IdempotencyClaim | None
    max_memories: int | None


def run_commit(connection: sqlite3.Connection, commit: Commit) -> Applied:
    """Everything the commit asks for is written. Raises `Refused` when nothing of it may be."""
    if commit.idempotency is not None:
        _check_claim(connection, commit.tenant_id, commit.idempotency)
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
                _outcomes_to_json(outcomes),
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
    raise Refused(Replayed(_outcomes_from_json(outcomes)) if digest == claim.digest else KeyReused(claim.key))


def _apply(transaction: Transaction, change: Change) -> Outcome:
    match change:
        case PutMemory() | UpdateMemory() | DeleteMemory() | SetEmbedding():
            return change_memory(transaction, change)
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
    if max_memories is not None and count > max_memories and transaction.memories_added > 0:
        raise Refused(OverQuota(max_memories))
    transaction.connection.execute(
        "UPDATE tenants SET change_no = ?, memory_count = ? WHERE tenant_id = ?",
        (transaction.change_no, count, transaction.tenant_id),
    )


def _outcomes_to_json(outcomes: Sequence[Outcome]) -> str:
    return to_json(
        [
            ["forgotten"] if isinstance(outcome, Forgotten) else [_NAMES[type(outcome)], outcome.id]
            for outcome in outcomes
        ]
    )


def _outcomes_from_json(stored: str) -> tuple[Outcome, ...]:
    return tuple(
        Forgotten() if name == "forgotten" else _WITH_ID[name](*identifiers)
        for name, *identifiers in json.loads(stored)
    )
