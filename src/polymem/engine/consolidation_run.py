"""One consolidation of one space, as a job.

    read ids and vectors ─► nearest, block by block ─► groups and singletons ─► prototypes ─► one commit, with its end

Nothing is locked meanwhile. What was read is guarded by the revisions: a memory that a client changed or deleted in
between is left out with its group, and the commit is tried again. Feedback moves no revision and is not lost. The model
is not asked: a prototype has the vectors of its head.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never

import numpy as np

from polymem.domain.consolidation import (
    LISTED,
    PROTECTING_VALENCE,
    Atom,
    Consolidation,
    Floats,
    Group,
    Nearest,
    Part,
    consolidate,
    mean_direction,
    nearest_of,
)
from polymem.domain.model import (
    Job,
    JobId,
    JobKind,
    JsonValue,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    SpaceId,
)
from polymem.domain.prototypes import joined, joining_rate, prototype_of
from polymem.domain.query import FeedPosition, MemoryFilter
from polymem.domain.text import index_text
from polymem.engine.commits import commit_guarded
from polymem.engine.indexing import bare_entry
from polymem.engine.queueing import RunOutcome, lease_from, new_job
from polymem.errors import Unavailable
from polymem.ports.changes import (
    AddJob,
    Applied,
    Change,
    EmbeddedChunk,
    Embedding,
    FenceLost,
    FinishJob,
    IndexEntry,
    MoveValence,
    ProgressJob,
    PutMemory,
    Replayed,
    RevisionMoved,
    SessionMoved,
    SetStanding,
    UpdateMemory,
)
from polymem.ports.inference import Embedder
from polymem.ports.runtime import Clock, Ids
from polymem.ports.search import Evidence
from polymem.ports.storage import Storage, TenantStore

MOST_MEMORIES = 100_000
"""Of a larger space the newest take part: comparing all with all grows with the square."""
MOST_TRIES = 8
_PAGE = 500
_ROWS_AT_ONCE = 256
_COMPARING = 2
_COMPOSED_AT_ONCE = 128
# How far the job is, of 100, after each of its parts; comparing tells more often.
_READ, _COMPARED, _DECIDED, _WHOLE = 15, 60, 80, 100
_TOLD_WHILE_COMPARING = 5

# What is done to merge groups, in this order.
_KINDS: Sequence[type[Change]] = (PutMemory, UpdateMemory, MoveValence, SetStanding)

Item = TypeVar("Item")


class _OvertakenError(Exception):
    """Another worker has the job now."""


class _StoppedError(Exception):
    """The result is no longer wanted."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The memories that take part, oldest first, with what guards them."""

    atoms: list[Atom]
    revisions: list[int]
    roles: list[MemoryRole]
    vectors: Floats

    def id(self, number: int) -> MemoryId:
        return MemoryId(self.atoms[number].id)


@dataclass(frozen=True, slots=True)
class _Merge:
    """The changes that merge one group, the revisions they rest on, and what they come to."""

    changes: tuple[Change, ...]
    revisions: Mapping[MemoryId, int]
    archived: int
    is_new: bool
    lacks_vectors: tuple[MemoryId, ...]


@dataclass(frozen=True, slots=True)
class _Labels:
    """Memories that become singletons, and that are none any more, with their revisions; `kept` stay what they are."""

    singletons: Mapping[MemoryId, int]
    episodes: Mapping[MemoryId, int]
    kept: int


