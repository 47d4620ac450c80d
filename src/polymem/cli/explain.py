"""`polymem recall --explain`: why each memory was found, as a table for people."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import HORIZONTALS
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from polymem.cli.output import in_print

# What a page or a pipe shows; a terminal has a width of its own.
WIDTH_UNSEEN: Final = 100
_BEGINNING = 240
_LONGEST_WORD = 24
# Less than this is 0 in three digits.
_SHOWN_FROM = 0.0005


def print_explanations(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Each row's trace stands on standard output, the best memory first; or `empty`.

    A row has `content`, `created_at`, `id` and `trace`, the latter as the mem9 API shows it.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH_UNSEEN, highlight=False)
    if not rows:
        console.print(Text(empty))
    for number, row in enumerate(rows, start=1):
        console.print(_explained(number, row))


def _explained(number: int, row: Mapping[str, Any]) -> Panel:
    trace = row["trace"]
    sides = Table.grid(expand=True, padding=(0, 2, 0, 0))
    sides.add_column(ratio=3)
    sides.add_column(ratio=2)
    sides.add_row(_words(trace), _parts(trace))
    beginning = Text(_beginning(str(row["content"])), style="bold")
    inside = Group(beginning, Text(), _facts(row, trace), Text(), sides)
    title = Text(f"{number}. score {trace['score']:.3f}, relevance {trace['relevance']:.2f}", style="bold")
    return Panel(inside, box=HORIZONTALS, title=title, title_align="left", padding=(0, 1))


def _facts(row: Mapping[str, Any], trace: Mapping[str, Any]) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="cyan")
    facts.add_column()
    late = trace.get("late_interaction")
    facts.add_row("memory", Text(f"{row['id']}, {row['created_at']}"))
    facts.add_row("found by", Text(_arms(trace)))
    facts.add_row("rank fusion", f"{trace['fused']:.4f}")
    facts.add_row("late interaction", f"narrow {late['narrow']:.3f}, wide {late['wide']:.3f}" if late else "no vectors")
    facts.add_row("similarity", f"{trace['similarity']:.3f}" if "similarity" in trace else "no vectors")
    facts.add_row("words", f"coverage {trace['coverage']:.2f}, BM25 {trace['bm25']:.2f}")
    return facts


def _arms(trace: Mapping[str, Any]) -> str:
    """The arms with rank and score; a turn that none found stands beside one that was found."""
    arms = [f"{arm['arm']}: rank {arm['rank']} ({arm['score']:.3f})" for arm in trace["arms"]]
    return "; ".join(arms) or "no arm: it stands beside a turn that was found"


def _words(trace: Mapping[str, Any]) -> RenderableType:
    if not trace["words"]:
        return Text("no words were compared: there are no vectors")
    table = _table("word asked", "weight", "met", "cosine")
    for match in trace["words"]:
        table.add_row(
            _word(match["word"]), f"{match['weight']:.2f}", _word(match["met"]) or "-", f"{match['cosine']:.2f}"
        )
    return table


def _parts(trace: Mapping[str, Any]) -> Table:
    table = _table("part of the score", "value")
    for part in trace["parts"]:
        if abs(part["value"]) < _SHOWN_FROM:
            continue
        table.add_row(part["part"].replace("_", " "), f"{part['value']:+.3f}")
    table.add_row("score, their sum", f"{sum(part['value'] for part in trace['parts']):.3f}", style="bold")
    return table


def _table(*columns: str) -> Table:
    """A table of texts and numbers by turns; numbers stand on the right."""
    table = Table(box=None, pad_edge=False, header_style="cyan")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place % 2 else "left", overflow="fold")
    return table


def _word(word: str) -> Text:
    return Text(_cut(in_print(word), _LONGEST_WORD))


def _beginning(content: str) -> str:
    return _cut(in_print(" ".join(content[: 2 * _BEGINNING].split())), _BEGINNING)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}\u2026"
