"""The order of candidates: what each feature gives, what is newer, what repeats, what ties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.question import Asked
from polymem.domain.ranking import (
    CONTEXT_FLOOR,
    DEFAULT_WEIGHTS,
    FEATURES,
    LONG_TERMS,
    RULES,
    SHORT_TERMS,
    Candidates,
    Floats,
    Ranking,
    Weights,
    context_share,
    features,
    length_share,
    own_match,
    rank,
    weighted_sum,
)
from polymem.domain.timewords import DaySpan
from polymem.domain.traits import Traits

DAY = date(2023, 5, 8)
PLAIN = Asked(
    of_the_asker=False,
    of_the_assistant=False,
    for_a_time=False,
    for_a_number=False,
    for_a_name=False,
    of_the_present=False,
    of_the_past=False,
    spans=(),
)
PRESENT, PAST = replace(PLAIN, of_the_present=True), replace(PLAIN, of_the_past=True)
# The match alone decides, but for what a test turns on.
MATCH_ALONE = Weights(**{field.name: 0.0 for field in fields(Weights)} | {"narrow": 0.5, "wide": 0.5})
NEWER = replace(
    MATCH_ALONE,
    newer_margin=0.01,
    newer_match=0.01,
    present_margin=0.1,
    present_match=0.1,
    same_matter=0.5,
    same_fact=0.5,
)
NOTE = Traits()
ADA, BEN, BOT, USER = (Traits(speaker=name) for name in ("Ada", "Ben", "assistant", "user"))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One candidate of a test; `matter` is the axis on which its embedding lies."""

    match: float = 0.5
    has_vectors: bool = True
    coverage: float = 0.0
    bm25: float = 0.0
    length: int = 10
    day: int = 0
    session: int = -1
    previous: int = -1
    traits: Traits = NOTE
    matter: int = 0
    id: str = ""


def _candidates(*seen: Seen) -> Candidates:
    said_on = tuple(DAY + timedelta(days=each.day) for each in seen)
    late: Floats = np.array([each.match if each.has_vectors else math.nan for each in seen], dtype=np.float64)
    return Candidates(
        ids=tuple(each.id or f"id-{row}" for row, each in enumerate(seen)),
        narrow=late,
        wide=late.copy(),
        similarity=late.copy(),
        coverage=np.array([each.coverage for each in seen], dtype=np.float64),
        bm25=np.array([each.bm25 for each in seen], dtype=np.float64),
        lengths=np.array([each.length for each in seen], dtype=np.int64),
        said_at=np.array([datetime.combine(day, datetime.min.time(), UTC).timestamp() for day in said_on], np.int64),
        said_on=said_on,
        session=np.array([each.session for each in seen], dtype=np.int64),
        previous=np.array([each.previous for each in seen], dtype=np.int64),
        traits=tuple(each.traits for each in seen),
        embeddings=np.array([np.eye(4)[each.matter] * each.has_vectors for each in seen], np.float32).reshape(-1, 4),
    )


def _features(asked: Asked, *seen: Seen, terms: Sequence[str] = ()) -> dict[str, list[float]]:
    found = features(asked, frozenset(terms), _candidates(*seen), DEFAULT_WEIGHTS)
    return {name: column.tolist() for name, column in found.items()}


def _order(asked: Asked, weights: Weights, *seen: Seen) -> list[int]:
    return list(_ranking(asked, weights, *seen).order)


def _ranking(asked: Asked, weights: Weights, *seen: Seen) -> Ranking:
    return rank(asked, frozenset(), _candidates(*seen), weights)


def test_each_weight_is_of_a_feature_or_of_a_rule() -> None:
    assert set(_features(PLAIN, Seen())) == set(FEATURES)
    assert set(FEATURES) | set(RULES) == {field.name for field in fields(Weights)}
    assert not set(FEATURES) & set(RULES)


def test_no_candidates_have_an_empty_order() -> None:
    ranking = _ranking(replace(PLAIN, spans=(DaySpan(DAY, DAY),)), DEFAULT_WEIGHTS)
    assert (ranking.order, ranking.scores.tolist()) == ((), [])


