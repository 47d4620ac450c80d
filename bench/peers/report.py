"""The tables of a run, as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from bench.peers.corpus import Corpus
from bench.peers.measure import Measured
from bench.recall.metrics import means, paired_interval

Results = Mapping[str, Measured | str]

_QUALITY = {
    "turn any@1": "turn any@1",
    "turn any@5": "any@5",
    "turn any@10": "any@10",
    "turn all@10": "all@10",
    "turn mrr": "MRR",
    "session all@10": "session all@10",
}
_COST = (
    "search p50, ms",
    "p95",
    "written, texts/s",
    "one write p50, ms",
    "resident, MB",
    "highest",
    "disk, bytes a text",
    "first answer, s",
)
_DECISIVE = ("turn any@5", "turn all@10")


def table(corpus: Corpus, results: Results) -> str:
    """A row for each peer: its figures, or why it has none."""
    quality = list(_QUALITY) if corpus.questions[0].scored else []
    names = [*(_QUALITY[metric] for metric in quality), *_COST]
    lines = [
        f"### {corpus.name}, {corpus.size} texts, {len(corpus.questions)} questions",
        "",
        f"| peer | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for name, result in results.items():
        cells = [result] + [""] * (len(names) - 1) if isinstance(result, str) else _cells(result, quality)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparisons(results: Results) -> str:
    """How much better the first peer is than each other, with paired bootstrap intervals."""
    measured = {name: result for name, result in results.items() if not isinstance(result, str)}
    if not measured:
        return ""
    (first, ours), *others = measured.items()
    lines: list[str] = []
    for name, theirs in others:
        found = [
            f"{metric} {interval}"
            for metric in _DECISIVE
            if (interval := paired_interval(ours.answered.outcomes, theirs.answered.outcomes, metric))
        ]
        if found:
            lines.append(f"- {first} minus {name} (paired bootstrap, 95 %): {'; '.join(found)}")
    return "\n".join(lines)


def versions(results: Sequence[Results]) -> str:
    """The version of each peer that ran."""
    found = {
        name: result.written.version for each in results for name, result in each.items() if not isinstance(result, str)
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _cells(result: Measured, quality: Sequence[str]) -> list[str]:
    figures = means(result.answered.outcomes)
    search = np.percentile(np.array(result.answered.search_seconds) * 1000, [50, 95])
    return [
        *(f"{figures[metric]:.3f}" for metric in quality),
        *(f"{value:.1f}" for value in search),
        f"{result.written.texts_per_second:.0f}",
        f"{float(np.median(result.written.single_seconds)) * 1000:.1f}",
        f"{result.answered.resident_bytes / 1e6:.0f}",
        f"{result.highest_bytes / 1e6:.0f}",
        f"{result.disk_bytes_per_text:.0f}",
        f"{result.answered.first_seconds:.1f}",
    ]
