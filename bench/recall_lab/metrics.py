"""What is measured of a ranking, and how sure a difference of two rankings is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.recall_lab.dataset import History, Question

CUTS = (1, 5, 10, 50)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one question: name of a metric to its value."""

    question: Question
    values: Mapping[str, float]


def judge(history: History, question: Question, ranking: Sequence[str]) -> Outcome:
    """The figures of one ranking of turn ids; a session stands where its best turn stands."""
    session_of = {turn.id: turn.session_id for turn in history.turns}
    sessions = list(dict.fromkeys(session_of[turn] for turn in ranking if turn in session_of))
    values = _figures("turn", ranking, question.turns) | _figures("session", sessions, question.sessions)
    newer = _best_rank(ranking, question.newer)
    older = _best_rank(ranking, question.older)
    if question.newer and question.older and min(newer, older) < math.inf:
        values["newer first"] = float(newer < older)
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


def paired_interval(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], metric: str, *, resamples: int = 10_000, seed: int = 20_240_501
) -> Interval:
    """The paired bootstrap interval of `ours` minus `theirs`, question by question."""
    difference = np.array([a.values[metric] - b.values[metric] for a, b in zip(ours, theirs, strict=True)])
    chosen = np.random.default_rng(seed).integers(0, len(difference), size=(resamples, len(difference)))
    resampled: NDArray[np.float64] = difference[chosen].mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))


def _figures(level: str, ranking: Sequence[str], gold: frozenset[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for cut in CUTS:
        found = gold & set(ranking[:cut])
        values[f"{level} any@{cut}"] = float(bool(found))
        values[f"{level} all@{cut}"] = float(found == gold)
    gains = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking[:10], 1) if item in gold)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(gold), 10) + 1))
    values[f"{level} ndcg@10"] = gains / ideal
    best = _best_rank(ranking, gold)
    values[f"{level} mrr"] = 0.0 if best == math.inf else 1 / best
    return values


def _best_rank(ranking: Sequence[str], wanted: frozenset[str]) -> float:
    return next((rank for rank, item in enumerate(ranking, 1) if item in wanted), math.inf)
