"""Prototypes and the sources behind them: found, and taken apart."""

from collections.abc import Sequence

from polymem.domain.model import Memory, MemoryId, MemoryRole, MemoryState
from polymem.ports.changes import Change, DeleteMemory, SetStanding
from polymem.ports.storage import TenantStore

_AS_WRITTEN = 1


async def prototype_behind(store: TenantStore, memory: Memory) -> Memory | None:
    """The prototype that stands for the memory, or that it is; None when it is neither."""
    if memory.role is MemoryRole.PROTOTYPE:
        return memory
    if memory.state is not MemoryState.ARCHIVED or memory.superseded_by is None:
        return None
    found = await store.get_memories([memory.superseded_by], frozenset({memory.space_id}))
    prototype = found.get(memory.superseded_by)
    if prototype is None or prototype.role is not MemoryRole.PROTOTYPE or memory.id not in prototype.derived_from:
        return None
    return prototype


async def sources_of(store: TenantStore, prototype: Memory) -> tuple[Memory, ...]:
    """The archived memories that a prototype stands for, in order of time; those that are gone are left out."""
    found = await store.get_memories(prototype.derived_from, frozenset({prototype.space_id}))
    return tuple(
        found[each]
        for each in prototype.derived_from
        if each in found and found[each].superseded_by == prototype.id and found[each].state is MemoryState.ARCHIVED
    )


def taking_apart(prototype: Memory, sources: Sequence[Memory]) -> tuple[Change, ...]:
    """The changes after which these sources are active again and the prototype is gone, if nobody touched any of them.

    A prototype that a client has edited stays, as an episode: its text is the client's own by now. What replaced the
    prototype replaces its sources.
    """
    revisions = tuple((each.id, each.revision) for each in sources)
    changes: list[Change] = [
        # First the guard that the prototype still is what it was: a deletion has none.
        SetStanding(
            space_id=prototype.space_id,
            revisions=((prototype.id, prototype.revision),),
            state=prototype.state,
            role=MemoryRole.EPISODE,
            superseded_by=prototype.superseded_by,
        )
    ]
    if revisions:
        changes.append(
            SetStanding(
                space_id=prototype.space_id,
                revisions=revisions,
                state=MemoryState.ACTIVE,
                role=MemoryRole.EPISODE,
                superseded_by=prototype.superseded_by,
            )
        )
    if not is_edited(prototype):
        changes.append(DeleteMemory(memory_id=prototype.id, spaces=frozenset({prototype.space_id})))
    return tuple(changes)


def is_edited(prototype: Memory) -> bool:
    """True when a client has changed it since it was made."""
    return prototype.version > _AS_WRITTEN


def without(sources: Sequence[Memory], memory_id: MemoryId) -> tuple[Memory, ...]:
    """The sources but one."""
    return tuple(each for each in sources if each.id != memory_id)
