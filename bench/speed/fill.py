"""A data directory with many memories, written through the storage port."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from bench.speed.texts import data_files, pieces
from bench.speed.vectors import Mix, Pieces, embedded, embedding_of, text_of
from polymem.bootstrap import SystemClock, Uuid7Ids
from polymem.domain.model import ContentType, Memory, MemoryId, MemoryState, MemoryType, ModelIdentity, Turn
from polymem.engine.indexing import bare_entry
from polymem.engine.keys import DEFAULT_PLAN, Keys
from polymem.engine.requests import NewSecret
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.changes import PutMemory
from polymem.ports.runtime import Ids
from polymem.ports.storage import Storage
from polymem.storage.sqlite.storage import SqliteStorage

KEYS_FILE = "speed.json"
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_PER_COMMIT = 500
_TURNS_PER_SESSION = 20
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class FillOrder:
    """What to make, and where."""

    directory: Path
    memories: int
    tenants: int
    turn_share: float
    distinct_pieces: int
    data: Path | None
    cache: Path | None
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Makes the memory at each place of a tenant, for any storage.

    The first `turns` are turns of sessions. The plain pieces are taken in turn from number `first_piece` on.
    """

    source: Pieces
    model: ModelIdentity
    chance: np.random.Generator
    account: NewSecret
    turns: int
    ids: Ids
    first_piece: int = 0

    def puts(self, start: int, count: int) -> list[PutMemory]:
        """The changes that store `count` memories from a place on."""
        size = len(self.source.texts)
        pairs = self.chance.integers(0, size, (count, 2))
        shares = self.chance.uniform(0.3, 0.7, count)
        noise = self.chance.standard_normal((count, self.source.embeddings.shape[1]), np.float32)
        made = []
        for row in range(count):
            place = start + row
            is_plain = place < size
            piece = (self.first_piece + place) % size
            first, last = (piece, piece) if is_plain else (int(pairs[row, 0]), int(pairs[row, 1]))
            mix = Mix(first, last, float(shares[row]))
            text = text_of(self.source, mix)
            memory = self._memory(place, text)
            vectors = embedding_of(self.source, mix, text, self.model, noise[row])
            made.append(PutMemory(memory=memory, index=replace(bare_entry(memory), embedding=vectors)))
        return made

    def _memory(self, place: int, text: str) -> Memory:
        is_turn = place < self.turns
        session, seq = divmod(place, _TURNS_PER_SESSION)
        at = _EPOCH + timedelta(minutes=place % 500_000)
        return Memory(
            id=MemoryId(self.ids.new_id()),
            space_id=self.account.user.personal_space_id,
            content=text,
            memory_type=MemoryType.SESSION if is_turn else MemoryType.INSIGHT,
            state=MemoryState.ACTIVE,
            tags=(),
            metadata=None,
            source=None,
            agent_id=None,
            session_id=f"session {session}" if is_turn else None,
            turn=Turn(role=_ROLES[seq % 2], seq=seq, content_type=ContentType.TEXT) if is_turn else None,
            created_by=self.account.user.id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=0 if is_turn else 1,
            revision=1,
            created_at=at,
            updated_at=at,
        )


async def fill(order: FillOrder) -> None:
    """The directory holds the memories and nothing else; what was there before is gone."""
    texts = pieces(data_files(order.data), most=order.distinct_pieces)
    embedder = LocalEmbedder.open(threads=order.threads)
    try:
        source = await embedded(embedder, texts, order.cache)
        shutil.rmtree(order.directory, ignore_errors=True)
        storage = await SqliteStorage.open(order.directory)
        try:
            await _fill(order, storage, source, embedder.identity)
        finally:
            await storage.close()
    finally:
        await embedder.close()
    size = sum(path.stat().st_size for path in order.directory.rglob("*") if path.is_file())
    print(f"{size / 1e6:.0f} MB, {size / order.memories:.0f} bytes a memory")


async def _fill(order: FillOrder, storage: Storage, source: Pieces, model: ModelIdentity) -> None:
    clock, ids, started = SystemClock(), Uuid7Ids(), time.perf_counter()
    keys = Keys(storage, clock, ids)
    accounts = [await keys.create_tenant(name=f"speed {n}", plan=DEFAULT_PLAN) for n in range(order.tenants)]
    share = order.memories // order.tenants
    for number, account in enumerate(accounts):
        chance = np.random.default_rng(number)
        turns = round(share * order.turn_share)
        maker = Maker(source=source, model=model, chance=chance, account=account, turns=turns, ids=ids)
        store = storage.tenant(account.tenant.id)
        for start in range(0, share, _PER_COMMIT):
            await store.commit(maker.puts(start, min(_PER_COMMIT, share - start)), now=clock.now())
    secrets = [account.secret for account in accounts]
    _write_private(order.directory / "key", secrets[0] + "\n")
    _write_private(order.directory / KEYS_FILE, json.dumps({"keys": secrets, "memories": order.memories}))
    seconds = time.perf_counter() - started
    plain = min(share, len(source.texts))
    print(
        f"{share * order.tenants} memories in {order.tenants} tenants in {seconds:.0f} s; of each tenant's {share},"
        f" {plain} are pieces as they are and {share - plain} mixed of two, with jittered vectors"
    )


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
