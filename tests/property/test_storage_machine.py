"""Random commits, jobs and reopenings against a plain reference: the storage must always agree with it."""

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar, assert_never
from uuid import uuid4

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from polymem.domain.concepts import concept_keys, content_key
from polymem.domain.conditions import holds
from polymem.domain.model import (
    Association,
    ContentType,
    IdempotencyClaim,
    Job,
    JobId,
    JobKind,
    JobState,
    Key,
    KeyId,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    MemoryVersion,
    ModelIdentity,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    Turn,
    User,
    UserId,
)
from polymem.domain.query import (
    Comparison,
    FeedPosition,
    Learned,
    ListOrder,
    MemoryFilter,
    MemoryPage,
    MetadataCondition,
    SpaceStatistics,
)
from polymem.ports.changes import (
    AddJob,
    AlreadyDeleted,
    Applied,
    Associate,
    Associated,
    Change,
    CommitResult,
    Deleted,
    DeleteMemory,
    Duplicate,
    EmbeddedChunk,
    Embedding,
    FenceLost,
    FinishJob,
    Forgotten,
    IndexEntry,
    KeyReused,
    Missing,
    MoveValence,
    Outcome,
    OverQuota,
    PutMemory,
    Replayed,
    RevisionMoved,
    SetEmbedding,
    SetStanding,
    Stored,
    Supersede,
    Updated,
    UpdateMemory,
    Valued,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer, running_postgres

T = TypeVar("T")
START = datetime(2025, 1, 1, tzinfo=UTC)
MODEL = ModelIdentity(name="m", revision="1", dimension=4, token_dimension=2)
TENANTS = (TenantId("tenant-a"), TenantId("tenant-b"))
SPACES = (SpaceId("space-0"), SpaceId("space-1"))
USER, SECOND = UserId("user"), UserId("second")
IDS = tuple(MemoryId(f"memory-{number}") for number in range(6))
TAGS = ("a", "b", "c")
SESSIONS = ("s0", "s1")
CONCEPTS = ("A", "a", "b", "c", "d")
KEYS = ("a", "b", "c", "d", "asked")
FINGERPRINTS = ("f", "g")
CONTENTS = ("said", " SAID", "other")
QUEUES = ("fast", "slow")
LEASE_SECONDS = 5


# --- the reference ---------------------------------------------------------------------------------------


@dataclass
class Held:
    """One memory with what stands beside it."""

    memory: Memory
    identity: str | None
    has_vectors: bool
    place: int
    versions: tuple[MemoryVersion, ...] = ()


@dataclass
class Reference:
    """What one tenant should hold."""

    held: dict[MemoryId, Held] = field(default_factory=dict)
    deleted: dict[MemoryId, SpaceId] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    claims: dict[str, tuple[str, tuple[Outcome, ...]]] = field(default_factory=dict)
    jobs: dict[JobId, Job] = field(default_factory=dict)
    associations: dict[tuple[SpaceId, str, str], Association] = field(default_factory=dict)
    change_no: int = 0
    places: int = 0

    def copy(self) -> "Reference":
        """One that can be changed without this one."""
        return replace(
            self,
            held={key: replace(held) for key, held in self.held.items()},
            deleted=dict(self.deleted),
            forgotten=set(self.forgotten),
            claims=dict(self.claims),
            jobs=dict(self.jobs),
            associations=dict(self.associations),
        )

    @property
    def memories(self) -> list[Memory]:
        """All memories."""
        return [held.memory for held in self.held.values()]

    def having(self, space_id: SpaceId, key: str) -> list[MemoryId]:
        """The memories of the space that have the concept."""
        return [
            memory.id
            for memory in self.memories
            if memory.space_id == space_id and key in concept_keys(memory.concepts)
        ]

    def forget_associations(self, memory: Memory) -> None:
        """Associations of those concepts of a memory that was that no memory of its space has any more are gone."""
        lost = {key for key in concept_keys(memory.concepts) if not self.having(memory.space_id, key)}
        self.associations = {
            place: edge
            for place, edge in self.associations.items()
            if place[0] != memory.space_id or lost.isdisjoint(place[1:])
        }


class Refusal(Exception):
    """The commit is refused with `result`."""

    def __init__(self, result: CommitResult) -> None:
        super().__init__(result)
        self.result = result


def commit(
    before: Reference, changes: Sequence[Change], now: datetime, claim: IdempotencyClaim | None, limit: int | None
) -> tuple[Reference, CommitResult]:
    """What a commit leads to, and its answer."""
    if claim is not None and claim.key in before.claims:
        digest, outcomes = before.claims[claim.key]
        return before, Replayed(outcomes) if digest == claim.digest else KeyReused(claim.key)
    after = before.copy()
    try:
        outcomes = tuple(apply(after, change, now) for change in changes)
    except Refusal as refusal:
        return before, refusal.result
    if limit is not None and len(after.held) > limit and len(after.held) > len(before.held):
        return before, OverQuota(limit)
    after.change_no += 1 if changes else 0
    if claim is not None:
        after.claims[claim.key] = (claim.digest, outcomes)
    return after, Applied(outcomes, after.change_no)


def apply(state: Reference, change: Change, now: datetime) -> Outcome:
    match change:
        case PutMemory():
            return put(state, change)
        case UpdateMemory():
            return update(state, change, now)
        case DeleteMemory():
            return delete(state, change)
        case SetEmbedding():
            return set_embedding(state, change)
        case Supersede() | SetStanding() | MoveValence() | Associate():
            return teach(state, change)
        case AddJob() | FinishJob():
            return work_on(state, change, now)
        case _:
            raise AssertionError(change)


def work_on(state: Reference, change: AddJob | FinishJob, now: datetime) -> Outcome:
    if isinstance(change, FinishJob):
        return finish(state, change, now)
    state.jobs[change.job.id] = change.job
    return Stored(change.job.id)


def update(state: Reference, change: UpdateMemory, now: datetime) -> Outcome:
    memory = change.memory
    held = state.held.get(memory.id)
    if held is None:
        return Missing(memory.id)
    if held.memory.revision != change.expected_revision:
        raise Refusal(RevisionMoved(memory.id, held.memory.revision))
    if change.keeps_history:
        version = MemoryVersion(
            memory=held.memory, replaced_at=now, replaced_by=change.replaced_by, reason=change.reason
        )
        held.versions = (version, *held.versions)
    before = held.memory
    held.memory, held.has_vectors = replace(memory, valence=before.valence), change.index.embedding is not None
    state.forget_associations(before)
    return Updated(memory.id)


def teach(state: Reference, change: Supersede | SetStanding | MoveValence | Associate) -> Outcome:
    match change:
        case Supersede():
            return supersede(state, change)
        case SetStanding():
            return set_standing(state, change)
        case MoveValence():
            moved = [state.held[each] for each in change.memory_ids if each in state.held]
            moved = [held for held in moved if held.memory.space_id in change.spaces]
            for held in moved:
                held.memory = replace(held.memory, valence=towards(held.memory.valence, change.outcome, change.rate))
            return Valued(len(moved), sum(held.memory.valence for held in moved))
        case Associate():
            return associate(state, change)
        case _:
            assert_never(change)


def towards(valence: float, outcome: float, rate: float) -> float:
    return max(-1.0, min(1.0, valence + rate * (outcome - valence)))


def supersede(state: Reference, change: Supersede) -> Outcome:
    if change.by not in state.held:
        return Missing(change.by)
    for memory_id in set(change.memory_ids) - {change.by}:
        held = state.held.get(memory_id)
        if held is not None and held.memory.space_id in change.spaces:
            held.memory = replace(held.memory, superseded_by=change.by, revision=held.memory.revision + 1)
    return Updated(change.by)


def set_standing(state: Reference, change: SetStanding) -> Outcome:
    own = {held.memory.id: held for held in state.held.values() if held.memory.space_id == change.space_id}
    for memory_id, expected in change.revisions:
        revision = own[memory_id].memory.revision if memory_id in own else None
        if revision != expected:
            raise Refusal(RevisionMoved(memory_id, -1 if revision is None else revision))
    for memory_id in dict(change.revisions):
        memory = own[memory_id].memory
        own[memory_id].memory = replace(
            memory,
            state=change.state,
            role=change.role,
            superseded_by=change.superseded_by,
            revision=memory.revision + 1,
        )
    return Updated(change.space_id)


def associate(state: Reference, change: Associate) -> Outcome:
    if change.because_of is not None and change.because_of not in state.held:
        return Associated(0)
    pairs = {(min(pair), max(pair)) for pair in change.pairs if pair[0] != pair[1]}
    pairs = {pair for pair in pairs if any(state.having(change.space_id, key) for key in pair)}
    for source, target in pairs:
        place = (change.space_id, source, target)
        new = Association(
            space_id=change.space_id,
            source=source,
            target=target,
            weight=0.0,
            valence=0.0,
            count=0,
            updated_at=change.at,
        )
        edge = state.associations.get(place, new)
        valence = edge.valence
        if change.outcome is not None:
            valence = towards(valence, change.outcome, change.valence_rate)
        state.associations[place] = replace(
            edge,
            weight=edge.weight + change.rate * (1 - edge.weight),
            valence=valence,
            count=edge.count + 1,
            updated_at=max(edge.updated_at, change.at),
        )
    return Associated(len(pairs))


def set_embedding(state: Reference, change: SetEmbedding) -> Outcome:
    held = state.held.get(change.memory_id)
    if held is None or held.memory.revision != change.expected_revision:
        return Missing(change.memory_id)
    held.has_vectors = True
    return Updated(change.memory_id)


def finish(state: Reference, change: FinishJob, now: datetime) -> Outcome:
    job = state.jobs.get(change.job_id)
    if job is None or job.fence != change.fence or job.state is not JobState.RUNNING:
        raise Refusal(FenceLost(change.job_id))
    state.jobs[job.id] = replace(
        job,
        state=JobState.DONE,
        result=change.result,
        error=change.error,
        finished_at=change.finished_at,
        lease_until_at=None,
        updated_at=now,
    )
    return Updated(job.id)


def put(state: Reference, change: PutMemory) -> Outcome:
    memory = change.memory
    if memory.id in state.held:
        return Duplicate(memory.id)
    for there in state.held.values():
        if change.identity is not None and there.identity == change.identity:
            return Duplicate(there.memory.id)
    if memory.id in state.deleted or change.identity in state.forgotten:
        return Forgotten()
    repeats = [
        (each.created_at, each.id)
        for each in state.memories
        if each.space_id == memory.space_id
        and stands(each)
        and content_key(each.content) == content_key(memory.content)
    ]
    if change.unless_repeated and repeats:
        return Duplicate(min(repeats)[1])
    state.places += 1
    state.held[memory.id] = Held(
        memory=memory,
        identity=change.identity,
        has_vectors=change.index.embedding is not None,
        place=state.places,
    )
    return Stored(memory.id)


def stands(memory: Memory) -> bool:
    return memory.state is MemoryState.ACTIVE and memory.superseded_by is None


def delete(state: Reference, change: DeleteMemory) -> Outcome:
    held = state.held.get(change.memory_id)
    if held is None or held.memory.space_id not in change.spaces:
        was_there = state.deleted.get(change.memory_id) in change.spaces
        return AlreadyDeleted(change.memory_id) if was_there else Missing(change.memory_id)
    del state.held[change.memory_id]
    state.deleted[change.memory_id] = held.memory.space_id
    state.forget_associations(held.memory)
    if change.remembers_identity and held.identity is not None:
        state.forgotten.add(held.identity)
    return Deleted(change.memory_id)


def passes(memory: Memory, where: MemoryFilter) -> bool:
    return (
        memory.space_id in where.spaces
        and (where.states is None or memory.state in where.states)
        and (where.memory_types is None or memory.memory_type in where.memory_types)
        and set(where.tags) <= set(memory.tags)
        and (where.source is None or memory.source == where.source)
        and (where.agent_id is None or memory.agent_id == where.agent_id)
        and (where.session_ids is None or memory.session_id in where.session_ids)
        and (where.created_from_at is None or memory.created_at >= where.created_from_at)
        and (where.created_until_at is None or memory.created_at < where.created_until_at)
        and (where.updated_from_at is None or memory.updated_at >= where.updated_from_at)
        and (where.updated_until_at is None or memory.updated_at < where.updated_until_at)
        and (where.except_author is None or where.except_author not in {memory.agent_id, memory.created_by})
        and all(holds(condition, memory.metadata) for condition in where.metadata)
    )


def statistics_of(reference: Reference, space_id: SpaceId) -> SpaceStatistics:
    active = [each for each in reference.memories if each.space_id == space_id and each.state is MemoryState.ACTIVE]
    return SpaceStatistics(
        space_id=space_id,
        by_role={role: sum(memory.role is role for memory in active) for role in MemoryRole},
        fingerprints=len({(each.fingerprint, each.fingerprint or content_key(each.content)) for each in active}),
        valence_sum=sum(memory.valence for memory in active),
        importance_sum=sum(memory.importance for memory in active),
        associations=sum(edge.space_id == space_id for edge in reference.associations.values()),
    )


def owned_in(reference: Reference) -> dict[MemoryId, tuple[Association, ...]]:
    found: dict[MemoryId, list[Association]] = {}
    for (space_id, source, target), edge in sorted(reference.associations.items()):
        owner = min(reference.having(space_id, source) or reference.having(space_id, target))
        found.setdefault(owner, []).append(edge)
    return {owner: tuple(edges) for owner, edges in found.items()}


def page_of(memories: Sequence[Memory], where: MemoryFilter, order: ListOrder, limit: int, offset: int) -> MemoryPage:
    def rank(memory: Memory) -> tuple[datetime, str]:
        match order:
            case ListOrder.UPDATED_NEWEST:
                return memory.updated_at, memory.id
            case ListOrder.CREATED_NEWEST:
                return memory.created_at, memory.id
            case _:
                assert_never(order)

    found = sorted((memory for memory in memories if passes(memory, where)), key=rank, reverse=True)
    return MemoryPage(memories=tuple(found[offset : offset + limit]), total=len(found))


def due_job(references: Mapping[TenantId, Reference], queues: frozenset[str], now: datetime) -> Job | None:
    def is_due(job: Job) -> bool:
        at = job.run_after_at if job.state is JobState.QUEUED else job.lease_until_at
        return job.state in {JobState.QUEUED, JobState.RUNNING} and at is not None and at <= now

    def is_held_back(job: Job) -> bool:
        return job.ordering_key is not None and any(
            other.ordering_key == job.ordering_key
            and other.sequence < job.sequence
            and (
                other.state in {JobState.QUEUED, JobState.RUNNING}
                or (other.state is JobState.FAILED and other.blocks_key_when_failed)
            )
            for other in references[job.tenant_id].jobs.values()
        )

    jobs = (job for reference in references.values() for job in reference.jobs.values())
    ready = [job for job in jobs if job.queue in queues and is_due(job) and not is_held_back(job)]
    return min(ready, key=lambda job: (-job.priority, job.sequence), default=None)


# --- what is drawn ---------------------------------------------------------------------------------------

seconds = st.integers(0, 6).map(lambda count: START + timedelta(seconds=count))
ids = st.sampled_from(IDS)
space_sets = st.frozensets(st.sampled_from(SPACES))
identities = st.none() | st.sampled_from(("x", "y"))
terms = st.lists(st.sampled_from(("red", "green", "blue", "naïve", "日本", "a" * 300)), max_size=4).map(tuple)
metadata = (
    st.none() | st.integers() | st.text(max_size=3) | st.dictionaries(st.text(max_size=2), st.booleans(), max_size=2)
)
# Their sums and products are exact in any order.
halves = st.sampled_from((-1.0, -0.5, 0.0, 0.5, 1.0))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def embedding() -> Embedding:
    chunk = EmbeddedChunk(
        start=0,
        end=1,
        embedding=np.array([1, 0, 0, 0], dtype=np.float32),
        token_vectors=np.array([[127, 0]], dtype=np.int8),
    )
    return Embedding(model=MODEL, chunks=(chunk,), is_complete=True)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    is_turn = draw(st.booleans())
    turn = Turn(role="user", seq=draw(st.integers(0, 3)), content_type=ContentType.TEXT)
    return Memory(
        id=draw(ids),
        space_id=draw(st.sampled_from(SPACES)),
        content=draw(st.sampled_from(CONTENTS) | text),
        memory_type=MemoryType.SESSION if is_turn else draw(st.sampled_from((MemoryType.INSIGHT, MemoryType.PINNED))),
        state=draw(st.sampled_from((MemoryState.ACTIVE, MemoryState.ACTIVE, MemoryState.PAUSED))),
        tags=tuple(draw(st.lists(st.sampled_from(TAGS), max_size=3))),
        metadata=draw(metadata),
        source=draw(st.none() | st.just("web")),
        agent_id=draw(st.none() | st.just("bot")),
        session_id=draw(st.sampled_from(SESSIONS)) if is_turn else draw(st.none() | st.sampled_from(SESSIONS)),
        turn=turn if is_turn else None,
        created_by=draw(st.sampled_from((USER, SECOND))),
        updated_by=draw(st.none() | text),
        superseded_by=draw(st.none() | st.none() | ids),
        derived_from=tuple(draw(st.lists(ids, max_size=2))),
        version=1,
        revision=1,
        created_at=draw(seconds),
        updated_at=draw(seconds),
        role=draw(st.sampled_from(list(MemoryRole))),
        concepts=tuple(draw(st.lists(st.sampled_from(CONCEPTS), max_size=3))),
        importance=draw(halves),
        valence=draw(halves),
        fingerprint=draw(st.none() | st.sampled_from(FINGERPRINTS)),
        supersedes=tuple(draw(st.lists(ids, max_size=2))),
    )


entries = st.builds(IndexEntry, terms=terms, embedding=st.none() | st.builds(embedding))
puts = st.builds(
    PutMemory,
    memory=memories(),
    index=entries,
    identity=identities,
    unless_repeated=st.sampled_from((False, False, True)),
)
# The revision of an update is set against the reference when it is used; `expected_revision` is how far it is off.
updates = st.builds(
    UpdateMemory,
    memory=memories(),
    index=entries,
    expected_revision=st.sampled_from((0, 0, 0, 1)),
    replaced_by=st.none() | text,
    reason=text,
    keeps_history=st.booleans(),
)
deletes = st.builds(DeleteMemory, memory_id=ids, spaces=space_sets, remembers_identity=st.booleans())
embeds = st.builds(
    SetEmbedding, memory_id=ids, expected_revision=st.sampled_from((0, 0, 1)), embedding=st.builds(embedding)
)
replacements = st.builds(Supersede, memory_ids=st.lists(ids, max_size=3).map(tuple), by=ids, spaces=space_sets)
# Like the revision of an update.
standings = st.builds(
    SetStanding,
    space_id=st.sampled_from(SPACES),
    revisions=st.lists(st.tuples(ids, st.sampled_from((0, 0, 0, 0, 1))), max_size=2).map(tuple),
    state=st.sampled_from((MemoryState.ACTIVE, MemoryState.ARCHIVED)),
    role=st.sampled_from(list(MemoryRole)),
    superseded_by=st.none() | ids,
)
judgements = st.builds(
    MoveValence,
    memory_ids=st.frozensets(ids, max_size=4),
    spaces=space_sets,
    outcome=halves,
    rate=st.sampled_from((0.5, 1.0, 2.0)),
)
key_pairs = st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS))
strengthenings = st.builds(
    Associate,
    space_id=st.sampled_from(SPACES),
    pairs=st.frozensets(key_pairs, max_size=5),
    rate=st.sampled_from((0.0, 0.25, 0.5)),
    at=seconds,
    outcome=st.none() | halves,
    valence_rate=st.sampled_from((0.0, 0.5, 1.0)),
    because_of=st.none() | ids,
)
taught = replacements | standings | judgements | strengthenings | strengthenings
commits = st.lists(puts | puts | updates | updates | deletes | embeds | taught | taught, max_size=5)
claims = st.none() | st.builds(
    IdempotencyClaim, key=st.sampled_from(("k0", "k1", "k2")), digest=st.sampled_from(("d0", "d1"))
)
filters = st.builds(
    MemoryFilter,
    spaces=space_sets,
    states=st.none() | st.frozensets(st.sampled_from((MemoryState.ACTIVE, MemoryState.PAUSED))),
    memory_types=st.none() | st.frozensets(st.sampled_from(list(MemoryType))),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    source=st.none() | st.just("web"),
    agent_id=st.none() | st.just("bot"),
    session_ids=st.none() | st.frozensets(st.sampled_from(SESSIONS)),
    created_from_at=st.none() | seconds,
    created_until_at=st.none() | seconds,
    updated_from_at=st.none() | seconds,
    updated_until_at=st.none() | seconds,
    except_author=st.none() | st.sampled_from((USER, SECOND, "bot", "amy")),
    metadata=st.just(())
    | st.lists(
        st.builds(
            MetadataCondition,
            path=st.lists(st.text(max_size=2), max_size=1).map(tuple),
            comparison=st.sampled_from(list(Comparison)),
            value=metadata | st.lists(metadata, max_size=2),
        ),
        max_size=1,
    ).map(tuple),
)
tenants = st.sampled_from(TENANTS)