class ConsolidationRun:
    """Makes prototypes of what repeats in a space, and marks what is distinctive there."""

    def __init__(
        self, storage: Storage, embedder: Embedder, *, clock: Clock, ids: Ids, wake: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def run(self, job: Job) -> RunOutcome:
        """The job's space is consolidated and the job is done, in one commit; running it again changes nothing.

        Only memories with vectors of the present model take part. Raises `Unavailable` when clients change the space
        faster than it can be consolidated.
        """
        started = self._clock.monotonic()
        store = self._storage.tenant(job.tenant_id)
        try:
            seen = await self._read(job)
            await self._tell(job, _READ)
            nearest = await self._compare(job, seen.vectors)
            decided = await _decide(seen, nearest)
            await self._tell(job, _DECIDED)
            merges = [merge async for merge in self._merges(job, seen, decided.groups)]
        except _OvertakenError:
            return RunOutcome.FENCE_LOST
        before = sum(sum(each.by_role.values()) for each in await store.statistics(frozenset({job.space_id})))
        return await self._commit(job, merges, _labels(seen, decided), before=before, started=started)

    async def _read(self, job: Job) -> _Seen:
        """What takes part: written memories that are active, that nothing replaced, and that have vectors."""
        store, search = self._storage.tenant(job.tenant_id), self._storage.search(job.tenant_id)
        where = MemoryFilter(
            spaces=frozenset({job.space_id}), memory_types=frozenset({MemoryType.INSIGHT, MemoryType.PINNED})
        )
        found: list[Memory] = []
        rows: list[Floats] = []
        after: FeedPosition | None = None
        while len(found) < MOST_MEMORIES:
            page = await store.feed(where, after=after, limit=_PAGE, with_superseded=False)
            vectors = await search.embeddings([memory.id for memory in page], self._embedder.identity)
            found += [memory for memory in page if memory.id in vectors]
            rows += [mean_direction(vectors[memory.id]) for memory in page if memory.id in vectors]
            if len(page) < _PAGE:
                break
            after = FeedPosition(page[-1].created_at, page[-1].id)
        found.reverse()
        rows.reverse()
        return _Seen(
            atoms=[_atom(memory) for memory in found],
            revisions=[memory.revision for memory in found],
            roles=[memory.role for memory in found],
            vectors=np.stack(rows) if rows else np.empty((0, self._embedder.identity.dimension), dtype=np.float32),
        )

    async def _compare(self, job: Job, vectors: Floats) -> Nearest:
        """The nearest of each, some rows at a time on two threads; the job tells how far it is."""
        count = max(0, min(LISTED, len(vectors) - 1))
        nearest = Nearest(
            np.empty((len(vectors), count), dtype=np.int32), np.empty((len(vectors), count), dtype=np.float32)
        )
        starts = iter(range(0, len(vectors), _ROWS_AT_ONCE))
        told = _READ

        async def compare() -> None:
            nonlocal told
            for start in starts:
                stop = min(start + _ROWS_AT_ONCE, len(vectors))
                found = await asyncio.to_thread(nearest_of, vectors, start, stop)
                nearest.positions[start:stop], nearest.cosines[start:stop] = found.positions, found.cosines
                done = _READ + (_COMPARED - _READ) * stop // len(vectors)
                if done >= told + _TOLD_WHILE_COMPARING:
                    told = done
                    await self._tell(job, done)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_quietly(compare())) for _ in range(_COMPARING)]
        if any(task.result() for task in tasks):
            raise _OvertakenError
        return nearest

    async def _tell(self, job: Job, done: int) -> None:
        """The job shows how far it is. Raises `_OvertakenError` when it is another worker's by now."""
        now = self._clock.now()
        progress = ProgressJob(
            job_id=job.id,
            fence=job.fence,
            progress_done=done,
            progress_total=_WHOLE,
            result={},
            lease_until_at=lease_from(job, now),
        )
        result = await commit_guarded(self._storage.tenant(job.tenant_id), [progress], now=now)
        if not isinstance(result, Applied):
            raise _OvertakenError

    async def _merges(self, job: Job, seen: _Seen, groups: Sequence[Group]) -> AsyncIterator[_Merge]:
        """The changes of each group whose memories still are what was seen."""
        store, search = self._storage.tenant(job.tenant_id), self._storage.search(job.tenant_id)
        for some in _parts(groups, _COMPOSED_AT_ONCE):
            numbers = {number for group in some for number in (group.head, *group.members)}
            read = await _read_again(store, [seen.id(number) for number in numbers], job.space_id)
            fresh = {number: read[seen.id(number)] for number in numbers if _is_as_seen(seen, number, read)}
            whole = [group for group in some if all(each in fresh for each in (group.head, *group.members))]
            heads = [fresh[group.head] for group in whole]
            evidence = await search.evidence([head.id for head in heads], self._embedder.identity, ())
            ready = [group for group, head in zip(whole, heads, strict=True) if head.id in evidence]
            names = [MemoryId(self._ids.new_id()) for _ in ready]
            for merge in await asyncio.to_thread(self._compose, ready, names, fresh, evidence):
                yield merge

    def _compose(
        self,
        groups: Sequence[Group],
        names: Sequence[MemoryId],
        memories: Mapping[int, Memory],
        evidence: Mapping[MemoryId, Evidence],
    ) -> list[_Merge]:
        return [
            self._merge(
                name,
                memories[group.head],
                [memories[each] for each in group.members],
                evidence[memories[group.head].id],
            )
            for group, name in zip(groups, names, strict=True)
        ]

    def _merge(self, name: MemoryId, head: Memory, members: Sequence[Memory], evidence: Evidence) -> _Merge:
        """The group as changes: a new prototype, or one that gets more sources; then the sources are archived."""
        is_new = head.role is not MemoryRole.PROTOTYPE
        prototype = prototype_of(name, head, members) if is_new else joined(head, members)
        entry = self._entry(prototype, head, evidence)
        revisions = {each.id: each.revision for each in members}
        changes: list[Change] = []
        if is_new:
            changes.append(PutMemory(memory=prototype, index=entry))
        else:
            changes += [
                UpdateMemory(
                    memory=prototype,
                    index=entry,
                    expected_revision=head.revision,
                    replaced_by=None,
                    reason="consolidate",
                    keeps_history=False,
                ),
                MoveValence(
                    memory_ids=frozenset({head.id}),
                    spaces=frozenset({head.space_id}),
                    outcome=sum(each.valence for each in members) / len(members),
                    rate=joining_rate(head, len(members)),
                ),
            ]
        changes.append(
            SetStanding(
                space_id=head.space_id,
                revisions=tuple(revisions.items()),
                state=MemoryState.ARCHIVED,
                role=MemoryRole.EPISODE,
                superseded_by=prototype.id,
            )
        )
        is_complete = entry.embedding is not None and entry.embedding.is_complete
        return _Merge(
            changes=tuple(changes),
            revisions=revisions if is_new else {head.id: head.revision, **revisions},
            archived=len(members),
            is_new=is_new,
            lacks_vectors=() if is_complete else (prototype.id,),
        )

    def _entry(self, prototype: Memory, head: Memory, evidence: Evidence) -> IndexEntry:
        """The prototype's index entry: its terms anew, for it may have other tags; the vectors are the head's."""
        text = index_text(prototype)
        spans = [spans for spans in self._embedder.token_spans(text) if spans]
        places = [(each[0][0], each[-1][1]) for each in spans]
        places += [(0, len(text))] * (len(evidence.token_vectors) - len(places))
        chunks = tuple(
            EmbeddedChunk(start=start, end=end, embedding=embedding, token_vectors=tokens)
            for (start, end), embedding, tokens in zip(
                places, evidence.embeddings, evidence.token_vectors, strict=False
            )
        )
        is_complete = text == index_text(head) and len(spans) == len(chunks)
        bare = bare_entry(prototype)
        embedding = Embedding(model=self._embedder.identity, chunks=chunks, is_complete=is_complete)
        return IndexEntry(terms=bare.terms, traits=bare.traits, embedding=embedding)

    async def _commit(
        self, job: Job, merges: Sequence[_Merge], labels: _Labels, *, before: int, started: float
    ) -> RunOutcome:
        """All of it is durable with the job's end, but for what clients have changed since it was read."""
        store = self._storage.tenant(job.tenant_id)
        for _ in range(MOST_TRIES):
            now = self._clock.now()
            made = sum(merge.is_new for merge in merges)
            result: dict[str, JsonValue] = {
                "before": before,
                "after": before - sum(merge.archived for merge in merges) + made,
                "prototypes_made": made,
                "singletons": labels.kept + len(labels.singletons),
                "milliseconds": round(1000.0 * (self._clock.monotonic() - started)),
            }
            jobs = self._embed_jobs(job, merges)
            merging = [change for merge in merges for change in merge.changes]
            changes = [
                # Groups share no memory, and a storage does a run of one kind at once.
                *sorted(merging, key=lambda change: _KINDS.index(type(change))),
                *_standings(job.space_id, labels),
                *jobs,
                FinishJob(job_id=job.id, fence=job.fence, result=result, error=None, finished_at=now),
            ]
            match await commit_guarded(store, changes, now=now):
                case Applied() | Replayed():
                    if jobs:
                        self._wake()
                    return RunOutcome.FINISHED
                case FenceLost():
                    return RunOutcome.FENCE_LOST
                case RevisionMoved() | SessionMoved():
                    merges, labels = await _still_true(store, job.space_id, merges, labels)
                case _ as never:
                    assert_never(never)
        raise Unavailable("the domain changes faster than it can be consolidated")

    def _embed_jobs(self, job: Job, merges: Sequence[_Merge]) -> tuple[AddJob, ...]:
        """The job that makes the vectors that could not be taken from a head as they are."""
        lacking = [memory_id for merge in merges for memory_id in merge.lacks_vectors]
        if not lacking:
            return ()
        new = new_job(
            JobId(self._ids.new_id()),
            JobKind.EMBED,
            tenant_id=job.tenant_id,
            user_id=job.user_id,
            space_id=job.space_id,
            payload={"memory_ids": list(lacking)},
            now=self._clock.now(),
        )
        return (AddJob(job=new),)


