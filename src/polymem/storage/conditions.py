"""A `MemoryFilter` and a `ListOrder` taken apart into columns and values, before either storage makes SQL of them."""

from collections.abc import Iterator
from typing import assert_never

from polymem.domain.query import ListOrder, MemoryFilter
from polymem.storage.rows import microseconds


def wanted_sets(where: MemoryFilter) -> Iterator[tuple[str, frozenset[str]]]:
    """Each column that must hold one of a set of values; an empty set matches nothing."""
    for column, wanted in (
        ("space_id", where.spaces),
        ("state", where.states),
        ("memory_type", where.memory_types),
        ("session_id", where.session_ids),
    ):
        if wanted is not None:
            yield column, frozenset(str(value) for value in wanted)


def comparisons(where: MemoryFilter) -> Iterator[tuple[str, str, str | int]]:
    """Each column that is compared with a single value: column, operator, value; times as they are stored."""
    for column, value in (("source", where.source), ("agent_id", where.agent_id)):
        if value is not None:
            yield column, "=", value
    for column, operator, at in (
        ("created_at", ">=", where.created_from_at),
        ("created_at", "<", where.created_until_at),
        ("updated_at", ">=", where.updated_from_at),
        ("updated_at", "<", where.updated_until_at),
    ):
        if at is not None:
            yield column, operator, microseconds(at)


def order_column(order: ListOrder) -> str:
    """The column that a list is ordered by, downwards."""
    match order:
        case ListOrder.UPDATED_NEWEST:
            return "updated_at"
        case ListOrder.CREATED_NEWEST:
            return "created_at"
        case _:
            assert_never(order)
