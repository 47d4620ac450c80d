"""The tables of the report, in Markdown: the storages side by side."""

import os
from collections.abc import Mapping, Sequence
from statistics import mean, median

import numpy as np

from bench.recall.metrics import interval_of
from bench.recall.report import markdown
from bench.scale.asking import CLIENTS, Pages, Shares, Throughput
from bench.scale.filling import PER_COMMIT, Filled
from bench.scale.sides import PAGE, SQLITE, Timings
from bench.scale.weighing import Footprint, Weighed
from bench.scale.writing import Writes


def title(settings: str, version: str) -> str:
    """What both storages run on."""
    return (
        f"## SQLite beside PostgreSQL {version}\n\n{os.cpu_count()} cores; PostgreSQL's settings: {settings};"
        " SQLite's are polymem's own. Both in one process, interleaved in random order. CPU of this process and of the"
        " database server are told apart; one that is reached over a network shows none."
    )


def heading(name: str, memories: int, tenants: int) -> str:
    """What a shape is."""
    return f"### `{name}`: {memories} memories, {tenants} tenant{'s' if tenants > 1 else ''}"


def filling(filled: Filled, memories: int) -> str:
    """How fast each storage took the memories."""
    if not filled.commits:
        return "Filled by an earlier run."
    lines = []
    for name, taken in filled.commits.items():
        seconds = sum(taken.seconds)
        server = "" if name == SQLITE else f"{filled.server_cpu_seconds / memories * 1000:.3f}"
        lines.append(
            [
                name,
                f"{memories / seconds:.0f}",
                f"{taken.percentile_ms(50):.1f}",
                f"{taken.percentile_ms(95):.1f}",
                f"{taken.cpu_seconds / memories * 1000:.3f}",
                server,
            ]
        )
    head = ["fill", "memories/s", "commit p50 ms", "commit p95 ms", "own CPU ms a memory", "server CPU ms a memory"]
    return f"Filling, {PER_COMMIT} memories a commit, one commit after another:\n\n{markdown(head, lines)}"


def readiness(steps: Sequence[tuple[str, str, float, float]]) -> str:
    """What was done between filling and asking."""
    lines = [[what, name, f"{seconds:.2f}", f"{cpu:.2f}"] for what, name, seconds, cpu in steps]
    told = "Between filling and asking (VACUUM and ANALYZE as autovacuum would have done):"
    return f"{told}\n\n{markdown(['step', 'storage', 's', 'server CPU s'], lines)}"


def quality(shares: Shares, pages: Pages) -> str:
    """Recall of the arms against exact, and how much the final pages have in common."""
    lines = [
        [name, *(cell for of in (shares.dense, shares.lexical) for cell in _of_shares(of[name]))]
        for name in shares.dense
    ]
    head = ["arm against exact", f"dense recall@{PAGE}", "worst", f"lexical recall@{PAGE}", "worst"]
    found = [markdown(head, lines)]
    names = list(shares.dense)
    for arm, of in (("dense", shares.dense), ("lexical", shares.lexical)):
        difference = interval_of(np.array(of[names[1]]) - np.array(of[names[0]]))
        found.append(f"{arm} recall@{PAGE}, {names[1]} minus {names[0]}, with its 95 % interval: {difference}.")
    found.append(_agreement(pages, names))
    return "\n\n".join(found)


def _of_shares(shares: Sequence[float]) -> tuple[str, str]:
    return f"{mean(shares):.4f}", f"{min(shares):.1f}"


def _agreement(pages: Pages, names: Sequence[str]) -> str:
    pairs = list(zip(pages.ids[names[0]], pages.ids[names[1]], strict=True))
    overlap = mean(len(set(first) & set(other)) / max(len(first), len(other), 1) for first, other in pairs)
    same = mean(first == other for first, other in pairs)
    top = mean(first[:1] == other[:1] for first, other in pairs)
    return (
        f"Final pages of {len(pairs)} questions: overlap@{PAGE} {overlap:.4f}, identical in order {same:.1%},"
        f" the same first {top:.1%}."
    )


