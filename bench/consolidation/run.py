"""A consolidation of the real engine, measured: what merged, what recall lost, how long and how much memory it took."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bench.consolidation.planting import Planted, planted
from bench.recall.dataset import History
from bench.recall.lab_engine import LabClock, LabEngine, account_of, ask, open_engine, recall_of
from bench.recall.memories import EPOCH, lab_uuid, position_of, space_id, tenant_id, user_id
from polymem.domain.concepts import content_key
from polymem.domain.model import Job, JobId, JobKind, Memory, MemoryId, MemoryRole, MemoryState
from polymem.domain.query import FeedPosition, MemoryFilter
from polymem.engine.consolidation_run import ConsolidationRun
from polymem.engine.queueing import RULES, RunOutcome, new_job
from polymem.ports.changes import AddJob, PutMemory, SetEmbedding

_BATCH = 64
_CUT = 10
_SPACES = frozenset({space_id(0)})


class CountedIds:
    """Ids of what a run makes, one after another."""

    def __init__(self) -> None:
        self._made = 0

    def new_id(self) -> str:
        """A well-formed id that was not made before."""
        self._made += 1
        return lab_uuid(9, 0, self._made)

    def new_secret(self) -> str:
        """Nothing here is secret."""
        return self.new_id()

    def new_uuid4(self) -> str:
        """An id like any other."""
        return self.new_id()


class LabTime(LabClock):
    """The laboratory's time, whose seconds pass."""

    def monotonic(self) -> float:
        """Seconds from some fixed moment."""
        return time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slept:
    """One run: its job's result, its time, and the greatest memory of the process before and after it, in MB."""

    job: Job
    seconds: float
    before_mb: float
    after_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of planted repeats.

    `merged` of `planted` stand behind one prototype with their turn; `strayed` of `distinct` turns stand behind one
    with a turn of other words; `by_rule`: merged and planted of each rule. `all_at_10`: before and after. `lost`:
    sources that their prototype does not name, or that are gone. `again`: prototypes that a second run makes.
    """

    planted: int
    merged: int
    distinct: int
    strayed: int
    by_rule: Mapping[str, tuple[int, int]]
    all_at_10: tuple[float, float]
    lost: int
    again: int
    slept: Slept


async def sleep(engine: LabEngine) -> Slept:
    """The laboratory's space is consolidated by the job that a server would run."""
    store = engine.storage.tenant(tenant_id(0))
    clock = LabTime()
    ids = CountedIds()
    jobs = await store.list_jobs(frozenset({JobKind.CONSOLIDATE}), _SPACES, limit=100)
    job = new_job(
        JobId(lab_uuid(8, 0, len(jobs))),
        JobKind.CONSOLIDATE,
        tenant_id=tenant_id(0),
        user_id=user_id(0),
        space_id=space_id(0),
        payload={},
        now=EPOCH,
    )
    await store.commit([AddJob(job=job)], now=EPOCH)
    claimed = await engine.storage.jobs.claim(
        queues=frozenset({RULES[JobKind.CONSOLIDATE].queue}), now=EPOCH, lease_until_at=EPOCH + timedelta(hours=1)
    )
    if claimed is None:
        raise AssertionError("the job that was just queued is not due")
    run = ConsolidationRun(engine.storage, engine.embedder, clock=clock, ids=ids, wake=lambda: None)
    before, started = _peak_mb(), time.perf_counter()
    if await run.run(claimed) is not RunOutcome.FINISHED:
        raise AssertionError("nobody else runs this job")
    seconds = time.perf_counter() - started
    done = await store.get_job(claimed.id)
    if done is None:
        raise AssertionError("a job that is done is kept")
    return Slept(job=done, seconds=seconds, before_mb=before, after_mb=_peak_mb())


