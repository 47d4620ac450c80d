"""Halves of questions."""

from collections import Counter

from bench.recall.dataset import Question
from bench.recall.splits import halves


def _questions(kinds: dict[str, int]) -> list[Question]:
    return [
        Question(
            id=f"{kind}-{number}",
            text="?",
            kind=kind,
            turns=frozenset({"t"}),
            sessions=frozenset({"s"}),
            is_abstention=False,
        )
        for kind, count in kinds.items()
        for number in range(count)
    ]


QUESTIONS = _questions({"multi": 31, "single": 60, "temporal": 8, "rare": 1})


def test_halves_hold_every_question_once_and_each_kind_alike() -> None:
    first, second = halves(QUESTIONS, "a")
    assert first | second == {question.id for question in QUESTIONS}
    assert not first & second
    assert len(first) == len(second) == 50
    counts = [Counter(name.split("-")[0] for name in half) for half in (first, second)]
    assert all(abs(counts[0][kind] - counts[1][kind]) <= 1 for kind in ("multi", "single", "temporal", "rare"))


def test_halves_do_not_depend_on_the_order_of_questions() -> None:
    assert halves(QUESTIONS[::-1], "a") == halves(QUESTIONS, "a")


def test_another_salt_gives_other_halves() -> None:
    first, second = halves(QUESTIONS, "a")
    assert halves(QUESTIONS, "b")[0] not in (first, second)
