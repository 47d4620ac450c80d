"""`calibrate`: fits what turns scores into relevance, and shows what a cut keeps.

Asks every question of the data sets, and fifty that have no answer in them, and prints

* the logistic between scores of answers and of other candidates (slope and middle of relevance), each question
  counting once and its answers as much as its other candidates;
* the plane from words to late interaction, by which memories without vectors are scored;
* the second-best score of off-topic questions in tenants of several sizes, drawn from the candidates at random
  (the growth of the middle);
* for several cuts: how many off-topic questions get at most one hit, and how many questions keep an answer, by kind;
* updates beside the past: how often the newer statement is first, and how often a question about an earlier state
  finds the turn that tells it. A recency rule may not buy one with the other.

The constants stand in `polymem/domain/scoring.py` and `ranking.py`; this command changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.recall import report
from bench.recall.baseline_rows import bm25_row
from bench.recall.dataset import DataSet, Question
from bench.recall.lab_engine import ask, fed_engine, recall_of, turn_ids
from bench.recall.metrics import NEWER_FIRST, PAST, Outcome, judge, means, paired_interval
from bench.recall.off_topic import OFF_TOPIC
from polymem.domain.query import RecallHit
from polymem.domain.ranking import DEFAULT_WEIGHTS
from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT, relevance

_LIMIT = 128
_CUTS = tuple(sorted({0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, DEFAULT_RELEVANCE_CUT}))
_NO_DOUBT_LEFT = 1e12
_SHARES = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True, slots=True)
class Asked:
    """The scores of one question's candidates, best first, and which of them answer it; no kind: off-topic."""

    scores: NDArray[np.float64]
    answers: NDArray[np.bool_]
    documents: int
    kind: str | None = None


