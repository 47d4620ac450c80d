"""What is learned stays within its bounds, does not depend on order, and changes what it should."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.learning import (
    EXPANDED_PER_SEED,
    MOST_EXPANDED,
    activation_of,
    concept_weights,
    diversified,
    lifted,
    modulated,
    spread,
    strength,
    telling,
)
from polymem.domain.model import Association, SpaceId
from polymem.domain.scoring import term_weight

SHARES = st.floats(0.0, 1.0)
VALENCES = st.floats(-1.0, 1.0)


def edge(source: str, target: str, weight: float = 0.5, valence: float = 0.0, space: str = "s") -> Association:
    return Association(
        space_id=SpaceId(space),
        source=min(source, target),
        target=max(source, target),
        weight=weight,
        valence=valence,
        count=1,
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_memory_that_always_helped_gains_and_one_that_always_failed_loses() -> None:
    assert modulated(0.5, 1.0) == pytest.approx(0.5622, abs=1e-4)
    assert modulated(0.5, 0.0) == 0.5
    assert modulated(0.5, -1.0) == pytest.approx(0.4378, abs=1e-4)
    assert modulated(0.99, -1.0) > 0.98


@given(SHARES, VALENCES, VALENCES)
def test_more_valence_never_means_less_relevance(relevance: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= modulated(relevance, low) <= modulated(relevance, high) + 1e-12
    assert modulated(relevance, high) <= 1.0


@given(SHARES, SHARES)
def test_activation_lifts_and_never_above_one(relevance: float, activation: float) -> None:
    assert relevance - 1e-12 <= lifted(relevance, activation) <= 1.0


def test_a_weak_trace_moves_hardly_anything_and_a_strong_one_stands_for_itself() -> None:
    assert lifted(0.5, 0.3) == pytest.approx(0.5, abs=0.01)
    assert lifted(0.0, 0.6) == pytest.approx(0.33)
    assert lifted(0.9, 1.0) == pytest.approx(0.94)


@given(SHARES, VALENCES)
def test_strength_stays_in_bounds(weight: float, valence: float) -> None:
    assert 0.0 <= strength(edge("a", "b", weight, valence)) <= 1.0


def test_an_association_that_always_failed_passes_nothing_on() -> None:
    assert spread({"a": 1.0}, [edge("a", "b", valence=-1.0)]) == {}


def test_the_strongest_associate_of_a_seed_is_the_most_active_one() -> None:
    found = spread({"hub": 1.0}, [edge("hub", "near", 0.8), edge("far", "hub", 0.2)])
    assert list(found) == ["near", "far"]
    assert found["near"] == pytest.approx(0.9)
    assert found["far"] == pytest.approx(0.25 * 0.6)


def test_an_association_weakens_beside_one_that_grew_stronger() -> None:
    alone = spread({"a": 1.0}, [edge("a", "b", 0.4)])["b"]
    beside = spread({"a": 1.0}, [edge("a", "b", 0.4), edge("a", "c", 0.9)])["b"]
    assert beside < alone


def test_activation_from_several_sides_adds_up() -> None:
    one = spread({"a": 1.0}, [edge("a", "x")])["x"]
    two = spread({"a": 1.0, "b": 1.0}, [edge("a", "x"), edge("b", "x")])["x"]
    assert two == pytest.approx(1.0 - (1.0 - one) ** 2)


def test_the_same_pair_of_two_spaces_counts_once_by_the_stronger() -> None:
    both = spread({"a": 1.0}, [edge("a", "b", 0.2), edge("a", "b", 0.6, space="t")])
    assert both == spread({"a": 1.0}, [edge("a", "b", 0.6)])


def test_seeds_receive_from_each_other() -> None:
    assert spread({"a": 1.0, "b": 0.4}, [edge("a", "b", 0.5)]) == {"b": pytest.approx(0.75), "a": pytest.approx(0.3)}


def test_a_concept_of_common_words_activates_less() -> None:
    weights = {"rare": term_weight("rare", documents=1000, documents_with=1), "common": 1.0}
    rare, common = (telling([term], weights, documents=1000) for term in ("rare", "common"))
    assert 1.0 > rare > 0.8
    assert common < 0.3
    assert telling(["rare", "common"], weights, documents=1000) == rare
    assert telling(["unseen"], weights, documents=1000) == 1.0
    assert telling([], weights, documents=1000) == 1.0


def test_the_budget_holds() -> None:
    many = [edge("hub", f"x{number:03}") for number in range(100)]
    assert len(spread({"hub": 1.0}, many)) == EXPANDED_PER_SEED
    seeds = {f"s{number}": 1.0 for number in range(10)}
    wide = [edge(seed, f"{seed} {number}") for seed in seeds for number in range(10)]
    assert len(spread(seeds, wide)) == MOST_EXPANDED


@given(
    st.dictionaries(st.sampled_from("abcd"), SHARES),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"), SHARES, VALENCES), max_size=12),
)
def test_activation_stays_in_bounds_and_does_not_depend_on_order(
    seeds: dict[str, float], drawn: list[tuple[str, str, float, float]]
) -> None:
    edges = [edge(*each) for each in drawn if each[0] != each[1]]
    found = spread(seeds, edges)
    assert all(0.0 <= value <= 1.0 for value in found.values())
    backwards = spread(dict(reversed(seeds.items())), edges[::-1])
    assert backwards.keys() == found.keys()
    assert all(backwards[key] == pytest.approx(found[key]) for key in found)


def test_a_rare_concept_speaks_louder_than_a_common_one() -> None:
    weights = concept_weights({"rare": 1.0, "common": 1.0, "unheld": 1.0}, {"rare": 1, "common": 50}, documents=100)
    assert weights.keys() == {"rare", "common"}
    assert weights["rare"] == pytest.approx(1.0)
    assert 0.0 < weights["common"] < 0.5


def test_in_a_tenant_of_few_memories_a_shared_concept_still_speaks() -> None:
    assert concept_weights({"a": 1.0}, {"a": 2}, documents=2)["a"] > 0.8


def test_each_active_concept_is_evidence_of_its_own() -> None:
    assert activation_of({"a", "b", "z"}, {"a": 0.5, "b": 0.5}) == pytest.approx(0.75)
    assert activation_of(frozenset(), {"a": 0.5}) == 0.0


def test_without_diversity_the_order_is_that_of_relevance() -> None:
    alike = [[1.0] * 3] * 3
    assert diversified([0.2, 0.9, 0.5], alike, diversity=0.0, most=3) == (1, 2, 0)


def test_with_diversity_a_near_copy_comes_later() -> None:
    likeness = [[1.0, 0.99, 0.1], [0.99, 1.0, 0.1], [0.1, 0.1, 1.0]]
    assert diversified([0.9, 0.89, 0.6], likeness, diversity=0.5, most=3) == (0, 2, 1)
    assert diversified([0.9, 0.89, 0.6], likeness, diversity=0.5, most=2) == (0, 2)
    assert diversified([], [], diversity=0.5, most=2) == ()
