"""What the laboratory measures of a ranking, on rankings made by hand."""

import math

import pytest
from numpy import array

from bench.recall.dataset import History, LabTurn, Question
from bench.recall.metrics import Interval, Outcome, interval_of, judge, means, paired_interval


def _history(sessions: dict[str, str]) -> History:
    turns = tuple(
        LabTurn(id=turn, session_id=session, seq=seq, speaker="user", text=turn, said_at=None)
        for seq, (turn, session) in enumerate(sessions.items())
    )
    return History(id="h", turns=turns, questions=())


def _question(
    *,
    turns: frozenset[str] = frozenset({"a"}),
    sessions: frozenset[str] = frozenset({"s1"}),
    newer: frozenset[str] = frozenset(),
    older: frozenset[str] = frozenset(),
    past: frozenset[str] = frozenset(),
) -> Question:
    return Question(
        id="q",
        text="?",
        kind="k",
        turns=turns,
        sessions=sessions,
        is_abstention=False,
        newer=newer,
        older=older,
        past=past,
    )


def _outcome(**values: float) -> Outcome:
    return Outcome(_question(), values)


HISTORY = _history({"a": "s1", "b": "s1", "c": "s2", "d": "s3", "e": "s4", "f": "s5", "g": "s6"})


def test_two_answers_at_ranks_two_and_seven_have_these_figures() -> None:
    question = _question(turns=frozenset({"a", "g"}), sessions=frozenset({"s1", "s6"}))
    found = judge(HISTORY, question, ["c", "a", "b", "d", "e", "f", "g"])
    best = 1 + 1 / math.log2(3)
    assert found.values == {
        "turn any@1": 0.0,
        "turn all@1": 0.0,
        "turn any@5": 1.0,
        "turn all@5": 0.0,
        "turn any@10": 1.0,
        "turn all@10": 1.0,
        "turn any@50": 1.0,
        "turn all@50": 1.0,
        "turn ndcg@10": pytest.approx((1 / math.log2(3) + 1 / 3) / best),
        "turn mrr": 0.5,
        "session any@1": 0.0,
        "session all@1": 0.0,
        "session any@5": 1.0,
        "session all@5": 0.0,
        "session any@10": 1.0,
        "session all@10": 1.0,
        "session any@50": 1.0,
        "session all@50": 1.0,
        "session ndcg@10": pytest.approx((1 / math.log2(3) + 1 / math.log2(7)) / best),
        "session mrr": 0.5,
    }


def test_nothing_found_is_zero_everywhere() -> None:
    question = _question(newer=frozenset({"a"}), older=frozenset({"b"}), past=frozenset({"b"}))
    assert set(judge(HISTORY, question, []).values.values()) == {0.0}


def test_a_session_stands_where_its_best_turn_stands() -> None:
    question = _question(turns=frozenset({"d"}), sessions=frozenset({"s3"}))
    values = judge(HISTORY, question, ["a", "b", "c", "d"]).values
    assert (values["turn mrr"], values["session mrr"]) == (0.25, 1 / 3)


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [(["a", "b"], 1.0), (["b", "a"], 0.0), (["c", "a"], 1.0), (["c", "b"], 0.0), (["c"], 0.0)],
)
def test_newer_first_is_had_when_the_newer_statement_stands_above_the_older(
    ranking: list[str], expected: float
) -> None:
    question = _question(newer=frozenset({"a"}), older=frozenset({"b"}))
    assert judge(HISTORY, question, ranking).values["newer first"] == expected


def test_a_question_of_the_past_wants_a_turn_that_tells_it() -> None:
    question = _question(turns=frozenset({"a", "g"}), past=frozenset({"g"}))
    values = judge(HISTORY, question, ["a", "b", "c", "d", "e", "g"]).values
    assert (values["past in 5"], values["past in 10"]) == (0.0, 1.0)


def test_means_are_over_the_questions_that_have_the_metric() -> None:
    assert means([_outcome(x=1.0), _outcome(x=0.0, y=0.25)]) == {"x": 0.5, "y": 0.25}


def test_equal_differences_leave_no_doubt() -> None:
    assert interval_of(array([0.25, 0.25, 0.25])) == Interval(0.25, 0.25, 0.25)


def test_two_questions_that_disagree_leave_all_the_doubt_there_is() -> None:
    found = interval_of(array([0.0, 1.0]))
    assert found == Interval(0.5, 0.0, 1.0)
    assert not found.is_clear


def test_four_questions_of_which_one_is_lost_have_these_bounds() -> None:
    # The mean of four draws is k / 4 with k binomial(4, 3/4): k = 4 holds 32 %, k <= 1 holds 5.1 %, k = 0 0.4 %.
    assert interval_of(array([1.0, 1.0, 1.0, 0.0])) == Interval(0.75, 0.25, 1.0)


def test_data_sets_of_different_size_weigh_alike() -> None:
    assert interval_of(array([1.0]), array([0.0, 0.0, 0.0])) == Interval(0.5, 0.5, 0.5)


def test_pairs_are_compared_question_by_question_where_both_have_the_metric() -> None:
    ours = [_outcome(x=1.0, y=1.0), _outcome(x=1.0), _outcome(x=0.5)]
    theirs = [_outcome(x=0.0, y=0.5), _outcome(x=0.0), _outcome(x=-0.5)]
    assert paired_interval(ours, theirs, "x") == Interval(1.0, 1.0, 1.0)
    assert paired_interval(ours, theirs, "y") == Interval(0.5, 0.5, 0.5)
    assert paired_interval(ours, theirs, "z") is None


def test_pairing_refuses_rows_of_different_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_interval([_outcome(x=1.0), _outcome(x=1.0)], [_outcome(x=1.0)], "x")


def test_an_interval_says_mean_and_bounds() -> None:
    assert str(Interval(0.1234, -0.05, 0.3)) == "+0.123 [-0.050, +0.300]"
    assert Interval(0.2, 0.1, 0.3).is_clear
    assert Interval(-0.2, -0.3, -0.1).is_clear
