"""Turns as atoms in a storage of their own, with recollection and feedback over them, as a server runs both."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.recall.dataset import History, LabTurn
from bench.recall.lab_engine import LabClock, LabEngine, open_engine
from bench.recall.memories import EPOCH, memory, position_of
from polymem.domain.concepts import concept_keys, pairs_within
from polymem.domain.keyphrases import keyphrases
from polymem.domain.learning import WRITE_RATE
from polymem.domain.model import Call, Memory, MemoryId, MemoryType, SpaceId
from polymem.domain.query import MemoryFilter
from polymem.engine.access import Access
from polymem.engine.associate import Associate
from polymem.engine.feedback import Feedback
from polymem.engine.keys import Keys
from polymem.engine.recollect import Recollect
from polymem.engine.requests import NewFeedback, Recollection, RecollectRequest
from polymem.ports import changes
from polymem.ports.inference import Embedder
from polymem.ports.storage import Storage, TenantStore
from polymem.storage.sqlite.storage import SqliteStorage

SECRET: Final = "pm_learning-bench-0000"  # noqa: S105 - of a storage that lives as long as one run
DEPTH: Final = 50
_BATCH: Final = 64


class LabIds:
    """Ids that are the same in every run."""

    def __init__(self) -> None:
        self._given = 0

    def new_id(self) -> str:
        """The next id."""
        self._given += 1
        return f"018f0000-00ff-7000-8000-{self._given:012x}"

    def new_uuid4(self) -> str:
        """The next id; nothing here asks for randomness."""
        return self.new_id()

    def new_secret(self) -> str:
        """The next id; the one secret of a run is given."""
        return self.new_id()


@dataclass(frozen=True, slots=True)
class World:
    """One storage with all that a run asks of it."""

    storage: Storage
    recollect: Recollect
    feedback: Feedback
    call: Call
    history: History

    @property
    def space_id(self) -> SpaceId:
        """Where the atoms stand."""
        return self.call.principal.personal_space_id

    async def read(
        self, text: str, *, expands: bool = True, min_relevance: float = 0.0, limit: int = DEPTH
    ) -> Recollection:
        """What is recollected for a question."""
        where = MemoryFilter(spaces=frozenset({self.space_id}))
        request = RecollectRequest(text=text, where=where, limit=limit, min_relevance=min_relevance, expands=expands)
        return await self.recollect.search(self.call, request)

    async def tell(self, turns: Sequence[str], outcome: float, query_concepts: Sequence[str]) -> None:
        """How it went with these turns."""
        if turns:
            ids = tuple(self.atom_of(turn) for turn in turns)
            new = NewFeedback(memory_ids=ids, outcome=outcome, query_concepts=tuple(query_concepts))
            await self.feedback.give(self.call, new)

    async def forget_valences(self) -> None:
        """Every valence is 0 again; associations stay."""
        ids = frozenset(atom_id(place) for place in range(len(self.history.turns)))
        change = changes.MoveValence(memory_ids=ids, spaces=frozenset({self.space_id}), outcome=0.0, rate=1.0)
        await self.storage.tenant(self.call.principal.tenant_id).commit([change], now=EPOCH)

    def turns_of(self, found: Recollection) -> list[str]:
        """The turns of the hits, best first."""
        return [self.history.turns[position_of(hit.memory.id)].id for hit in found.hits]

    def atom_of(self, turn: str) -> MemoryId:
        """The atom of a turn."""
        return atom_id(next(place for place, each in enumerate(self.history.turns) if each.id == turn))


def atom_id(place: int) -> MemoryId:
    """The id of the atom made of the turn at this place."""
    return MemoryId(f"018f0000-0003-7000-8000-{place:012x}")


@asynccontextmanager
async def open_world(directory: Path, history: History, embedder: Embedder) -> AsyncIterator[World]:
    """The world of a fed directory."""
    storage = await SqliteStorage.open(directory)
    try:
        access, clock = Access(storage), LabClock()
        principal = await Keys(storage, clock, LabIds()).authenticate(SECRET)
        recollect = Recollect(storage, embedder, access, Associate(storage, access), clock=clock)
        call = Call(principal=principal, request_id="bench")
        yield World(storage, recollect, Feedback(storage, access, clock), call, history)
    finally:
        await storage.close()


async def feed(directory: Path, history: History, named: Mapping[int, str]) -> None:
    """All turns of the history are stored as atoms with their concepts; `named` gives some one concept more."""
    async with open_engine(directory) as engine:
        keys = Keys(engine.storage, LabClock(), LabIds())
        await keys.first_start(secret=SECRET)
        principal = await keys.authenticate(SECRET)
        atoms = [
            _atom(place, turn, principal.personal_space_id, named.get(place))
            for place, turn in enumerate(history.turns)
        ]
        store = engine.storage.tenant(principal.tenant_id)
        for start in range(0, len(atoms), _BATCH):
            batch = atoms[start : start + _BATCH]
            entries = await engine.indexer.entries(batch)
            puts = [
                changes.PutMemory(memory=each, index=entry) for each, (entry, _) in zip(batch, entries, strict=True)
            ]
            await store.commit([*puts, *(_associations(each) for each in batch)], now=EPOCH)
            for each, (_, needs_more) in zip(batch, entries, strict=True):
                if needs_more:
                    await _complete(engine, each, store)


def copied(base: Path, place: Path) -> Path:
    """A copy of a fed directory that nobody has taught anything."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place)
    return place


def chosen(text: str, share: float) -> bool:
    """True for this share of all texts, the same ones in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < share * (1 << 32)


def _atom(place: int, turn: LabTurn, space_id: SpaceId, named: str | None) -> Memory:
    """The atom of a turn, with the concepts that a write without concepts gets, and perhaps one more."""
    turned = memory(0, place, turn)
    concepts = keyphrases(turn.text) if named is None else (named, *keyphrases(turn.text))
    return replace(
        turned,
        id=atom_id(place),
        space_id=space_id,
        memory_type=MemoryType.INSIGHT,
        session_id=None,
        turn=None,
        version=1,
        concepts=concepts,
    )


def _associations(atom: Memory) -> changes.Associate:
    return changes.Associate(
        space_id=atom.space_id,
        pairs=pairs_within(concept_keys(atom.concepts)),
        rate=WRITE_RATE,
        at=EPOCH,
        because_of=atom.id,
    )


async def _complete(engine: LabEngine, atom: Memory, store: TenantStore) -> None:
    whole = await engine.indexer.embedding(atom)
    change = changes.SetEmbedding(memory_id=atom.id, expected_revision=atom.revision, embedding=whole)
    await store.commit([change], now=EPOCH)
