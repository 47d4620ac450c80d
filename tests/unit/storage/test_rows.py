"""Values as they are written: one text for one JSON value, times to the microsecond."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.model import JsonValue
from polymem.storage.rows import microseconds, moment, to_json


def test_json_is_written_in_one_way() -> None:
    value: Mapping[str, JsonValue] = {"b": [1, 2.0, None, True], "a": {"ü": "x\n"}}
    assert to_json(value) == '{"a":{"ü":"x\\n"},"b":[1,2.0,null,true]}'
    assert to_json(MappingProxyType({"k": (1, 2)})) == '{"k":[1,2]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_has_not_are_refused(value: JsonValue) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(value)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="object is no JSON value"):
        to_json({"k": object()})  # type: ignore[dict-item]


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_come_back_to_the_microsecond(at: datetime) -> None:
    assert moment(microseconds(at)) == at


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    at = datetime(2025, 6, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert moment(microseconds(at)) == at
    assert moment(microseconds(at)).tzinfo is UTC


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        microseconds(datetime(2025, 6, 1))  # noqa: DTZ001
