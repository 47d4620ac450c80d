"""New memories as changes to commit: rows, index entries, and the jobs that finish the index.

Nothing is stored here, and the model is asked before any transaction begins.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime

from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryState, MemoryType, SpaceId, Turn
from polymem.domain.turns import number, turn_identity
from polymem.engine.audit import AuditAction, audit
from polymem.engine.indexing import Indexer
from polymem.engine.queueing import Author, embed_job
from polymem.engine.requests import NewMemory, NewTurn
from polymem.ports.changes import AddJob, Change, IndexEntry, PutMemory
from polymem.ports.runtime import Ids

_UNNUMBERED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """What to commit: the first changes put `memories`, one each and in order; jobs and audit entries follow."""

    memories: tuple[Memory, ...]
    changes: tuple[Change, ...]
    has_job: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What the turns of one session share."""

    space_id: SpaceId
    session_id: str
    agent_id: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()
    metadata: JsonValue = None


@dataclass(frozen=True, slots=True)
class TimedTurn:
    """A clean turn with the time it is stored under."""

    turn: NewTurn
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedTurns:
    """Turns with all that the model gives them, waiting for their numbers; see `Compose.turns`."""

    turns: tuple[TimedTurn, ...]
    memories: tuple[Memory, ...]
    entries: tuple[IndexEntry, ...]
    identities: tuple[str, ...]
    others: tuple[Change, ...]
    has_job: bool

    def numbered(self, last_seq: int | None) -> Composed:
        """The changes that store the turns at the end of a session whose last turn has this number."""
        numbers = number([each.turn.seq for each in self.turns], first_free=0 if last_seq is None else last_seq + 1)
        memories = tuple(
            replace(memory, turn=_as_stored(each.turn, seq))
            for memory, each, seq in zip(self.memories, self.turns, numbers, strict=True)
        )
        puts = [
            PutMemory(memory=memory, index=entry, identity=identity)
            for memory, entry, identity in zip(memories, self.entries, self.identities, strict=True)
        ]
        return Composed(memories=memories, changes=(*puts, *self.others), has_job=self.has_job)


class Compose:
    """Makes changes of checked input."""

    def __init__(self, indexer: Indexer, ids: Ids) -> None:
        self._indexer = indexer
        self._ids = ids

    async def memories(
        self, author: Author, space_id: SpaceId, news: Sequence[NewMemory], *, now: datetime
    ) -> Composed:
        """The changes that store these memories in a space, as version 1 each."""
        memories = tuple(self._memory(author, space_id, new, now=now) for new in news)
        entries = [audit(author, AuditAction.CREATE_MEMORY, memory.id, at=now) for memory in memories]
        indexed = await self._indexer.entries(memories)
        puts = [PutMemory(memory=memory, index=entry) for memory, (entry, _) in zip(memories, indexed, strict=True)]
        unfinished = [memory.id for memory, (_, needs_job) in zip(memories, indexed, strict=True) if needs_job]
        jobs = self._jobs(author, space_id, unfinished, now=now)
        return Composed(memories=memories, changes=(*puts, *jobs, *entries), has_job=bool(jobs))

    async def turns(
        self,
        author: Author,
        conversation: Conversation,
        timed: Sequence[TimedTurn],
        identities: Sequence[str],
        *,
        known: AbstractSet[str],
        now: datetime,
    ) -> DraftedTurns:
        """These turns with their index entries, to be stored each once however often it is sent.

        The model is not asked for turns whose identity is `known` to be stored, nor twice for one identity; the storage
        has the last word on what is new. A captured turn has version 0 until a client changes it. In smart mode with a
        model, the job that derives facts from the turns joins the embed job in `_jobs`.
        """
        memories = tuple(self._turn_memory(author, conversation, each) for each in timed)
        indexed = await self._indexer.entries(memories, known=_repeated(identities, known))
        unfinished = [memory.id for memory, (_, needs_job) in zip(memories, indexed, strict=True) if needs_job]
        jobs = self._jobs(author, conversation.space_id, unfinished, now=now)
        return DraftedTurns(
            turns=tuple(timed),
            memories=memories,
            entries=tuple(entry for entry, _ in indexed),
            identities=tuple(identities),
            others=(*jobs, audit(author, AuditAction.INGEST_TURNS, conversation.session_id, at=now)),
            has_job=bool(jobs),
        )

    def _jobs(
        self, author: Author, space_id: SpaceId, unfinished: Sequence[MemoryId], *, now: datetime
    ) -> tuple[AddJob, ...]:
        """The jobs that follow from new memories, queued in the same commit as these."""
        if not unfinished:
            return ()
        return (AddJob(job=embed_job(self._ids, author, space_id, unfinished, now=now)),)

    def _memory(self, author: Author, space_id: SpaceId, new: NewMemory, *, now: datetime) -> Memory:
        return Memory(
            id=MemoryId(self._ids.new_id()),
            space_id=space_id,
            content=new.content,
            memory_type=new.memory_type,
            state=MemoryState.ACTIVE,
            tags=new.tags,
            metadata=new.metadata,
            source=new.source,
            agent_id=new.agent_id,
            session_id=new.session_id,
            turn=None,
            created_by=author.user_id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=1,
            revision=1,
            created_at=now if new.created_at is None else new.created_at,
            updated_at=now,
        )

    def _turn_memory(self, author: Author, conversation: Conversation, timed: TimedTurn) -> Memory:
        turn = timed.turn
        return Memory(
            id=MemoryId(self._ids.new_id()),
            space_id=conversation.space_id,
            content=turn.content,
            memory_type=MemoryType.SESSION,
            state=MemoryState.ACTIVE,
            tags=conversation.tags,
            metadata=conversation.metadata,
            source=conversation.source,
            agent_id=conversation.agent_id,
            session_id=conversation.session_id,
            turn=_as_stored(turn, _UNNUMBERED),
            created_by=author.user_id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=0,
            revision=1,
            created_at=timed.at,
            updated_at=timed.at,
        )


def identities_of(conversation: Conversation, timed: Sequence[TimedTurn]) -> tuple[str, ...]:
    """The name under which each turn is stored once."""
    return tuple(
        turn_identity(
            conversation.space_id, conversation.session_id, each.turn.role, each.turn.content, seq=each.turn.seq
        )
        for each in timed
    )


def _repeated(identities: Sequence[str], known: AbstractSet[str]) -> frozenset[int]:
    """The positions of the identities that are known, or stand further before."""
    seen = set(known)
    repeated = []
    for position, identity in enumerate(identities):
        if identity in seen:
            repeated.append(position)
        seen.add(identity)
    return frozenset(repeated)


def _as_stored(turn: NewTurn, seq: int) -> Turn:
    return Turn(role=turn.role, seq=seq, content_type=turn.content_type)
