"""Pages of memories: which rows pass a filter, counted exactly, and the wanted ones in order."""

import sqlite3
from collections.abc import Iterable
from typing import Final

from polymem.domain.model import Memory, SpaceId, TenantId
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.storage.conditions import order_column, passes_nothing
from polymem.storage.rows import MEMORY_COLUMNS, columns, memory_from_row, to_json
from polymem.storage.sqlite.filters import one_of, where_clause

_MEMORY = columns(MEMORY_COLUMNS, "m")
# The rows of these numbers, in their order.
OF_NUMBERS: Final = (
    f"SELECT {_MEMORY} FROM json_each(?) AS asked CROSS JOIN memories AS m ON m.doc_no = asked.value ORDER BY asked.id"
)

# With fewer memories than this a tag is the shortest way to the rows; beyond, it is looked up for each row.
_RARE_TAG: Final = 2000


def list_page(
    connection: sqlite3.Connection,
    tenant_id: TenantId,
    where: MemoryFilter,
    *,
    order: ListOrder,
    limit: int,
    offset: int,
) -> MemoryPage:
    """The page and the count of all that pass, from the snapshot of the connection's transaction."""
    # An index cannot be prescribed for a condition that is never true.
    if passes_nothing(where):
        return MemoryPage(memories=(), total=0)
    source, condition, parameters = _rows_that_pass(connection, tenant_id, where)
    column = order_column(order)
    if where.metadata:
        return _page_of_few(connection, source, condition, parameters, column=column, limit=limit, offset=offset)
    (total,) = connection.execute(f"SELECT count(*) FROM {source} WHERE {condition}", parameters).fetchone()
    # The page is picked from narrow rows, mostly the index alone; only then are its texts read.
    rows = connection.execute(
        f"SELECT {_MEMORY} FROM (SELECT m.rowid AS row_no FROM {source} WHERE {condition}"
        f" ORDER BY m.{column} DESC, m.memory_id DESC LIMIT ? OFFSET ?) AS page"
        f" CROSS JOIN memories AS m ON m.rowid = page.row_no ORDER BY m.{column} DESC, m.memory_id DESC",
        (*parameters, limit, offset),
    )
    return MemoryPage(memories=tuple(memory_from_row(row) for row in rows), total=total)


def _page_of_few(
    connection: sqlite3.Connection,
    source: str,
    condition: str,
    parameters: list[object],
    *,
    column: str,
    limit: int,
    offset: int,
) -> MemoryPage:
    """The page and the count by one look at each row: for a condition that costs more than to name all that pass."""
    numbers = connection.execute(
        f"SELECT m.doc_no FROM {source} WHERE {condition} ORDER BY m.{column} DESC, m.memory_id DESC", parameters
    ).fetchall()
    page = to_json([doc_no for (doc_no,) in numbers[offset : offset + limit]])
    rows = connection.execute(OF_NUMBERS, (page,))
    return MemoryPage(memories=tuple(memory_from_row(row) for row in rows), total=len(numbers))


def list_turns(
    connection: sqlite3.Connection,
    tenant_id: TenantId,
    session_ids: Iterable[str],
    spaces: frozenset[SpaceId],
    *,
    limit_per_session: int,
) -> tuple[Memory, ...]:
    """The first turns of each session by time, seq and id: one bounded walk of the session index for each."""
    in_spaces, space_ids = one_of("m.space_id", spaces)
    statement = (
        f"SELECT {_MEMORY} FROM memories AS m WHERE m.tenant_id = ? AND m.session_id = ?"
        f" AND m.memory_type = 'session' AND {in_spaces} ORDER BY m.created_at, m.turn_seq, m.memory_id LIMIT ?"
    )
    return tuple(
        memory_from_row(row)
        for session_id in sorted(set(session_ids))
        for row in connection.execute(statement, (tenant_id, session_id, *space_ids, limit_per_session))
    )


def last_seq(connection: sqlite3.Connection, tenant_id: TenantId, session_id: str, space_id: SpaceId) -> int | None:
    """The highest seq among the turns of a session in a space, or None when it has no turn there."""
    (highest,) = connection.execute(
        "SELECT max(turn_seq) FROM memories"
        " WHERE tenant_id = ? AND session_id = ? AND space_id = ? AND turn_seq IS NOT NULL",
        (tenant_id, session_id, space_id),
    ).fetchone()
    return None if highest is None else int(highest)


def _rows_that_pass(
    connection: sqlite3.Connection, tenant_id: TenantId, where: MemoryFilter
) -> tuple[str, str, list[object]]:
    """FROM, WHERE and parameters of the query for the rows that pass, led by the index that reaches the fewest.

    The planner keeps no statistics of single sessions and tags: it would walk the whole space for them.
    """
    condition, parameters = where_clause(where, tenant_id, tags_lead=False)
    if where.session_ids:
        return "memories AS m INDEXED BY memories_by_session", condition, parameters
    counts = {tag: _count_up_to_rare(connection, tenant_id, tag) for tag in where.tags}
    rarest = min(counts, key=counts.__getitem__, default=None)
    if rarest is None or counts[rarest] >= _RARE_TAG:
        return "memories AS m INDEXED BY memories_by_update", condition, parameters
    source = (
        "memory_tags AS lead CROSS JOIN memories AS m ON m.tenant_id = lead.tenant_id AND m.memory_id = lead.memory_id"
    )
    return source, f"lead.tenant_id = ? AND lead.tag = ? AND {condition}", [tenant_id, rarest, *parameters]


def _count_up_to_rare(connection: sqlite3.Connection, tenant_id: TenantId, tag: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM memory_tags WHERE tenant_id = ? AND tag = ? LIMIT ?)",
        (tenant_id, tag, _RARE_TAG),
    ).fetchone()
    return int(row[0])
