"""The tables a run prints, in Markdown: figures of each row, differences with their intervals, latency, size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.recall.dataset import DataSet, History
from bench.recall.metrics import (
    HEADLINES,
    NEWER_FIRST,
    PAST,
    SESSION,
    TURN,
    Outcome,
    judge,
    means,
    paired_interval,
)

DECISIVE = "turn all@10"
_KIND_FIGURES = ("turn any@5", "turn all@10", "session all@10")


@dataclass(slots=True)
class Row:
    """The outcomes of one configuration, question by question, and the seconds each question took."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def add(self, history: History, rankings: Mapping[str, Sequence[str]]) -> None:
        """The rankings of a history's scored questions are judged and count from now on."""
        self.outcomes.extend(judge(history, question, rankings[question.id]) for question in history.scored)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rule = "|".join("---" for _ in head)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)])


def title(data_set: DataSet, row: Row) -> str:
    """What is asked of a data set, as a heading."""
    updates = sum(NEWER_FIRST in outcome.values for outcome in row.outcomes)
    past = sum(PAST[0] in outcome.values for outcome in row.outcomes)
    return (
        f"### {data_set.name}: {len(data_set.histories)} histories, {data_set.turn_count} turns,"
        f" {len(row.outcomes)} questions ({updates} of updates, {past} of the past)"
    )


def figures(rows: Sequence[Row]) -> str:
    """Every figure of every row: a table of turns, then one of sessions and of updates and the past."""
    return "\n\n".join(_figures(rows, names) for names in (TURN, (*SESSION, NEWER_FIRST, *PAST)))


def headlines(rows: Sequence[Row]) -> str:
    """The headline figures of every row."""
    return _figures(rows, HEADLINES)


def differences(ours: Row, others: Sequence[Row]) -> str:
    """How much better one row is than each other in every headline figure, with 95 % intervals."""
    head = [f"{ours.name} minus", *HEADLINES]
    lines = []
    for other in others:
        found = [paired_interval(ours.outcomes, other.outcomes, metric) for metric in HEADLINES]
        lines.append([other.name, *("" if each is None else str(each) for each in found)])
    return markdown(head, lines)


def kinds(rows: Sequence[Row]) -> str:
    """Three figures of every row for each kind of question."""
    head = ["kind (questions)", *(f"{metric}: {row.name}" for metric in _KIND_FIGURES for row in rows)]
    names = sorted({outcome.question.kind for outcome in rows[0].outcomes})
    lines = []
    for kind in names:
        of_kind = [means(outcome for outcome in row.outcomes if outcome.question.kind == kind) for row in rows]
        count = sum(outcome.question.kind == kind for outcome in rows[0].outcomes)
        lines.append([f"{kind} ({count})", *(f"{each[metric]:.3f}" for metric in _KIND_FIGURES for each in of_kind)])
    return markdown(head, lines)


def latency(rows: Sequence[Row]) -> str:
    """Median and 95th percentile of the time per question, and its processor time where it is known."""
    lines = []
    for row in rows:
        median, high = np.percentile(np.array(row.seconds) * 1000, [50, 95])
        cpu = f"{row.cpu_seconds / len(row.seconds) * 1000:.1f}" if row.cpu_seconds else ""
        lines.append([row.name, str(len(row.seconds)), f"{median:.1f}", f"{high:.1f}", cpu])
    return markdown(["recall", "questions", "p50 ms", "p95 ms", "mean CPU ms"], lines)


def size(data_set: DataSet, stored: int) -> str:
    """The bytes a data directory takes, beside the text in it."""
    text = sum(len(turn.text.encode()) for history in data_set.histories for turn in history.turns)
    count = data_set.turn_count
    line = [str(count), str(stored), f"{stored / count:.0f}", str(text), f"{text / count:.0f}"]
    return markdown(["memories", "bytes stored", "a memory", "bytes of text", "a memory"], [line])


def is_better(ours: Row, theirs: Row) -> bool:
    """True when the interval of the decisive figure lies above zero."""
    found = paired_interval(ours.outcomes, theirs.outcomes, DECISIVE)
    return found is not None and found.low > 0


def _figures(rows: Sequence[Row], names: Sequence[str]) -> str:
    of_row = [means(row.outcomes) for row in rows]
    held = [name for name in names if any(name in found for found in of_row)]
    lines = [
        [row.name, *(f"{found[name]:.3f}" if name in found else "" for name in held)]
        for row, found in zip(rows, of_row, strict=True)
    ]
    return markdown(["run", *held], lines)