def test_the_better_match_comes_first_and_equal_ones_in_the_order_of_their_ids() -> None:
    assert _order(PLAIN, MATCH_ALONE, Seen(match=0.3), Seen(match=0.9), Seen(match=0.5)) == [1, 2, 0]
    assert _order(PLAIN, MATCH_ALONE, Seen(id="c"), Seen(id="a"), Seen(id="b")) == [1, 2, 0]


def test_length_tells_between_a_few_sentences_and_a_few_pages() -> None:
    shares = length_share(np.array([0, SHORT_TERMS, 200, LONG_TERMS, 100_000]))
    assert shares.tolist() == pytest.approx(
        [0, 0, -math.log(200 / SHORT_TERMS), *[-math.log(LONG_TERMS / SHORT_TERMS)] * 2]
    )
    assert _features(PLAIN, Seen(length=200))["length"] == pytest.approx([-math.log(200 / SHORT_TERMS)])


def test_words_stand_in_for_vectors_that_are_missing() -> None:
    none, all_words = Seen(has_vectors=False), Seen(has_vectors=False, coverage=1.0, bm25=0.5)
    found = _features(PLAIN, none, all_words, Seen(match=0.7))
    assert found["narrow"][0] < 0.5 < found["narrow"][1]
    assert found["narrow"] == found["wide"]
    assert found["narrow"][2] == 0.7
    assert found["similarity"] == [0.0, 0.0, 0.7]
    assert found["bm25"] == [0.0, 0.5, 0.0]


def test_what_a_candidate_has_on_its_own_is_a_part_of_its_score() -> None:
    candidates = _candidates(Seen(match=0.8, bm25=0.2, length=90), Seen(has_vectors=False))
    own = {name: getattr(DEFAULT_WEIGHTS, name) for name in ("narrow", "wide", "bm25", "similarity", "length")}
    expected = weighted_sum(features(PLAIN, frozenset(), candidates, Weights(**{**_no_weights(), **own})), _only(own))
    assert own_match(candidates, DEFAULT_WEIGHTS).tolist() == pytest.approx(expected.tolist())


def _no_weights() -> dict[str, float]:
    return {field.name: 0.0 for field in fields(Weights)}


def _only(given: dict[str, float]) -> Weights:
    return Weights(**{**_no_weights(), **given})


def test_an_assistant_loses_where_the_asker_is_meant_and_gains_where_it_is_asked() -> None:
    asker, assistant = replace(PLAIN, of_the_asker=True), replace(PLAIN, of_the_assistant=True)
    both = replace(asker, of_the_assistant=True)
    for asked, voice, reply in ((PLAIN, 0, 0), (asker, 1, 0), (assistant, 0, 1), (both, 0, 1)):
        found = _features(asked, Seen(traits=BOT), Seen(traits=USER), Seen(traits=ADA), Seen())
        assert found["assistant_voice"] == [voice, 0, 0, 0]
        assert found["assistant_asked"] == [reply, 0, 0, 0]


def test_the_speaker_whom_a_question_names_gains_and_the_others_lose() -> None:
    seen = (Seen(traits=ADA), Seen(traits=BEN), Seen(traits=USER), Seen())
    named = _features(PLAIN, *seen, terms=("ada", "cat"))
    assert (named["named_speaker"], named["other_speaker"]) == ([1, 0, 0, 0], [0, 1, 0, 0])
    nobody = _features(PLAIN, *seen, terms=("cat", "user"))
    assert (nobody["named_speaker"], nobody["other_speaker"]) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_a_speaker_with_the_name_of_a_stop_word_is_not_named_by_it() -> None:
    found = _features(PLAIN, Seen(traits=Traits(speaker="Will")), Seen(traits=ADA), terms=("will",))
    assert found["other_speaker"] == [0, 0]


