"""What the changes of one commit share while they are applied."""

import sqlite3
from dataclasses import dataclass

from polymem.domain.model import TenantId


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One commit of one tenant: where it writes, the number it gives to what it touches, what it adds up."""

    connection: sqlite3.Connection
    tenant_id: TenantId
    tenant_no: int
    change_no: int
    now: int
    memories_added: int = 0
    audit_entries: int = 0


def next_number(connection: sqlite3.Connection, counter: str) -> int:
    """The next number of a counter, taken for good when the transaction commits."""
    row = connection.execute(
        "UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value", (counter,)
    ).fetchone()
    return int(row[0])