async def measure(directory: Path, history: History, family: str, *, threads: int) -> Figures:
    """Turns of a history and repeats of them are stored, consolidated and asked for."""
    made = planted(history, family)
    async with open_engine(directory, threads=threads) as engine:
        await engine.storage.directory.create_account(account_of(0))
        await store_all(engine, made.atoms)
        before = await _all_at_10(engine, history, made)
        slept = await sleep(engine)
        atoms = await everything(engine)
        after = await _all_at_10(engine, history, made)
        again = await sleep(engine)
    prototypes = {each.id: each for each in atoms.values() if each.role is MemoryRole.PROTOTYPE}
    merged = [position for position in made.original if _is_merged(position, made, atoms)]
    counts, hits = Counter(made.rule.values()), Counter(made.rule[position] for position in merged)
    return Figures(
        planted=len(made.original),
        merged=len(merged),
        distinct=len(history.turns),
        strayed=len(_strayed(made, prototypes)),
        by_rule={name: (hits[name], counts[name]) for name in sorted(counts)},
        all_at_10=(before, after),
        lost=_lost(made, atoms, prototypes),
        again=int(str(again.job.result["prototypes_made"])),
        slept=slept,
    )


async def store_all(engine: LabEngine, atoms: Sequence[Memory]) -> None:
    """The memories are stored with all their vectors."""
    store = engine.storage.tenant(tenant_id(0))
    for start in range(0, len(atoms), _BATCH):
        batch = atoms[start : start + _BATCH]
        entries = await engine.indexer.entries(batch)
        puts = [PutMemory(memory=each, index=entry) for each, (entry, _) in zip(batch, entries, strict=True)]
        await store.commit(puts, now=EPOCH)
        for each, (_, needs_more) in zip(batch, entries, strict=True):
            if needs_more:
                whole = await engine.indexer.embedding(each)
                await store.commit([SetEmbedding(memory_id=each.id, expected_revision=1, embedding=whole)], now=EPOCH)


async def everything(engine: LabEngine) -> dict[MemoryId, Memory]:
    """Every memory of the space, in any state."""
    store = engine.storage.tenant(tenant_id(0))
    found: dict[MemoryId, Memory] = {}
    after: FeedPosition | None = None
    while page := await store.feed(
        MemoryFilter(spaces=_SPACES, states=None), after=after, limit=500, with_superseded=True
    ):
        found |= {memory.id: memory for memory in page}
        after = FeedPosition(page[-1].created_at, page[-1].id)
    return found


async def _all_at_10(engine: LabEngine, history: History, made: Planted) -> float:
    """The share of questions all of whose turns are said among the first ten hits, by the hits' own texts."""
    by_text = {atom.content: made.turn_of(position) for position, atom in reversed(list(enumerate(made.atoms)))}
    positions = {turn.id: position for position, turn in enumerate(history.turns)}
    recall = recall_of(engine)
    found = []
    for question in history.scored:
        page = await ask(recall, 0, question.text, asked_at=question.asked_at, limit=2 * _CUT)
        said = {by_text[hit.memory.content] for hit in page.hits[:_CUT]}
        wanted = {by_text[made.atoms[positions[turn]].content] for turn in question.turns}
        found.append(wanted <= said)
    return sum(found) / max(len(found), 1)


def _is_merged(position: int, made: Planted, atoms: Mapping[MemoryId, Memory]) -> bool:
    """True when the repeat and its turn stand behind one prototype."""
    repeat = atoms[made.atoms[position].id]
    turn = atoms[made.atoms[made.original[position]].id]
    return repeat.state is MemoryState.ARCHIVED and repeat.superseded_by == turn.superseded_by


def _strayed(made: Planted, prototypes: Mapping[MemoryId, Memory]) -> set[int]:
    """The turns that stand behind a prototype with a turn of other words; case and space do not count."""
    strayed: set[int] = set()
    for prototype in prototypes.values():
        turns = {made.turn_of(position_of(source)) for source in prototype.derived_from}
        if len({content_key(made.atoms[turn].content) for turn in turns}) > 1:
            strayed |= turns
    return strayed


def _lost(made: Planted, atoms: Mapping[MemoryId, Memory], prototypes: Mapping[MemoryId, Memory]) -> int:
    """Atoms whose text is not there any more, word for word, or cannot be reached from what is active."""
    lost = 0
    for atom in made.atoms:
        present = atoms.get(atom.id)
        if present is None or present.content != atom.content:
            lost += 1
        elif present.state is MemoryState.ARCHIVED:
            prototype = None if present.superseded_by is None else prototypes.get(present.superseded_by)
            lost += prototype is None or atom.id not in prototype.derived_from
    return lost


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def measured(directory: Path, history: History, family: str, *, threads: int) -> Figures:
    """What `measure` tells, for callers without an event loop."""
    return asyncio.run(measure(directory, history, family, threads=threads))
