"""The same questions to both storages, one right after the other in random order."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from bench.scale.exact import ExactTenant
from bench.scale.sides import PAGE, Dealer, Side, Timings, ask, at_once, timings, where_of
from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.domain.text import query_terms, terms
from polymem.engine.access import Access
from polymem.engine.recall import Recall
from polymem.engine.requests import NewSecret
from polymem.engine.retrieve import POOL_SIZES, QUERY_TERMS
from polymem.ports.inference import Embedder
from polymem.ports.runtime import Clock
from polymem.ports.search import SearchIndex, WordsFound
from polymem.ports.storage import Storage, TenantStore

CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A text asked of one tenant."""

    account: NewSecret
    exact: ExactTenant
    text: str


@dataclass(slots=True)
class Shares:
    """Of each side, how much of what the exact arms find stands among the first ten, question by question."""

    dense: dict[str, list[float]] = field(default_factory=dict)
    lexical: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class Pages:
    """Of both sides, the ids of each question's page, and how long recall took."""

    ids: dict[str, list[tuple[str, ...]]]
    taken: dict[str, Timings]
    server_cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Recalls a second with `CLIENTS` at a time, and the processor time of each: of this process, of the server."""

    a_second: float
    own_cpu_ms: float
    server_cpu_ms: float


async def embed(questions: Sequence[Question], embedder: Embedder) -> None:
    """The model remembers the vectors of every question: it takes no part in what is measured."""
    for question in questions:
        await embedder.embed_query(question.text)


async def compare_arms(sides: Sequence[Side], questions: Sequence[Question], embedder: Embedder) -> Shares:
    """What the arms find, beside what they should find."""
    found = Shares({each.name: [] for each in sides}, {each.name: [] for each in sides})
    for question in questions:
        exact, where = question.exact, where_of(question.account)
        vectors = await embedder.embed_query(question.text)
        cosines, scores = exact.cosines(vectors.embedding), exact.word_scores(query_terms(question.text))
        for each in sides:
            index = each.storage.search(question.account.tenant.id)
            near = await index.dense(vectors.embedding, embedder.identity, where, limit=POOL_SIZES[0])
            words = await _words(index, question.text, where)
            _keep(found.dense[each.name], exact.share(near, cosines, cut=PAGE))
            _keep(found.lexical[each.name], exact.share(words.hits, scores, cut=PAGE))
    return found


def _keep(shares: list[float], share: float | None) -> None:
    if share is not None:
        shares.append(share)


async def recall_pairs(
    sides: Sequence[Side], questions: Sequence[Question], *, server_cpu: Callable[[], float], seed: int
) -> Pages:
    """Each question's page by each side."""
    pages = Pages({each.name: [] for each in sides}, timings(sides))
    dealer, cpu = Dealer(sides, seed), server_cpu()
    for question in questions:
        for each in dealer.deal():
            with pages.taken[each.name].taken():
                page = await ask(each.recall, question.account, question.text)
            pages.ids[each.name].append(tuple(hit.memory.id for hit in page.hits))
    pages.server_cpu_seconds = server_cpu() - cpu
    return pages


async def recall_together(
    sides: Sequence[Side], questions: Sequence[Question], *, server_cpu: Callable[[], float], rounds: int, seed: int
) -> dict[str, list[Throughput]]:
    """Each side asked by several clients, the sides in turn; one figure for each round."""
    found: dict[str, list[Throughput]] = {each.name: [] for each in sides}
    dealer = Dealer(sides, seed)
    for _ in range(rounds):
        for each in dealer.deal():
            calls = [partial(ask, each.recall, question.account, question.text) for question in questions]
            server, own, started = server_cpu(), time.process_time(), time.perf_counter()
            await at_once(CLIENTS, calls)
            seconds = time.perf_counter() - started
            own, server = time.process_time() - own, server_cpu() - server
            found[each.name].append(
                Throughput(
                    a_second=len(calls) / seconds,
                    own_cpu_ms=own / len(calls) * 1000,
                    server_cpu_ms=server / len(calls) * 1000,
                )
            )
    return found


# --- the calls that recall makes of a storage -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call of a port that recall made."""

    name: str
    tenant_id: TenantId
    kind: str
    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def again(self, storage: Storage) -> Awaitable[object]:
        """The same asked of another storage."""
        found: Awaitable[object] = getattr(getattr(storage, self.kind)(self.tenant_id), self.method)(
            *self.arguments, **self.named
        )
        return found


class _Recorder:
    """Stands for a storage and takes down what its indexes and stores are asked."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.asked: list[_Asked] = []

    def search(self, tenant_id: TenantId) -> SearchIndex:
        return cast(SearchIndex, _Recorded(self, "search", tenant_id, self._storage.search(tenant_id)))

    def tenant(self, tenant_id: TenantId) -> TenantStore:
        return cast(TenantStore, _Recorded(self, "tenant", tenant_id, self._storage.tenant(tenant_id)))

    def add(self, tenant_id: TenantId, kind: str, method: str, arguments: tuple[Any, ...], named: Any) -> None:
        before = sum(each.method == method for each in self.asked)
        name = method if not before else f"{method}, call {before + 1}"
        self.asked.append(_Asked(name, tenant_id, kind, method, arguments, dict(named)))


class _Recorded:
    def __init__(self, recorder: _Recorder, kind: str, tenant_id: TenantId, target: object) -> None:
        self._recorder, self._kind, self._tenant_id, self._target = recorder, kind, tenant_id, target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def asked(*arguments: Any, **named: Any) -> Any:
            self._recorder.add(self._tenant_id, self._kind, name, arguments, named)
            return await method(*arguments, **named)

        return asked


async def time_stages(
    sides: Sequence[Side], questions: Sequence[Question], embedder: Embedder, clock: Clock, *, seed: int
) -> dict[str, dict[str, Timings]]:
    """Each call that recall makes of a storage, made of each side alone with the same arguments: by name, by side."""
    found: dict[str, dict[str, Timings]] = {}
    dealer = Dealer(sides, seed)
    for question in questions:
        recorder = _Recorder(sides[0].storage)
        storage = cast(Storage, recorder)
        await ask(Recall(storage, embedder, Access(storage), clock=clock), question.account, question.text)
        for asked in recorder.asked:
            taken = found.setdefault(asked.name, timings(sides))
            for each in dealer.deal():
                with taken[each.name].taken():
                    await asked.again(each.storage)
    return found


async def _words(index: SearchIndex, text: str, where: MemoryFilter) -> WordsFound:
    every = tuple(dict.fromkeys(terms(text)))
    return await index.words(every, query_terms(text), where, limit=POOL_SIZES[0], most=QUERY_TERMS)


def vocabulary_of(texts: Sequence[str]) -> frozenset[str]:
    """Every term that these questions are searched by."""
    return frozenset(term for text in texts for term in query_terms(text))


def asked_of(
    accounts: Sequence[NewSecret], exact: Sequence[ExactTenant], texts: Iterator[str], count: int
) -> list[Question]:
    """The next questions, the tenants in turn."""
    return [Question(accounts[n % len(accounts)], exact[n % len(exact)], next(texts)) for n in range(count)]
