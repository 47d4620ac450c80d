"""Conditions on metadata as SQL, to the letter of `polymem.domain.conditions.holds`.

Metadata is JSON text, read as jsonb: numbers are compared by their value, objects and lists by what they hold, and a
key of an object leads into no list. What jsonb cannot hold is NUL, which the engine refuses: metadata with a NUL in it
meets no condition, and a condition with one is met by none.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

from polymem.domain.model import JsonValue
from polymem.domain.query import Comparison, MetadataCondition
from polymem.storage.conditions import parts_of_metadata
from polymem.storage.rows import to_json

# A clause with the values for its places.
Clause = tuple[str, list[object]]

# Read is only a text in which the parts stand that it must have, and that holds no NUL.
_GUARDED: Final = (
    "CASE WHEN {column} IS NOT NULL{parts}"
    " AND (strpos({column}, '\\u0000') = 0 OR pg_input_is_valid({column}, 'jsonb')) THEN {condition} ELSE false END"
)
_PART: Final = "strpos({column}, %s) > 0"
_READ: Final = "{column}::jsonb"
# A key or a part of a text travels as JSON, in which it needs no escaping of its own: see `texts`.
_TEXT: Final = "(%s::jsonb #>> '{}')"
_STEP: Final = f" -> {_TEXT}"
_EQUAL: Final = "{found} = %s::jsonb"
_ONE_OF: Final = "{found} = ANY (ARRAY(SELECT jsonb_array_elements(%s::jsonb)))"
# The value is read once, then asked what it is. OFFSET 0 keeps it from being read once for each mention.
_CONTAINS: Final = (
    "(SELECT CASE jsonb_typeof(f.found) {cases} ELSE false END FROM (SELECT {found} AS found OFFSET 0) AS f)"
)
_IN_LIST: Final = (
    "WHEN 'array' THEN EXISTS (SELECT 1 FROM jsonb_array_elements(f.found) AS e (each) WHERE e.each = %s::jsonb)"
)
_IN_TEXT: Final = f"WHEN 'string' THEN strpos(f.found #>> '{{}}', {_TEXT}) > 0"
_IN_OBJECT: Final = "WHEN 'object' THEN {pairs}"
_IS_OBJECT: Final = "jsonb_typeof({found}) = 'object'"
_NEVER: Final[Clause] = ("false", [])


def metadata_clause(conditions: Sequence[MetadataCondition], column: str) -> Clause:
    """True, by AND, where all the conditions hold of the metadata in the column; false or null where not."""
    clauses = [_guarded(condition, column) for condition in conditions]
    return " AND ".join(text for text, _ in clauses), [value for _, values in clauses for value in values]


def _guarded(condition: MetadataCondition, column: str) -> Clause:
    groups = [group for group in parts_of_metadata(condition) if "" not in group]
    part = _PART.format(column=column)
    parts = "".join([f" AND ({' OR '.join([part] * len(group)) or 'false'})" for group in groups])
    text, values = _clause(condition, _READ.format(column=column))
    return (
        _GUARDED.format(column=column, parts=parts, condition=text),
        [*(each for group in groups for each in group), *values],
    )


def _clause(condition: MetadataCondition, root: str) -> Clause:
    if any("\0" in key for key in condition.path):
        return _NEVER
    found, path = root + _STEP * len(condition.path), [to_json(key) for key in condition.path]
    match condition.comparison:
        case Comparison.EQ:
            return (
                _NEVER if _has_nul(condition.value) else (_EQUAL.format(found=found), [*path, to_json(condition.value)])
            )
        case Comparison.CONTAINS:
            return _NEVER if _has_nul(condition.value) else _contains(found, path, condition.value)
        case Comparison.IN:
            if not isinstance(condition.value, Sequence) or isinstance(condition.value, str):
                return _NEVER
            wanted = [each for each in condition.value if not _has_nul(each)]
            return _ONE_OF.format(found=found), [*path, to_json(wanted)]
        case _:
            assert_never(condition.comparison)


def _contains(found: str, path: list[str], wanted: JsonValue) -> Clause:
    """A list with an element equal to what is wanted, a text with it as a part, an object with its pairs."""
    cases, values = [_IN_LIST], [to_json(wanted)]
    if isinstance(wanted, str):
        cases.append(_IN_TEXT)
        values.append(to_json(wanted))
    elif isinstance(wanted, Mapping):
        pairs = [("TRUE", list[str]()), *_pairs(wanted)]
        cases.append(_IN_OBJECT.format(pairs=" AND ".join(text for text, _ in pairs)))
        values += [value for _, each in pairs for value in each]
    return _CONTAINS.format(cases=" ".join(cases), found=found), [*values, *path]


def _pairs(wanted: Mapping[str, JsonValue]) -> Iterator[tuple[str, list[str]]]:
    """What must be at each path of the wanted object: an equal value, or an object where an object is wanted."""
    left: list[tuple[list[str], JsonValue]] = [([key], value) for key, value in wanted.items()]
    while left:
        path, value = left.pop()
        found, keys = "f.found" + _STEP * len(path), [to_json(key) for key in path]
        if isinstance(value, Mapping):
            left += [([*path, key], each) for key, each in value.items()]
            yield _IS_OBJECT.format(found=found), keys
        else:
            yield _EQUAL.format(found=found), [*keys, to_json(value)]


def _has_nul(value: JsonValue) -> bool:
    """True when a text or a key within the value has a NUL."""
    left: list[object] = [value]
    while left:
        match left.pop():
            case str() as text:
                if "\0" in text:
                    return True
            case Mapping() as pairs:
                left += [*pairs.keys(), *pairs.values()]
            case Sequence() as each:
                left += each
            case _:
                pass
    return False
