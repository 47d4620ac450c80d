"""What both storages say of a commit in the same words: the request, the refusals, and outcomes as they are stored."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from polymem.domain.model import IdempotencyClaim, TenantId
from polymem.ports.changes import (
    AlreadyDeleted,
    Associated,
    Change,
    Deleted,
    Duplicate,
    FenceLost,
    Forgotten,
    KeyReused,
    Missing,
    Outcome,
    OverQuota,
    Replayed,
    RevisionMoved,
    SessionEnd,
    SessionMoved,
    Stored,
    Updated,
    Valued,
)
from polymem.storage.rows import to_json

_WITH_ID: dict[str, type[Stored | Duplicate | Updated | Deleted | AlreadyDeleted | Missing]] = {
    "stored": Stored,
    "duplicate": Duplicate,
    "updated": Updated,
    "deleted": Deleted,
    "already_deleted": AlreadyDeleted,
    "missing": Missing,
}
_NAMES = {kind: name for name, kind in _WITH_ID.items()}
_BY_NAME: dict[str, Callable[..., Outcome]] = {
    **_WITH_ID,
    "forgotten": Forgotten,
    "valued": Valued,
    "associated": Associated,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one call of `TenantStore.commit` asks for."""

    tenant_id: TenantId
    changes: tuple[Change, ...]
    now: datetime
    idempotency: IdempotencyClaim | None
    max_memories: int | None
    ends_at: SessionEnd | None


class Refused(Exception):
    """The commit must be rolled back and answered with `result`."""

    def __init__(self, result: Replayed | RevisionMoved | FenceLost | KeyReused | OverQuota | SessionMoved) -> None:
        super().__init__(type(result).__name__)
        self.result = result


def used_before(claim: IdempotencyClaim, digest: str, outcomes: str) -> Replayed | KeyReused:
    """What a commit is answered whose key was used by a request of this digest, with these stored outcomes."""
    return Replayed(outcomes_from_json(outcomes)) if digest == claim.digest else KeyReused(claim.key)


def require_end(expected: SessionEnd, last: int | None) -> None:
    """The session ends where it is expected to. Raises `Refused` with its end otherwise."""
    if last != expected.last_seq:
        raise Refused(SessionMoved(last))


def require_quota(max_memories: int | None, *, held: int, added: int) -> None:
    """The tenant may hold so many memories, `added` of them by this commit. Raises `Refused` otherwise."""
    if max_memories is not None and held > max_memories and added > 0:
        raise Refused(OverQuota(max_memories))


def outcomes_to_json(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a row of `idempotency` keeps them."""
    return to_json([_told(outcome) for outcome in outcomes])


def _told(outcome: Outcome) -> tuple[str | int | float, ...]:
    match outcome:
        case Forgotten():
            return ("forgotten",)
        case Valued():
            return ("valued", outcome.count, outcome.valence_sum)
        case Associated():
            return ("associated", outcome.count)
        case _:
            return (_NAMES[type(outcome)], outcome.id)


def outcomes_from_json(stored: str) -> tuple[Outcome, ...]:
    """The outcomes that `outcomes_to_json` wrote."""
    return tuple(_BY_NAME[name](*values) for name, *values in json.loads(stored))
