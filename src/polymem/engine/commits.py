"""Commits as the use cases see them: refusals that are the caller's doing become errors, the rest are values."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from polymem.domain.model import Call, IdempotencyClaim
from polymem.errors import IdempotencyConflict, QuotaExceeded
from polymem.ports.changes import (
    Applied,
    Change,
    FenceLost,
    KeyReused,
    OverQuota,
    Replayed,
    RevisionMoved,
    SessionEnd,
    SessionMoved,
)
from polymem.ports.storage import TenantStore


def claim_of(call: Call, part: int = 0) -> IdempotencyClaim | None:
    """The call's claim for its commit number `part`; None when the caller made none.

    A use case may need several commits: each has a claim of its own, so that a retry after a crash between
    them replays the ones that were done and does the rest. Keys of different users never meet.
    """
    if call.idempotency is None:
        return None
    key = hashlib.sha256(f"{call.principal.user_id}\n{call.idempotency.key}".encode()).hexdigest()
    return IdempotencyClaim(key=f"call:{key}#{part}", digest=call.idempotency.digest)


def internal_claim(key: str) -> IdempotencyClaim:
    """A claim of the engine's own, for work that must be queued once however many processes think of it."""
    return IdempotencyClaim(key=f"engine:{key}", digest="engine")


async def commit_guarded(
    store: TenantStore,
    changes: Sequence[Change],
    *,
    now: datetime,
    claim: IdempotencyClaim | None = None,
    max_memories: int | None = None,
    ends_at: SessionEnd | None = None,
) -> Applied | Replayed | RevisionMoved | FenceLost | SessionMoved:
    """What came of a commit. Raises `IdempotencyConflict` and `QuotaExceeded`."""
    result = await store.commit(changes, now=now, idempotency=claim, max_memories=max_memories, ends_at=ends_at)
    match result:
        case Applied() | Replayed() | RevisionMoved() | FenceLost() | SessionMoved():
            return result
        case KeyReused():
            raise IdempotencyConflict("this idempotency key was used before for another request")
        case OverQuota(limit=limit):
            raise QuotaExceeded("memories", limit)
        case _ as never:
            assert_never(never)


async def commit_turns(
    store: TenantStore,
    changes: Sequence[Change],
    *,
    ends_at: SessionEnd,
    now: datetime,
    claim: IdempotencyClaim | None = None,
    max_memories: int | None = None,
) -> Applied | Replayed | SessionMoved:
    """What came of a commit whose only guard is the end of a session.

    Raises `IdempotencyConflict` and `QuotaExceeded`.
    """
    result = await commit_guarded(store, changes, now=now, claim=claim, max_memories=max_memories, ends_at=ends_at)
    match result:
        case Applied() | Replayed() | SessionMoved():
            return result
        case _:
            raise _broken_promise(result)


async def commit(
    store: TenantStore,
    changes: Sequence[Change],
    *,
    now: datetime,
    claim: IdempotencyClaim | None = None,
    max_memories: int | None = None,
) -> Applied | Replayed:
    """What came of a commit whose changes carry no guard. Raises `IdempotencyConflict` and `QuotaExceeded`."""
    result = await commit_guarded(store, changes, now=now, claim=claim, max_memories=max_memories)
    match result:
        case Applied() | Replayed():
            return result
        case _:
            raise _broken_promise(result)


def _broken_promise(result: RevisionMoved | FenceLost | SessionMoved) -> AssertionError:
    """What it means that a commit was refused for a guard it did not have: the storage breaks its port."""
    return AssertionError(f"a commit without a guard was refused: {result}")
