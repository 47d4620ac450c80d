"""A filter says the same of one memory here as the indexes say of all."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polymem.domain.model import MemoryState, MemoryType, SpaceId
from polymem.domain.passing import passes
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition
from samples import AT, account_of, memory_of

_ACCOUNT = account_of("a")
_LATER = AT + timedelta(seconds=1)


def _where(**given: Any) -> MemoryFilter:
    return MemoryFilter(**({"spaces": frozenset({_ACCOUNT.space.id})} | given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"spaces": frozenset({SpaceId("other")})}, False),
        ({"spaces": frozenset()}, False),
        ({"states": None}, True),
        ({"states": frozenset({MemoryState.ARCHIVED})}, False),
        ({"memory_types": frozenset({MemoryType.INSIGHT})}, True),
        ({"memory_types": frozenset({MemoryType.PINNED})}, False),
        ({"session_ids": frozenset({"s"})}, False),
        ({"tags": ("red",)}, True),
        ({"tags": ("red", "blue")}, False),
        ({"source": "cli"}, False),
        ({"agent_id": "coder"}, False),
        ({"except_author": "coder"}, True),
        ({"except_author": _ACCOUNT.user.id}, False),
        ({"created_from_at": AT, "created_until_at": _LATER}, True),
        ({"created_from_at": _LATER}, False),
        ({"created_until_at": AT}, False),
        ({"updated_from_at": _LATER}, False),
        ({"metadata": (MetadataCondition(("room",), Comparison.EQ, "garden"),)}, False),
    ],
)
def test_every_condition_of_a_filter_counts(given: dict[str, Any], *, expected: bool) -> None:
    assert passes(_where(**given), memory_of(_ACCOUNT, "m")) is expected


def test_the_day_before_time_is_no_exception() -> None:
    assert not passes(_where(created_until_at=datetime(1, 1, 2, tzinfo=UTC)), memory_of(_ACCOUNT, "m"))
