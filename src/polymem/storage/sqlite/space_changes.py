"""The changes that touch spaces, their members, and the audit log."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

from polymem.domain.model import Membership, SpaceId, SpaceKind
from polymem.errors import NotFound
from polymem.ports.changes import AddSpace, Audit, Duplicate, Outcome, SetMember, Stored, Updated
from polymem.storage.rows import AUDIT_COLUMNS, SPACE_COLUMNS, audit_row, insert_into, space_row
from polymem.storage.sqlite.transaction import Transaction

INSERT_SPACE = insert_into("spaces", ("tenant_id", *SPACE_COLUMNS))
_INSERT_AUDIT = insert_into("audit_log", ("tenant_id", "change_no", "entry_no", *AUDIT_COLUMNS))


def change_space(transaction: Transaction, change: AddSpace | SetMember) -> Outcome:
    """The change is applied within the transaction."""
    match change:
        case AddSpace():
            return _add(transaction, change)
        case SetMember():
            return _set_member(transaction, change)
        case _:
            assert_never(change)


def append_audit(transaction: Transaction, entry: Audit) -> Stored:
    """The entry stands in the tenant's audit log, under the commit's number and its place in the commit."""
    transaction.audit_entries += 1
    place = (transaction.change_no, transaction.audit_entries)
    transaction.connection.execute(_INSERT_AUDIT, (transaction.tenant_id, *place, *audit_row(entry)))
    return Stored(f"{transaction.change_no}.{transaction.audit_entries}")


def _add(transaction: Transaction, change: AddSpace) -> Stored | Duplicate:
    space = change.space
    row = transaction.connection.execute(
        "SELECT space_id FROM spaces WHERE tenant_id = :tenant"
        " AND (space_id = :id OR (:is_named AND kind = :kind AND name = :name AND kind <> 'personal')) LIMIT 1",
        {
            "tenant": transaction.tenant_id,
            "id": space.id,
            "kind": space.kind.value,
            "name": space.name,
            "is_named": space.kind is not SpaceKind.PERSONAL,
        },
    ).fetchone()
    if row is not None:
        return Duplicate(row[0])
    transaction.connection.execute(INSERT_SPACE, (transaction.tenant_id, *space_row(space)))
    for member in change.members:
        _put_member(transaction, member)
    return Stored(space.id)


def _set_member(transaction: Transaction, change: SetMember) -> Updated:
    if change.role is None:
        transaction.connection.execute(
            "DELETE FROM members WHERE tenant_id = ? AND space_id = ? AND user_id = ?",
            (transaction.tenant_id, change.space_id, change.user_id),
        )
    else:
        _put_member(transaction, Membership(space_id=change.space_id, user_id=change.user_id, role=change.role))
    return Updated(change.space_id)


def _put_member(transaction: Transaction, member: Membership) -> None:
    with _known(transaction, member):
        transaction.connection.execute(
            "INSERT INTO members (tenant_id, space_id, user_id, role) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (tenant_id, space_id, user_id) DO UPDATE SET role = excluded.role",
            (transaction.tenant_id, member.space_id, member.user_id, member.role.value),
        )


@contextmanager
def _known(transaction: Transaction, member: Membership) -> Iterator[None]:
    """A row that names a space or user which is not there is answered with `NotFound`."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            raise
        if _space_is_there(transaction, member.space_id):
            raise NotFound("user", member.user_id) from error
        raise NotFound("space", member.space_id) from error


def _space_is_there(transaction: Transaction, space_id: SpaceId) -> bool:
    row = transaction.connection.execute(
        "SELECT 1 FROM spaces WHERE tenant_id = ? AND space_id = ?", (transaction.tenant_id, space_id)
    ).fetchone()
    return row is not None
