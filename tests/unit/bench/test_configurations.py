"""Which configurations an ablation makes, and what they share."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.recall.configurations import Configuration, default_weights, read_configurations, stages_left_out, variants
from bench.recall.memo import Remembering


def test_every_weight_is_turned_off_halved_and_doubled_and_switches_are_turned_over() -> None:
    found = variants({"share": 0.2, "depth": 5, "is_on": True, "is_off": False, "sizes": (4, 9), "note": "x"})
    assert found == [
        Configuration("share 0", {"share": 0.0}),
        Configuration("share 0.1", {"share": 0.1}),
        Configuration("share 0.4", {"share": 0.4}),
        Configuration("depth 0", {"depth": 0}),
        Configuration("depth 2", {"depth": 2}),
        Configuration("depth 10", {"depth": 10}),
        Configuration("is_on off", {"is_on": False}),
        Configuration("is_off on", {"is_off": True}),
        Configuration("sizes half", {"sizes": (2, 4)}),
        Configuration("sizes double", {"sizes": (8, 18)}),
    ]


def test_a_weight_that_is_zero_has_no_variants() -> None:
    assert variants({"unused": 0.0}) == []


def test_what_no_question_of_the_data_asks_for_is_left_out() -> None:
    assert variants({"superseded": 0.1}) == []


def test_configurations_are_read_from_a_file_and_unknown_weights_end_the_program(tmp_path: Path) -> None:
    known = next(name for name, value in default_weights().items() if isinstance(value, float))
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"none of it": {known: 0}}), encoding="utf-8")
    assert read_configurations(file) == [Configuration("none of it", {known: 0})]
    file.write_text(json.dumps({"odd": {"nonsense": 1, "without": ["dense", "brain"]}}), encoding="utf-8")
    with pytest.raises(SystemExit, match="brain, nonsense"):
        read_configurations(file)


def test_each_stage_is_left_out_once() -> None:
    found = {each.name: each.changes for each in stages_left_out()}
    assert found.pop("late interaction alone").keys() <= default_weights().keys()
    assert found == {
        "without model": {"without": ("model",)},
        "without lexical": {"without": ("lexical",)},
        "without dense": {"without": ("dense",)},
        "without neighbours": {"without": ("neighbours",)},
    }


class _Port:
    """Counts what it is asked."""

    name = "port"

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def evidence(self, ids: list[str], terms: tuple[str, ...]) -> dict[str, str]:
        self.asked.append(tuple(ids))
        return {each: f"{each} {'+'.join(terms)}" for each in ids if each != "unknown"}

    async def dense(self, vector: object, *, limit: int) -> str:
        self.asked.append(limit)
        return f"{vector} {limit}"


async def test_a_remembering_port_asks_once_for_the_same() -> None:
    port = _Port()
    remembering = Remembering(port)
    assert remembering.name == "port"
    for _ in range(2):
        assert await remembering.dense(np.array([1, 2]), limit=3) == "[1 2] 3"
    assert await remembering.dense(np.array([1, 3]), limit=3) == "[1 3] 3"
    assert port.asked == [3, 3]


async def test_a_remembering_port_asks_only_for_ids_it_does_not_know() -> None:
    port = _Port()
    remembering = Remembering(port)
    assert await remembering.evidence(["a", "unknown"], ("x",)) == {"a": "a x"}
    assert await remembering.evidence(["b", "unknown", "a"], ("x",)) == {"b": "b x", "a": "a x"}
    assert await remembering.evidence(["a"], ("y",)) == {"a": "a y"}
    assert port.asked == [("a", "unknown"), ("b",), ("a",)]


async def test_a_remembering_port_refuses_what_it_cannot_tell_apart() -> None:
    with pytest.raises(TypeError, match="set"):
        await Remembering(_Port()).dense({1}, limit=1)
