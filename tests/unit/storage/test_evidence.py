"""Evidence is the same by what is loaded as by the rows, after any changes and for any model."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from polymem.domain.model import ContentType, Memory, MemoryId, MemoryType, ModelIdentity, TenantId, Turn
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageDamaged
from polymem.ports.changes import (
    Applied,
    Change,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    PutMemory,
    SetEmbedding,
    UpdateMemory,
)
from polymem.ports.search import Evidence
from polymem.storage.sqlite import index_records, search, vector_rows, vectors
from polymem.storage.sqlite.evidence import read_evidence
from polymem.storage.sqlite.index_records import Records
from polymem.storage.sqlite.storage import SqliteStorage
from polymem.storage.sqlite.vector_rows import stored_token_counts
from samples import AT, account_of, memory_of

ACCOUNT = account_of("acme")
EVERYWHERE = MemoryFilter(spaces=frozenset({ACCOUNT.space.id}), states=None)
MODEL = ModelIdentity(name="small", revision="1", dimension=16, token_dimension=4)
NEWER = replace(MODEL, revision="2")
ARRAYS = ("token_vectors", "embeddings")
WORDS = tuple(f"word{number}" for number in range(12))
TURNS = (
    (None, None),
    ("s\n1", None),
    ("ses\u0000sion", Turn(role="user", seq=7, content_type=ContentType.TEXT)),
    ("\u5c55\U0001f600", Turn(role="x", seq=0, content_type=ContentType.TEXT)),
)


class Writer:
    """Random changes of one tenant."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.vectors = np.random.default_rng(seed)
        self.revisions: dict[str, int] = {}
        self.made = 0

    def embedding(self) -> Embedding:
        """Of one of two models, with up to three chunks of up to four tokens, or with none."""
        model = self.random.choice((MODEL, MODEL, NEWER))
        chunks = tuple(
            EmbeddedChunk(
                start=10 * place,
                end=10 * place + 9,
                embedding=self.vectors.standard_normal(model.dimension).astype(np.float32),
                token_vectors=self.vectors.integers(-127, 127, (self.random.randint(0, 4), 4), dtype=np.int8),
            )
            for place in range(self.random.choice((1, 1, 1, 2, 3, 0)))
        )
        return Embedding(model=model, chunks=chunks, is_complete=True)

    def entry(self) -> IndexEntry:
        terms = tuple(self.random.choices(WORDS, weights=range(len(WORDS), 0, -1), k=self.random.randint(0, 20)))
        embedding = self.embedding() if self.random.random() < 0.8 else None
        return IndexEntry(terms=terms, embedding=embedding, traits=self.random.choice((b"", b"\n\x00", b"traits")))

    def put(self) -> Change:
        self.made += 1
        name = f"m{self.made:05}"
        self.revisions[name] = 1
        return PutMemory(memory=self.memory(name), index=self.entry())

    def memory(self, name: str) -> Memory:
        session, turn = self.random.choice(TURNS)
        other = self.random.choice((None, MemoryId("m00001")))
        kept = memory_of(ACCOUNT, name, revision=self.revisions[name])
        kind = self.random.choice(tuple(MemoryType))
        return replace(kept, session_id=session, turn=turn, superseded_by=other, memory_type=kind)

    def change(self, name: str) -> Change:
        """Something happens to the memory."""
        match self.random.choice(("put", "update", "update", "delete", "embed")):
            case "put":
                return self.put()
            case "update":
                self.revisions[name] += 1
                return UpdateMemory(
                    memory=self.memory(name),
                    index=self.entry(),
                    expected_revision=self.revisions[name] - 1,
                    replaced_by=None,
                    reason="test",
                )
            case "delete":
                del self.revisions[name]
                return DeleteMemory(memory_id=MemoryId(name), spaces=frozenset({ACCOUNT.space.id}))
            case _:
                return SetEmbedding(
                    memory_id=MemoryId(name), expected_revision=self.revisions[name], embedding=self.embedding()
                )

    def changes(self) -> list[Change]:
        return [self.change(name) for name in self.random.sample(sorted(self.revisions), 8)]


def plain(found: dict[MemoryId, Evidence]) -> dict[MemoryId, tuple[object, ...]]:
    """All fields of the evidence, in values that compare exactly."""
    return {
        memory_id: (
            *(getattr(each, field.name) for field in fields(Evidence) if field.name not in ARRAYS),
            [tokens.tolist() for tokens in each.token_vectors],
            (each.embeddings.shape, each.embeddings.dtype.str, each.embeddings.tobytes()),
        )
        for memory_id, each in found.items()
    }


