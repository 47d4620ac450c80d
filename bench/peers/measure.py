"""One peer against one corpus: written, closed, started anew, asked."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.corpus import Corpus, ranking
from bench.peers.process import PeerEnded, PeerProcess, running
from bench.peers.protocol import encode_add
from bench.recall.metrics import Outcome, judge

DEPTH = 50
_BATCH = 64
_SINGLE_WRITES = 20
_RATE_KNOWN_SECONDS = 30.0
_RESIDENT, _HIGHEST = "VmRSS", "VmHWM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a peer is run: its command and variables, the weights, a scratch folder, its log and its time."""

    command: Sequence[str]
    variables: Mapping[str, str]
    weights: Path
    scratch: Path
    log: Path
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the first run of a peer showed."""

    version: str
    texts_per_second: float
    single_seconds: Sequence[float]
    highest_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the second run of a peer showed; outcomes of the questions whose answers are known."""

    first_seconds: float
    search_seconds: Sequence[float]
    outcomes: Sequence[Outcome]
    resident_bytes: int
    highest_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All figures of one peer over one corpus."""

    written: Written
    answered: Answered
    disk_bytes_per_text: float

    @property
    def highest_bytes(self) -> int:
        """The most memory of both runs."""
        return max(self.written.highest_bytes, self.answered.highest_bytes)


def measure(setting: Setting, corpus: Corpus) -> Measured:
    """The figures of a peer; raises `PeerEnded` when it ends early or takes more than its time."""
    deadline = time.perf_counter() + setting.minutes * 60
    shutil.rmtree(setting.scratch, ignore_errors=True)
    store = setting.scratch / "store"
    store.mkdir(parents=True)
    try:
        with running(setting.command, setting.variables, log=setting.log, deadline=deadline) as peer:
            written = _write(peer, store, setting.weights, corpus, deadline)
        disk_bytes = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        with running(setting.command, setting.variables, log=setting.log, deadline=deadline) as peer:
            answered = _answer(peer, store, setting.weights, corpus)
    finally:
        shutil.rmtree(setting.scratch)
    return Measured(written=written, answered=answered, disk_bytes_per_text=disk_bytes / corpus.size)


def _write(peer: PeerProcess, store: Path, weights: Path, corpus: Corpus, deadline: float) -> Written:
    """All rows are written: in batches, but for the last ones of the last space, which are written one by one."""
    opened, _ = peer.ask({"op": "open", "store": str(store), "model": str(weights)})
    last = list(corpus.rows)[-1]
    batched = {space: rows[:-_SINGLE_WRITES] if space == last else rows for space, rows in corpus.rows.items()}
    seconds, done, count = 0.0, 0, sum(map(len, batched.values()))
    for space, rows in batched.items():
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            seconds += peer.ask(encode_add(space, batch))[1]
            done += len(batch)
            _require_time(seconds, done, count, deadline)
    seconds += peer.ask({"op": "commit"})[1] + peer.ask({"op": "finish"})[1]
    singles = [
        peer.ask(encode_add(last, [row]))[1] + peer.ask({"op": "commit"})[1]
        for row in corpus.rows[last][-_SINGLE_WRITES:]
    ]
    peer.ask({"op": "finish"})
    highest = peer.memory_bytes(_HIGHEST)
    peer.ask({"op": "close"})
    return Written(
        version=opened["version"],
        texts_per_second=count / seconds,
        single_seconds=singles,
        highest_bytes=highest,
    )


def _require_time(seconds: float, done: int, count: int, deadline: float) -> None:
    """Returns when the rest can be written in time at the rate so far; a hopeless run ends early and says its rate."""
    left = (count - done) * seconds / done
    if seconds > _RATE_KNOWN_SECONDS and time.perf_counter() + left > deadline:
        raise PeerEnded(
            f"out of time: at {done / seconds:.0f} texts/s, writing takes {count * seconds / done / 60:.0f} minutes"
        )


def _answer(peer: PeerProcess, store: Path, weights: Path, corpus: Corpus) -> Answered:
    """Every question is asked; the first one twice, for it also tells how long a start takes."""
    peer.ask({"op": "open", "store": str(store), "model": str(weights)})
    first = corpus.questions[0]
    peer.ask({"op": "search", "space": first.space, "text": first.text, "limit": DEPTH})
    first_seconds = time.perf_counter() - peer.started
    outcomes: list[Outcome] = []
    search_seconds: list[float] = []
    for asked in corpus.questions:
        found, seconds = peer.ask({"op": "search", "space": asked.space, "text": asked.text, "limit": DEPTH})
        search_seconds.append(seconds)
        if asked.scored is not None:
            history, question = asked.scored
            outcomes.append(judge(history, question, ranking(history, found["ids"])))
    resident, highest = peer.memory_bytes(_RESIDENT), peer.memory_bytes(_HIGHEST)
    peer.ask({"op": "close"})
    return Answered(
        first_seconds=first_seconds,
        search_seconds=search_seconds[1:],  # the answer to the first one may have been kept
        outcomes=outcomes,
        resident_bytes=resident,
        highest_bytes=highest,
    )