def account(tenant_id: TenantId) -> NewAccount:
    user = User(id=USER, tenant_id=tenant_id, name="amy", personal_space_id=SPACES[0], created_at=START)
    return NewAccount(
        tenant=Tenant(id=tenant_id, name=tenant_id, plan="self-hosted", is_active=True, created_at=START),
        user=user,
        space=Space(id=SPACES[0], kind=SpaceKind.PERSONAL, name="general", is_restricted=False, created_at=START),
        key=Key(
            id=KeyId(f"key of {tenant_id}"),
            tenant_id=tenant_id,
            user_id=USER,
            name="key",
            prefix="pm_",
            scopes=frozenset(),
            allowed_spaces=None,
            created_at=START,
            expires_at=None,
            revoked_at=None,
        ),
        key_hash=tenant_id.encode(),
    )


class Ending(Enum):
    """What a worker does with a job it holds, or thinks it holds."""

    FINISH = "finish"
    PARK = "park"
    RETRY = "retry"
    RELEASE = "release"
    EXTEND = "extend"
    NONE = "none"


@dataclass(frozen=True)
class JobWish:
    """What differs between the jobs that are added."""

    queue: str
    ordering_key: str | None
    blocks: bool
    priority: int
    delay_seconds: int


job_wishes = st.builds(
    JobWish,
    queue=st.sampled_from((QUEUES[0], *QUEUES)),
    ordering_key=st.sampled_from(("k0", "k0", "k0", "k1", None)),
    blocks=st.booleans(),
    priority=st.integers(-1, 1),
    delay_seconds=st.sampled_from((0, 0, 0, 3)),
)


