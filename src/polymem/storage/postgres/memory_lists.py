"""Pages of memories: which rows pass a filter, counted exactly, and the wanted ones in order."""

from collections.abc import Iterable
from typing import Final

from polymem.domain.model import Memory, SpaceId, TenantId
from polymem.domain.query import FeedPosition, ListOrder, MemoryFilter, MemoryPage
from polymem.storage.conditions import order_column
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.filters import one_of, where_clause
from polymem.storage.postgres.transaction import Row, fetch_all, fetch_one
from polymem.storage.rows import MEMORY_COLUMNS, columns, memory_from_row, microseconds

LAST_SEQ: Final = (
    "SELECT max(turn_seq) FROM memories"
    " WHERE tenant_id = %s AND session_id = %s AND space_id = %s AND turn_seq IS NOT NULL"
)
_MEMORY: Final = columns(MEMORY_COLUMNS, "m")


async def list_page(
    connection: Connection, tenant_id: TenantId, where: MemoryFilter, *, order: ListOrder, limit: int, offset: int
) -> MemoryPage:
    """The page and the count of all that pass, by one statement and so of one moment."""
    condition, parameters = where_clause(where, tenant_id, "m")
    column = order_column(order)
    # The page is picked from narrow rows, mostly the index alone; only then are its texts read.
    rows = await fetch_all(
        connection,
        f"SELECT counted.total, {_MEMORY} FROM"
        f" (SELECT count(*) AS total FROM memories AS m WHERE {condition}) AS counted"
        f" LEFT JOIN (SELECT m.tenant_id, m.memory_id FROM memories AS m WHERE {condition}"
        f" ORDER BY m.{column} DESC, m.memory_id DESC LIMIT %s OFFSET %s) AS page ON true"
        " LEFT JOIN memories AS m ON m.tenant_id = page.tenant_id AND m.tenant_id = %s AND m.memory_id = page.memory_id"
        f" ORDER BY m.{column} DESC, m.memory_id DESC",
        (*parameters, *parameters, limit, offset, tenant_id),
    )
    memories = tuple(memory_from_row(row[1:]) for row in rows if row[1] is not None)
    return MemoryPage(memories=memories, total=rows[0][0])


async def list_feed(
    connection: Connection,
    tenant_id: TenantId,
    where: MemoryFilter,
    *,
    after: FeedPosition | None,
    limit: int,
    with_superseded: bool,
) -> tuple[Memory, ...]:
    """The newest that pass, after the position: one bounded walk of the index by creation for each space."""
    condition, parameters = where_clause(where, tenant_id, "m")
    if not with_superseded:
        condition += " AND m.superseded_by IS NULL"
    if after is not None:
        condition += " AND (m.created_at, m.memory_id) < (%s::bigint, %s)"
        parameters += [microseconds(after.created_at), after.memory_id]
    rows = await fetch_all(
        connection,
        f"SELECT {_MEMORY} FROM (SELECT near.memory_id FROM unnest(%s::text[]) AS asked (space_id) CROSS JOIN LATERAL"
        f" (SELECT m.created_at, m.memory_id FROM memories AS m WHERE {condition} AND m.space_id = asked.space_id"
        " ORDER BY m.created_at DESC, m.memory_id DESC LIMIT %s) AS near"
        " ORDER BY near.created_at DESC, near.memory_id DESC LIMIT %s) AS page"
        " JOIN memories AS m ON m.tenant_id = %s AND m.memory_id = page.memory_id"
        " ORDER BY m.created_at DESC, m.memory_id DESC",
        (sorted(where.spaces), *parameters, limit, limit, tenant_id),
    )
    return tuple(memory_from_row(row) for row in rows)


async def list_turns(
    connection: Connection,
    tenant_id: TenantId,
    session_ids: Iterable[str],
    spaces: frozenset[SpaceId],
    *,
    limit_per_session: int,
) -> tuple[Memory, ...]:
    """The first turns of each session by time, seq and id: one bounded walk of the session index for each."""
    in_spaces, space_ids = one_of("m.space_id", spaces)
    rows = await fetch_all(
        connection,
        f"SELECT {_MEMORY} FROM unnest(%s::text[]) AS asked (session_id) CROSS JOIN LATERAL"
        " (SELECT * FROM memories AS m WHERE m.tenant_id = %s AND m.session_id = asked.session_id"
        f" AND m.memory_type = 'session' AND {in_spaces} ORDER BY m.created_at, m.turn_seq, m.memory_id LIMIT %s) AS m"
        " ORDER BY m.session_id, m.created_at, m.turn_seq, m.memory_id",
        (sorted(set(session_ids)), tenant_id, *space_ids, limit_per_session),
    )
    return tuple(memory_from_row(row) for row in rows)


async def last_seq(connection: Connection, tenant_id: TenantId, session_id: str, space_id: SpaceId) -> int | None:
    """The highest seq among the turns of a session in a space, or None when it has no turn there."""
    return last_seq_of(await fetch_one(connection, LAST_SEQ, (tenant_id, session_id, space_id)))


def last_seq_of(row: Row | None) -> int | None:
    """What `LAST_SEQ` gave."""
    return None if row is None or row[0] is None else int(row[0])
