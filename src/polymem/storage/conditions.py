"""A `MemoryFilter` and a `ListOrder` taken apart into columns and values, before either storage makes SQL of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

from polymem.domain.model import JsonValue
from polymem.domain.query import Comparison, ListOrder, MemoryFilter, MetadataCondition
from polymem.storage.rows import microseconds, to_json

# Of the memories of a space that have one concept, `SearchIndex.conceptual` looks at so many: those with the highest
# ids, which are the newest.
NEWEST_OF_CONCEPT: Final = 4096
# How many memories `TenantStore.find_repeats` names.
MOST_REPEATS: Final = 100

# Larger numbers may be written with an exponent.
_PLAIN_BELOW: Final = 10**15
_MOST_ALTERNATIVES: Final = 16


def passes_nothing(where: MemoryFilter) -> bool:
    """True when one of the sets is empty."""
    return any(not wanted for _, wanted in wanted_sets(where))


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


def parts_of_metadata(condition: MetadataCondition) -> tuple[tuple[str, ...], ...]:
    """Groups of texts: of each group one stands in the one JSON text of any metadata of which the condition holds.

    That text is `rows.to_json`'s. A part is found in it much faster than it is parsed, and most metadata lack it.
    """
    keys = [(f"{to_json(key)}:",) for key in condition.path]
    last = "".join(keys[-1]) if keys else ""
    match condition.comparison:
        case Comparison.EQ:
            return (*keys[:-1], (last + _beginning(condition.value),), *_pairs_in(condition.value))
        case Comparison.CONTAINS if isinstance(condition.value, str):
            return (*keys, (to_json(condition.value)[1:-1],))
        case Comparison.CONTAINS:
            return (*keys, (_beginning(condition.value),), *_pairs_in(condition.value))
        case Comparison.IN:
            value = condition.value
            wanted = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
            if len(wanted) > _MOST_ALTERNATIVES:
                return tuple(keys)
            return (*keys[:-1], tuple(last + _beginning(each) for each in wanted))
        case _:
            assert_never(condition.comparison)


def _pairs_in(value: JsonValue) -> tuple[tuple[str], ...]:
    """A part for each pair of an object; none for any other value."""
    pairs = value.items() if isinstance(value, Mapping) else ()
    return tuple((f"{to_json(key)}:{_beginning(each)}",) for key, each in pairs)


def _beginning(value: JsonValue) -> str:
    """How the JSON text of every value that equals this one begins; empty where they have nothing in common."""
    if value is None or isinstance(value, bool | str):
        return to_json(value)
    if isinstance(value, int | float) and 1 <= abs(value) < _PLAIN_BELOW:
        # 7 may be stored as 7 or 7.0.
        return to_json(int(value) if value == int(value) else value)
    return ""


def order_column(order: ListOrder) -> str:
    """The column that a list is ordered by, downwards."""
    match order:
        case ListOrder.UPDATED_NEWEST:
            return "updated_at"
        case ListOrder.CREATED_NEWEST:
            return "created_at"
        case _:
            assert_never(order)
