"""Whether a statement names its tenant: only then does a database that is sharded by tenant run it on one shard."""

import re
from collections.abc import Iterator
from functools import lru_cache

import sqlglot
from sqlglot import exp

# The tables that are distributed by tenant. Those outside stand in the first lines of the schema.
OUTSIDE = frozenset(
    {"plans", "keys", "models", "counters", "job_dispatch", "buckets", "migrations", "copies", "vector_graphs"}
)
_BOUND = "a value"


@lru_cache(maxsize=4096)
def tables_without_tenant(statement: str, tables: frozenset[str]) -> tuple[str, ...]:
    """The names of those of the `tables` that the statement reaches without saying of which tenant.

    A table says it when its tenant_id is compared, by AND, with a value or with the tenant_id of a table that says it;
    an insert, when it gives a value for the column.
    """
    text = re.sub(r"%\(\w+\)[sbt]|%[sbt]", "$1", statement).replace("<#>", "-").replace("%%", "%")
    if not any(re.search(rf"\b{table}\b", text) for table in tables):
        return ()
    found = []
    for tree in sqlglot.parse(text, read="postgres"):
        if tree is not None and not isinstance(tree, exp.Create | exp.Alter | exp.Command | exp.Drop | exp.Analyze):
            found += _lacking(tree, tables)
    return tuple(found)


def _lacking(tree: exp.Expr, tables: frozenset[str]) -> list[str]:
    links = _Links()
    for equal in tree.find_all(exp.EQ):
        if _is_required(equal):
            left, right = (_side(side) for side in (equal.left, equal.right))
            if left is not None and right is not None:
                links.join(left, right)
    named = {cte.alias for cte in tree.find_all(exp.CTE)}
    return [
        table.name
        for table in tree.find_all(exp.Table)
        if table.name in tables
        and table.name not in named
        and not _is_insert_target(table)
        and not links.are_joined((id(_owner(table)), table.alias_or_name), (0, _BOUND))
    ] + list(_insert_targets(tree, tables))


def _insert_targets(tree: exp.Expr, tables: frozenset[str]) -> Iterator[str]:
    """The tables that are inserted into without the column."""
    for insert in tree.find_all(exp.Insert):
        target = insert.this
        if isinstance(target, exp.Schema):
            columns = {column.name for column in target.expressions}
            if target.this.name in tables and "tenant_id" not in columns:
                yield target.this.name
        elif target.name in tables:
            yield target.name


def _is_insert_target(table: exp.Table) -> bool:
    parent = table.parent
    return isinstance(parent, exp.Insert) or (isinstance(parent, exp.Schema) and isinstance(parent.parent, exp.Insert))


def _is_required(equal: exp.EQ) -> bool:
    """True for a comparison that holds for every row: it stands in WHERE or ON, under nothing but AND."""
    above = equal.parent
    while isinstance(above, exp.And | exp.Paren):
        above = above.parent
    return isinstance(above, exp.Where | exp.Join)


def _side(side: exp.Expr) -> tuple[int, str] | None:
    """A table's tenant_id as (its statement, its alias), a value as (0, "a value"); None for anything else."""
    while isinstance(side, exp.Cast | exp.Paren | exp.Collate):
        side = side.this
    if isinstance(side, exp.Parameter | exp.Placeholder | exp.Literal):
        return 0, _BOUND
    if not isinstance(side, exp.Column) or side.name != "tenant_id":
        return None
    owner = _owner(side)
    while owner is not None:
        aliases = {table.alias_or_name for table in owner.find_all(exp.Table) if _owner(table) is owner}
        aliases |= {query.alias for query in owner.find_all(exp.Subquery, exp.Lateral) if query.alias}
        if (side.table and side.table in aliases) or (not side.table and len(aliases) == 1):
            return id(owner), side.table or next(iter(aliases))
        owner = _owner(owner)
    return None


def _owner(node: exp.Expr) -> exp.Expr | None:
    """The innermost statement that the node is a part of."""
    return node.find_ancestor(exp.Select, exp.Update, exp.Delete, exp.Insert)


class _Links:
    """Which tenant columns are equal to each other."""

    def __init__(self) -> None:
        self._leads: dict[tuple[int, str], tuple[int, str]] = {}

    def join(self, first: tuple[int, str], second: tuple[int, str]) -> None:
        self._leads[self._lead(first)] = self._lead(second)

    def are_joined(self, first: tuple[int, str], second: tuple[int, str]) -> bool:
        return self._lead(first) == self._lead(second)

    def _lead(self, item: tuple[int, str]) -> tuple[int, str]:
        while item in self._leads and self._leads[item] != item:
            item = self._leads[item]
        return item
