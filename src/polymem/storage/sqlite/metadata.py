"""Conditions on metadata as SQL: a function that asks the domain, called only for rows that may pass."""

import json
import re
import sqlite3
from functools import lru_cache
from typing import Final

import orjson

from polymem.domain.conditions import holds
from polymem.domain.query import Comparison, MetadataCondition
from polymem.storage.conditions import parts_of_metadata
from polymem.storage.rows import to_json

_FUNCTION: Final = "metadata_holds"
_CONDITIONS_KEPT = 64
# SQLite bounds the depth of an expression.
_MOST_GROUPS: Final = 8
_LONG_NUMBER: Final = re.compile("[0-9]{16}")


def register_metadata(connection: sqlite3.Connection) -> None:
    """Statements of the connection can ask what `metadata_condition` asks."""
    connection.create_function(_FUNCTION, 2, _holds, deterministic=True)


def metadata_condition(condition: MetadataCondition) -> tuple[str, list[object]]:
    """The condition over `memories AS m` that holds where it holds of their metadata, with its parameters."""
    groups = [group for group in parts_of_metadata(condition) if "" not in group]
    may_hold = [
        "m.metadata IS NOT NULL",
        *(" OR ".join(["instr(m.metadata, ?) > 0"] * len(group)) or "0" for group in groups),
    ]
    # CASE, because the terms of AND come in an order of SQLite's own choice.
    return (
        f"CASE WHEN ({') AND ('.join(may_hold)}) THEN {_FUNCTION}(m.metadata, ?) ELSE 0 END",
        [*(part for group in groups for part in group), condition_text(condition)],
    )


def condition_text(condition: MetadataCondition) -> str:
    """The one text of the condition: unlike the condition itself it tells 1 from 1.0 and from true."""
    return to_json((condition.path, condition.comparison.value, condition.value))


def _holds(metadata: str, text: str) -> bool:
    # The fast parser turns long integers into floats.
    parse = json.loads if _LONG_NUMBER.search(metadata) else orjson.loads
    return holds(_condition(text), parse(metadata))


@lru_cache(maxsize=_CONDITIONS_KEPT)
def _condition(text: str) -> MetadataCondition:
    path, comparison, value = json.loads(text)
    return MetadataCondition(tuple(path), Comparison(comparison), value)
