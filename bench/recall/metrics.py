"""What is measured of a ranking, and how sure a difference of two rankings is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.recall.dataset import History, Question

CUTS = (1, 5, 10, 50)
_LEVEL_FIGURES = (*(f"{kind}@{cut}" for cut in CUTS for kind in ("any", "all")), "ndcg@10", "mrr")
TURN = tuple(f"turn {name}" for name in _LEVEL_FIGURES)
SESSION = tuple(f"session {name}" for name in _LEVEL_FIGURES)
# Updates and questions about earlier states stand side by side: a rule that helps one must not hurt the other.
NEWER_FIRST = "newer first"
PAST = ("past in 5", "past in 10")
EVERY = (*TURN, *SESSION, NEWER_FIRST, *PAST)
HEADLINES = (
    "turn any@1",
    "turn any@5",
    "turn all@10",
    "turn ndcg@10",
    "turn mrr",
    "session any@5",
    "session all@10",
    NEWER_FIRST,
    "past in 10",
)

# A configuration is chosen by the mean of these, data sets weighing alike.
OBJECTIVE = ("turn all@10", "turn any@5")

RESAMPLES = 10_000
_SEED = 20_240_501


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one question: name of a metric to its value."""

    question: Question
    values: Mapping[str, float]


def judge(history: History, question: Question, ranking: Sequence[str]) -> Outcome:
    """The figures of one ranking of turn ids; a session stands where its best turn stands.

    `newer first` is had by questions whose fact was replaced, 0 where neither statement is found; `past in k` by
    questions about an earlier state: is a turn that tells it among the first k?
    """
    session_of = history.session_of
    sessions = list(dict.fromkeys(session_of[turn] for turn in ranking if turn in session_of))
    values = _figures("turn", ranking, question.turns) | _figures("session", sessions, question.sessions)
    if question.newer and question.older:
        values[NEWER_FIRST] = float(_best_rank(ranking, question.newer) < _best_rank(ranking, question.older))
    if question.past:
        values |= {f"past in {cut}": float(_best_rank(ranking, question.past) <= cut) for cut in (5, 10)}
    return Outcome(question, values)


def means(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """The mean of every metric over the questions that have it."""
    columns: dict[str, list[float]] = {}
    for outcome in outcomes:
        for name, value in outcome.values.items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of paired differences and the bounds that hold 95 of 100 resampled means."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def is_clear(self) -> bool:
        """True when the bounds do not hold zero."""
        return self.low > 0 or self.high < 0


def paired_interval(ours: Sequence[Outcome], theirs: Sequence[Outcome], metric: str) -> Interval | None:
    """The paired bootstrap interval of `ours` minus `theirs` over the questions that have the metric.

    Both are of the same questions in the same order. None when no question has the metric. Questions are
    resampled one by one, seeded: equal input, equal bounds.
    """
    pairs = [(a.values[metric], b.values[metric]) for a, b in zip(ours, theirs, strict=True) if metric in a.values]
    if not pairs:
        return None
    return interval_of(np.array([a - b for a, b in pairs]))


def interval_of(*differences: NDArray[np.float64]) -> Interval:
    """The bootstrap interval of the mean of some differences, at least one.

    Of several data sets it is that of the mean of their means, each resampled on its own.
    """
    resampled = np.mean(
        [_draws(len(each), place) @ each.astype(np.float32) / len(each) for place, each in enumerate(differences)],
        axis=0,
    )
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(np.mean([each.mean() for each in differences])), float(low), float(high))


@lru_cache(maxsize=6)
def _draws(size: int, place: int) -> NDArray[np.float32]:
    """How often each of `size` questions is drawn in each resample: (RESAMPLES, size)."""
    drawn = np.random.default_rng(_SEED + place).integers(0, size, size=(RESAMPLES, size))
    drawn += np.arange(RESAMPLES)[:, np.newaxis] * size
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size).astype(np.float32)


def _figures(level: str, ranking: Sequence[str], gold: frozenset[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for cut in CUTS:
        found = gold & set(ranking[:cut])
        values[f"{level} any@{cut}"] = float(bool(found))
        values[f"{level} all@{cut}"] = float(found == gold)
    gains = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking[:10], 1) if item in gold)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(gold), 10) + 1))
    values[f"{level} ndcg@10"] = gains / ideal
    values[f"{level} mrr"] = 1 / _best_rank(ranking, gold)
    return values


def _best_rank(ranking: Sequence[str], wanted: frozenset[str]) -> float:
    return next((rank for rank, item in enumerate(ranking, 1) if item in wanted), math.inf)
