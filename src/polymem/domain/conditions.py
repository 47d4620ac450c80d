"""What a condition on the metadata of a memory says: the one definition that every storage answers to."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeGuard, assert_never

from polymem.domain.model import JsonValue
from polymem.domain.query import Comparison, MetadataCondition

_MISSING: Final = object()


def holds(condition: MetadataCondition, metadata: JsonValue) -> bool:
    """True when the condition holds of the value at its path.

    `eq`: both are the same JSON value: 1 is 1.0, true is not 1, objects and lists go by what they hold. A number is
    what its text says, so that 10**23 is 1e23, though the float that is written so is another one.
    `contains`: a list has an element equal to the value; a text has the value, a text, as a part; an object has every
    pair of the value, an object, and of an object within it again every pair.
    `in`: the value is a list and has an element equal to what is at the path.
    Steps of the path are keys of objects alone. A missing path matches nothing, and so does missing metadata.
    """
    found = _MISSING if metadata is None else _at(condition.path, metadata)
    if found is _MISSING:
        return False
    match condition.comparison:
        case Comparison.EQ:
            return _are_equal(found, condition.value)
        case Comparison.CONTAINS:
            return _contains(found, condition.value)
        case Comparison.IN:
            return _is_list(condition.value) and any(_are_equal(found, each) for each in condition.value)
        case _:
            assert_never(condition.comparison)


def _at(path: Sequence[str], value: object) -> object:
    """What is at the path, or `_MISSING`."""
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _contains(found: object, wanted: object) -> bool:
    if isinstance(found, str):
        return isinstance(wanted, str) and wanted in found
    if _is_list(found):
        return any(_are_equal(each, wanted) for each in found)
    return isinstance(found, Mapping) and isinstance(wanted, Mapping) and _agree(found, wanted, is_whole=False)


def _are_equal(one: object, other: object) -> bool:
    return _agree(one, other, is_whole=True)


def _agree(found: object, wanted: object, *, is_whole: bool) -> bool:
    """True for equal values; where `is_whole` is not asked for, objects in objects may have pairs beside the wanted.

    Values are compared from a list of what is left: however deeply they nest, no stack runs over.
    """
    left: list[tuple[object, object, bool]] = [(found, wanted, is_whole)]
    while left:
        has, needs, whole = left.pop()
        if isinstance(has, Mapping) and isinstance(needs, Mapping):
            if (whole and len(has) != len(needs)) or not needs.keys() <= has.keys():
                return False
            left += [(has[key], value, whole) for key, value in needs.items()]
        elif _is_list(has) and _is_list(needs):
            if len(has) != len(needs):
                return False
            left += [(*pair, True) for pair in zip(has, needs, strict=True)]
        elif not _is_same_scalar(has, needs):
            return False
    return True


def _is_same_scalar(one: object, other: object) -> bool:
    # To Python true is 1; to JSON it is not.
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, int) and isinstance(other, float):
        return Decimal(one) == Decimal(repr(other))
    return _is_same_scalar(other, one) if isinstance(one, float) and isinstance(other, int) else one == other


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
