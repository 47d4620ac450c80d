"""New memories as changes to commit: rows, index entries, and the jobs that finish the index.

Nothing is stored here, and the model is asked before any transaction begins.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime

from polymem.domain.concepts import concept_keys, external_ref_identity, pairs_within
from polymem.domain.learning import WRITE_RATE
from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryState, MemoryType, SpaceId, Turn
from polymem.domain.turns import number, turn_identity
from polymem.engine.audit import AuditAction, audit
from polymem.engine.indexing import Indexer
from polymem.engine.queueing import Author, embed_job
from polymem.engine.requests import NewAtom, NewMemory, NewTurn
from polymem.ports.changes import AddJob, Associate, Change, IndexEntry, PutMemory, Supersede
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """A text that may be kept, its space, and the concepts it is found by."""

    new: NewAtom
    space_id: SpaceId
    concepts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedAtom:
    """An atom with all that the model gives it, waiting for its importance."""

    new: NewAtom
    memory: Memory
    entry: IndexEntry
    needs_job: bool

    @property
    def put(self) -> PutMemory:
        """The change that stores it, once for its reference; without one, or others to supersede, unless repeated."""
        ref = self.new.external_ref
        return PutMemory(
            memory=self.memory,
            index=self.entry,
            identity=None if ref is None else external_ref_identity(ref),
            unless_repeated=ref is None and not self.new.supersedes,
        )


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

    async def atoms(self, author: Author, atoms: Sequence[Atom], *, now: datetime) -> tuple[DraftedAtom, ...]:
        """The atoms as memories of version 1, with their index entries; their importance is still to be gauged."""
        memories = tuple(self._atom_memory(author, atom, now=now) for atom in atoms)
        indexed = await self._indexer.entries(memories)
        return tuple(
            DraftedAtom(new=atom.new, memory=memory, entry=entry, needs_job=needs_job)
            for atom, memory, (entry, needs_job) in zip(atoms, memories, indexed, strict=True)
        )

    def following(
        self, author: Author, drafts: Sequence[DraftedAtom], writable: AbstractSet[SpaceId], *, now: datetime
    ) -> tuple[Change, ...]:
        """What is done in the commit that puts these atoms, after that: replaced memories, associations, jobs, audit.

        `writable`: the spaces where memories may be marked as replaced.
        """
        changes: list[Change] = []
        unfinished: dict[SpaceId, list[MemoryId]] = {}
        for draft in drafts:
            changes += _consequences(draft, writable, now=now)
            changes.append(audit(author, AuditAction.CREATE_MEMORY, draft.memory.id, at=now))
            if draft.needs_job:
                unfinished.setdefault(draft.memory.space_id, []).append(draft.memory.id)
        for space_id, ids in unfinished.items():
            changes += self._jobs(author, space_id, ids, now=now)
        return tuple(changes)

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
            # Tags are the words by which its writer wants it found.
            concepts=new.tags,
        )

    def _atom_memory(self, author: Author, atom: Atom, *, now: datetime) -> Memory:
        new = atom.new
        written = NewMemory(content=new.content, metadata=new.metadata, source=new.source, agent_id=new.agent_id)
        return replace(
            self._memory(author, atom.space_id, written, now=now),
            concepts=atom.concepts,
            external_ref=new.external_ref,
            fingerprint=new.fingerprint,
            supersedes=tuple(dict.fromkeys(new.supersedes)),
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


def _consequences(draft: DraftedAtom, writable: AbstractSet[SpaceId], *, now: datetime) -> list[Change]:
    """What follows when the memory is there; nothing of it is done when it is not."""
    memory = draft.memory
    changes: list[Change] = []
    if memory.supersedes:
        changes.append(Supersede(memory_ids=memory.supersedes, by=memory.id, spaces=frozenset(writable)))
    pairs = pairs_within(concept_keys(memory.concepts))
    if pairs:
        changes.append(Associate(space_id=memory.space_id, pairs=pairs, rate=WRITE_RATE, at=now, because_of=memory.id))
    return changes


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