def recall(pages: Pages) -> str:
    """How long recall takes, one question at a time."""
    names = list(pages.taken)
    count = len(pages.taken[names[0]].seconds)
    server = f"{pages.server_cpu_seconds / count * 1000:.2f}"
    lines = [
        [name, *_spread(taken), f"{taken.mean_cpu_ms:.2f}", "" if name == SQLITE else server]
        for name, taken in pages.taken.items()
    ]
    head = [f"recall, {count} questions", "p50 ms", "p95 ms", "mean own CPU ms", "mean server CPU ms"]
    return f"{markdown(head, lines)}\n\n{_ratio(pages.taken)}"


def together(found: Mapping[str, Sequence[Throughput]]) -> str:
    """How many recalls a second with several clients: the median of the rounds."""
    lines = []
    for name, rounds in found.items():
        rates = sorted(each.a_second for each in rounds)
        own, server = median(each.own_cpu_ms for each in rounds), median(each.server_cpu_ms for each in rounds)
        spread = f"{rates[0]:.1f} to {rates[-1]:.1f}"
        lines.append([name, f"{median(rates):.1f}", spread, f"{own:.2f}", "" if name == SQLITE else f"{server:.2f}"])
    head = [f"recall, {CLIENTS} at a time", "recalls/s", "rounds", "own CPU ms", "server CPU ms"]
    return markdown(head, lines)


def stages(found: Mapping[str, Mapping[str, Timings]]) -> str:
    """Each call that recall makes of a storage, alone."""
    names = list(next(iter(found.values())))
    lines = []
    for stage, taken in found.items():
        cells = [cell for name in names for cell in _spread(taken[name])]
        lines.append([stage, str(len(taken[names[0]].seconds)), *cells])
    head = ["call, alone", "calls", *(f"{name} {figure}" for name in names for figure in ("p50 ms", "p95 ms"))]
    return markdown(head, lines)


def writing(found: Writes) -> str:
    """Single writes and deletes."""
    kinds = (("write", found.whole), ("write without the model", found.stored), ("delete", found.deleted))
    lines = [[f"{kind}, {name}", *_spread(taken)] for kind, of in kinds for name, taken in of.items()]
    count = len(next(iter(found.whole.values())).seconds)
    table = markdown([f"single, {count} of each", "p50 ms", "p95 ms"], lines)
    return f"{table}\n\nWithout the model: {_ratio(found.stored)}"


def disk(
    files: Sequence[tuple[str, int]], parts: Sequence[Weighed], indexes: Sequence[tuple[str, int]], memories: int
) -> str:
    """Bytes on disk for each memory."""
    whole = sum(size for _, size in files)
    lines = [[name, "", "", "", f"{size / memories:.0f}"] for name, size in files if size >= memories]
    lines.append(["**SQLite, all files**", "", "", "", f"**{whole / memories:.0f}**"])
    for each in parts:
        sizes = (each.rows, each.beside, each.indexes, each.rows + each.beside + each.indexes)
        lines.append([each.name, *(f"{size / memories:.0f}" for size in sizes)])
    total = sum(each.rows + each.beside + each.indexes for each in parts)
    lines.append(["**PostgreSQL, all tables**", "", "", "", f"**{total / memories:.0f}**"])
    told = ", ".join(f"`{name}` {size / memories:.0f}" for name, size in indexes)
    table = markdown(["bytes a memory", "rows", "beside", "indexes", "all"], lines)
    return f"{table}\n\nPostgreSQL's indexes, bytes a memory: {told}."


def memory(found: Mapping[str, Footprint]) -> str:
    """Memory of a process that serves one storage."""
    lines = []
    for name, each in found.items():
        server = "" if each.server_mb is None else f"{each.server_mb:.0f}"
        lines.append([name, f"{each.before_mb:.0f}", f"{each.after_mb:.0f}", server, f"{each.first_ms:.0f}"])
    head = ["a new process", "open MB", "after recalls MB", "server MB", "first recall ms"]
    return markdown(head, lines)


def _spread(taken: Timings) -> list[str]:
    return [f"{taken.percentile_ms(50):.2f}", f"{taken.percentile_ms(95):.2f}"]


def _ratio(taken: Mapping[str, Timings]) -> str:
    """The median of the ratios of pairs."""
    first, other = taken
    ratios = [b / a for a, b in zip(taken[first].seconds, taken[other].seconds, strict=True)]
    return f"{other} took {median(ratios):.2f} times as long as {first} (median of pairs)."
