"""A feed: memories newest first, from a position on. Each space's own index is walked; the walks are merged."""

import sqlite3
from dataclasses import replace
from heapq import nlargest

from polymem.domain.model import Memory, TenantId
from polymem.domain.query import FeedPosition, MemoryFilter
from polymem.storage.conditions import passes_nothing
from polymem.storage.rows import memory_from_row, microseconds, to_json
from polymem.storage.sqlite.filters import where_clause
from polymem.storage.sqlite.memory_lists import OF_NUMBERS


def feed_page(
    connection: sqlite3.Connection,
    tenant_id: TenantId,
    where: MemoryFilter,
    *,
    after: FeedPosition | None,
    limit: int,
    with_superseded: bool,
) -> tuple[Memory, ...]:
    """The first `limit` memories that pass after the position, newest `created_at` first, ties by id downwards."""
    # An index cannot be prescribed for a condition that is never true.
    if passes_nothing(where):
        return ()
    beyond = ""
    position: tuple[object, ...] = ()
    if after is not None:
        beyond = " AND (m.created_at, m.memory_id) < (?, ?)"
        position = (microseconds(after.created_at), after.memory_id)
    unreplaced = "" if with_superseded else " AND m.superseded_by IS NULL"
    found: list[tuple[int, str, int]] = []
    for space_id in sorted(where.spaces):
        own = replace(where, spaces=frozenset({space_id}))
        condition, parameters = where_clause(own, tenant_id, tags_lead=False)
        found += connection.execute(
            "SELECT m.created_at, m.memory_id, m.doc_no FROM memories AS m INDEXED BY memories_by_creation"
            f" WHERE {condition}{unreplaced}{beyond} ORDER BY m.created_at DESC, m.memory_id DESC LIMIT ?",
            (*parameters, *position, limit),
        )
    numbers = [doc_no for _, _, doc_no in nlargest(limit, found)]
    return tuple(memory_from_row(row) for row in connection.execute(OF_NUMBERS, (to_json(numbers),)))
