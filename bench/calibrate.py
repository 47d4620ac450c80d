"""Fits what turns scores into relevance: `python -m bench.calibrate --keep DIRECTORY [FILE ...]`.

Asks every question of the data sets, and fifty that have no answer in them, and prints

* the logistic between scores of answers and of other candidates (`RELEVANCE_SLOPE`, `RELEVANCE_MIDDLE`), each
  question counting once and its answers as much as its other candidates;
* the line from lexical evidence to the score (`LEXICAL_ONLY_*`), by which memories without vectors are scored;
* the second-best score of off-topic questions in tenants of several sizes, drawn from the candidates at random
  (`RELEVANCE_GROWTH`);
* for several cuts: how many off-topic questions get at most one hit, and how many questions keep an answer.

The constants stand in `polymem/domain/scoring.py`; this script changes nothing.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.recall_lab.dataset import DataSet, load
from bench.recall_lab.engine_run import LabEngine, ask, feed, open_engine
from bench.recall_lab.files import data_files
from bench.recall_lab.memories import position_of
from bench.recall_lab.off_topic import OFF_TOPIC
from polymem.domain.query import RecallHit
from polymem.domain.scoring import relevance

_LIMIT = 128
_CUTS = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
_SHARES = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True, slots=True)
class Asked:
    """The scores of one question's candidates, best first, and which of them answer it."""

    scores: NDArray[np.float64]
    answers: NDArray[np.bool_]
    documents: int


@dataclass(slots=True)
class Sample:
    """What a data set gave: its scored questions, the off-topic ones, and lexical evidence beside scores."""

    name: str
    scored: list[Asked] = field(default_factory=list)
    off_topic: list[Asked] = field(default_factory=list)
    evidence: list[tuple[float, float, float]] = field(default_factory=list)


async def collect(directory: Path, data_set: DataSet) -> Sample:
    """Every question of a data set is asked, and every off-topic one of each of its histories."""
    sample = Sample(data_set.name)
    async with open_engine(directory / data_set.name) as engine:
        for number, history in enumerate(data_set.histories):
            await feed(engine, number, history)
            ids = [turn.id for turn in history.turns]
            for question in history.scored:
                hits = await _hits(engine, number, question.text)
                sample.scored.append(
                    _asked(hits, [ids[position_of(hit.memory.id)] for hit in hits], question.turns, ids)
                )
                sample.evidence.extend(_evidence(hit) for hit in hits if hit.similarity is not None)
            for text in OFF_TOPIC:
                hits = await _hits(engine, number, text)
                sample.off_topic.append(_asked(hits, [], frozenset(), ids))
    return sample


def logistic(samples: Sequence[Sample]) -> tuple[float, float]:
    """Slope and middle of the logistic that best tells answers from other candidates (Newton's method)."""
    scores, answers, weights = [], [], []
    for sample in samples:
        for asked in sample.scored:
            right = int(asked.answers.sum())
            if 0 < right < len(asked.answers):
                scores.append(asked.scores)
                answers.append(asked.answers.astype(np.float64))
                share = np.where(asked.answers, 0.5 / right, 0.5 / (len(asked.answers) - right))
                weights.append(share / len(sample.scored))
    x, y, w = np.concatenate(scores), np.concatenate(answers), np.concatenate(weights)
    slope, offset = 10.0, -6.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-(slope * x + offset)))
        gradient = np.array([(w * (p - y) * x).sum(), (w * (p - y)).sum()])
        h = w * p * (1 - p)
        hessian = np.array([[(h * x * x).sum(), (h * x).sum()], [(h * x).sum(), h.sum()]])
        step = np.linalg.solve(hessian, gradient)
        slope, offset = slope - float(step[0]), offset - float(step[1])
    return slope, -offset / slope


