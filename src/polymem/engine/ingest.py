"""Conversations captured turn by turn, each turn once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from polymem.domain.model import Call, ContentType, MemoryId
from polymem.domain.turns import moments, number, strip_recalled, strip_recalled_json
from polymem.engine.access import Access
from polymem.engine.checks import checked_turns
from polymem.engine.commits import claim_of, commit
from polymem.engine.compose import Compose, Composed, Conversation, PlacedTurn
from polymem.engine.queueing import Author, author_of
from polymem.engine.requests import Ingested, NewTurn, NewTurns
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage, Stored, TenantStore

TURNS_PER_COMMIT = 200
BYTES_PER_COMMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class TimedTurn:
    """A clean turn with the time it is stored under."""

    turn: NewTurn
    at: datetime


class Ingest:
    """Messages of sessions made into memories."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        compose: Compose,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._access = access
        self._compose = compose
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def messages(self, call: Call, new: NewTurns) -> Ingested:
        """Every turn is durable, once, in order; a retry after a failure in between stores only what is missing.

        Blocks of recalled memories are cut out of the turns, and turns left empty are skipped. A turn that a
        user deleted stays deleted. Turns without a seq continue the session's. Committed in parts of
        `TURNS_PER_COMMIT` and `BYTES_PER_COMMIT`, each whole or not at all. Raises `InvalidInput`, `TooLarge`,
        `Forbidden`, `NotFound` for an unknown space, `QuotaExceeded` (earlier parts stay), `IdempotencyConflict`.
        """
        checked = checked_turns(new)
        conversation = Conversation(
            space_id=await self._access.writable(call, new.space_id),
            session_id=new.session_id or self._new_session_id(call),
            agent_id=new.agent_id,
            source=new.source,
            tags=new.tags,
            metadata=new.metadata,
        )
        timed = clean_turns(checked.turns, now=self._clock.now())
        store = self._storage.tenant(call.principal.tenant_id)
        stored: list[MemoryId] = []
        for part, batch in enumerate(batches(timed)):
            stored.extend(await self._store_batch(call, store, conversation, batch, part))
        return Ingested(
            session_id=conversation.session_id, memory_ids=tuple(stored), duplicates=len(timed) - len(stored)
        )

    async def compose_batch(
        self, author: Author, conversation: Conversation, batch: Sequence[TimedTurn], *, now: datetime
    ) -> Composed:
        """The changes that store a batch at the end of its session. The principal may write to the space."""
        last = await self._storage.tenant(author.tenant_id).last_seq(conversation.session_id, conversation.space_id)
        numbers = number([timed.turn.seq for timed in batch], first_free=0 if last is None else last + 1)
        placed = [
            PlacedTurn(turn=timed.turn, seq=seq, created_at=timed.at) for timed, seq in zip(batch, numbers, strict=True)
        ]
        return await self._compose.turns(author, conversation, placed, now=now)

    async def _store_batch(
        self, call: Call, store: TenantStore, conversation: Conversation, batch: Sequence[TimedTurn], part: int
    ) -> list[MemoryId]:
        """The ids of the batch's new turns, in order; on a replay, of those the first call stored."""
        now = self._clock.now()
        composed = await self.compose_batch(author_of(call), conversation, batch, now=now)
        result = await commit(
            store,
            composed.changes,
            now=now,
            claim=claim_of(call, part),
            max_memories=call.principal.plan.max_memories,
        )
        if composed.has_job:
            self._wake()
        return [MemoryId(outcome.id) for outcome in result.outcomes[: len(batch)] if isinstance(outcome, Stored)]

    def _new_session_id(self, call: Call) -> str:
        """A session of its own; the same one again when the same call is retried."""
        claim = claim_of(call)
        return self._ids.new_id() if claim is None else claim.key.removeprefix("call:")[:32]


def batches(timed: Sequence[TimedTurn]) -> Iterator[list[TimedTurn]]:
    """The turns in order, cut so that one commit never holds other writers up for long; the same for a retry."""
    batch: list[TimedTurn] = []
    size = 0
    for each in timed:
        length = len(each.turn.content.encode())
        if batch and (len(batch) == TURNS_PER_COMMIT or size + length > BYTES_PER_COMMIT):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += length
    if batch:
        yield batch


def clean_turns(turns: Sequence[NewTurn], *, now: datetime) -> list[TimedTurn]:
    """The turns without recalled memories in them, those left empty skipped, each with its time."""
    cleaned = [replace(turn, content=_clean(turn)) for turn in turns]
    kept = [turn for turn in cleaned if turn.content.strip()]
    times = moments([turn.created_at for turn in kept], now=now)
    return [TimedTurn(turn, at) for turn, at in zip(kept, times, strict=True)]


def _clean(turn: NewTurn) -> str:
    return strip_recalled_json(turn.content) if turn.content_type is ContentType.JSON else strip_recalled(turn.content)
