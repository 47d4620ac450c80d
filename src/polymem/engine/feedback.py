"""Feedback: how it went with what was recalled; memories and associations learn from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from polymem.domain.access import Action
from polymem.domain.concepts import MAX_KEY_CHARACTERS, concept_keys, pairs_between, pairs_within
from polymem.domain.learning import ASSOCIATION_VALENCE_RATE, COACTIVATION_RATE, USE_RATE, VALENCE_RATE
from polymem.domain.limits import check_count, check_label
from polymem.domain.model import Call, Memory, MemoryId, SpaceId
from polymem.engine.access import Access
from polymem.engine.audit import AuditAction, audit
from polymem.engine.commits import claim_of, commit
from polymem.engine.queueing import author_of
from polymem.engine.requests import FeedbackGiven, NewFeedback
from polymem.errors import Conflict, InvalidInput
from polymem.ports.changes import Associate, Associated, Change, MoveValence, Outcome, Valued
from polymem.ports.runtime import Clock
from polymem.ports.storage import Storage

MOST_MEMORIES: Final = 500
MOST_CONCEPTS: Final = 256
# Pairs that one call strengthens: the first ones of all by the alphabet, so that the order of a call's memories does
# not matter.
MOST_PAIRS: Final = 4_096

Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Taught:
    """What one space is taught: pairs of a memory's own concepts, and of the question's with those of its answers."""

    space_id: SpaceId
    within: Pairs
    coactivated: Pairs


class Feedback:
    """Takes outcomes in; concurrent ones all count, in whatever order they come."""

    def __init__(self, storage: Storage, access: Access, clock: Clock) -> None:
        self._storage = storage
        self._access = access
        self._clock = clock

    async def give(self, call: Call, new: NewFeedback) -> FeedbackGiven:
        """The memories and the associations are moved by the outcome; durable when answered.

        Every memory named, wherever the principal may write, moves its valence once by the prediction error. Where the
        outcome is above 0, pairs of its concepts grow. Pairs of one of its concepts with one of the question or one to
        reinforce, and pairs of the latter, always move their valence, and grow as far as the outcome is above 0.
        Unknown ids do not count.
        Raises `InvalidInput`, `TooLarge`, `Forbidden`, `IdempotencyConflict`.
        """
        _check(new)
        spaces = await self._access.allowing(call, Action.WRITE)
        store = self._storage.tenant(call.principal.tenant_id)
        memories = await store.get_memories(sorted(set(new.memory_ids)), spaces)
        taught = _taught(new, tuple(memories.values()))
        now = self._clock.now()
        changes: list[Change] = [
            MoveValence(
                memory_ids=frozenset(MemoryId(each) for each in memories),
                spaces=spaces,
                outcome=new.outcome,
                rate=VALENCE_RATE,
            )
        ]
        gain = max(0.0, new.outcome)
        changes += [
            Associate(
                space_id=each.space_id,
                pairs=each.coactivated,
                rate=COACTIVATION_RATE * gain,
                at=now,
                outcome=new.outcome,
                valence_rate=ASSOCIATION_VALENCE_RATE,
            )
            for each in taught
        ]
        changes.append(audit(author_of(call), AuditAction.GIVE_FEEDBACK, _target(memories), at=now))
        if gain > 0.0:
            changes += [
                Associate(space_id=each.space_id, pairs=each.within, rate=USE_RATE * gain, at=now) for each in taught
            ]
        result = await commit(store, changes, now=now, claim=claim_of(call))
        return _given(result.outcomes)


def _check(new: NewFeedback) -> None:
    check_count("atom_ids", len(new.memory_ids), most=MOST_MEMORIES)
    if not math.isfinite(new.outcome) or not -1.0 <= new.outcome <= 1.0:
        raise InvalidInput("outcome", "must be from -1 to 1")
    for field, concepts in (("concepts", new.concepts), ("query_concepts", new.query_concepts)):
        check_count(field, len(concepts), most=MOST_CONCEPTS)
        for concept in concepts:
            check_label(field, concept, max_characters=MAX_KEY_CHARACTERS)


def _taught(new: NewFeedback, memories: Sequence[Memory]) -> tuple[_Taught, ...]:
    """What each space with one of the memories is taught, by space id."""
    reinforced = concept_keys(new.concepts)
    asked = concept_keys(new.query_concepts)
    within: dict[SpaceId, Pairs] = {}
    coactivated: dict[SpaceId, Pairs] = {}
    for memory in memories:
        keys = concept_keys(memory.concepts)
        within[memory.space_id] = within.get(memory.space_id, frozenset()) | pairs_within(keys)
        pairs = pairs_between(asked, keys) | pairs_between(reinforced, keys) | pairs_within(reinforced)
        coactivated[memory.space_id] = coactivated.get(memory.space_id, frozenset()) | pairs
    return tuple(
        _Taught(space_id, _bounded(within[space_id] - coactivated[space_id]), _bounded(coactivated[space_id]))
        for space_id in sorted(within)
    )


def _bounded(pairs: Pairs) -> Pairs:
    return pairs if len(pairs) <= MOST_PAIRS else frozenset(sorted(pairs)[:MOST_PAIRS])


def _target(memories: Mapping[MemoryId, Memory]) -> str:
    """What the audit log names: the first of the memories, and how many there were."""
    return f"{min(memories, default='')} of {len(memories)}"


def _given(outcomes: Sequence[Outcome]) -> FeedbackGiven:
    """What the outcomes of the commit, or of the one that a retry repeats, say: of valences, then of co-activation."""
    match outcomes[0]:
        case Valued(count=count, valence_sum=valence_sum):
            coactivated = takewhile(lambda outcome: isinstance(outcome, Associated), outcomes[1:])
            return FeedbackGiven(
                updated=count,
                average_valence=valence_sum / count if count else 0.0,
                coactivated=sum(outcome.count for outcome in coactivated if isinstance(outcome, Associated)),
            )
        case _:
            raise Conflict("this idempotency key did other work before")