def lexical_line(samples: Sequence[Sample]) -> tuple[float, float]:
    """Base and factor of the line from `0.3 coverage + 0.6 bm25` to the score without its length prior."""
    rows = np.array([row for sample in samples for row in sample.evidence])
    left = np.stack([np.ones(len(rows)), 0.3 * rows[:, 0] + 0.6 * rows[:, 1]], axis=1)
    base, factor = np.linalg.lstsq(left, rows[:, 2], rcond=None)[0]
    return float(base), float(factor)


def second_best(sample: Sample, share: float) -> tuple[int, list[float]]:
    """How large a tenant is of which a share is kept, and quantiles of the second-best off-topic score in it."""
    random = np.random.default_rng(20_240_501)
    found = []
    for asked in sample.off_topic:
        for _ in range(20):
            kept = np.sort(asked.scores[random.random(len(asked.scores)) < share])[::-1]
            found.append(float(kept[1]) if len(kept) > 1 else 0.0)
    size = float(np.mean([asked.documents for asked in sample.off_topic])) * share
    return round(size), [float(value) for value in np.quantile(found, [0.5, 0.8, 0.9])]


def cut_row(sample: Sample, cut: float) -> str:
    """What a cut leaves of off-topic hits and of answers."""
    quiet = np.mean([_above(asked, cut).sum() <= 1 for asked in sample.off_topic])
    kept = np.mean([bool((asked.answers & _above(asked, cut)).any()) for asked in sample.scored])
    first = [asked for asked in sample.scored if asked.answers[:10].any()]
    kept_first = np.mean([bool((asked.answers & _above(asked, cut))[:10].any()) for asked in first])
    hits = np.median([_above(asked, cut).sum() for asked in sample.scored])
    return f"| {sample.name} | {cut:.2f} | {quiet:.2f} | {kept:.3f} | {kept_first:.3f} | {hits:.0f} |"


def _above(asked: Asked, cut: float) -> NDArray[np.bool_]:
    return np.array(
        [relevance(float(score), documents=asked.documents) >= cut for score in asked.scores], dtype=np.bool_
    )


def _asked(hits: Sequence[RecallHit], found: Sequence[str], gold: frozenset[str], ids: Sequence[str]) -> Asked:
    scores = np.array([hit.score for hit in hits], dtype=np.float64)
    answers = np.array([turn in gold for turn in found] or [False] * len(hits), dtype=np.bool_)
    return Asked(scores=scores, answers=answers, documents=len(ids))


def _evidence(hit: RecallHit) -> tuple[float, float, float]:
    priors = dict(hit.trace.priors)
    return hit.trace.coverage, priors["bm25"], hit.score - priors["length"]


async def _hits(engine: LabEngine, number: int, text: str) -> tuple[RecallHit, ...]:
    return (await ask(engine, number, text, limit=_LIMIT)).hits


async def _main(files: Sequence[Path], keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        samples = [await collect(keep or Path(scratch), load(path)) for path in files]
    print("logistic: slope {:.2f}, middle {:.3f}".format(*logistic(samples)))
    print("words alone: base {:.3f}, factor of (0.3 coverage + 0.6 bm25) {:.3f}".format(*lexical_line(samples)))
    print("\n| data | memories | second-best off-topic score, quantiles .5 .8 .9 |\n|---|---|---|")
    for sample in samples:
        for share in _SHARES:
            size, quantiles = second_best(sample, share)
            print(f"| {sample.name} | {size} | {' '.join(f'{value:.3f}' for value in quantiles)} |")
    print(
        "\n| data | cut | off-topic with <= 1 hit | keep an answer | of those with one in the first 10 | median hits |"
    )
    print("|---|---|---|---|---|---|")
    for sample in samples:
        for cut in _CUTS:
            print(cut_row(sample, cut))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    parser.add_argument("--keep", type=Path, help="data directory to keep and reuse, as of bench.recall_engine")
    given = parser.parse_args()
    asyncio.run(_main(data_files(given.files), given.keep))