def _atom(memory: Memory) -> Atom:
    """What consolidation sees of a memory."""
    part = Part.MEMBER
    if memory.role is MemoryRole.PROTOTYPE:
        part = Part.PROTOTYPE
    elif memory.memory_type is MemoryType.PINNED or abs(memory.valence) >= PROTECTING_VALENCE:
        part = Part.PROTECTED
    sources = len(memory.derived_from) if part is Part.PROTOTYPE else 0
    return Atom(id=memory.id, content=memory.content, created_at=memory.created_at, part=part, sources=sources)


async def _quietly(comparing: Coroutine[object, object, None]) -> bool:
    """True when the work ended because another worker has the job: no reason to fail what runs beside it."""
    try:
        await comparing
    except _OvertakenError:
        return True
    return False


async def _decide(seen: _Seen, nearest: Nearest) -> Consolidation:
    """What becomes of the memories, found on a thread that ends soon after nobody waits for it any more."""
    is_unwanted = threading.Event()

    def look_up() -> None:
        if is_unwanted.is_set():
            raise _StoppedError

    try:
        return await asyncio.to_thread(consolidate, seen.atoms, seen.vectors, nearest, look_up)
    except asyncio.CancelledError:
        is_unwanted.set()
        raise


def _labels(seen: _Seen, decided: Consolidation) -> _Labels:
    """Which memories begin and cease to be singletons; those that merge are neither."""
    merged = {number for group in decided.groups for number in group.members}
    singletons, episodes, kept = {}, {}, 0
    for number, role in enumerate(seen.roles):
        if number in decided.singletons and role is MemoryRole.SINGLETON:
            kept += 1
        elif number in decided.singletons:
            singletons[seen.id(number)] = seen.revisions[number]
        elif role is MemoryRole.SINGLETON and number not in merged:
            episodes[seen.id(number)] = seen.revisions[number]
    return _Labels(singletons, episodes, kept)


