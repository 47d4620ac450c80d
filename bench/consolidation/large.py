"""A large domain without an hour of embedding: texts made of parts of real turns, vectors made of theirs.

Each text joins the beginning of one real turn with the end of another; its vectors are those of the two, mixed, with a
little of a direction of its own. A fifth of the atoms say an earlier one again by the rules of `paraphrase`; theirs are
the vectors of what they repeat, turned a little (cosine some .97). So the work is that of real atoms: as many near
neighbours, as many texts to compare. What merges is told, too, but the figures that count are those of `planted`, whose
vectors come from the model.
"""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.consolidation.paraphrase import REWORDINGS, said_again
from bench.consolidation.planting import planted
from bench.consolidation.run import Slept, sleep
from bench.recall.dataset import load
from bench.recall.files import data_files
from bench.recall.lab_engine import LabEngine, account_of, open_engine
from bench.recall.memories import EPOCH, lab_uuid, space_id, tenant_id, user_id
from polymem.domain.model import Memory, MemoryId, MemoryState, MemoryType
from polymem.domain.text import index_terms
from polymem.ports.changes import EmbeddedChunk, Embedding, IndexEntry, PutMemory

_PARTS = 1_200
_REPEATS_EVERY = 5
_PER_COMMIT = 1_000
_OWN_DIRECTION = 0.45
_TURNED = 0.25
_SEED = 11

Rows = NDArray[np.float32]


def print_report(atoms: int) -> float:
    """The figures of a domain of so many atoms are printed; the seconds that its consolidation took."""
    slept, found = asyncio.run(_measure(atoms))
    print(
        f"| {atoms} | {slept.job.result['prototypes_made']} of {atoms // _REPEATS_EVERY} | {slept.job.result['after']}"
        f" | {slept.seconds:.1f} s | {slept.before_mb:.0f} MB | {slept.after_mb:.0f} MB |"
        f" again: {found.job.result['prototypes_made']} in {found.seconds:.1f} s |"
    )
    return slept.seconds


async def _measure(atoms: int) -> tuple[Slept, Slept]:
    with tempfile.TemporaryDirectory() as scratch:
        async with open_engine(Path(scratch) / "data") as engine:
            await engine.storage.directory.create_account(account_of(0))
            await _fill(engine, atoms)
            return await sleep(engine), await sleep(engine)


async def _fill(engine: LabEngine, atoms: int) -> None:
    """So many atoms are stored."""
    history = load(data_files(())[0]).histories[0]
    parts = [atom.content for atom in planted(history, "restated").atoms[:_PARTS]]
    embedded = await engine.embedder.embed_texts(parts, max_chunks=4)
    chunks = [text.chunks for text in embedded]
    chance, noise = random.Random(_SEED), np.random.default_rng(_SEED)  # noqa: S311 - a test's texts, not secrets
    store = engine.storage.tenant(tenant_id(0))
    texts: list[str] = []
    vectors: list[tuple[EmbeddedChunk, ...]] = []
    for start in range(0, atoms, _PER_COMMIT):
        puts = []
        for position in range(start, min(start + _PER_COMMIT, atoms)):
            if position % _REPEATS_EVERY == _REPEATS_EVERY - 1:
                like = chance.randrange(max(0, position - _PER_COMMIT), position)
                text = said_again(texts[like], REWORDINGS, str(position))[1]
                made = tuple(_turned(chunk, noise, _TURNED) for chunk in vectors[like])
            else:
                one, other = chance.sample(range(len(parts)), 2)
                text = _beginning(parts[one]) + " " + _end(parts[other])
                made = _mixed(chunks[one], chunks[other], noise)
            texts.append(text)
            vectors.append(made)
            puts.append(_put(position, text, made, engine))
        await store.commit(puts, now=EPOCH)


def _put(position: int, text: str, chunks: tuple[EmbeddedChunk, ...], engine: LabEngine) -> PutMemory:
    told = EPOCH + timedelta(seconds=position)
    memory = Memory(
        id=MemoryId(lab_uuid(3, 0, position)),
        space_id=space_id(0),
        content=text,
        memory_type=MemoryType.INSIGHT,
        state=MemoryState.ACTIVE,
        tags=(),
        metadata=None,
        source=None,
        agent_id=None,
        session_id=None,
        turn=None,
        created_by=user_id(0),
        updated_by=None,
        superseded_by=None,
        derived_from=(),
        version=1,
        revision=1,
        created_at=told,
        updated_at=told,
    )
    embedding = Embedding(model=engine.embedder.identity, chunks=chunks, is_complete=True)
    return PutMemory(memory=memory, index=IndexEntry(terms=index_terms(memory), embedding=embedding))


def _beginning(text: str) -> str:
    words = text.split()
    return " ".join(words[: max(3, len(words) // 2)])


def _end(text: str) -> str:
    words = text.split()
    return " ".join(words[len(words) // 2 :])


def _mixed(
    some: Sequence[EmbeddedChunk], others: Sequence[EmbeddedChunk], noise: np.random.Generator
) -> tuple[EmbeddedChunk, ...]:
    """The chunks of a text made of halves: half as many as of both, each between two."""
    count = max(1, (len(some) + len(others)) // 2)
    return tuple(
        _turned(_between(some[place % len(some)], others[place % len(others)]), noise, _OWN_DIRECTION)
        for place in range(count)
    )


def _between(one: EmbeddedChunk, other: EmbeddedChunk) -> EmbeddedChunk:
    return EmbeddedChunk(
        start=one.start, end=one.end, embedding=_unit(one.embedding + other.embedding), token_vectors=one.token_vectors
    )


def _turned(chunk: EmbeddedChunk, noise: np.random.Generator, amount: float) -> EmbeddedChunk:
    aside = _unit(noise.standard_normal(chunk.embedding.shape).astype(np.float32))
    return EmbeddedChunk(
        start=chunk.start,
        end=chunk.end,
        embedding=_unit(chunk.embedding + np.float32(amount) * aside),
        token_vectors=chunk.token_vectors,
    )


def _unit(row: Rows) -> Rows:
    unit: Rows = (row / np.linalg.norm(row)).astype(np.float32)
    return unit