def test_a_turn_of_a_dialogue_has_the_best_of_its_session_and_of_the_turn_before() -> None:
    asks = replace(ADA, asking=0.5)
    seen = (
        Seen(match=0.9, session=0, traits=asks),
        Seen(match=0.5, session=0, previous=0, traits=BEN),
        Seen(match=0.6, session=1, traits=BEN),
        Seen(match=0.1, session=2, traits=BEN),
        Seen(match=0.9, traits=ADA),
    )
    found = _features(PLAIN, *seen)
    own = own_match(_candidates(*seen), DEFAULT_WEIGHTS)
    above = (own - CONTEXT_FLOOR).tolist()
    assert found["session"] == pytest.approx([above[0], above[0], above[2], 0, 0])
    assert found["previous"] == pytest.approx([0, above[0], 0, 0, 0])
    assert found["answers"] == pytest.approx([0, above[0] / 2, 0, 0, 0])


def test_what_context_adds_to_a_score_is_what_is_left_without_its_own() -> None:
    turns = (Seen(match=0.9, session=0, traits=replace(ADA, asking=0.5)), Seen(session=0, previous=0, traits=BEN))
    ranking, without = _ranking(PLAIN, DEFAULT_WEIGHTS, *turns), _ranking(PLAIN, _no_context(), *turns)
    for row in range(len(turns)):
        added = ranking.scores[row] - without.scores[row]
        assert context_share(ranking, row, DEFAULT_WEIGHTS) == pytest.approx(added)
        assert added > 0


def _no_context() -> Weights:
    return replace(DEFAULT_WEIGHTS, session=0.0, previous=0.0, answers=0.0)


@pytest.mark.parametrize("traits", [USER, BOT, NOTE])
def test_a_turn_of_a_chat_stands_alone(traits: Traits) -> None:
    seen = (Seen(match=0.9, session=0, traits=replace(traits, asking=1.0)), Seen(session=0, previous=0, traits=traits))
    found = _features(PLAIN, *seen)
    assert {found[name][1] for name in ("session", "previous", "answers")} == {0.0}


