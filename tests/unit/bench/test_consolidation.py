"""The consolidation laboratory says things again, and counts what became of them."""

import random
from dataclasses import replace

import pytest

from bench.consolidation.command import is_good
from bench.consolidation.paraphrase import RETELLINGS, REWORDINGS, Rewrite, restated, said_again
from bench.consolidation.planting import SHARE, planted
from bench.consolidation.run import Figures, Slept
from bench.recall.dataset import History, LabTurn
from samples import account_of, job_of

TEXT = (
    "I'm thinking of buying a new bike because I don't like the old one, and I have three friends who recommend it."
    " By the way, can you suggest 4 good shops near the station? They should be open on Sunday."
)


def _history(count: int) -> History:
    turns = tuple(
        LabTurn(id=f"t{at}", session_id="s", seq=at, speaker="user", text=f"{TEXT} That was {at}.", said_at=None)
        for at in range(count)
    )
    return History(id="h", turns=turns, questions=())


@pytest.mark.parametrize(("name", "rewrite"), [*REWORDINGS.items(), *RETELLINGS.items()])
def test_every_rule_changes_a_text_and_always_alike(name: str, rewrite: Rewrite) -> None:
    assert name
    changed = rewrite(TEXT, random.Random(1))
    assert changed.split() != TEXT.split()
    assert changed == rewrite(TEXT, random.Random(1))


@pytest.mark.parametrize("text", ["One clause because another is longer.", "One thing, and two others", "Yes", ""])
def test_short_texts_are_said_again_too(text: str) -> None:
    for rules in (REWORDINGS, RETELLINGS):
        name, again = said_again(text, rules, "seed")
        assert (name, again) == said_again(text, rules, "seed")
        assert (again.split() != text.split()) == bool(name)


def test_a_quarter_of_the_turns_is_planted_with_its_place() -> None:
    made = planted(_history(40), "rewordings")
    assert len(made.atoms) == 40 + round(40 * SHARE)
    assert len({atom.id for atom in made.atoms}) == len(made.atoms)
    for position, turn in made.original.items():
        assert made.turn_of(position) == turn
        assert made.atoms[position].content != made.atoms[turn].content
        assert made.atoms[position].created_at > made.atoms[turn].created_at
    assert made.turn_of(3) == 3


def test_what_was_restated_by_hand_is_planted_where_its_turn_is() -> None:
    name = next(iter(restated()))
    history = _history(2)
    named = History(id="h", turns=(replace(history.turns[0], id=name), history.turns[1]), questions=())
    made = planted(named, "restated")
    assert dict(made.original) == {2: 0}
    assert made.atoms[2].content == restated()[name]


def _figures(**given: object) -> Figures:
    slept = Slept(job=job_of(account_of("a"), "j"), seconds=1.0, before_mb=1.0, after_mb=2.0)
    figures = Figures(
        planted=10,
        merged=8,
        distinct=100,
        strayed=1,
        by_rule={},
        all_at_10=(0.80, 0.79),
        lost=0,
        again=0,
        slept=slept,
    )
    return replace(figures, **given)  # type: ignore[arg-type]  # fields by name


def test_figures_that_keep_every_promise_are_good() -> None:
    assert is_good(_figures())


@pytest.mark.parametrize(
    "given", [{"merged": 7}, {"strayed": 2}, {"all_at_10": (0.8, 0.78)}, {"lost": 1}, {"again": 1}]
)
def test_one_broken_promise_makes_figures_bad(given: dict[str, object]) -> None:
    assert not is_good(_figures(**given))
