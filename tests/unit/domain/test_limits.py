"""Limits of what is handed in, and the token bucket."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain import limits
from polymem.domain.limits import (
    BucketRule,
    TokenBucket,
    drawn,
    leased_part,
    leased_tokens,
    refilled,
    seconds_until_full,
    seconds_until_next_day,
    seconds_until_token,
)
from polymem.errors import InvalidInput, TooLarge

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
JSON = st.recursive(
    SCALARS | CLEAN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CLEAN, inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@given(JSON)
def test_clean_json_of_any_shape_passes_and_reads_back_the_same(value: Any) -> None:
    limits.check_json("metadata", value)
    assert json.loads(limits.canonical_json(value)) == value


@given(st.dictionaries(CLEAN, SCALARS, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert limits.canonical_json(value) == limits.canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "value",
    [
        "a\x00b",
        ["\ud800"],
        {"a\udfff": 1},
        {"a": {"b": "\x00"}},
        float("nan"),
        [float("inf")],
        2**64,
        -(2**63) - 1,
        nested(33),
        "x" * 65_535,
    ],
)
def test_json_that_some_client_or_storage_cannot_hold_is_refused_by_field(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        limits.check_json("metadata", value)
    assert caught.value.field == "metadata"


def test_json_at_the_limits_passes() -> None:
    limits.check_json("metadata", nested(32))
    limits.check_json("metadata", "x" * 65_534)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (limits.check_content, "", "must not be empty"),
        (limits.check_content, " \n", "must not be empty"),
        (limits.check_content, "a\x00", "must not contain NUL characters"),
        (limits.check_content, "é\ud800", "must not contain lone surrogates"),
        (limits.check_label, "x" * 256, "too long (max 255 characters)"),
        (limits.check_label, " ", "must not be empty"),
        (limits.check_optional_label, "\x00", "must not contain NUL characters"),
        (limits.check_tags, ["a"] * 101, "too many (max 100)"),
        (limits.check_tags, ["a", "x" * 201], "too long (max 200 characters)"),
        (limits.check_tags, [""], "must not be empty"),
        (limits.in_utc, datetime(2025, 1, 1), "must carry a time zone"),  # noqa: DTZ001 - naive on purpose
        (limits.in_utc, datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "must lie in the years 2 to 9998"),
        (limits.in_utc, datetime.max.replace(tzinfo=UTC), "must lie in the years 2 to 9998"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_field_and_the_rule(
    check: Callable[[str, Any], Any], value: Any, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check("some.field", value)
    assert (caught.value.field, caught.value.message) == ("some.field", message)


@pytest.mark.parametrize("text", ["x" * (limits.MAX_CONTENT_BYTES + 1), "é" * (limits.MAX_CONTENT_BYTES // 2 + 1)])
def test_content_beyond_its_bytes_is_too_large(text: str) -> None:
    with pytest.raises(TooLarge) as caught:
        limits.check_content("content", text)
    assert (caught.value.field, caught.value.limit, caught.value.unit) == ("content", 1_048_576, "bytes")


def test_what_keeps_the_rules_passes() -> None:
    limits.check_content("content", "é" * (limits.MAX_CONTENT_BYTES // 2))
    limits.check_optional_label("agent_id", None)
    limits.check_tags("tags", ["x" * 200] * 100)
    limits.check_range("limit", 1, least=1, most=1)
    limits.check_count("ids", 5, most=5)


def test_a_number_out_of_range_and_a_batch_beyond_its_count_are_refused() -> None:
    with pytest.raises(InvalidInput, match="must be from 1 to 9"):
        limits.check_range("limit", 0, least=1, most=9)
    with pytest.raises(TooLarge, match="ids: larger than 5 items"):
        limits.check_count("ids", 6, most=5)


def test_a_moment_is_told_in_utc() -> None:
    moment = datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert limits.in_utc("created_at", moment).isoformat() == "2024-12-31T23:00:00+00:00"


NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
RULES = st.builds(BucketRule, st.integers(1, 50).map(float), st.floats(0.01, 100))
DRAWS = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30), st.floats(0, 1)), min_size=1, max_size=60)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@given(RULES, DRAWS)
def test_a_bucket_never_gives_more_than_its_capacity_and_its_rate(
    rule: BucketRule, draws: list[tuple[float, int, float]]
) -> None:
    bucket: TokenBucket | None = None
    seconds, used, held = 0.0, 0, 0
    for wait, wanted, part in draws:
        seconds += wait
        bucket, granted = drawn(bucket, rule, wanted=wanted, unused=held, now=after(seconds))
        assert 0 <= granted <= wanted
        assert 0.0 <= bucket.tokens <= rule.capacity
        used += int(granted * part)
        held = granted - int(granted * part)
        assert used <= rule.capacity + seconds * rule.refill_per_second + 1e-6 * rule.refill_per_second + 1e-6


@given(RULES, st.integers(0, 200))
def test_who_waits_as_long_as_told_finds_a_token(rule: BucketRule, wanted: int) -> None:
    bucket, _ = drawn(None, rule, wanted=wanted, unused=0, now=NOON)
    waited = after(seconds_until_token(bucket.tokens, rule) + 1e-5)
    assert drawn(bucket, rule, wanted=1, unused=0, now=waited)[1] == 1


@given(RULES)
def test_a_bucket_is_full_again_when_it_said(rule: BucketRule) -> None:
    bucket, _ = drawn(None, rule, wanted=1, unused=0, now=NOON)
    then = after(seconds_until_full(bucket.tokens, rule))
    assert refilled(bucket, rule, then).tokens == pytest.approx(rule.capacity, abs=1e-4)


def test_what_is_put_back_does_not_overfill_a_bucket() -> None:
    rule = BucketRule(10, 1)
    bucket, _ = drawn(None, rule, wanted=8, unused=0, now=NOON)
    assert drawn(bucket, rule, wanted=0, unused=5, now=NOON) == (TokenBucket(7, NOON), 0)
    assert drawn(bucket, rule, wanted=0, unused=5, now=after(4)) == (TokenBucket(10, after(4)), 0)


def test_a_clock_that_goes_back_takes_nothing_away_and_gives_nothing_twice() -> None:
    rule = BucketRule(10, 1)
    bucket, _ = drawn(None, rule, wanted=5, unused=0, now=NOON)
    assert refilled(bucket, rule, after(-50)) == bucket
    assert refilled(refilled(bucket, rule, after(-50)), rule, after(1)).tokens == 6


def test_a_time_far_ahead_was_a_mistake_and_holds_nobody_up() -> None:
    rule = BucketRule(10, 1)
    bucket = TokenBucket(0, after(3600))
    assert refilled(bucket, rule, NOON) == TokenBucket(0, NOON)


def test_a_lease_is_a_hundredth_of_the_bucket_and_never_nothing() -> None:
    assert [leased_tokens(BucketRule(capacity, 1)) for capacity in (1, 60, 199, 200, 60_000)] == [1, 1, 1, 2, 600]
    assert [leased_part(limit) for limit in (1, 100, 1000, 50_000)] == [1, 1, 10, 500]


def test_a_day_ends_at_midnight_of_utc_whatever_the_zone() -> None:
    assert seconds_until_next_day(datetime(2025, 3, 1, tzinfo=UTC)) == 86_400
    assert seconds_until_next_day(datetime(2025, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)) == 1e-6
    assert seconds_until_next_day(datetime(2025, 3, 1, 1, tzinfo=timezone(timedelta(hours=3)))) == 2 * 3600
