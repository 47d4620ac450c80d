"""The tables a run prints: one row per configuration, and intervals of paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.recall_lab.dataset import History
from bench.recall_lab.metrics import Outcome, judge, means, paired_interval

COLUMNS = (
    "turn any@1",
    "turn all@1",
    "turn any@5",
    "turn all@5",
    "turn any@10",
    "turn all@10",
    "turn all@50",
    "turn ndcg@10",
    "session any@1",
    "session all@1",
    "session any@5",
    "session all@5",
    "session any@10",
    "session all@10",
    "newer first",
)
DECISIVE = "turn all@10"


@dataclass(slots=True)
class Row:
    """The outcomes of one configuration, question by question, and the seconds each question took."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, history: History, rankings: Mapping[str, Sequence[str]]) -> None:
        """The rankings of a history's scored questions are judged and count from now on."""
        self.outcomes.extend(judge(history, question, rankings[question.id]) for question in history.scored)


def table(data_set: str, rows: Sequence[Row]) -> str:
    """The figures of every row, as Markdown."""
    lines = [
        f"### {data_set}, {len(rows[0].outcomes)} questions",
        "",
        f"| run | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for row in rows:
        figures = means(row.outcomes)
        cells = [f"{figures[name]:.3f}" if name in figures else "" for name in COLUMNS]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds(row: Row) -> str:
    """The decisive figure of one row for each kind of question."""
    by_kind: dict[str, list[float]] = {}
    for outcome in row.outcomes:
        by_kind.setdefault(outcome.question.kind, []).append(outcome.values[DECISIVE])
    cells = (f"{kind} {float(np.mean(values)):.3f} ({len(values)})" for kind, values in sorted(by_kind.items()))
    return f"{row.name}, {DECISIVE} by kind: {', '.join(cells)}"


def comparison(ours: Row, theirs: Row, metrics: Sequence[str] = (DECISIVE, "turn any@5")) -> str:
    """How much better one row is than another, with the interval of that."""
    found = (f"{metric} {paired_interval(ours.outcomes, theirs.outcomes, metric)}" for metric in metrics)
    return f"{ours.name} minus {theirs.name} (paired bootstrap, 95 %): {'; '.join(found)}"


def is_better(ours: Row, theirs: Row) -> bool:
    """True when the interval of the decisive figure lies above zero."""
    return paired_interval(ours.outcomes, theirs.outcomes, DECISIVE).low > 0


def latency(row: Row) -> str:
    """Median and 95th percentile of the time per question."""
    median, high = np.percentile(np.array(row.seconds) * 1000, [50, 95])
    return f"{row.name}: {len(row.seconds)} recalls, p50 {median:.1f} ms, p95 {high:.1f} ms"