def test_outside_of_chats_it_tells_whether_a_text_asks_and_has_what_is_asked_for() -> None:
    every = Traits(asking=0.5, ends_asking=True, has_number=True, has_time=True, names=0.25)
    seen = (Seen(traits=every), Seen(traits=replace(every, speaker="Ada")), Seen(traits=replace(every, speaker="user")))
    names = ("asking", "ends_asking", "number_asked", "time_asked", "name_asked")
    plain = _features(PLAIN, *seen)
    assert [plain[name] for name in names] == [[0.5, 0.5, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    all_asked = replace(PLAIN, for_a_number=True, for_a_time=True, for_a_name=True)
    found = _features(all_asked, *seen)
    assert [found[name] for name in names] == [[0.5, 0.5, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0.25, 0.25, 0]]
    without = _features(all_asked, Seen())
    assert [without[name] for name in names] == [[0], [0], [0], [0], [0]]


def _days(first: int, last: int) -> DaySpan:
    return DaySpan(DAY + timedelta(days=first), DAY + timedelta(days=last))


def test_the_day_something_was_said_counts_by_its_distance_from_the_time_asked_for() -> None:
    asked = replace(PLAIN, spans=(_days(0, 6), _days(100, 100)))
    said = _features(asked, *(Seen(day=day) for day in (3, 6, 8, 20, 100, 9_000)))["said_then"]
    assert said[0] == said[1] == said[4] == 1.0
    assert 0 < said[3] < 0.1 < said[2] < 1
    assert said[5] == 0
    assert _features(PLAIN, Seen())["said_then"] == [0.0]


def test_a_long_time_asked_for_tells_less_than_a_short_one() -> None:
    week, year = replace(PLAIN, spans=(_days(-7, 0),)), replace(PLAIN, spans=(_days(-365, 0),))
    assert _features(week, Seen())["said_then"] == [1.0]
    assert 0 < _features(year, Seen())["said_then"][0] < 1


def test_the_days_a_text_names_count_unless_they_are_much_longer_than_what_is_asked() -> None:
    asked = replace(PLAIN, spans=(_days(0, 6),))
    mentions = ((_days(2, 2),), (_days(9, 9),), (_days(-10, 10),), (_days(-20, 20),), (_days(300, 300), _days(6, 9)))
    tells = _features(asked, *(Seen(day=500, traits=Traits(spans=spans)) for spans in mentions))["tells_of_then"]
    assert tells[0] == tells[2] == tells[4] == 1.0
    assert 0 < tells[1] < 1
    assert tells[3] == 0


def test_a_newer_statement_of_the_same_matter_rises_just_above_the_older_one() -> None:
    ranking = _ranking(PLAIN, NEWER, Seen(match=0.505), Seen(match=0.5, day=1), Seen(match=0.9, matter=1))
    assert ranking.order == (2, 1, 0)
    assert ranking.scores.tolist() == pytest.approx([0.505, 0.505, 0.9])
    assert ranking.scores[1] > ranking.scores[0]
    assert ranking.rules["newer"].tolist() == pytest.approx([0, 0.005, 0])


@pytest.mark.parametrize(
    ("asked", "older", "newer"),
    [
        pytest.param(PAST, Seen(match=0.505), Seen(day=1), id="a question about the past"),
        pytest.param(PLAIN, Seen(match=0.505), Seen(day=1, matter=1), id="another matter"),
        pytest.param(PLAIN, Seen(match=0.505), Seen(), id="said at the same time"),
        pytest.param(PLAIN, Seen(match=0.505, day=2), Seen(day=1), id="said before"),
        pytest.param(PLAIN, Seen(match=0.52), Seen(day=1), id="a much worse match"),
        pytest.param(PLAIN, Seen(match=0.505, session=3), Seen(day=1, session=3), id="the same session"),
        pytest.param(PLAIN, Seen(match=0.505, traits=ADA), Seen(day=1, traits=BEN), id="another speaker"),
        pytest.param(PLAIN, Seen(match=0.505, traits=USER), Seen(day=1, traits=BOT), id="another voice"),
        pytest.param(PRESENT, Seen(match=0.55, traits=ADA), Seen(day=1, traits=ADA), id="dialogue, past its margin"),
        pytest.param(PRESENT, Seen(match=0.65), Seen(day=1), id="past the margin of the present"),
    ],
)
def test_what_is_newer_stays_below_after(asked: Asked, older: Seen, newer: Seen) -> None:
    ranking = _ranking(asked, NEWER, older, newer)
    assert ranking.order == (0, 1)
    assert not ranking.rules["newer"].any()


def test_notes_with_other_labels_may_replace_each_other() -> None:
    said, updated = (Traits(speaker=label, is_note=True) for label in ("Note", "Update"))
    ranking = _ranking(PLAIN, NEWER, Seen(match=0.505, traits=said), Seen(day=1, traits=updated))
    assert ranking.order == (1, 0)


@pytest.mark.parametrize(
    "matches", [(0.508, 0.504, 0.5), (0.508, 0.5, 0.504), (0.5, 0.508, 0.504), (0.504, 0.508, 0.5)]
)
def test_of_several_statements_of_the_same_matter_each_stands_above_the_older_ones(
    matches: tuple[float, float, float],
) -> None:
    told = [Seen(match=match, day=day) for day, match in enumerate(matches)]
    ranking = _ranking(PLAIN, NEWER, *told)
    assert ranking.order == (2, 1, 0)
    assert ranking.scores[2] > ranking.scores[1] > ranking.scores[0]


@pytest.mark.parametrize(
    ("asked", "older", "newer"),
    [
        pytest.param(PRESENT, Seen(match=0.55), Seen(day=1), id="the present gives a larger margin"),
        pytest.param(PRESENT, Seen(match=0.505, traits=ADA), Seen(day=1, traits=ADA), id="dialogue, within its own"),
        pytest.param(PLAIN, Seen(match=0.505, session=3), Seen(day=1, session=4), id="another session"),
        pytest.param(PLAIN, Seen(match=0.505, session=3), Seen(day=1), id="out of a session"),
    ],
)
def test_what_is_newer_rises_where(asked: Asked, older: Seen, newer: Seen) -> None:
    assert _order(asked, NEWER, older, newer) == [1, 0]


def test_a_turn_is_of_the_same_matter_sooner_than_a_memory_of_its_own() -> None:
    weights = replace(NEWER, same_matter=0.5, same_fact=1.5)
    assert _order(PLAIN, weights, Seen(match=0.505, traits=USER), Seen(day=1, traits=USER)) == [1, 0]
    assert _order(PLAIN, weights, Seen(match=0.505), Seen(day=1)) == [0, 1]


def test_what_scores_well_for_other_reasons_than_its_match_does_not_replace() -> None:
    weights = replace(NEWER, bm25=1.0)
    assert _order(PLAIN, weights, Seen(match=0.6), Seen(match=0.5, bm25=0.095, day=1)) == [0, 1]
    assert _order(PLAIN, weights, Seen(match=0.51, bm25=0.0), Seen(match=0.5, bm25=0.005, day=1)) == [1, 0]


def test_without_vectors_nothing_is_known_to_be_of_one_matter() -> None:
    older, newer = Seen(has_vectors=False, coverage=0.01), Seen(has_vectors=False, day=1)
    assert _order(PLAIN, NEWER, older, newer) == [0, 1]


def test_each_further_turn_of_one_chat_loses_up_to_a_bound() -> None:
    weights = replace(MATCH_ALONE, repeats=0.01, same_matter=2.0)
    chat = [Seen(match=0.9 - row / 100, session=0, traits=USER) for row in range(6)]
    ranking = _ranking(PLAIN, weights, *chat, Seen(match=0.845, session=1), Seen(match=0.1), Seen(match=0.1))
    assert ranking.rules["repeats"].tolist() == pytest.approx([0, -0.01, -0.02, -0.03, -0.03, -0.03, 0, 0, 0])
    assert ranking.order == (0, 1, 2, 6, 3, 4, 5, 7, 8)


def test_the_turns_of_a_dialogue_lose_nothing_by_their_number() -> None:
    weights = replace(MATCH_ALONE, repeats=0.01, same_matter=2.0)
    assert not _ranking(PLAIN, weights, *[Seen(session=0, traits=ADA)] * 4).rules["repeats"].any()


seen = st.builds(
    Seen,
    match=st.sampled_from([0.0, 0.3, 0.5, 0.51, 0.9]),
    has_vectors=st.booleans(),
    coverage=st.floats(0, 1),
    bm25=st.floats(0, 1),
    length=st.integers(0, 1_000),
    day=st.integers(-400, 400),
    session=st.integers(-1, 2),
    traits=st.sampled_from([ADA, BEN, BOT, USER, Traits(), Traits(spans=(_days(0, 3),), asking=0.5)]),
    matter=st.integers(0, 3),
)
asked = st.builds(
    Asked,
    **{field.name: st.booleans() for field in fields(Asked) if field.name != "spans"},
    spans=st.lists(st.sampled_from([_days(0, 0), _days(-365, 0), _days(5, 20)]), max_size=2).map(tuple),
)


@given(asked=asked, found=st.lists(seen, max_size=30))
def test_the_parts_add_up_to_the_scores_and_the_order_follows_them(asked: Asked, found: list[Seen]) -> None:
    candidates = _candidates(*found)
    ranking = rank(asked, frozenset({"ada"}), candidates, DEFAULT_WEIGHTS)
    plain = weighted_sum(ranking.features, DEFAULT_WEIGHTS)
    parts = plain + ranking.rules["newer"] + ranking.rules["repeats"]
    assert parts.tolist() == pytest.approx(ranking.scores.tolist())
    assert all(math.isfinite(score) for score in ranking.scores)
    keys = [(-ranking.scores[row], candidates.ids[row]) for row in ranking.order]
    assert keys == sorted(keys)
    assert sorted(ranking.order) == list(range(len(found)))


@given(asked=asked, found=st.lists(seen, min_size=1, max_size=12), shuffler=st.randoms(use_true_random=False))
def test_the_order_in_which_candidates_are_given_does_not_matter(
    asked: Asked, found: list[Seen], shuffler: Random
) -> None:
    named = [replace(each, id=f"id-{row:02}") for row, each in enumerate(found)]
    other = list(named)
    shuffler.shuffle(other)
    first = rank(asked, frozenset(), _candidates(*named), DEFAULT_WEIGHTS)
    second = rank(asked, frozenset(), _candidates(*other), DEFAULT_WEIGHTS)
    assert [named[row].id for row in first.order] == [other[row].id for row in second.order]
