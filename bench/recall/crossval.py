"""`crossval`: a configuration is chosen on one half of the questions and reported on the other, both ways.

The choice takes the configuration whose objective is highest: the mean over the data sets of the mean of turn
all@10 and turn any@5 on the half. Over several random splits each question is held out once in each; what is
reported of it is the mean over the splits, so that the intervals are those of questions, not of splits.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.recall import report
from bench.recall.baseline_rows import BM25_RECIPE, BM25_TERMS, PLAIN
from bench.recall.configurations import DEFAULTS
from bench.recall.metrics import HEADLINES, OBJECTIVE, Outcome, interval_of
from bench.recall.splits import halves
from bench.recall.sweep import Sweep

CHOSEN = "chosen, held out"
# A figure that fewer questions have is shown, but judges nothing.
_FEWEST_JUDGED = 20
_ROUNDING = 1e-9
Table = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class Fold:
    """One choice: on which half of which split, what was chosen, and the means held out by data set."""

    split: int
    half: int
    chosen: str
    objective: float
    held_out: tuple[Mapping[str, float], ...]
    defaults: tuple[Mapping[str, float], ...]


def folds(tables: Sequence[Table], splits: int) -> list[Fold]:
    """Both choices of every split; each table has the outcomes of every configuration on one data set."""
    made = []
    for split in range(splits):
        parts = [halves([outcome.question for outcome in table[DEFAULTS]], f"split {split}") for table in tables]
        for half in (0, 1):
            name, value = choose(tables, [part[half] for part in parts])
            others = [part[1 - half] for part in parts]
            made.append(
                Fold(
                    split=split,
                    half=half,
                    chosen=name,
                    objective=value,
                    held_out=tuple(_means(table[name], ids) for table, ids in zip(tables, others, strict=True)),
                    defaults=tuple(_means(table[DEFAULTS], ids) for table, ids in zip(tables, others, strict=True)),
                )
            )
    return made


def choose(tables: Sequence[Table], ids: Sequence[frozenset[str]]) -> tuple[str, float]:
    """The configuration with the highest objective on these questions of each table, the first of equals."""
    best, highest = "", -1.0
    for name in tables[0]:
        if all(name in table for table in tables):
            figures = [_means(table[name], part, OBJECTIVE) for table, part in zip(tables, ids, strict=True)]
            value = objective(figures)
            if value > highest:
                best, highest = name, value
    return best, highest


def objective(figures: Sequence[Mapping[str, float]]) -> float:
    """The mean over the data sets of the mean of the objective's figures."""
    return float(np.mean([np.mean([each[name] for name in OBJECTIVE]) for each in figures]))


def held_out_values(table: Table, made: Sequence[Fold], metric: str) -> dict[str, float]:
    """Each question's figure by the configuration chosen without it, the mean over the splits."""
    sums: dict[str, float] = defaultdict(float)
    splits = {fold.split for fold in made}
    for split in splits:
        parts = halves([outcome.question for outcome in table[DEFAULTS]], f"split {split}")
        for fold in made:
            if fold.split == split:
                for outcome in table[fold.chosen]:
                    if metric in outcome.values and outcome.question.id in parts[1 - fold.half]:
                        sums[outcome.question.id] += outcome.values[metric]
    ids = [outcome.question.id for outcome in table[DEFAULTS] if metric in outcome.values]
    return {each: sums[each] / len(splits) for each in ids}


def print_report(sweeps: Sequence[Sweep], splits: int) -> bool:
    """The choices and their held-out figures are printed; True when the gate is passed.

    The gate: no headline figure of the chosen, held out, below a BM25, and each above the plain script's.
    """
    tables = [{name: row.outcomes for name, row in sweep.rows.items()} for sweep in sweeps]
    made = folds(tables, splits)
    names = [sweep.data_set.name for sweep in sweeps]
    count = len(tables[0])
    print(
        f"### Cross-validation: {count} configurations, {splits} splits, objective: mean of {' and '.join(OBJECTIVE)}\n"
    )
    print(_choices(made), end="\n\n")
    print(_spread(made, names), end="\n\n")
    passed = []
    for sweep, table in zip(sweeps, tables, strict=True):
        text, is_passed = _gate(sweep, table, made)
        print(f"### {sweep.data_set.name}: held out, minus baselines, with 95 % intervals\n\n{text}", end="\n\n")
        passed.append(is_passed)
    print(
        f"Gate (each figure above the plain script's, none below BM25): {'passed' if all(passed) else 'not passed'}\n"
    )
    return all(passed)


def _choices(made: Sequence[Fold]) -> str:
    counted = Counter(fold.chosen for fold in made).most_common()
    lines = [
        [name, str(times), f"{np.mean([fold.objective for fold in made if fold.chosen == name]):.4f}"]
        for name, times in counted
    ]
    return report.markdown(["chosen", f"times of {len(made)}", "objective on the choosing half"], lines)


def _spread(made: Sequence[Fold], names: Sequence[str]) -> str:
    """Mean and standard deviation over the folds of each headline figure, for the chosen and for the defaults."""
    lines = []
    for place, data_set in enumerate(names):
        for label, figures in (
            (CHOSEN, [fold.held_out[place] for fold in made]),
            (f"{DEFAULTS} on each half", [fold.defaults[place] for fold in made]),
        ):
            lines.append([data_set, label, *(_mean_and_spread(figures, metric) for metric in HEADLINES)])
    return report.markdown(["data", "run", *HEADLINES], lines)


def _mean_and_spread(figures: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [each[metric] for each in figures if metric in each]
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else ""


def _gate(sweep: Sweep, table: Table, made: Sequence[Fold]) -> tuple[str, bool]:
    """Headline figures of the chosen held out, and their differences from the baselines and the defaults."""
    others = [*(row for row in sweep.baselines if row.name in {BM25_TERMS, BM25_RECIPE, PLAIN}), sweep.rows[DEFAULTS]]
    lines, is_passed = [], True
    for metric in HEADLINES:
        held = held_out_values(table, made, metric)
        if not held:
            continue
        cells = [metric, str(len(held)), f"{np.mean(list(held.values())):.3f}"]
        for row in others:
            difference = interval_of(_difference(held, row.outcomes, metric))
            if len(held) >= _FEWEST_JUDGED and row.name != DEFAULTS:
                is_passed &= difference.mean > (0 if row.name == PLAIN else -_ROUNDING)
            cells.append(str(difference))
        lines.append(cells)
    return report.markdown(["figure", "questions", CHOSEN, *(f"minus {row.name}" for row in others)], lines), is_passed


def _difference(held: Mapping[str, float], theirs: Sequence[Outcome], metric: str) -> NDArray[np.float64]:
    other = {outcome.question.id: outcome.values[metric] for outcome in theirs if metric in outcome.values}
    return np.array([value - other[name] for name, value in held.items()])


def _means(outcomes: Sequence[Outcome], ids: frozenset[str], metrics: Sequence[str] = HEADLINES) -> dict[str, float]:
    """The mean of each metric over those of the questions that have it."""
    held = [outcome.values for outcome in outcomes if outcome.question.id in ids]
    values = {metric: [each[metric] for each in held if metric in each] for metric in metrics}
    return {metric: float(np.mean(found)) for metric, found in values.items() if found}
