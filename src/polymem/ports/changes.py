"""The changes a commit applies, in words no database owns, and what comes of each.

A change that depends on what was read carries a guard (`expected_version`, `expected_revision`, a job fence, the end
of a session) and the whole commit is refused when a guard fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import (
    Job,
    JobId,
    JsonValue,
    KeyId,
    Membership,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    ModelIdentity,
    Role,
    Space,
    SpaceId,
    UserId,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedChunk:
    """Vectors of one chunk of a memory's index text; `start` and `end` are character offsets in it.

    `embedding`: float32 (dimension,), unit length. `token_vectors`: int8 (tokens, token_dimension),
    127 times unit vectors.
    """

    start: int
    end: int
    embedding: NDArray[np.float32]
    token_vectors: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The vectors of a memory by one model; `is_complete` is False while chunks at its end are missing."""

    model: ModelIdentity
    chunks: tuple[EmbeddedChunk, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """What makes a memory findable: all its terms in order (with repeats) and, when made, its vectors.

    `traits` are the engine's own few bytes about the text; storage keeps them as they are.
    """

    terms: tuple[str, ...]
    embedding: Embedding | None
    traits: bytes = b""


# --- changes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PutMemory:
    """Stores a new memory. `identity` names what it is a copy of: a second one with the same is not stored.

    Outcome: `Stored`, or `Duplicate` with the id of the one that is there (in any state), or `Forgotten`
    when the identity was deleted before with `remembers_identity`. The memory's own id counts likewise: one
    that is there is a `Duplicate`, one that was deleted is `Forgotten`. With `unless_repeated` also one whose text
    (by `content_key`) an active memory of its space has that nothing superseded: `Duplicate` with the oldest such id.
    A memory is found by the keys of its concepts from now on.
    """

    memory: Memory
    index: IndexEntry
    identity: str | None = None
    unless_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMemory:
    """Replaces a memory by `memory` (same id) and writes the earlier state to its history.

    Guard: the stored revision is `expected_revision`; else the commit is refused with `RevisionMoved`.
    The caller has set the new version, revision and times. `keeps_history` False is for background
    refinement that moves only the revision. The stored valence stays, whatever `memory` says of it. Associations of a
    concept that no memory of the space has any more are gone.
    Outcome: `Updated`, or `Missing` when there is no such memory.
    """

    memory: Memory
    index: IndexEntry
    expected_revision: int
    replaced_by: str | None
    reason: str
    keeps_history: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteMemory:
    """Removes a memory for good: row, versions, terms, vectors; a tombstone of the id stays.

    Only within `spaces`. With `remembers_identity` its identity can never be stored again. Associations of a concept
    that no memory of the space has any more go with it. Outcome: `Deleted`, `AlreadyDeleted` when a tombstone is
    there, `Missing` when it never was in those spaces.
    """

    memory_id: MemoryId
    spaces: frozenset[SpaceId]
    remembers_identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEmbedding:
    """Replaces the vectors of a memory when its revision still is `expected_revision`.

    Moves neither version nor revision. Outcome: `Updated`, or `Missing` when the memory is gone or has
    moved on (then a newer job makes its vectors). Never refuses the commit.
    """

    memory_id: MemoryId
    expected_revision: int
    embedding: Embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class Supersede:
    """Marks memories of these spaces as replaced by the memory `by`, which is there; else nothing is marked.

    A mark of an earlier replacement is overwritten; `by` itself is never marked. Moves their revision, not their
    version or `updated_at`. Outcome: `Updated` with the id of `by`, or `Missing` when it is not there.
    """

    memory_ids: tuple[MemoryId, ...]
    by: MemoryId
    spaces: frozenset[SpaceId]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStanding:
    """Gives memories of one space their state, role and replacement, without history.

    Guard: every one has the revision named for it (one that is gone has none: -1 is told); else the commit is refused
    with `RevisionMoved`. Moves their revision, not their version or `updated_at`. Outcome: `Updated` with the id of
    the space.
    """

    space_id: SpaceId
    revisions: tuple[tuple[MemoryId, int], ...]
    state: MemoryState
    role: MemoryRole
    superseded_by: MemoryId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveValence:
    """Moves the valence of memories of these spaces towards an outcome in [-1, 1], each once.

    `valence += rate * (outcome - valence)` on what is stored at that moment, so no concurrent move is lost; clamped to
    [-1, 1]. Moves neither version nor revision. Outcome: `Valued`; ids that are not there are not counted.
    """

    memory_ids: frozenset[MemoryId]
    spaces: frozenset[SpaceId]
    outcome: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Associate:
    """Strengthens the associations between these pairs of concept keys in a space, making those not there.

    Each different pair once, in either order; a concept is not paired with itself, and a pair of which no memory of the
    space has either end is passed over: every association has an owner. `weight += rate * (1 - weight)`,
    from 0 for a new one; with `outcome`, `valence += valence_rate * (outcome - valence)` from 0, both on what is
    stored at that moment; `count` grows by 1. With `because_of`, only if that memory is there: else nothing is done.
    Raises `NotFound` for an unknown space. Outcome: `Associated`.
    """

    space_id: SpaceId
    pairs: frozenset[tuple[str, str]]
    rate: float
    at: datetime
    outcome: float | None = None
    valence_rate: float = 0.0
    because_of: MemoryId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddJob:
    """Queues a job; its `sequence` is given by the storage, in commit order. Outcome: `Stored`."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressJob:
    """Records how far a running job came, with its result so far. Guard: the fence, else `FenceLost`."""

    job_id: JobId
    fence: int
    progress_done: int
    progress_total: int
    result: Mapping[str, JsonValue]
    lease_until_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishJob:
    """Ends a running job as done, in the same transaction as its effect. Guard: the fence, else `FenceLost`."""

    job_id: JobId
    fence: int
    result: Mapping[str, JsonValue]
    error: str | None
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSpace:
    """Makes a space with its first members. Outcome: `Stored`, or `Duplicate` when kind and name are taken."""

    space: Space
    members: tuple[Membership, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMember:
    """Gives a user a role in a space, or with role None takes it away. Outcome: `Updated`."""

    space_id: SpaceId
    user_id: UserId
    role: Role | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Appends to the tenant's audit log. Outcome: `Stored`."""

    at: datetime
    user_id: UserId
    key_id: KeyId
    action: str
    target: str
    request_id: str


Change = (
    PutMemory
    | UpdateMemory
    | DeleteMemory
    | SetEmbedding
    | Supersede
    | SetStanding
    | MoveValence
    | Associate
    | AddJob
    | ProgressJob
    | FinishJob
    | AddSpace
    | SetMember
    | Audit
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """A guard: the highest seq among the turns of a session in a space still is `last_seq` (None: it has no turn)."""

    session_id: str
    space_id: SpaceId
    last_seq: int | None


# --- outcomes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The new thing is there."""

    id: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Nothing was stored: `id` is what was there already."""

    id: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Nothing was stored: this identity was deleted for good."""


@dataclass(frozen=True, slots=True)
class Updated:
    """The thing is as the change says."""

    id: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """The thing was there and is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class AlreadyDeleted:
    """The thing was deleted before."""

    id: str


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such thing here."""

    id: str


@dataclass(frozen=True, slots=True)
class Valued:
    """So many memories have a new valence; `valence_sum` is the sum of these."""

    count: int
    valence_sum: float


@dataclass(frozen=True, slots=True)
class Associated:
    """So many associations are new or stronger."""

    count: int


Outcome = Stored | Duplicate | Forgotten | Updated | Deleted | AlreadyDeleted | Missing | Valued | Associated


@dataclass(frozen=True, slots=True)
class Applied:
    """All changes are durable. `outcomes` stand in the order of the changes; `change_no` is the tenant's new count."""

    outcomes: tuple[Outcome, ...]
    change_no: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """Nothing was done: this idempotency key did its work before, with these outcomes."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class RevisionMoved:
    """Refused, nothing stored: the memory has another revision than expected."""

    memory_id: MemoryId
    current_revision: int


@dataclass(frozen=True, slots=True)
class FenceLost:
    """Refused, nothing stored: another worker holds the job now, or it is no longer running."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class KeyReused:
    """Refused, nothing stored: the idempotency key belongs to another request."""

    key: str


@dataclass(frozen=True, slots=True)
class OverQuota:
    """Refused, nothing stored: the tenant would hold more than `limit` memories."""

    limit: int


@dataclass(frozen=True, slots=True)
class SessionMoved:
    """Refused, nothing stored: the session ends elsewhere by now, at `last_seq`."""

    last_seq: int | None


CommitResult = Applied | Replayed | RevisionMoved | FenceLost | KeyReused | OverQuota | SessionMoved
