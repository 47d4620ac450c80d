"""What stands for memories that say the same: the text of one, and what is known of all of them.

| of a prototype | is |
|---|---|
| content, created_at, created_by | the head's: the medoid, or the prototype that others join |
| concepts | those of all, by how many have them, then in the order of time; `MOST_CONCEPTS` at most |
| metadata | the head's, and keys that only others have and all of these alike, within the limits |
| tags | the head's, then those of the others in order of time, `MAX_TAGS` at most |
| importance | the highest |
| valence | the mean of all; of one that is joined, each of its sources counts |
| agent, source, session | what all agree on, else none |
| updated_at | the latest |
| derived_from | its sources in order of time |
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from polymem.domain.concepts import concept_key
from polymem.domain.limits import MAX_TAGS, check_json
from polymem.domain.model import (
    JsonValue,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
)
from polymem.errors import InvalidInput

MOST_CONCEPTS: Final = 32
MOST_SUPERSEDED: Final = 32

Value = TypeVar("Value")


def prototype_of(memory_id: MemoryId, head: Memory, members: Sequence[Memory]) -> Memory:
    """The new memory that stands for the members, one of which is the head; they stand in order of time."""
    return Memory(
        id=memory_id,
        space_id=head.space_id,
        content=head.content,
        memory_type=MemoryType.INSIGHT,
        state=MemoryState.ACTIVE,
        tags=_tags(head, members),
        metadata=_metadata(head, members),
        source=_agreed([each.source for each in members]),
        agent_id=_agreed([each.agent_id for each in members]),
        session_id=_agreed([each.session_id for each in members]),
        turn=None,
        created_by=head.created_by,
        updated_by=None,
        superseded_by=None,
        derived_from=tuple(each.id for each in members),
        version=1,
        revision=1,
        created_at=head.created_at,
        updated_at=_latest(members),
        role=MemoryRole.PROTOTYPE,
        concepts=_concepts(members),
        importance=max(each.importance for each in members),
        valence=sum(each.valence for each in members) / len(members),
        supersedes=_superseded(members),
    )


def joined(prototype: Memory, members: Sequence[Memory]) -> Memory:
    """The prototype when these stand behind it, too; its valence is moved by `joining_rate`, not here.

    The agent, source and session stay where the newcomers agree. Its revision is one higher, its version the same.
    """
    every = [prototype, *members]
    return replace(
        prototype,
        tags=_tags(prototype, members),
        metadata=_metadata(prototype, members),
        source=_agreed([each.source for each in every]),
        agent_id=_agreed([each.agent_id for each in every]),
        session_id=_agreed([each.session_id for each in every]),
        derived_from=(*prototype.derived_from, *(each.id for each in members)),
        concepts=_concepts(every),
        importance=max(each.importance for each in every),
        supersedes=_superseded(every),
        revision=prototype.revision + 1,
    )


def joining_rate(prototype: Memory, newcomers: int) -> float:
    """How far newcomers move the valence of a prototype towards their mean, so that each source counts alike."""
    return newcomers / (len(prototype.derived_from) + newcomers)


def _metadata(head: Memory, members: Sequence[Memory]) -> JsonValue:
    """The head's, and what only others say; of them nobody may say otherwise. What would be too much is left out."""
    if head.metadata is not None and not isinstance(head.metadata, Mapping):
        return head.metadata
    merged = dict(head.metadata or {})
    found: dict[str, list[JsonValue]] = {}
    for each in members:
        if isinstance(each.metadata, Mapping):
            for key, value in each.metadata.items():
                found.setdefault(key, []).append(value)
    for key, values in found.items():
        if key not in merged and all(value == values[0] for value in values):
            larger = {**merged, key: values[0]}
            try:
                check_json("metadata", larger)
            except InvalidInput:
                continue
            merged = larger
    return merged or head.metadata


def _tags(head: Memory, members: Sequence[Memory]) -> tuple[str, ...]:
    every = dict.fromkeys([*head.tags, *(tag for each in members for tag in each.tags)])
    return tuple(every)[:MAX_TAGS]


def _concepts(memories: Sequence[Memory]) -> tuple[str, ...]:
    """Each by its first spelling, those that most have first."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for each in memories:
        counts.update({concept_key(concept) for concept in each.concepts})
        for concept in each.concepts:
            spelled.setdefault(concept_key(concept), concept)
    order = {key: place for place, key in enumerate(spelled)}
    ranked = sorted(spelled, key=lambda key: (-counts[key], order[key]))
    return tuple(spelled[key] for key in ranked[:MOST_CONCEPTS])


def _superseded(memories: Sequence[Memory]) -> tuple[MemoryId, ...]:
    return tuple(dict.fromkeys(old for each in memories for old in each.supersedes))[:MOST_SUPERSEDED]


def _latest(memories: Sequence[Memory]) -> datetime:
    return max(each.updated_at for each in memories)


def _agreed(values: Sequence[Value]) -> Value | None:
    """What all say, or None."""
    return values[0] if all(value == values[0] for value in values) else None
