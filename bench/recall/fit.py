"""`fit`: the weights of ranking that the questions themselves ask for, and how they do on questions not seen.

A listwise logistic regression over the features that the engine's traces tell: of the candidates of a question each
answer should win against all that are no answer. The data sets weigh alike, context can only help (its weights are
not negative), and a small ridge holds what is not needed at zero. Fitted on one half of the questions and asked the
other through the engine, both ways, over several splits; the last line is fitted on all and is what the defaults of
`polymem.domain.ranking` are rounded from. In score units: the weights of `narrow` and `wide` add up to 1.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.recall import report
from bench.recall.configurations import RecallMaker, default_weights
from bench.recall.dataset import DataSet, Question
from bench.recall.lab_engine import LabEngine, ask, fed_engine, turn_ids
from bench.recall.memories import DEPTH
from bench.recall.metrics import HEADLINES, judge, means
from bench.recall.splits import halves
from polymem.domain.ranking import FEATURES

Floats = NDArray[np.float64]

_CANDIDATES: Final = 96
_RIDGE: Final = 1e-3
_STEPS: Final = 400
_RATE: Final = 0.05
_NOT_NEGATIVE: Final = frozenset(
    {"narrow", "wide", "bm25", "similarity", "length", "session", "previous", "answers", "said_then", "tells_of_then"}
)


@dataclass(frozen=True, slots=True)
class Example:
    """One question: the features of its candidates (candidates, features), and which of them answer it."""

    question: Question
    features: Floats
    answers: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Lab:
    """A data set with an engine that holds it."""

    data_set: DataSet
    maker: RecallMaker
    examples: tuple[Example, ...]


def fit(examples: Sequence[Sequence[Example]]) -> dict[str, float]:
    """The weight of each feature; each sequence of examples counts as much as each other."""
    columns = np.concatenate([each.features for part in examples for each in part])
    scale = np.maximum(columns.std(axis=0), 1e-6)
    shares = [1 / (len(examples) * len(part)) for part in examples for _ in part]
    rows = [(each.features / scale, each.answers) for part in examples for each in part]
    is_held = np.array([name in _NOT_NEGATIVE for name in FEATURES])
    weights, first, second = np.zeros(len(FEATURES)), np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    for step in range(1, _STEPS + 1):
        gradient = 2 * _RIDGE * weights
        for (features, answers), share in zip(rows, shares, strict=True):
            gradient += share * _gradient(features, answers, weights)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        rate = _RATE * (1 - step / (_STEPS + 1))
        weights = weights - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-9)
        weights[is_held] = np.maximum(weights[is_held], 0.0)
    plain = weights / scale
    unit = plain[FEATURES.index("narrow")] + plain[FEATURES.index("wide")]
    return {name: float(value / unit) for name, value in zip(FEATURES, plain, strict=True)}


def measure(root: Path, data_sets: Sequence[DataSet], *, threads: int, splits: int) -> None:
    """The fitted weights and their held-out figures are printed."""
    asyncio.run(_measure(root, data_sets, threads, splits))


async def _measure(root: Path, data_sets: Sequence[DataSet], threads: int, splits: int) -> None:
    if not data_sets:
        return
    await _with_engines(root, list(data_sets), [], threads, splits)


async def _with_engines(root: Path, waiting: list[DataSet], labs: list[_Lab], threads: int, splits: int) -> None:
    """Opens the engine of each data set, one within the other, and reports when all are open."""
    if not waiting:
        await _report(labs, splits)
        return
    async with fed_engine(root, waiting[0], threads=threads) as engine:
        lab = await _examples(engine, waiting[0])
        await _with_engines(root, waiting[1:], [*labs, lab], threads, splits)


async def _examples(engine: LabEngine, data_set: DataSet) -> _Lab:
    maker = RecallMaker(engine)
    recall = maker.recall({})
    weights = default_weights()
    found = []
    for number, history in enumerate(data_set.histories):
        for question in history.scored:
            page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=_CANDIDATES)
            parts = [dict(hit.trace.parts) for hit in page.hits]
            columns = [[part.get(name, 0.0) / weights[name] for name in FEATURES] for part in parts]
            answers = np.array([turn in question.turns for turn in turn_ids(history, page)], dtype=np.bool_)
            if answers.any() and not answers.all():
                found.append(Example(question, np.array(columns), answers))
    return _Lab(data_set, maker, tuple(found))


def _gradient(features: Floats, answers: NDArray[np.bool_], weights: Floats) -> Floats:
    """Of the mean over the answers of -log(e^answer / (e^answer + sum of e^other))."""
    scores = features @ weights
    powers = np.exp(scores - scores.max())
    others = powers * ~answers
    totals = powers[answers] + others.sum()
    count = int(answers.sum())
    slopes = others * (1 / totals).sum() / count
    slopes[answers] += (powers[answers] / totals - 1) / count
    gradient: Floats = features.T @ slopes
    return gradient


async def _report(labs: Sequence[_Lab], splits: int) -> None:
    lines: list[list[str]] = []
    figures: dict[str, list[Mapping[str, float]]] = {lab.data_set.name: [] for lab in labs}
    for split in range(splits):
        parts = [halves([each.question for each in lab.examples], f"split {split}") for lab in labs]
        for half in (0, 1):
            seen = [
                [each for each in lab.examples if each.question.id in part[half]]
                for lab, part in zip(labs, parts, strict=True)
            ]
            weights = fit(seen)
            lines.append([f"half {half} of split {split}", *(f"{weights[name]:.3f}" for name in FEATURES)])
            for lab, part in zip(labs, parts, strict=True):
                figures[lab.data_set.name].append(await _asked(lab, weights, part[half]))
    weights = fit([lab.examples for lab in labs])
    lines.append(["all", *(f"{weights[name]:.3f}" for name in FEATURES)])
    print(report.markdown(["fitted on", *FEATURES], lines), end="\n\n")
    print(f"Held out, mean ± deviation over {2 * splits} halves:\n")
    rows = [[name, *(_mean_and_deviation(found, metric) for metric in HEADLINES)] for name, found in figures.items()]
    print(report.markdown(["data", *HEADLINES], rows), end="\n\n")


async def _asked(lab: _Lab, weights: Mapping[str, float], seen: frozenset[str]) -> dict[str, float]:
    """The figures of the questions that were not seen."""
    recall = lab.maker.recall(weights)
    outcomes = []
    for number, history in enumerate(lab.data_set.histories):
        for question in history.scored:
            if question.id not in seen:
                page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=DEPTH)
                outcomes.append(judge(history, question, turn_ids(history, page)))
    return means(outcomes)


def _mean_and_deviation(figures: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [each[metric] for each in figures if metric in each]
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else ""
