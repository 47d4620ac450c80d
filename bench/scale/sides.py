"""The two storages, each with an engine of its own over the one model."""

import asyncio
import hashlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from bench.recall.lab_engine import LabClock
from polymem.bootstrap import SystemClock, Uuid7Ids
from polymem.domain.model import Call, Plan, Principal, Scope
from polymem.domain.query import MemoryFilter, RecallPage, RecallRequest
from polymem.engine.access import Access
from polymem.engine.compose import Compose
from polymem.engine.indexing import Indexer
from polymem.engine.keys import DEFAULT_PLAN
from polymem.engine.recall import Recall
from polymem.engine.requests import NewSecret
from polymem.engine.write import Write
from polymem.ports.inference import EmbeddedText, Embedder
from polymem.ports.storage import Storage

SQLITE, POSTGRES = "SQLite", "PostgreSQL"
PAGE = 10
# Within the time that the memories were made at, so that questions of "last week" find some.
ASKED_AT = datetime(2024, 6, 1, 12, tzinfo=UTC)
_PLAN = Plan(name=DEFAULT_PLAN, requests_per_minute=60_000, burst=60_000, max_memories=None)


class CountedIds:
    """Ids that follow from a name: the same for every storage that is filled so, ascending like those of a clock."""

    def __init__(self, name: str) -> None:
        self._seed = hashlib.sha256(name.encode()).digest()
        self._count = 0

    def new_id(self) -> str:
        """The next id."""
        self._count += 1
        return f"018d0000-{self._count >> 16 & 0xFFFF:04x}-7{self._count >> 4 & 0xFFF:03x}-8{self._digest()}"

    def new_secret(self) -> str:
        """A text that looks like a secret."""
        return f"laboratory-{self.new_id()}"

    def new_uuid4(self) -> str:
        """A UUID."""
        return str(uuid.UUID(bytes=hashlib.sha256(self._seed + self.new_id().encode()).digest()[:16], version=4))

    def _digest(self) -> str:
        random_part = hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).hexdigest()
        return f"{self._count & 0xF:x}{random_part[:2]}-{random_part[2:14]}"


class TimedEmbedder:
    """Stands for the model; `seconds` is the time that embedding texts took since it was last set."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.seconds = 0.0

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        """The vectors of each text."""
        started = time.perf_counter()
        found = await self._embedder.embed_texts(texts, max_chunks=max_chunks)
        self.seconds += time.perf_counter() - started
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)


@dataclass(frozen=True, slots=True)
class Side:
    """One storage and the use cases over it."""

    name: str
    storage: Storage
    recall: Recall
    write: Write


def side(name: str, storage: Storage, embedder: Embedder) -> Side:
    """The engine over a storage, nothing remembered of what was asked."""
    access, clock, ids = Access(storage), SystemClock(), Uuid7Ids()
    indexer = Indexer(embedder)
    compose = Compose(indexer, ids)
    write = Write(storage, access, indexer, compose, clock=clock, ids=ids, wake=lambda: None)
    return Side(name, storage, Recall(storage, embedder, access, clock=LabClock()), write)


def timed(embedder: Embedder) -> tuple[TimedEmbedder, Embedder]:
    """The model with its time taken, and the same as the port's type."""
    found = TimedEmbedder(embedder)
    return found, cast(Embedder, found)


def where_of(account: NewSecret) -> MemoryFilter:
    """All that the account holds."""
    return MemoryFilter(spaces=frozenset({account.user.personal_space_id}))


def call_of(account: NewSecret) -> Call:
    """A call by the account's own key."""
    principal = Principal(
        tenant_id=account.tenant.id,
        user_id=account.user.id,
        key_id=account.key.id,
        personal_space_id=account.user.personal_space_id,
        scopes=frozenset(Scope),
        allowed_spaces=None,
        plan=_PLAN,
    )
    return Call(principal=principal, request_id="scale")


async def ask(recall: Recall, account: NewSecret, text: str) -> RecallPage:
    """The first page of what an account holds on a question."""
    request = RecallRequest(text=text, where=where_of(account), limit=PAGE, reference_at=ASKED_AT)
    return await recall.search(call_of(account), request)


@dataclass(slots=True)
class Timings:
    """Wall seconds of each call of one side, and the processor time of this process that they took together."""

    seconds: list[float]
    cpu_seconds: float = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """What runs within counts as one call."""
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu_seconds += time.process_time() - cpu
        self.seconds.append(time.perf_counter() - started)

    def percentile_ms(self, share: int) -> float:
        """The wall time that `share` of 100 calls stay below, in milliseconds."""
        return float(np.percentile(np.array(self.seconds) * 1000, share))

    @property
    def mean_cpu_ms(self) -> float:
        """Processor time of this process for each call, in milliseconds."""
        return self.cpu_seconds / len(self.seconds) * 1000


def timings(sides: Sequence[Side]) -> dict[str, Timings]:
    """Empty timings for each side."""
    return {each.name: Timings([]) for each in sides}


class Dealer:
    """Deals the sides in random order, again and again; every order follows from the seed."""

    def __init__(self, sides: Sequence[Side], seed: int) -> None:
        self._sides = list(sides)
        self._chance = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret

    def deal(self) -> list[Side]:
        """The sides in the next order."""
        self._chance.shuffle(self._sides)
        return list(self._sides)


async def at_once(count: int, calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """All calls were made, `count` at a time."""
    waiting = iter(calls)

    async def client() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(client() for _ in range(count)))
