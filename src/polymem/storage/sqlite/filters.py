"""A `MemoryFilter` as SQL over the table `memories`, shared by lists and by every recall arm."""

from collections.abc import Collection

import orjson

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.conditions import comparisons, wanted_sets
from polymem.storage.sqlite.metadata import metadata_condition

# Beyond this many values a set is handed over as one JSON text: SQLite bounds the parameters of a statement.
_MAX_PLACEHOLDERS = 200
_LISTED = "(SELECT value FROM json_each(?))"

# Both forms are true for the same rows. The first lets a rare tag lead the query to its rows; the second looks
# each row up, which is cheaper where another index has already found few of them.
_TAG_LEADS = "m.memory_id IN (SELECT t.memory_id FROM memory_tags AS t WHERE t.tenant_id = ? AND t.tag = ?)"
_TAG_IS_LOOKED_UP = (
    "EXISTS (SELECT 1 FROM memory_tags AS t"
    " WHERE t.tenant_id = m.tenant_id AND t.tag = ? AND t.memory_id = m.memory_id)"
)


def where_clause(where: MemoryFilter, tenant_id: TenantId, *, tags_lead: bool = True) -> tuple[str, list[object]]:
    """The condition over `memories AS m` that holds exactly for the tenant's rows that pass, with its parameters.

    An empty set of any condition matches nothing. `tags_lead` False is for queries that reach the rows by
    another index anyway.
    """
    conditions = ["m.tenant_id = ?"]
    parameters: list[object] = [tenant_id]

    def add(condition: str, *values: object) -> None:
        conditions.append(condition)
        parameters.extend(values)

    for column, wanted in wanted_sets(where):
        condition, values = one_of(f"m.{column}", wanted)
        add(condition, *values)
    for tag in dict.fromkeys(where.tags):
        if tags_lead:
            add(_TAG_LEADS, tenant_id, tag)
        else:
            add(_TAG_IS_LOOKED_UP, tag)
    for column, operator, value in comparisons(where):
        add(f"m.{column} {operator} ?", value)
    if where.except_author is not None:
        add("m.agent_id IS NOT ?", where.except_author)
        add("m.created_by <> ?", where.except_author)
    for each in where.metadata:
        condition, values = metadata_condition(each)
        add(condition, *values)
    return " AND ".join(conditions), parameters


def one_of(column: str, wanted: Collection[str]) -> tuple[str, list[object]]:
    """The condition that `column` holds one of the wanted values, sorted so that equal sets give equal statements."""
    values = sorted(str(value) for value in wanted)
    if not values:
        return "0", []
    if len(values) > _MAX_PLACEHOLDERS:
        return f"{column} IN {_LISTED}", [orjson.dumps(values).decode()]
    return f"{column} IN ({', '.join('?' * len(values))})", list(values)
