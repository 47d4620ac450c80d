"""Atoms of real turns, some of them said again in other words."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from bench.consolidation.paraphrase import RETELLINGS, REWORDINGS, Rewrite, restated, said_again
from bench.recall.dataset import History
from bench.recall.memories import lab_uuid, memory
from polymem.domain.model import Memory, MemoryId, MemoryType

SHARE = 0.25
"""How many of the turns are said again: of the atoms it is a fifth."""
FAMILIES: Mapping[str, Mapping[str, Rewrite] | None] = {
    "rewordings": REWORDINGS,
    "retellings": RETELLINGS,
    "restated": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The atoms by position: first the turns, then the repeats; `original` has the position of each repeat's turn."""

    atoms: tuple[Memory, ...]
    original: Mapping[int, int]
    rule: Mapping[int, str]

    def turn_of(self, position: int) -> int:
        """The turn that an atom says."""
        return self.original.get(position, position)


def planted(history: History, family: str) -> Planted:
    """The turns of a history as written memories, and repeats of some by one family of rules, or by hand."""
    turns = [_written(memory(0, position, turn)) for position, turn in enumerate(history.turns)]
    rules = FAMILIES[family]
    repeats = _restated(history) if rules is None else _said_again(turns, rules)
    atoms, original, rule = list(turns), {}, {}
    for position, name, text in repeats:
        original[len(atoms)], rule[len(atoms)] = position, name
        told = turns[position].created_at + timedelta(hours=1)
        atoms.append(
            replace(
                turns[position],
                id=MemoryId(lab_uuid(3, 0, len(atoms))),
                content=text,
                created_at=told,
                updated_at=told,
            )
        )
    return Planted(atoms=tuple(atoms), original=original, rule=rule)


def _written(turn: Memory) -> Memory:
    return replace(turn, memory_type=MemoryType.INSIGHT, turn=None, session_id=None, version=1)


def _said_again(turns: Sequence[Memory], rules: Mapping[str, Rewrite]) -> list[tuple[int, str, str]]:
    """Of the turns a quarter, drawn by their ids: position, rule, text."""
    chosen = sorted(range(len(turns)), key=lambda position: hashlib.sha256(turns[position].id.encode()).digest())
    found = []
    for position in sorted(chosen[: round(SHARE * len(turns))]):
        name, text = said_again(turns[position].content, rules, turns[position].id)
        if name:
            found.append((position, name, text))
    return found


def _restated(history: History) -> list[tuple[int, str, str]]:
    places = {turn.id: position for position, turn in enumerate(history.turns)}
    return [(places[turn], "by hand", text) for turn, text in restated().items() if turn in places]
