"""What a cut keeps, and the logistic of relevance, on scores made by hand."""

import math

import numpy as np
import pytest

from bench.recall.calibrate import Asked, Sample, cut_row, keeps, kind_rows, logistic
from bench.recall.dataset import DataSet
from polymem.domain.scoring import relevance

EMPTY = DataSet(name="made", histories=())


def _asked(scores: list[float], answers: list[bool], kind: str | None = None) -> Asked:
    return Asked(scores=np.array(scores), answers=np.array(answers), documents=3_600, kind=kind)


def test_the_logistic_is_the_one_that_made_the_answers() -> None:
    # At 0.6 one of two candidates answers, at 0.7 three of four: log odds 0 and log 3.
    asked = _asked([0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.5, 0.5, 0.5, 0.5], [True, False, *[True] * 3, *[False] * 4, True])
    slope, middle = logistic([Sample(EMPTY, scored=[asked])])
    assert slope == pytest.approx(math.log(3) / 0.1, rel=1e-6)
    assert middle == pytest.approx(0.6, rel=1e-6)


def test_scores_that_leave_no_doubt_still_give_a_slope() -> None:
    slope, middle = logistic([Sample(EMPTY, scored=[_asked([0.9, 0.1], [True, False])])])
    assert slope > 10
    assert 0.1 < middle < 0.9


def test_a_cut_keeps_what_is_above_it() -> None:
    high, low = 2.0, -2.0
    assert relevance(high, documents=3_600) > 0.99
    assert relevance(low, documents=3_600) < 0.01
    sample = Sample(
        EMPTY,
        scored=[
            _asked([high, low], [True, False], "one"),
            _asked([high, low], [False, True], "two"),
            _asked([high, high], [False, False], "two"),
        ],
        off_topic=[_asked([high, low], [False] * 2), _asked([high, high], [False] * 2), _asked([], [])],
    )
    assert keeps(sample.scored, 0.45) == pytest.approx(1 / 3)
    assert cut_row(sample, 0.45) == ["made", "0.45", "2 of 3", "0.67", "0.333", "0.500", "1"]
    assert kind_rows(sample, 0.45) == [
        ["made", "one", "1", "1.000", "1.000", "1.000"],
        ["made", "two", "2", "0.500", "0.000", "0.000"],
    ]