async def by_rows(
    storage: SqliteStorage, ids: tuple[MemoryId, ...], model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> dict[MemoryId, tuple[object, ...]]:
    with monkeypatch.context() as patched:
        patched.setattr("polymem.storage.sqlite.vectors.TenantIndex.held", lambda *_: None)
        return plain(await storage.search(ACCOUNT.tenant.id).evidence(ids, model, WORDS))


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_changes_it_is_the_same_by_what_is_loaded_and_by_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    if seed % 2:
        # Rewritten records, dead rows and remembered places are cleared all the time.
        monkeypatch.setattr(index_records, "_WORTH_COMPACTING", 8)
        monkeypatch.setattr(vector_rows, "_WORTH_COMPACTING", 4)
        monkeypatch.setattr(vectors, "_DEAD_WORTH_REBUILDING", 6)
        monkeypatch.setattr(vectors, "_NAMES_KEPT", 4)
    writer = Writer(seed)
    storage = await SqliteStorage.open(tmp_path, owns_directory=False)
    await storage.directory.create_account(ACCOUNT)
    store, index = storage.tenant(ACCOUNT.tenant.id), storage.search(ACCOUNT.tenant.id)
    await store.commit([writer.put() for _ in range(40)], now=AT)
    for _ in range(30):
        assert isinstance(await store.commit(writer.changes(), now=AT), Applied)
        every = tuple(MemoryId(f"m{number:05}") for number in range(writer.made + 2))
        for model in (MODEL, NEWER):
            await index.dense(np.ones(16, dtype=np.float32), model, EVERYWHERE, limit=9)
            await index.lexical(WORDS, EVERYWHERE, limit=9)
            asked = tuple(writer.random.sample(every, 25))
            found = plain(await index.evidence(asked, model, WORDS))
            assert found.keys() == writer.revisions.keys() & set(asked)
            assert found == await by_rows(storage, asked, model, monkeypatch)
    await storage.close()


async def test_what_is_loaded_is_not_read_from_the_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = await SqliteStorage.open(tmp_path, owns_directory=False)
    await storage.directory.create_account(ACCOUNT)
    writer = Writer(1)
    await storage.tenant(ACCOUNT.tenant.id).commit([writer.put() for _ in range(10)], now=AT)
    ids = tuple(MemoryId(name) for name in sorted(writer.revisions))
    index = storage.search(ACCOUNT.tenant.id)
    await index.dense(np.ones(16, dtype=np.float32), MODEL, EVERYWHERE, limit=9)
    expected = await by_rows(storage, ids, MODEL, monkeypatch)

    def fail(*_: object) -> None:
        raise AssertionError("the rows were read")

    monkeypatch.setattr(search, "read_evidence", fail)
    assert plain(await index.evidence(ids, MODEL, WORDS)) == expected
    await storage.close()


class Reading:
    """The way by the rows, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *asked: object) -> object:
        self.count += 1
        return read_evidence(*asked)  # type: ignore[arg-type]  # only passed on


@pytest.mark.parametrize("given", ["nothing loaded", "no room", "no vectors of the model", "another reader at work"])
async def test_it_is_read_from_the_rows_where_the_index_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    reading = Reading()
    monkeypatch.setattr(search, "read_evidence", reading)
    # Of few memories the index is loaded on the way.
    monkeypatch.setattr(vectors, "_FEW_MEMORIES", 0)
    room = 64 if given == "no room" else 1 << 20
    storage = await SqliteStorage.open(tmp_path, owns_directory=False, vector_bytes=room)
    await storage.directory.create_account(ACCOUNT)
    memory = memory_of(ACCOUNT, "m1")
    rows = np.ones((8, 16), dtype=np.float32)
    chunks = tuple(
        EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=np.ones((1, 4), dtype=np.int8)) for row in rows
    )
    entry = IndexEntry(terms=("word1",), embedding=Embedding(model=MODEL, chunks=chunks, is_complete=True))
    await storage.tenant(ACCOUNT.tenant.id).commit([PutMemory(memory=memory, index=entry)], now=AT)
    index = storage.search(ACCOUNT.tenant.id)
    if given != "nothing loaded":
        await index.dense(rows[0], MODEL, EVERYWHERE, limit=9)
    if given == "another reader at work":
        monkeypatch.setattr(vectors, "_LOCK_SECONDS", 0)
        monkeypatch.setattr(vectors.TenantIndex, "held", _while_locked(vectors.TenantIndex.held))
    model = NEWER if given == "no vectors of the model" else MODEL
    found = await index.evidence([memory.id], model, ("word1",))
    assert (found[memory.id].frequencies, reading.count) == ({"word1": 1}, 1)
    assert len(found[memory.id].token_vectors) == (0 if model is NEWER else 8)
    assert await storage.search(TenantId("nobody")).evidence([memory.id], MODEL, ()) == {}
    await storage.close()


def _while_locked(method: Callable[..., object]) -> Callable[..., object]:
    """The method, called while another reader holds the index."""

    def called(index: vectors.TenantIndex, *asked: object) -> object:
        with index._lock:
            return method(index, *asked)

    return called


def test_records_outlive_being_rewritten_and_being_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_records, "_WORTH_COMPACTING", 16)
    random, records, kept = Random(4), Records(), dict[int, bytes]()
    for _ in range(40):
        fresh = random.randint(0, 5)
        records.make_room(len(kept), fresh)
        kept |= dict.fromkeys(range(len(kept), len(kept) + fresh), b"")
        chosen = random.sample(sorted(kept), min(len(kept), 6))
        new = {position: random.randbytes(random.randint(0, 9)) for position in chosen}
        records.write(np.array(chosen, dtype=np.int64), list(new.values()))
        kept |= new
        every = np.arange(len(kept))
        assert records.read(every) == [kept[position] for position in range(len(kept))]
        is_alive = np.array([random.random() < 0.7 for _ in kept], dtype=np.bool_)
        again = Records.unpack(*records.pack(is_alive))
        assert again.read(every) == [kept[place] if is_so else b"" for place, is_so in enumerate(is_alive.tolist())]
    assert records.size_bytes < 4_000


def test_chunks_that_are_cut_short_are_damage() -> None:
    assert stored_token_counts([b"", bytes(8) + b"\x02\x00\x00\x00"]).tolist() == [2]
    with pytest.raises(StorageDamaged):
        stored_token_counts([bytes(11)])