def job_of(tenant_id: TenantId, number: int, wish: JobWish, now: datetime) -> Job:
    return Job(
        id=JobId(f"job-{number}"),
        tenant_id=tenant_id,
        space_id=SPACES[0],
        user_id=USER,
        kind=JobKind.EMBED,
        queue=wish.queue,
        ordering_key=wish.ordering_key,
        blocks_key_when_failed=wish.blocks,
        sequence=0,
        state=JobState.QUEUED,
        priority=wish.priority,
        attempts=0,
        max_attempts=3,
        fence=0,
        payload={"n": number},
        result={},
        progress_total=0,
        progress_done=0,
        error=None,
        reference_at=START,
        run_after_at=now + timedelta(seconds=wish.delay_seconds),
        lease_until_at=None,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )


# --- the machine -----------------------------------------------------------------------------------------


@functools.cache
def prepared_directory() -> Path:
    """A storage that holds the tenants and nothing else, to copy from: making one takes longer than an example."""
    directory = Path(tempfile.mkdtemp(prefix="polymem-machine-"))
    atexit.register(shutil.rmtree, directory)

    async def prepare() -> None:
        await add_tenants(await SqliteStorage.open(directory, owns_directory=False))

    asyncio.run(prepare())
    return directory


async def add_tenants(storage: Storage) -> None:
    """The storage holds the tenants, and is closed."""
    second = Space(id=SPACES[1], kind=SpaceKind.PERSONAL, name="general", is_restricted=False, created_at=START)
    for tenant_id in TENANTS:
        made = account(tenant_id)
        assert await storage.directory.create_account(made)
        user = replace(made.user, id=SECOND, name="bob", personal_space_id=second.id)
        await storage.directory.add_user(user, second)
    await storage.close()