@dataclass(slots=True)
class Sample:
    """What a data set gave: its scored questions, the off-topic ones, and lexical evidence beside scores."""

    data_set: DataSet
    scored: list[Asked] = field(default_factory=list)
    off_topic: list[Asked] = field(default_factory=list)
    evidence: list[tuple[float, float, float]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.data_set.name


async def collect(root: Path, data_set: DataSet, *, threads: int) -> Sample:
    """Every question of a data set is asked, and every off-topic one of each of its histories."""
    sample = Sample(data_set)
    async with fed_engine(root, data_set, threads=threads) as engine:
        recall = recall_of(engine)
        for number, history in enumerate(data_set.histories):
            for question in history.scored:
                page = await ask(recall, number, question.text, asked_at=question.asked_at, limit=_LIMIT)
                found = turn_ids(history, page)
                sample.scored.append(_asked(page.hits, found, question, len(history.turns)))
                sample.evidence.extend(_evidence(hit) for hit in page.hits if hit.similarity is not None)
                sample.outcomes.append(judge(history, question, found))
            for text in OFF_TOPIC:
                page = await ask(recall, number, text, asked_at=None, limit=_LIMIT)
                sample.off_topic.append(_asked(page.hits, [], None, len(history.turns)))
    return sample


def logistic(samples: Sequence[Sample]) -> tuple[float, float]:
    """Slope and middle of the logistic that best tells answers from other candidates (Newton's method).

    Scores that tell them apart without an error have no best slope; then it is the steepest that was reached.
    """
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
        p = 1 / (1 + np.exp(np.clip(-(slope * x + offset), -60, 60)))
        gradient = np.array([(w * (p - y) * x).sum(), (w * (p - y)).sum()])
        h = w * p * (1 - p)
        hessian = np.array([[(h * x * x).sum(), (h * x).sum()], [(h * x).sum(), h.sum()]])
        if np.linalg.cond(hessian) > _NO_DOUBT_LEFT:
            break
        step = np.linalg.solve(hessian, gradient)
        slope, offset = slope - float(step[0]), offset - float(step[1])
    return slope, -offset / slope


def words_line(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Base and factors of coverage and BM25 of the plane nearest to late interaction."""
    rows = np.array([row for sample in samples for row in sample.evidence])
    left = np.stack([np.ones(len(rows)), rows[:, 0], rows[:, 1]], axis=1)
    base, coverage, bm25 = np.linalg.lstsq(left, rows[:, 2], rcond=None)[0]
    return float(base), float(coverage), float(bm25)


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


def keeps(asked: Sequence[Asked], cut: float, *, first: int | None = None) -> float:
    """The share of questions that keep an answer above the cut, among their first hits or all."""
    return float(np.mean([bool((each.answers & _above(each, cut))[:first].any()) for each in asked]))


def cut_row(sample: Sample, cut: float) -> list[str]:
    """What a cut leaves of off-topic hits and of answers."""
    quiet = sum(int(_above(asked, cut).sum() <= 1) for asked in sample.off_topic)
    answered = [asked for asked in sample.scored if asked.answers[:10].any()]
    hits = np.median([_above(asked, cut).sum() for asked in sample.scored])
    return [
        sample.name,
        f"{cut:.2f}",
        f"{quiet} of {len(sample.off_topic)}",
        f"{quiet / len(sample.off_topic):.2f}",
        f"{keeps(sample.scored, cut):.3f}",
        f"{keeps(answered, cut, first=10):.3f}",
        f"{hits:.0f}",
    ]


def kind_rows(sample: Sample, cut: float) -> list[list[str]]:
    """What a cut keeps of each kind of question: found at all, kept of all, kept of those in the first ten."""
    rows = []
    for kind in sorted({asked.kind for asked in sample.scored if asked.kind is not None}):
        of_kind = [asked for asked in sample.scored if asked.kind == kind]
        answered = [asked for asked in of_kind if asked.answers[:10].any()]
        found = np.mean([bool(asked.answers.any()) for asked in of_kind])
        kept = f"{keeps(answered, cut, first=10):.3f}" if answered else ""
        rows.append([sample.name, kind, str(len(of_kind)), f"{found:.3f}", f"{keeps(of_kind, cut):.3f}", kept])
    return rows


def past_row(sample: Sample) -> list[str]:
    """Updates beside questions about the past, with the intervals of the differences from BM25 alone."""
    plain = bm25_row(sample.data_set)
    ours, theirs = means(sample.outcomes), means(plain.outcomes)
    cells = [sample.name]
    for metric in (NEWER_FIRST, *PAST):
        count = sum(metric in outcome.values for outcome in sample.outcomes)
        difference = paired_interval(sample.outcomes, plain.outcomes, metric)
        if difference is None:
            cells += ["0", "", "", ""]
        else:
            cells += [str(count), f"{ours[metric]:.3f}", f"{theirs[metric]:.3f}", str(difference)]
    return cells


async def measure(root: Path, data_sets: Sequence[DataSet], *, threads: int) -> None:
    """The fits over all data sets together, and the tables of each, are printed."""
    samples = [await collect(root, data_set, threads=threads) for data_set in data_sets]
    print("logistic: slope {:.2f}, middle {:.3f}".format(*logistic(samples)))
    print("words for late interaction: base {:.3f}, coverage {:.3f}, bm25 {:.3f}".format(*words_line(samples)))
    sizes = [(sample.name, *second_best(sample, share)) for sample in samples for share in _SHARES]
    lines = [[name, str(size), " ".join(f"{value:.3f}" for value in found)] for name, size, found in sizes]
    cuts = [cut_row(sample, cut) for sample in samples for cut in _CUTS]
    kept = [row for sample in samples for row in kind_rows(sample, DEFAULT_RELEVANCE_CUT)]
    past = [cell for metric in (NEWER_FIRST, *PAST) for cell in (f"{metric}: n", "ours", "BM25", "difference")]
    tables = (
        ("Off-topic scores", ["data", "memories", "second-best, quantiles .5 .8 .9"], lines),
        ("Cuts", ["data", "cut", *_CUT_HEAD], cuts),
        (f"What the default cut of {DEFAULT_RELEVANCE_CUT} keeps", ["data", *_KIND_HEAD], kept),
        ("Updates beside the past", ["data", *past], [past_row(sample) for sample in samples]),
    )
    for title, head, rows in tables:
        print(f"\n### {title}\n\n{report.markdown(head, rows)}")
    print()


_CUT_HEAD = (
    "off-topic with <= 1 hit",
    "share",
    "keep an answer",
    "of those with one in the first 10",
    "median hits",
)
_KIND_HEAD = ("kind", "questions", "found in 128", "keep an answer", "of those with one in the first 10")


def _above(asked: Asked, cut: float) -> NDArray[np.bool_]:
    return np.array(
        [relevance(float(score), documents=asked.documents) >= cut for score in asked.scores], dtype=np.bool_
    )


def _asked(hits: Sequence[RecallHit], found: Sequence[str], question: Question | None, documents: int) -> Asked:
    gold = frozenset() if question is None else question.turns
    return Asked(
        scores=np.array([hit.trace.own_score for hit in hits], dtype=np.float64),
        answers=np.array([turn in gold for turn in found] or [False] * len(hits), dtype=np.bool_),
        documents=documents,
        kind=None if question is None else question.kind,
    )


def _evidence(hit: RecallHit) -> tuple[float, float, float]:
    """Coverage, BM25, and the late interaction that stands beside them."""
    narrow, wide = hit.trace.late_interaction or (0.0, 0.0)
    return hit.trace.coverage, hit.trace.bm25, DEFAULT_WEIGHTS.narrow * narrow + DEFAULT_WEIGHTS.wide * wide
