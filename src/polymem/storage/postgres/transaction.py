"""What the changes of one commit share while they are applied."""

from dataclasses import dataclass, field
from typing import Any

from polymem.domain.model import TenantId
from polymem.storage.postgres.driver import Connection

Row = tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One commit of one tenant: where it writes, the number it gives to what it touches, what it adds up.

    `stored`: the ids of memories that it has stored and that are still there.
    The connection is in pipeline mode: a statement whose answer nobody fetches travels with a later one.
    """

    connection: Connection
    tenant_id: TenantId
    tenant_no: int
    change_no: int
    now: int
    memories_added: int = 0
    terms_added: int = 0
    audit_entries: int = 0
    stored: set[str] = field(default_factory=set)


async def fetch_one(connection: Connection, statement: str, parameters: tuple[object, ...]) -> Row | None:
    """The first row that the statement gives, or None."""
    return await (await connection.execute(statement, parameters)).fetchone()


async def fetch_all(connection: Connection, statement: str, parameters: tuple[object, ...]) -> list[Row]:
    """Every row that the statement gives."""
    return await (await connection.execute(statement, parameters)).fetchall()


async def insert_rows(connection: Connection, statement: str, rows: list[Row]) -> None:
    """The statement was run, or is on its way, once for each row."""
    if rows:
        async with connection.cursor() as cursor:
            await cursor.executemany(statement, rows)


async def done_again(_: Connection) -> bool:
    """For `Database.write`: whether the unit was stored need not be known, for done again it comes to the same."""
    return False
