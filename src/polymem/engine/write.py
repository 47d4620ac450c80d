"""Memories written, changed and deleted by a client, one call at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from polymem.domain.access import Action
from polymem.domain.keyphrases import concepts_after
from polymem.domain.limits import MAX_BATCH, check_count
from polymem.domain.model import Call, Memory, MemoryId, MemoryRole, MemoryState, MemoryType, Scope, SpaceId
from polymem.engine.access import Access
from polymem.engine.audit import AuditAction, audit
from polymem.engine.checks import check_patch, checked_memory
from polymem.engine.commits import claim_of, commit, commit_guarded
from polymem.engine.compose import Compose
from polymem.engine.indexing import Indexer
from polymem.engine.prototypes import prototype_behind, sources_of, taking_apart, without
from polymem.engine.queueing import author_of, embed_job
from polymem.engine.requests import MemoryPatch, NewMemory, Written
from polymem.errors import Conflict, NotFound, VersionConflict
from polymem.ports.changes import (
    AddJob,
    AlreadyDeleted,
    Applied,
    Change,
    Deleted,
    DeleteMemory,
    FenceLost,
    IndexEntry,
    Missing,
    Outcome,
    Replayed,
    RevisionMoved,
    SessionMoved,
    Stored,
    UpdateMemory,
)
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

MAX_UPDATE_TRIES = 8
# Taking a large text out of the index costs seconds; other writes pass between the commits.
_DELETES_PER_COMMIT = 50
_NEVER_A_REVISION = -1


class Write:
    """Changes that a client makes to memories; every answer means that the change is durable and findable."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        indexer: Indexer,
        compose: Compose,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._access = access
        self._indexer = indexer
        self._compose = compose
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def memory(self, call: Call, new: NewMemory) -> Written:
        """The text is kept, word for word. A retry under the same idempotency key gets what the first call wrote.

        Raises `InvalidInput`, `TooLarge`, `Forbidden`, `NotFound` for an unknown space, `QuotaExceeded`,
        `IdempotencyConflict`.
        """
        checked = checked_memory(new)
        space_id = await self._access.writable(call, new.space_id)
        now = self._clock.now()
        composed = await self._compose.memories(author_of(call), space_id, [checked], now=now)
        (memory,) = composed.memories
        store = self._storage.tenant(call.principal.tenant_id)
        result = await commit(
            store,
            composed.changes,
            now=now,
            claim=claim_of(call),
            max_memories=call.principal.plan.max_memories,
        )
        if isinstance(result, Replayed):
            return await self._written_before(call, memory, result.outcomes)
        if composed.has_job:
            self._wake()
        return Written(memory=memory, is_new=True)

    async def _written_before(self, call: Call, memory: Memory, outcomes: Sequence[Outcome]) -> Written:
        """What the first call wrote, as it is now; as it was asked for when it has been deleted since."""
        first = outcomes[0]
        if not isinstance(first, Stored):
            raise Conflict("this idempotency key did other work before")
        stored_id = MemoryId(first.id)
        store = self._storage.tenant(call.principal.tenant_id)
        present = await store.get_memories([stored_id], frozenset({memory.space_id}))
        return Written(memory=present.get(stored_id, replace(memory, id=stored_id)), is_new=False)

    async def update(self, call: Call, memory_id: MemoryId, patch: MemoryPatch) -> Memory:
        """The memory as it is now: its version one higher, or untouched when the patch names nothing.

        The model runs outside any transaction; when another change came first, the patch is applied to that.
        The answer shows the memory, so the key needs the scope to read beside the one to write.
        Raises `NotFound`, `Forbidden`, `InvalidInput`, `TooLarge`, `VersionConflict` when `expected_version` is
        not the present one, `Conflict` when others keep changing it, `IdempotencyConflict`.
        """
        check_patch(patch)
        self._access.require(call, Scope.READ)
        for _ in range(MAX_UPDATE_TRIES):
            memory = await self._find(call, memory_id, Action.WRITE)
            if patch.expected_version is not None and patch.expected_version != memory.version:
                return await self._replayed_update(call, memory, expected=patch.expected_version)
            if patch.content is None and patch.tags is None and patch.metadata is None:
                return memory
            changed = _patched(memory, patch, now=self._clock.now())
            updated = await self._try_update(call, memory, changed)
            if updated is not None:
                return updated
        raise Conflict("the memory keeps changing; try again")

    async def _try_update(self, call: Call, memory: Memory, changed: Memory) -> Memory | None:
        """The memory after the commit, or None when another change came first."""
        author = author_of(call)
        now = self._clock.now()
        entry, needs_job = await self._indexer.entry(changed)
        changes: list[Change] = [
            UpdateMemory(
                memory=changed,
                index=entry,
                expected_revision=memory.revision,
                replaced_by=changed.updated_by,
                reason="update",
            ),
            audit(author, AuditAction.UPDATE_MEMORY, memory.id, at=now),
        ]
        if needs_job:
            changes.append(AddJob(job=embed_job(self._ids, author, memory.space_id, [memory.id], now=now)))
        store = self._storage.tenant(call.principal.tenant_id)
        result = await commit_guarded(store, changes, now=now, claim=claim_of(call))
        match result:
            case Applied(outcomes=outcomes):
                if isinstance(outcomes[0], Missing):
                    raise NotFound("memory", memory.id)
                if needs_job:
                    self._wake()
                return changed
            case Replayed():
                return await self._find(call, memory.id, Action.WRITE)
            case RevisionMoved() | FenceLost() | SessionMoved():
                return None
            case _ as never:
                assert_never(never)

    async def _replayed_update(self, call: Call, memory: Memory, *, expected: int) -> Memory:
        """The memory, when this very call did its update before. Raises `VersionConflict` otherwise.

        The storage looks at the claim first; the guard is one that never holds, so nothing is changed.
        """
        claim = claim_of(call)
        if claim is not None:
            probe = UpdateMemory(
                memory=memory,
                index=IndexEntry(terms=(), embedding=None),
                expected_revision=_NEVER_A_REVISION,
                replaced_by=None,
                reason="update",
            )
            store = self._storage.tenant(call.principal.tenant_id)
            if isinstance(await commit_guarded(store, [probe], now=self._clock.now(), claim=claim), Replayed):
                return await self._find(call, memory.id, Action.WRITE)
        raise VersionConflict(expected, memory.version)

    async def delete(self, call: Call, memory_id: MemoryId) -> Deleted | AlreadyDeleted:
        """The memory is gone for good, with all that was made of it.

        A prototype goes with its sources. With a source goes the prototype that speaks for it, and the other sources
        are active again. Raises `NotFound` when there never was one, `Forbidden`, `Conflict` when others keep changing
        what belongs to it.
        """
        store = self._storage.tenant(call.principal.tenant_id)
        memory = await self._access.find(call, memory_id, Action.DELETE)
        if memory is None:
            spaces = await self._access.allowing(call, Action.DELETE)
            if await store.is_deleted(memory_id, spaces):
                return AlreadyDeleted(memory_id)
            raise NotFound("memory", memory_id)
        if _may_be_consolidated(memory) and await self._delete_consolidated(call, memory):
            return Deleted(memory_id)
        now = self._clock.now()
        result = await commit(store, self._deletion(call, memory, now=now), now=now, claim=claim_of(call))
        return AlreadyDeleted(memory_id) if isinstance(result.outcomes[0], AlreadyDeleted) else Deleted(memory_id)

    async def _delete_consolidated(self, call: Call, memory: Memory) -> bool:
        """The memory, a prototype or the source of one, is gone with what belongs to it; False when it is neither.

        Of a prototype the sources go first: after a failure in between, what is left is reached by deleting it again.
        """
        store = self._storage.tenant(call.principal.tenant_id)
        spaces = frozenset({memory.space_id})
        for _ in range(MAX_UPDATE_TRIES):
            present = (await store.get_memories([memory.id], spaces)).get(memory.id)
            prototype = None if present is None else await prototype_behind(store, present)
            if present is None or prototype is None:
                return False
            sources = await sources_of(store, prototype)
            now = self._clock.now()
            if prototype.id == present.id:
                for start in range(0, len(sources), _DELETES_PER_COMMIT):
                    some = sources[start : start + _DELETES_PER_COMMIT]
                    changes = [change for each in some for change in self._deletion(call, each, now=now)]
                    await commit(store, changes, now=now)
                await commit(store, self._deletion(call, present, now=now), now=now)
                return True
            changes = [
                *self._deletion(call, present, now=now),
                *taking_apart(prototype, without(sources, present.id)),
            ]
            if isinstance(await commit_guarded(store, changes, now=now), Applied):
                return True
        raise Conflict("the memories keep changing; try again")

    async def delete_many(self, call: Call, memory_ids: Sequence[MemoryId]) -> int:
        """How many of these memories were there and are gone now; unknown and already deleted ones do not count.

        Committed in parts: after a failure in between, a retry does the rest.
        """
        check_count("ids", len(memory_ids), most=MAX_BATCH)
        spaces = await self._access.allowing(call, Action.DELETE)
        store = self._storage.tenant(call.principal.tenant_id)
        wanted = list(dict.fromkeys(memory_ids))
        deleted = 0
        for part, start in enumerate(range(0, len(wanted), _DELETES_PER_COMMIT)):
            ids = wanted[start : start + _DELETES_PER_COMMIT]
            now = self._clock.now()
            present = await store.get_memories(ids, spaces)
            for memory in [each for each in present.values() if _may_be_consolidated(each)]:
                if await self._delete_consolidated(call, memory):
                    del present[memory.id]
                    deleted += 1
            changes = [change for memory in present.values() for change in self._deletion(call, memory, now=now)]
            result = await commit(store, changes, now=now, claim=claim_of(call, part))
            deleted += sum(isinstance(outcome, Deleted) for outcome in result.outcomes)
        return deleted

    def _deletion(self, call: Call, memory: Memory, *, now: datetime) -> tuple[Change, ...]:
        """The changes that delete one memory; a captured turn never comes back when its session is sent again."""
        return (
            DeleteMemory(
                memory_id=memory.id,
                spaces=frozenset[SpaceId]({memory.space_id}),
                remembers_identity=memory.memory_type is MemoryType.SESSION,
            ),
            audit(author_of(call), AuditAction.DELETE_MEMORY, memory.id, at=now),
        )

    async def _find(self, call: Call, memory_id: MemoryId, action: Action) -> Memory:
        memory = await self._access.find(call, memory_id, action)
        if memory is None:
            raise NotFound("memory", memory_id)
        return memory


def _may_be_consolidated(memory: Memory) -> bool:
    """False when it surely is neither a prototype nor the source of one."""
    return memory.role is MemoryRole.PROTOTYPE or memory.state is MemoryState.ARCHIVED


def _patched(memory: Memory, patch: MemoryPatch, *, now: datetime) -> Memory:
    """The memory after the patch; its concepts follow the tags they were made of, or the text they stood in."""
    concepts = memory.concepts
    if memory.concepts == memory.tags:
        concepts = memory.tags if patch.tags is None else patch.tags
    elif patch.content is not None:
        concepts = concepts_after(memory.concepts, memory.content, patch.content)
    return replace(
        memory,
        concepts=concepts,
        content=memory.content if patch.content is None else patch.content,
        tags=memory.tags if patch.tags is None else patch.tags,
        metadata=memory.metadata if patch.metadata is None else patch.metadata,
        updated_by=patch.updated_by,
        version=memory.version + 1,
        revision=memory.revision + 1,
        updated_at=max(now, memory.updated_at),
    )
