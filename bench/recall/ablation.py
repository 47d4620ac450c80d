"""`ablation`: what each weight of recall is worth, one row for each change of one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.recall import report
from bench.recall.baseline_rows import TERM_VARIANTS, bm25_row
from bench.recall.configurations import DEFAULTS, Configuration, default_weights, stages_left_out, variants
from bench.recall.metrics import HEADLINES, OBJECTIVE, interval_of, means, paired_interval
from bench.recall.sweep import Sweep

# Every difference from the defaults is shown with its interval for these; a clear one is set in bold.
_JUDGED = ("turn any@5", "turn all@10", "session all@10", "newer first", "past in 10")


def configurations(more: Sequence[Configuration] = ()) -> list[Configuration]:
    """The defaults, each stage left out, every weight off, halved and doubled, and those asked for besides."""
    return [Configuration(DEFAULTS, {}), *more, *stages_left_out(), *variants(default_weights())]


def print_report(found: Sweep) -> None:
    """The ablation of one data set is printed."""
    data_set = found.data_set
    terms = [bm25_row(data_set, name, of) for name, of in TERM_VARIANTS.items()]
    default = found.rows[DEFAULTS]
    parts = [
        report.title(data_set, default),
        report.headlines([*terms, *found.baselines, default]),
        f"Each row minus the {DEFAULTS}, with 95 % intervals; bold where the interval does not hold zero:",
        _table(found),
        _silent(found),
    ]
    print("\n\n".join(parts), end="\n\n")


def print_objective(found: Sequence[Sweep]) -> None:
    """The objective of every configuration over all data sets together is printed, the best first."""
    names = [name for name in found[0].rows if all(name in sweep.rows for sweep in found)]
    default = [_objectives(sweep.rows[DEFAULTS]) for sweep in found]
    lines = []
    for name in names:
        of_set = [_objectives(sweep.rows[name]) for sweep in found]
        difference = interval_of(*(ours - theirs for ours, theirs in zip(of_set, default, strict=True)))
        whole = float(np.mean([each.mean() for each in of_set]))
        cells = [name, f"{whole:.4f}", *(f"{each.mean():.4f}" for each in of_set)]
        lines.append((-whole, [*cells, f"**{difference}**" if difference.is_clear else str(difference)]))
    head = ["change", "objective", *(sweep.data_set.name for sweep in found), f"minus {DEFAULTS}"]
    print(f"### The mean of {' and '.join(OBJECTIVE)} over the data sets, best first\n")
    print(report.markdown(head, [line for _, line in sorted(lines, key=lambda line: line[0])]), end="\n\n")


def _objectives(row: report.Row) -> NDArray[np.float64]:
    return np.array([np.mean([outcome.values[name] for name in OBJECTIVE]) for outcome in row.outcomes])


def _table(found: Sweep) -> str:
    default = found.rows[DEFAULTS]
    lines = []
    for row in found.rows.values():
        if row is default or _is_same(row, default):
            continue
        figures = means(row.outcomes)
        held = [name for name in HEADLINES if name in figures]
        judged = [paired_interval(row.outcomes, default.outcomes, name) for name in _JUDGED]
        bold = ["" if each is None else f"**{each}**" if each.is_clear else str(each) for each in judged]
        lines.append([row.name, *(f"{figures[name]:.3f}" if name in held else "" for name in HEADLINES), *bold])
    return report.markdown(["change", *HEADLINES, *(f"{name} minus" for name in _JUDGED)], lines)


def _silent(found: Sweep) -> str:
    """The changes that move no figure of any question, and those the engine refuses."""
    default = found.rows[DEFAULTS]
    same = [name for name, row in found.rows.items() if row is not default and _is_same(row, default)]
    lines = [f"No figure of any question moves with: {', '.join(same) or 'none'}."]
    if found.refused:
        lines.append(f"Refused: {', '.join(found.refused)}.")
    return "\n".join(lines)


def _is_same(row: report.Row, other: report.Row) -> bool:
    return all(a.values == b.values for a, b in zip(row.outcomes, other.outcomes, strict=True))
