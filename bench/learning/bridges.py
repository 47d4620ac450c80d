"""Bridges: memories that share no telling word with each other, only one concept that their writer named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.learning.world import World, atom_id, chosen
from bench.recall.dataset import History
from polymem.domain.text import query_terms
from polymem.engine.requests import HitSource

_SHOWN: Final = 10
_CUT: Final = 0.3
_QUESTION_WORDS: Final = 12
_SHARE: Final = 0.2
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Bridge:
    """Two turns by place, and the concept that both were given."""

    near: int
    far: int
    concept: str


@dataclass(frozen=True, slots=True)
class Crossed:
    """Of so many bridges, how many were crossed: the far turn shown for a question that quotes the near one."""

    bridges: int
    with_associations: int
    without: int
    told_as_hebbian: int


def bridges(history: History) -> tuple[Bridge, ...]:
    """Pairs of turns that share no telling word, the same in every run; no turn is in two of them."""
    picked = [place for place, turn in enumerate(history.turns) if chosen(turn.id, _SHARE)]
    found: list[Bridge] = []
    words = {place: frozenset(query_terms(history.turns[place].text)) for place in picked}
    for near in picked:
        used = {place for bridge in found for place in (bridge.near, bridge.far)}
        if near in used or len(found) == _MOST:
            continue
        far = next((place for place in reversed(picked) if place not in used and not words[near] & words[place]), None)
        if far is not None:
            found.append(Bridge(near, far, f"matter {len(found)}"))
    return tuple(found)


def named(found: tuple[Bridge, ...]) -> Mapping[int, str]:
    """The concept that each turn of a bridge is given."""
    return {place: bridge.concept for bridge in found for place in (bridge.near, bridge.far)}


async def cross(world: World, found: tuple[Bridge, ...]) -> Crossed:
    """Each bridge asked for by the first words of its near turn, with associations and without."""
    hits = {True: 0, False: 0}
    hebbian = 0
    for bridge in found:
        question = " ".join(world.history.turns[bridge.near].text.split()[:_QUESTION_WORDS])
        for expands in (True, False):
            page = await world.read(question, expands=expands, min_relevance=_CUT, limit=_SHOWN)
            far = next((hit for hit in page.hits if hit.memory.id == atom_id(bridge.far)), None)
            hits[expands] += far is not None
            hebbian += expands and far is not None and far.source is HitSource.HEBBIAN
    return Crossed(len(found), hits[True], hits[False], hebbian)
