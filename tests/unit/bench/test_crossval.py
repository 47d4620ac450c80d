"""Cross-validation, on outcomes made by hand."""

import pytest

from bench.recall.crossval import choose, folds, held_out_values, objective
from bench.recall.dataset import Question
from bench.recall.metrics import HEADLINES, Outcome
from bench.recall.splits import halves

IDS = tuple(f"q{number}" for number in range(8))


def _outcomes(values: dict[str, float]) -> list[Outcome]:
    return [
        Outcome(
            Question(
                id=name,
                text="?",
                kind="k",
                turns=frozenset({"t"}),
                sessions=frozenset({"s"}),
                is_abstention=False,
            ),
            dict.fromkeys(HEADLINES, value),
        )
        for name, value in values.items()
    ]


def _flat(value: float) -> list[Outcome]:
    return _outcomes(dict.fromkeys(IDS, value))


def test_the_objective_weighs_data_sets_alike() -> None:
    assert objective(
        [{"turn all@10": 0.5, "turn any@5": 0.7}, {"turn all@10": 0.2, "turn any@5": 0.4}]
    ) == pytest.approx(0.45)


def test_the_best_on_the_half_is_chosen_and_the_first_of_equals() -> None:
    good_on_q0 = _outcomes(dict.fromkeys(IDS, 0.0) | {"q0": 1.0})
    table = {"defaults": _flat(0.25), "lucky": good_on_q0, "same": good_on_q0}
    assert choose([table], [frozenset({"q0", "q1"})]) == ("lucky", 0.5)
    assert choose([table], [frozenset({"q2", "q3"})]) == ("defaults", 0.25)


def test_a_configuration_that_was_refused_on_one_data_set_is_not_chosen() -> None:
    tables = [{"defaults": _flat(0.1), "other": _flat(0.9)}, {"defaults": _flat(0.1)}]
    assert choose(tables, [frozenset(IDS)] * 2)[0] == "defaults"


def test_what_is_reported_of_a_choice_is_held_out() -> None:
    first, second = halves([outcome.question for outcome in _flat(0.0)], "split 0")
    lucky = _outcomes({name: float(name in first) for name in IDS})
    table = {"defaults": _flat(0.4), "lucky": lucky}
    made = folds([table], 1)
    assert [(fold.split, fold.half, fold.chosen, fold.objective) for fold in made] == [
        (0, 0, "lucky", 1.0),
        (0, 1, "defaults", 0.4),
    ]
    assert [fold.held_out[0]["turn mrr"] for fold in made] == [0.0, 0.4]
    assert [fold.defaults[0]["turn mrr"] for fold in made] == [0.4, 0.4]
    expected = dict.fromkeys(second, 0.0) | dict.fromkeys(first, 0.4)
    assert held_out_values(table, made, "turn mrr") == expected


def test_held_out_figures_are_the_mean_over_the_splits() -> None:
    table = {"defaults": _flat(0.5)}
    made = folds([table], 3)
    assert len(made) == 6
    assert held_out_values(table, made, "turn any@5") == dict.fromkeys(IDS, 0.5)
