"""A `MemoryFilter` as SQL, over the rows of memories or over the copies of their columns beside what is searched."""

from collections.abc import Collection
from enum import Enum, auto

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.conditions import comparisons, wanted_sets

_TAG_IN_TABLE = (
    "EXISTS (SELECT 1 FROM memory_tags AS t"
    " WHERE t.tenant_id = {alias}.tenant_id AND t.tenant_id = %s AND t.tag = %s AND t.memory_id = {alias}.memory_id)"
)


class TagsBy(Enum):
    """Where the tags of a row are looked up."""

    TABLE = auto()  # in memory_tags, whose index leads from a tag to its memories
    COPY = auto()  # in the row's own column `tags`, an array


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
