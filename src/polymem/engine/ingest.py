"""Conversations captured turn by turn, each turn once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar
from weakref import WeakValueDictionary

from polymem.domain.model import Call, ContentType, MemoryId, SpaceId, TenantId
from polymem.domain.turns import moments, strip_recalled, strip_recalled_json
from polymem.engine.access import Access
from polymem.engine.checks import checked_turns
from polymem.engine.commits import claim_of, commit_turns
from polymem.engine.compose import Compose, Composed, Conversation, DraftedTurns, TimedTurn, identities_of
from polymem.engine.queueing import Author, author_of
from polymem.engine.requests import Ingested, NewTurn, NewTurns
from polymem.errors import Unavailable
from polymem.ports.changes import Applied, Replayed, SessionEnd, SessionMoved, Stored
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

TURNS_PER_COMMIT = 200
BYTES_PER_COMMIT = 1_000_000
# Checking and cleaning more turns than this is felt on the event loop.
TURNS_AT_ONCE = 200
# How often turns are numbered anew because another process went before.
MOST_NUMBERINGS = 20

Result = TypeVar("Result")


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
        self._endings: WeakValueDictionary[tuple[TenantId, SpaceId, str], asyncio.Lock] = WeakValueDictionary()

    async def messages(self, call: Call, new: NewTurns) -> Ingested:
        """Every turn is durable, once, in order; a retry after a failure in between stores only what is missing.

        Blocks of recalled memories are cut out of the turns, and turns left empty are skipped. A turn that a
        user deleted stays deleted. Turns without a seq continue the session's. Committed in parts of
        `TURNS_PER_COMMIT` and `BYTES_PER_COMMIT`, each whole or not at all. Raises `InvalidInput`, `TooLarge`,
        `Forbidden`, `NotFound` for an unknown space, `QuotaExceeded` (earlier parts stay), `IdempotencyConflict`.
        """
        timed = await self._timed(new)
        conversation = Conversation(
            space_id=await self._access.writable(call, new.space_id),
            session_id=new.session_id or self._new_session_id(call),
            agent_id=new.agent_id,
            source=new.source,
            tags=new.tags,
            metadata=new.metadata,
        )
        stored = await self._store(call, conversation, list(batches(timed)))
        return Ingested(
            session_id=conversation.session_id, memory_ids=tuple(stored), duplicates=len(timed) - len(stored)
        )

    async def draft(
        self, author: Author, conversation: Conversation, batch: Sequence[TimedTurn], *, now: datetime
    ) -> DraftedTurns:
        """A batch with all that the model gives its new turns. The principal may write to the space."""
        identities = identities_of(conversation, batch)
        known = await self._storage.tenant(author.tenant_id).known_identities(identities)
        return await self._compose.turns(author, conversation, batch, identities, known=known, now=now)

    async def at_the_end(
        self,
        author: Author,
        conversation: Conversation,
        draft: DraftedTurns,
        commit_changes: Callable[[Composed, SessionEnd], Awaitable[Result | SessionMoved]],
    ) -> Result:
        """What `commit_changes` gives for the draft's changes, numbered from the end of its session.

        The end it is given is the guard of its commit; it is called anew, with other numbers, when another process went
        before. Within this process the lock keeps callers from going before each other, which would cost each of them
        a commit. Raises `Unavailable` when others went before `MOST_NUMBERINGS` times.
        """
        space_id, session_id = conversation.space_id, conversation.session_id
        ending = self._endings.setdefault((author.tenant_id, space_id, session_id), asyncio.Lock())
        async with ending:
            last = await self._storage.tenant(author.tenant_id).last_seq(session_id, space_id)
            for _ in range(MOST_NUMBERINGS):
                end = SessionEnd(session_id=session_id, space_id=space_id, last_seq=last)
                result = await commit_changes(draft.numbered(last), end)
                if not isinstance(result, SessionMoved):
                    return result
                last = result.last_seq
        raise Unavailable("too many others write to this session now")

    async def _timed(self, new: NewTurns) -> list[TimedTurn]:
        """The turns checked and cleaned; many of them off the event loop."""
        now = self._clock.now()
        if len(new.turns) <= TURNS_AT_ONCE:
            return _checked_and_cleaned(new, now)
        return await asyncio.to_thread(_checked_and_cleaned, new, now)

    async def _store(
        self, call: Call, conversation: Conversation, parts: Sequence[Sequence[TimedTurn]]
    ) -> list[MemoryId]:
        """The ids of the new turns, in order. While one part is committed, the model reads the next."""
        author = author_of(call)
        stored: list[MemoryId] = []
        drafting: asyncio.Future[DraftedTurns] | None = None
        try:
            for part, batch in enumerate(parts):
                now = self._clock.now()
                draft = await (drafting or self.draft(author, conversation, batch, now=now))
                drafting = None
                if part + 1 < len(parts):
                    drafting = asyncio.ensure_future(self.draft(author, conversation, parts[part + 1], now=now))
                stored.extend(await self._store_part(call, conversation, draft, part))
        finally:
            if drafting is not None:
                drafting.cancel()
                await asyncio.gather(drafting, return_exceptions=True)
        return stored

    async def _store_part(
        self, call: Call, conversation: Conversation, draft: DraftedTurns, part: int
    ) -> list[MemoryId]:
        """The ids of the part's new turns, in order; on a replay, of those the first call stored."""
        store = self._storage.tenant(call.principal.tenant_id)
        claim, most = claim_of(call, part), call.principal.plan.max_memories

        async def commit_part(composed: Composed, ends_at: SessionEnd) -> Applied | Replayed | SessionMoved:
            now = self._clock.now()
            return await commit_turns(store, composed.changes, ends_at=ends_at, now=now, claim=claim, max_memories=most)

        result: Applied | Replayed = await self.at_the_end(author_of(call), conversation, draft, commit_part)
        if draft.has_job:
            self._wake()
        return [MemoryId(each.id) for each in result.outcomes[: len(draft.turns)] if isinstance(each, Stored)]

    def _new_session_id(self, call: Call) -> str:
        """A session of its own; the same one again when the same call is retried."""
        claim = claim_of(call)
        return self._ids.new_id() if claim is None else claim.key.removeprefix("call:")[:32]


def _checked_and_cleaned(new: NewTurns, now: datetime) -> list[TimedTurn]:
    return clean_turns(checked_turns(new).turns, now=now)


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
