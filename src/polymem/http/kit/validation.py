"""Schema violations in our words: what a value must be, never what it was."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polymem.http.kit.faults import EdgeCode, EdgeError, Violation

_MOST_VIOLATIONS = 20
_BODY_ROOTS = frozenset({"body", "query", "path", "header"})
_FIXED = {
    "missing": "required",
    "string_type": "must be a string",
    "string_unicode": "must be valid text",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "must be an integer of at most 64 bits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
}
_FROM_CONTEXT: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "literal_error": lambda context: f"must be {context['expected']}",
    "enum": lambda context: f"must be {context['expected']}",
    "string_too_short": lambda context: f"too short (min {context['min_length']})",
    "string_too_long": lambda context: f"too long (max {context['max_length']})",
    "too_short": lambda context: f"too few (min {context['min_length']})",
    "too_long": lambda context: f"too many (max {context['max_length']})",
    "greater_than": lambda context: f"must be greater than {context['gt']}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "less_than": lambda context: f"must be less than {context['lt']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "value_error": lambda context: str(context["error"]),
}


def _message(error: Mapping[str, Any]) -> str:
    kind: str = error["type"]
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _FROM_CONTEXT:
        return _FROM_CONTEXT[kind](error["ctx"])
    message: str = error["msg"]
    return message[0].lower() + message[1:]


def _path(location: Sequence[str | int]) -> tuple[str | int, ...]:
    return tuple(location[1:] if location and location[0] in _BODY_ROOTS else location)


def schema_mismatch(errors: Sequence[Mapping[str, Any]]) -> EdgeError:
    """The framework's findings as one error; the first ones count, the rest is left out."""
    violations = tuple(Violation(_path(error["loc"]), _message(error)) for error in errors[:_MOST_VIOLATIONS])
    return EdgeError(EdgeCode.SCHEMA_MISMATCH, violations[0].message, violations=violations)