@functools.cache
def prepared_server() -> PostgresServer:
    """A PostgreSQL with a database that holds the tenants and nothing else, to copy from."""
    running = contextlib.ExitStack()
    server = running.enter_context(running_postgres())
    atexit.register(running.close)
    server.run(f"ALTER DATABASE {server.new_database().partition('?')[0].rpartition('/')[2]} RENAME TO prepared")

    async def prepare() -> None:
        await add_tenants(await PostgresStorage.open(server.url("prepared"), connections=1))

    asyncio.run(prepare())
    return server


class Place(Protocol):
    """Where one example keeps its storage."""

    async def open(self) -> Storage:
        """The storage, with all that was stored in it before."""
        ...

    def remove(self) -> None:
        """Nothing of it is left."""
        ...


class Folder:
    """A data directory."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="polymem-machine-"))
        shutil.copytree(prepared_directory(), self._directory, dirs_exist_ok=True)

    async def open(self) -> Storage:
        return await SqliteStorage.open(self._directory, reader_count=1, owns_directory=False)

    def remove(self) -> None:
        shutil.rmtree(self._directory)


class ServerDatabase:
    """A database of a PostgreSQL."""

    def __init__(self) -> None:
        self._server = prepared_server()
        self._name = f"machine_{uuid4().hex}"
        self._server.run(f"CREATE DATABASE {self._name} TEMPLATE prepared STRATEGY FILE_COPY")

    async def open(self) -> Storage:
        return await PostgresStorage.open(self._server.url(self._name), connections=2)

    def remove(self) -> None:
        self._server.run(f"DROP DATABASE {self._name} WITH (FORCE)")


class _Machine(RuleBasedStateMachine):
    """Drives one storage and one reference for each tenant with the same commands."""

    make_place: Callable[[], Place] = Folder
    # Calls that are made at once are committed in the order of the calls, which one writer promises; rows are numbered.
    has_one_writer = True

    def __init__(self) -> None:
        super().__init__()
        self.place: Place | None = None
        self.runner = asyncio.Runner()
        self.storage: Storage | None = None
        self.references: dict[TenantId, Reference] = {tenant: Reference() for tenant in TENANTS}
        self.now = START
        self.job_count = 0
        self.last_sequence = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def opened(self) -> Storage:
        assert self.storage is not None
        return self.storage

    @initialize()
    def open(self) -> None:
        self.place = type(self).make_place()
        self.storage = self.run(self.place.open())

    def teardown(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.place is not None:
                stack.callback(self.place.remove)
            stack.callback(self.runner.close)
            if self.storage is not None:
                stack.callback(lambda: self.run(self.opened.close()))
                self.nothing_differs_inside()

    def nothing_differs_inside(self) -> None:
        assert [finding for finding in self.run(self.opened.check()) if not finding.is_ok] == []

    def aimed(self, tenant_id: TenantId, changes: Sequence[Change]) -> Iterator[Change]:
        """The changes, with revisions that fit what is stored as far as they should."""
        held = self.references[tenant_id].held
        for change in changes:
            match change:
                case UpdateMemory():
                    there = held.get(change.memory.id)
                    expected = (there.memory.revision if there else 1) + change.expected_revision
                    memory = replace(change.memory, revision=expected + 1, version=expected + 1)
                    yield replace(change, memory=memory, expected_revision=expected)
                case SetStanding():
                    revisions = tuple(
                        (each, (held[each].memory.revision if each in held else -1) + off)
                        for each, off in change.revisions
                    )
                    yield replace(change, revisions=revisions)
                case SetEmbedding():
                    there = held.get(change.memory_id)
                    expected = (there.memory.revision if there else 1) + change.expected_revision
                    yield replace(change, expected_revision=expected)
                case _:
                    yield change

    def commit(
        self,
        tenant_id: TenantId,
        changes: Sequence[Change],
        claim: IdempotencyClaim | None = None,
        limit: int | None = None,
    ) -> CommitResult:
        self.now += timedelta(microseconds=1)
        after, expected = commit(self.references[tenant_id], changes, self.now, claim, limit)
        store = self.opened.tenant(tenant_id)
        result = self.run(store.commit(changes, now=self.now, idempotency=claim, max_memories=limit))
        assert result == expected
        self.references[tenant_id] = after
        return result

    @rule()
    def reopen(self) -> None:
        assert self.place is not None
        self.run(self.opened.close())
        self.storage = self.run(self.place.open())

    @invariant()
    def counts_agree(self) -> None:
        if self.storage is not None:
            for tenant_id, reference in self.references.items():
                store = self.storage.tenant(tenant_id)
                assert self.run(store.count_memories()) == len(reference.held)
                assert self.run(store.change_no()) == reference.change_no


class MemoryMachine(_Machine):
    """Memories of two tenants."""

    @rule(tenant_id=tenants, changes=commits, claim=claims, limit=st.none() | st.integers(1, 5))
    def change_memories(
        self, tenant_id: TenantId, changes: list[Change], claim: IdempotencyClaim | None, limit: int | None
    ) -> None:
        self.commit(tenant_id, list(self.aimed(tenant_id, changes)), claim, limit)

    @rule(tenant_id=tenants, batches=st.lists(st.lists(puts | deletes, min_size=1, max_size=2), min_size=2, max_size=6))
    def change_memories_all_at_once(self, tenant_id: TenantId, batches: list[list[Change]]) -> None:
        store = self.opened.tenant(tenant_id)

        async def together() -> list[CommitResult]:
            if not self.has_one_writer:
                return [await store.commit(batch, now=self.now) for batch in batches]
            return await asyncio.gather(*(store.commit(batch, now=self.now) for batch in batches))

        for batch, result in zip(batches, self.run(together()), strict=True):
            self.references[tenant_id], expected = commit(self.references[tenant_id], batch, self.now, None, None)
            assert result == expected

    @rule(
        tenant_id=tenants,
        where=filters,
        order=st.sampled_from(list(ListOrder)),
        limit=st.integers(0, 6),
        offset=st.integers(0, 3),
    )
    def list_memories(
        self, tenant_id: TenantId, where: MemoryFilter, order: ListOrder, limit: int, offset: int
    ) -> None:
        held = [held.memory for held in self.references[tenant_id].held.values()]
        page = self.run(self.opened.tenant(tenant_id).list_memories(where, order=order, limit=limit, offset=offset))
        assert page == page_of(held, where, order, limit, offset)

    @rule(
        tenant_id=tenants,
        where=filters,
        limit=st.integers(1, 3),
        with_superseded=st.booleans(),
        after=st.none() | seconds,
    )
    def follow_a_feed(
        self, tenant_id: TenantId, where: MemoryFilter, limit: int, after: datetime | None, *, with_superseded: bool
    ) -> None:
        store = self.opened.tenant(tenant_id)
        expected = [
            memory
            for memory in page_of(
                self.references[tenant_id].memories, where, ListOrder.CREATED_NEWEST, len(IDS), 0
            ).memories
            if (with_superseded or memory.superseded_by is None)
            and (after is None or (memory.created_at, memory.id) < (after, IDS[2]))
        ]
        position = None if after is None else FeedPosition(after, IDS[2])
        found: list[Memory] = []
        while page := self.run(store.feed(where, after=position, limit=limit, with_superseded=with_superseded)):
            found += page
            position = FeedPosition(page[-1].created_at, page[-1].id)
        assert found == expected

    @rule(tenant_id=tenants, spaces=space_sets, fingerprint=st.none() | st.sampled_from(FINGERPRINTS))
    def look_for_what_was_said(self, tenant_id: TenantId, spaces: frozenset[SpaceId], fingerprint: str | None) -> None:
        keys = [content_key(content) for content in CONTENTS[:2]]
        expected = [
            (memory.created_at, memory.id, content_key(memory.content))
            for memory in self.references[tenant_id].memories
            if memory.space_id in spaces and stands(memory)
            if content_key(memory.content) in keys or (fingerprint is not None and memory.fingerprint == fingerprint)
        ]
        found = self.run(self.opened.tenant(tenant_id).find_repeats(spaces, content_keys=keys, fingerprint=fingerprint))
        assert found == tuple((memory_id, key) for _, memory_id, key in sorted(expected))

    @rule(tenant_id=tenants, spaces=space_sets)
    def look_at_what_was_learned(self, tenant_id: TenantId, spaces: frozenset[SpaceId]) -> None:
        reference, store = self.references[tenant_id], self.opened.tenant(tenant_id)
        own = [memory for memory in reference.memories if memory.space_id in spaces]
        assert self.run(store.learned(IDS, spaces)) == {
            memory.id: Learned(valence=memory.valence, concepts=frozenset(concept_keys(memory.concepts)))
            for memory in own
        }
        counts = {key: sum(len(reference.having(space_id, key)) for space_id in spaces) for key in KEYS}
        assert self.run(store.count_concepts(KEYS, spaces)) == {key: count for key, count in counts.items() if count}
        assert self.run(store.statistics(spaces)) == tuple(
            statistics_of(reference, space_id)
            for space_id in sorted(spaces)
            if any(memory.space_id == space_id for memory in own)
        )

    @rule(
        tenant_id=tenants, spaces=space_sets, seeds=st.lists(st.sampled_from(KEYS), max_size=3), most=st.integers(1, 3)
    )
    def look_at_associations(
        self, tenant_id: TenantId, spaces: frozenset[SpaceId], seeds: list[str], most: int
    ) -> None:
        store = self.opened.tenant(tenant_id)
        edges = sorted(
            self.references[tenant_id].associations.values(),
            key=lambda edge: (-edge.weight, edge.source, edge.target, edge.space_id),
        )
        wanted = {
            edge
            for space_id in spaces
            for seed in seeds
            for edge in [
                each
                for each in edges
                if each.space_id == space_id and seed in {each.source, each.target} and each.weight >= 0.25
            ][:most]
        }
        assert self.run(store.owned_associations(IDS)) == owned_in(self.references[tenant_id])
        found = self.run(store.associations(spaces, seeds, min_weight=0.25, limit_per_seed=most))
        assert found == tuple(edge for edge in edges if edge in wanted)

    @rule(tenant_id=tenants, spaces=space_sets, limit=st.integers(0, 3))
    def list_sessions(self, tenant_id: TenantId, spaces: frozenset[SpaceId], limit: int) -> None:
        expected: list[Memory] = []
        turns = [held.memory for held in self.references[tenant_id].held.values() if held.memory.turn is not None]
        for session in SESSIONS:
            own = [turn for turn in turns if turn.session_id == session and turn.space_id in spaces]
            own.sort(key=lambda turn: (turn.created_at, turn.turn.seq if turn.turn else 0, turn.id))
            expected += own[:limit]
        store = self.opened.tenant(tenant_id)
        found = self.run(store.list_session_messages(SESSIONS[::-1], spaces, limit_per_session=limit))
        assert found == tuple(expected)
        for session in SESSIONS:
            seqs = [
                turn.turn.seq
                for turn in turns
                if turn.session_id == session and turn.space_id == SPACES[0]
                if turn.turn
            ]
            assert self.run(store.last_seq(session, SPACES[0])) == max(seqs, default=None)

    @rule(tenant_id=tenants, memory_id=ids, spaces=space_sets)
    def look_at_one(self, tenant_id: TenantId, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> None:
        reference, store = self.references[tenant_id], self.opened.tenant(tenant_id)
        held = reference.held.get(memory_id)
        is_here = held is not None and held.memory.space_id in spaces
        versions = self.run(store.list_versions(memory_id, spaces))
        assert versions == (held.versions if held is not None and is_here else ())
        was_here = reference.deleted.get(memory_id) in spaces
        assert self.run(store.is_deleted(memory_id, spaces)) == was_here

    @invariant()
    def memories_agree(self) -> None:
        if self.storage is None:
            return
        for tenant_id, reference in self.references.items():
            store = self.storage.tenant(tenant_id)
            held = {memory_id: held.memory for memory_id, held in reference.held.items()}
            assert self.run(store.get_memories(IDS, frozenset(SPACES))) == held
            lacking = sorted(
                (each for each in reference.held.values() if not each.has_vectors),
                key=lambda each: (each.place if self.has_one_writer else 0, each.memory.id),
            )
            found = self.run(store.list_without_vectors(MODEL, limit=len(IDS)))
            assert found == tuple(each.memory.id for each in lacking)


class JobMachine(_Machine):
    """Jobs of two tenants and their workers."""

    @rule(tenant_id=st.sampled_from((TENANTS[0], *TENANTS)), wishes=st.lists(job_wishes, min_size=1, max_size=4))
    def add_jobs(self, tenant_id: TenantId, wishes: list[JobWish]) -> None:
        jobs = []
        for wish in wishes:
            self.job_count += 1
            jobs.append(job_of(tenant_id, self.job_count, wish, self.now))
        self.commit(tenant_id, [AddJob(job=job) for job in jobs])
        for job in jobs:
            stored = self.run(self.opened.tenant(tenant_id).get_job(job.id))
            assert stored is not None
            assert stored.sequence > self.last_sequence
            assert replace(stored, sequence=0) == job
            self.last_sequence = stored.sequence
            self.references[tenant_id].jobs[job.id] = stored

    @rule(passed=st.integers(1, 2 * LEASE_SECONDS))
    def let_time_pass(self, passed: int) -> None:
        self.now += timedelta(seconds=passed)

    @rule(
        queues=st.sampled_from((*(frozenset(QUEUES),) * 3, frozenset(QUEUES[:1]), frozenset())),
        endings=st.lists(st.sampled_from(list(Ending)), min_size=1, max_size=4),
    )
    def work(self, queues: frozenset[str], endings: list[Ending]) -> None:
        for ending in endings:
            until = self.now + timedelta(seconds=LEASE_SECONDS)
            claimed = self.run(self.opened.jobs.claim(queues=queues, now=self.now, lease_until_at=until))
            expected = due_job(self.references, queues, self.now)
            if expected is not None:
                expected = replace(
                    expected,
                    state=JobState.RUNNING,
                    attempts=expected.attempts + 1,
                    fence=expected.fence + 1,
                    lease_until_at=until,
                    updated_at=self.now,
                )
                self.references[expected.tenant_id].jobs[expected.id] = expected
            assert claimed == expected
            if claimed is not None:
                self.end(claimed, ending, claimed.fence)

    def some_job(self, data: st.DataObject) -> Job:
        jobs = [job for reference in self.references.values() for job in reference.jobs.values()]
        return data.draw(st.sampled_from(sorted(jobs, key=lambda job: job.sequence)))

    def has_jobs(self) -> bool:
        return any(reference.jobs for reference in self.references.values())

    @precondition(has_jobs)
    @rule(data=st.data(), ending=st.sampled_from(list(Ending)), is_late=st.booleans())
    def end_some(self, data: st.DataObject, ending: Ending, *, is_late: bool) -> None:
        job = self.some_job(data)
        self.end(job, ending, job.fence - is_late)

    def end(self, job: Job, ending: Ending, fence: int) -> None:
        """One who may or may not hold the job ends its attempt."""
        jobs, later = self.opened.jobs, self.now + timedelta(seconds=3)
        ended = replace(job, updated_at=self.now, lease_until_at=None)
        match ending:
            case Ending.NONE:
                return
            case Ending.FINISH:
                finish = FinishJob(job_id=job.id, fence=fence, result={"r": 1}, error=None, finished_at=self.now)
                self.commit(job.tenant_id, [finish])
                return
            case Ending.RETRY:
                work = jobs.retry_later(job.tenant_id, job.id, fence=fence, error="e", run_after_at=later, now=self.now)
                ended = replace(ended, state=JobState.QUEUED, error="e", run_after_at=later)
            case Ending.PARK:
                work = jobs.park(job.tenant_id, job.id, fence=fence, error="p", now=self.now)
                ended = replace(ended, state=JobState.FAILED, error="p", finished_at=self.now)
            case Ending.RELEASE:
                work = jobs.release(job.tenant_id, job.id, fence=fence, now=self.now)
                ended = replace(ended, state=JobState.QUEUED, attempts=job.attempts - 1, run_after_at=self.now)
            case Ending.EXTEND:
                work = jobs.extend(job.tenant_id, job.id, fence=fence, lease_until_at=later)
                ended = replace(job, lease_until_at=later)
            case _:
                assert_never(ending)
        is_held = job.state is JobState.RUNNING and fence == job.fence
        assert self.run(work) == is_held
        if is_held:
            self.references[job.tenant_id].jobs[job.id] = ended

    @precondition(has_jobs)
    @rule(data=st.data())
    def requeue_job(self, data: st.DataObject) -> None:
        job = self.some_job(data)
        is_failed = job.state is JobState.FAILED
        assert self.run(self.opened.jobs.requeue(job.tenant_id, job.id, now=self.now)) == is_failed
        if is_failed:
            self.references[job.tenant_id].jobs[job.id] = replace(
                job,
                state=JobState.QUEUED,
                attempts=0,
                error=None,
                finished_at=None,
                run_after_at=self.now,
                updated_at=self.now,
            )

    @rule(age=st.integers(0, 10))
    def sweep_jobs(self, age: int) -> None:
        before = self.now - timedelta(seconds=age)
        swept = 0
        for reference in self.references.values():
            gone = [
                job.id for job in reference.jobs.values() if job.finished_at is not None and job.finished_at < before
            ]
            swept += len(gone)
            for job_id in gone:
                del reference.jobs[job_id]
        assert self.run(self.opened.jobs.delete_finished(before=before)) == swept

    @invariant()
    def jobs_agree(self) -> None:
        if self.storage is None:
            return
        for tenant_id, reference in self.references.items():
            store = self.storage.tenant(tenant_id)
            jobs = self.run(store.list_jobs(frozenset(JobKind), frozenset(SPACES), limit=1000))
            assert {job.id: job for job in jobs} == reference.jobs


_SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class ServerMemoryMachine(MemoryMachine):
    """The same on PostgreSQL."""

    make_place = ServerDatabase
    has_one_writer = False


class ServerJobMachine(JobMachine):
    """The same on PostgreSQL."""

    make_place = ServerDatabase
    has_one_writer = False


MemoryMachine.TestCase.settings = settings(_SETTINGS, max_examples=40, stateful_step_count=30)
JobMachine.TestCase.settings = settings(_SETTINGS, max_examples=60, stateful_step_count=40)
# Fewer: an example takes a database, and each step a round trip.
ServerMemoryMachine.TestCase.settings = settings(_SETTINGS, max_examples=8, stateful_step_count=20)
ServerJobMachine.TestCase.settings = settings(_SETTINGS, max_examples=12, stateful_step_count=25)
TestMemoriesAgreeWithTheirReference = MemoryMachine.TestCase
TestJobsAgreeWithTheirReference = JobMachine.TestCase
TestMemoriesOfPostgresAgreeWithTheirReference = ServerMemoryMachine.TestCase
TestJobsOfPostgresAgreeWithTheirReference = ServerJobMachine.TestCase
