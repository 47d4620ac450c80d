"""New memories as changes to commit: rows, index entries, and the jobs that finish the index.

Nothing is stored here, and the model is asked before any transaction begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryState, MemoryType, SpaceId, Turn
from polymem.domain.turns import turn_identity
from polymem.engine.audit import AuditAction, audit
from polymem.engine.indexing import Indexer
from polymem.engine.queueing import Author, embed_job
from polymem.engine.requests import NewMemory, NewTurn
from polymem.ports.runtime import Ids
from polymem.ports.storage import AddJob, Change, PutMemory


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTurn:
    """A turn with the number and time it is stored under; `turn.seq` still tells what the client gave."""

    turn: NewTurn
    seq: int
    created_at: datetime


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
        return await self._indexed(author, space_id, memories, [None] * len(memories), entries, now=now)

    async def turns(
        self, author: Author, conversation: Conversation, placed: Sequence[PlacedTurn], *, now: datetime
    ) -> Composed:
        """The changes that store these turns, each once however often it is sent.

        A captured turn has version 0 until a client changes it. In smart mode with a model, the job that
        derives facts from the turns joins the embed job in `_jobs`.
        """
        memories = tuple(self._turn_memory(author, conversation, each) for each in placed)
        identities: list[str | None] = [
            turn_identity(
                conversation.space_id, conversation.session_id, each.turn.role, each.turn.content, seq=each.turn.seq
            )
            for each in placed
        ]
        entries = [audit(author, AuditAction.INGEST_TURNS, conversation.session_id, at=now)]
        return await self._indexed(author, conversation.space_id, memories, identities, entries, now=now)

    async def _indexed(
        self,
        author: Author,
        space_id: SpaceId,
        memories: tuple[Memory, ...],
        identities: Sequence[str | None],
        entries: Sequence[Change],
        *,
        now: datetime,
    ) -> Composed:
        indexed = await self._indexer.entries(memories)
        puts = [
            PutMemory(memory=memory, index=entry, identity=identity)
            for memory, (entry, _), identity in zip(memories, indexed, identities, strict=True)
        ]
        unfinished = [memory.id for memory, (_, needs_job) in zip(memories, indexed, strict=True) if needs_job]
        jobs = self._jobs(author, space_id, unfinished, now=now)
        return Composed(memories=memories, changes=(*puts, *jobs, *entries), has_job=bool(jobs))

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

    def _turn_memory(self, author: Author, conversation: Conversation, placed: PlacedTurn) -> Memory:
        turn = placed.turn
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
            turn=Turn(role=turn.role, seq=placed.seq, content_type=turn.content_type),
            created_by=author.user_id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=0,
            revision=1,
            created_at=placed.created_at,
            updated_at=placed.created_at,
        )