def _standings(space_id: SpaceId, labels: _Labels) -> list[SetStanding]:
    return [
        SetStanding(
            space_id=space_id,
            revisions=tuple(revisions.items()),
            state=MemoryState.ACTIVE,
            role=role,
            superseded_by=None,
        )
        for revisions, role in (
            (labels.singletons, MemoryRole.SINGLETON),
            (labels.episodes, MemoryRole.EPISODE),
        )
        if revisions
    ]


async def _still_true(
    store: TenantStore, space_id: SpaceId, merges: Sequence[_Merge], labels: _Labels
) -> tuple[list[_Merge], _Labels]:
    """What rests on revisions that are still the present ones."""
    expected = {**labels.singletons, **labels.episodes}
    for merge in merges:
        expected |= merge.revisions
    read = await _read_again(store, list(expected), space_id)
    moved = {each for each, revision in expected.items() if each not in read or read[each].revision != revision}
    return (
        [merge for merge in merges if moved.isdisjoint(merge.revisions)],
        _Labels(_left(labels.singletons, moved), _left(labels.episodes, moved), labels.kept),
    )


def _left(revisions: Mapping[MemoryId, int], moved: set[MemoryId]) -> dict[MemoryId, int]:
    return {memory_id: revision for memory_id, revision in revisions.items() if memory_id not in moved}


async def _read_again(store: TenantStore, ids: Sequence[MemoryId], space_id: SpaceId) -> dict[MemoryId, Memory]:
    """These memories as they are now, read some at a time."""
    found: dict[MemoryId, Memory] = {}
    for some in _parts(ids, _PAGE):
        found |= await store.get_memories(some, frozenset({space_id}))
    return found


def _is_as_seen(seen: _Seen, number: int, read: Mapping[MemoryId, Memory]) -> bool:
    memory = read.get(seen.id(number))
    return memory is not None and memory.revision == seen.revisions[number]


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
