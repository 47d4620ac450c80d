"""The learning bench rewords without looking at answers, and judges what it measured."""

import re

import pytest

from bench.learning import bridges, feedback_run
from bench.learning.command import table
from bench.learning.feedback_run import METRICS, Row
from bench.learning.rewording import KINDS, follow_up, in_other_words, thinned
from bench.learning.world import chosen
from bench.recall.dataset import History, LabTurn, Question
from bench.recall.metrics import Interval, judge
from polymem.domain.text import query_terms

QUESTION = "What movie did I watch with my sister in Berlin?"


def _history(*texts: str) -> History:
    turns = tuple(
        LabTurn(id=f"t{place}", session_id="s", seq=place, speaker="user", text=text, said_at=None)
        for place, text in enumerate(texts)
    )
    question = Question(
        id="q", text=QUESTION, kind="k", turns=frozenset({"t1"}), sessions=frozenset({"s"}), is_abstention=False
    )
    return History(id="h", turns=turns, questions=(question,))


def test_rewordings_keep_what_is_asked_in_other_words() -> None:
    assert in_other_words(QUESTION) == "Could you remind me? what film did I see with my sister in Berlin?"
    assert thinned(QUESTION) == "movie watch Berlin"
    assert follow_up(QUESTION) == "And what else about berlin and sister?"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_rewording_is_the_same_every_time_and_never_the_question(kind: str) -> None:
    assert KINDS[kind](QUESTION) == KINDS[kind](QUESTION) != QUESTION


def test_bridges_join_turns_that_share_no_telling_word() -> None:
    words = ("ferry", "garden", "piano", "winter", "copper", "violet")
    history = _history(*(f"the {words[place % 6]} and turn{place}" for place in range(200)))
    found = bridges.bridges(history)
    assert found == bridges.bridges(history)
    places = [place for bridge in found for place in (bridge.near, bridge.far)]
    assert len(found) > 5
    assert len(set(places)) == len(places)
    for bridge in found:
        near, far = (history.turns[place].text for place in (bridge.near, bridge.far))
        assert not set(query_terms(near)) & set(query_terms(far))
    named = bridges.named(found)
    assert [named[place] for place in places[:2]] == [found[0].concept] * 2


def test_about_the_share_asked_for_is_chosen() -> None:
    share = sum(chosen(f"turn {number}", 0.2) for number in range(2_000)) / 2_000
    assert 0.15 < share < 0.25


def test_a_row_pairs_each_question_with_itself_before_and_after() -> None:
    history = _history("a", "b")
    question = history.questions[0]
    worse, better = judge(history, question, ["t0", "t1"]), judge(history, question, ["t1", "t0"])
    before = {(feedback_run.SAME, "q"): worse, ("thinned", "q"): worse}
    after = {(feedback_run.SAME, "q"): better, ("thinned", "q"): better}
    taught = feedback_run._rows("both", feedback_run._grouped(before, after, frozenset({"q"})))
    assert [(row.asked, row.questions) for row in taught] == [(feedback_run.SAME, 1), ("thinned", 1)]
    assert taught[0].before["turn mrr"] == 0.5
    assert taught[0].gains["turn mrr"].mean == 0.5
    others = feedback_run._rows("both", feedback_run._grouped(before, after, frozenset()))
    assert [row.asked for row in others] == [feedback_run.OTHERS]


def test_a_question_of_several_deals_counts_once() -> None:
    history = _history("a", "b")
    question = history.questions[0]
    worse, better = judge(history, question, ["t0", "t1"]), judge(history, question, ["t1", "t0"])
    row = feedback_run._row("both", "thinned", [(worse, better), (worse, worse)])
    assert (row.questions, row.gains["turn mrr"].mean) == (1, 0.25)


def test_the_table_has_a_figure_and_an_interval_for_each_metric() -> None:
    gains = {name: Interval(0.1, 0.05, 0.15) for name in METRICS}
    row = Row(mode="both", asked="thinned", questions=7, before=dict.fromkeys(METRICS, 0.5), gains=gains)
    last = table([row]).splitlines()[-1]
    assert last.startswith("| both | thinned | 7 | 0.500 +0.100 [+0.050, +0.150] |")
    assert len(re.findall(r"\|", last)) == len(METRICS) + 4
