"""Feedback on half of the questions, and what it does to them, to rewordings of them, and to the other half."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.learning.rewording import KINDS
from bench.learning.world import World, copied, open_world
from bench.recall.dataset import History
from bench.recall.metrics import Interval, Outcome, interval_of, judge
from bench.recall.splits import halves
from polymem.ports.inference import Embedder

METRICS: Final = ("turn any@1", "turn any@5", "turn all@10", "turn mrr")
SAME: Final = "the rewarded questions themselves"
OTHERS: Final = "questions never rewarded"
_SHOWN: Final = 10
_PUNISHED: Final = 5


Asked = dict[tuple[str, str], Outcome]
Pairs = dict[str, list[tuple[Outcome, Outcome]]]


@dataclass(frozen=True, slots=True)
class Mode:
    """What learns, and what the reads use."""

    name: str
    keeps_valences: bool
    coactivates: bool
    expands: bool


_WRITING: Final = "associations of writing, no feedback"
MODES: Final = (
    Mode("valence alone", keeps_valences=True, coactivates=False, expands=False),
    Mode("associations alone", keeps_valences=False, coactivates=True, expands=True),
    Mode("both", keeps_valences=True, coactivates=True, expands=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was asked, and each metric before and its gain.

    A question counts once, by its mean over the deals it took part in; the interval is of questions drawn.
    """

    mode: str
    asked: str
    questions: int
    before: Mapping[str, float]
    gains: Mapping[str, Interval]


async def measure(
    base: Path, scratch: Path, history: History, embedder: Embedder, *, salts: Sequence[str], rounds: int
) -> list[Row]:
    """Each mode against reads before any feedback, over the halves that each salt deals; every question paired."""
    before: dict[bool, Asked] = {}
    async with open_world(copied(base, scratch / "before"), history, embedder) as world:
        for expands in (True, False):
            before[expands] = await _asked(world, expands=expands)
    everybody = frozenset(question.id for question in history.scored)
    rows = _rows(_WRITING, _grouped(before[False], before[True], everybody))
    for mode in MODES:
        pairs: Pairs = {}
        for salt in salts:
            taught, _ = halves(history.scored, salt)
            async with open_world(copied(base, scratch / "taught"), history, embedder) as world:
                await _teach(world, taught, mode, rounds=rounds)
                after = await _asked(world, expands=mode.expands)
            for group, found in _grouped(before[mode.expands], after, taught).items():
                pairs.setdefault(group, []).extend(found)
        rows += _rows(mode.name, pairs)
    return rows


async def _teach(world: World, taught: frozenset[str], mode: Mode, *, rounds: int) -> None:
    """So many times: each question of the half is read, its answers are rewarded, wrong ones shown are punished."""
    questions = [question for question in world.history.scored if question.id in taught]
    for _ in range(rounds):
        for question in questions:
            found = await world.read(question.text, expands=mode.expands, limit=_SHOWN)
            concepts = found.query_concepts if mode.coactivates else ()
            wrong = [turn for turn in world.turns_of(found)[:_PUNISHED] if turn not in question.turns]
            await world.tell(sorted(question.turns), 1.0, concepts)
            await world.tell(wrong, -1.0, concepts)
    if not mode.keeps_valences:
        await world.forget_valences()


async def _asked(world: World, *, expands: bool) -> Asked:
    """Every question, as it is and in each rewording, judged."""
    outcomes: Asked = {}
    for question in world.history.scored:
        for kind, text in ((SAME, question.text), *((kind, say(question.text)) for kind, say in KINDS.items())):
            found = await world.read(text, expands=expands)
            outcomes[kind, question.id] = judge(world.history, question, world.turns_of(found))
    return outcomes


def _grouped(before: Asked, after: Asked, taught: frozenset[str]) -> Pairs:
    """The pairs of outcomes that each line of the table is made of."""
    pairs: Pairs = {}
    for (kind, question_id), outcome in after.items():
        if question_id in taught:
            pairs.setdefault(kind, []).append((before[kind, question_id], outcome))
        elif kind == SAME:
            pairs.setdefault(OTHERS, []).append((before[kind, question_id], outcome))
    return pairs


def _rows(mode: str, pairs: Pairs) -> list[Row]:
    return [_row(mode, asked, pairs[asked]) for asked in (SAME, *KINDS, OTHERS) if asked in pairs]


def _row(mode: str, asked: str, pairs: Sequence[tuple[Outcome, Outcome]]) -> Row:
    of_question: dict[str, list[list[list[float]]]] = {}
    for before, after in pairs:
        told = [[before.values[name], after.values[name]] for name in METRICS]
        of_question.setdefault(before.question.id, []).append(told)
    # By question, by metric: before, after.
    values = np.array([np.mean(deals, axis=0) for deals in of_question.values()])
    return Row(
        mode=mode,
        asked=asked,
        questions=len(of_question),
        before={name: float(values[:, place, 0].mean()) for place, name in enumerate(METRICS)},
        gains={name: interval_of(values[:, place, 1] - values[:, place, 0]) for place, name in enumerate(METRICS)},
    )
