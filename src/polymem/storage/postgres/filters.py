"""A `MemoryFilter` as SQL, over the rows of memories or over the copies of their columns beside what is searched."""

from collections.abc import Collection
from enum import Enum, auto

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.conditions import comparisons, wanted_sets
from polymem.storage.postgres.metadata import metadata_clause

_TAG_IN_TABLE = (
    "EXISTS (SELECT 1 FROM memory_tags AS t"
    " WHERE t.tenant_id = {alias}.tenant_id AND t.tenant_id = %s AND t.tag = %s AND t.memory_id = {alias}.memory_id)"
)
# What rows beside what is searched have no copy of. Not a join: asked of the rows alone that pass everything else, so
# that an index which gives them in the order of their distance is walked as before.
_OF_MEMORY = "(SELECT {condition} FROM memories AS o WHERE o.tenant_id = %s AND o.memory_id = {alias}.memory_id)"
_BY_OTHERS = "{alias}.agent_id IS DISTINCT FROM %s AND {alias}.created_by <> %s"


class TagsBy(Enum):
    """Where the tags of a row are looked up, and with them what else a copy lacks."""

    TABLE = auto()  # of a row of memories: in memory_tags, whose index leads from a tag to its memories
    COPY = auto()  # of a row beside what is searched: in its own column `tags`, an array


def where_clause(
    where: MemoryFilter, tenant_id: TenantId, alias: str, *, tags: TagsBy = TagsBy.TABLE
) -> tuple[str, list[object]]:
    """The condition over `alias` that holds exactly for the tenant's rows that pass, with its parameters.

    An empty set of any condition matches nothing.
    """
    conditions = [f"{alias}.tenant_id = %s"]
    parameters: list[object] = [tenant_id]

    def add(condition: str, *values: object) -> None:
        conditions.append(condition)
        parameters.extend(values)

    for column, wanted in wanted_sets(where):
        condition, values = one_of(f"{alias}.{column}", wanted)
        add(condition, *values)
    wanted_tags = list(dict.fromkeys(where.tags))
    if tags is TagsBy.TABLE:
        for tag in wanted_tags:
            add(_TAG_IN_TABLE.format(alias=alias), tenant_id, tag)
    elif wanted_tags:
        add(f"{alias}.tags @> %s::text[]", wanted_tags)
    for column, operator, value in comparisons(where):
        add(f"{alias}.{column} {operator} %s", value)
    if where.except_author is not None or where.metadata:
        condition, values = _uncopied(where, alias if tags is TagsBy.TABLE else "o")
        if tags is TagsBy.TABLE:
            add(condition, *values)
        else:
            add(_OF_MEMORY.format(condition=condition, alias=alias), *values, tenant_id)
    return " AND ".join(conditions), parameters


def _uncopied(where: MemoryFilter, alias: str) -> tuple[str, list[object]]:
    """What only the rows of memories tell: their author and their metadata."""
    conditions: list[str] = []
    parameters: list[object] = []
    if where.except_author is not None:
        conditions.append(_BY_OTHERS.format(alias=alias))
        parameters += [where.except_author, where.except_author]
    if where.metadata:
        condition, values = metadata_clause(where.metadata, f"{alias}.metadata")
        conditions.append(condition)
        parameters += values
    return " AND ".join(conditions), parameters


def one_of(column: str, wanted: Collection[str]) -> tuple[str, list[object]]:
    """The condition that `column` holds one of the wanted values.

    A single value is compared as such: the rows of an index under it are in its order, those under a list are not.
    """
    values = sorted(str(value) for value in wanted)
    match values:
        case []:
            return "false", []
        case [value]:
            return f"{column} = %s", [value]
        case _:
            return f"{column} = ANY(%s::text[])", [values]
