"""The changes that touch spaces, their members, and the audit log."""

from collections.abc import Sequence
from typing import Final

from polymem.domain.model import Membership, SpaceKind
from polymem.errors import NotFound
from polymem.ports.changes import AddSpace, Audit, Duplicate, Outcome, SetMember, Stored, Updated
from polymem.storage.postgres.transaction import Transaction, fetch_one, insert_rows
from polymem.storage.rows import AUDIT_COLUMNS, SPACE_COLUMNS, audit_row, insert_into, space_row

INSERT_SPACE: Final = insert_into("spaces", ("tenant_id", *SPACE_COLUMNS), mark="%s")
_INSERT_AUDIT: Final = insert_into("audit_log", ("tenant_id", "change_no", "entry_no", *AUDIT_COLUMNS), mark="%s")
_FIND_SAME: Final = (
    "SELECT space_id FROM spaces WHERE tenant_id = %s"
    " AND (space_id = %s OR (%s AND kind = %s AND name = %s AND kind <> 'personal')) LIMIT 1"
)
_ARE_THERE: Final = (
    "SELECT EXISTS (SELECT 1 FROM spaces WHERE tenant_id = %s AND space_id = %s),"
    " EXISTS (SELECT 1 FROM users WHERE tenant_id = %s AND user_id = %s)"
)
_PUT_MEMBER: Final = (
    insert_into("members", ("tenant_id", "space_id", "user_id", "role"), mark="%s")
    + " ON CONFLICT (tenant_id, space_id, user_id) DO UPDATE SET role = excluded.role"
)


async def add_space(transaction: Transaction, change: AddSpace) -> Outcome:
    """The space is there with its members, unless its id, or its kind and name, are taken."""
    connection, tenant_id, space = transaction.connection, transaction.tenant_id, change.space
    is_named = space.kind is not SpaceKind.PERSONAL
    same = await fetch_one(connection, _FIND_SAME, (tenant_id, space.id, is_named, space.kind.value, space.name))
    if same is not None:
        return Duplicate(same[0])
    await connection.execute(INSERT_SPACE, (tenant_id, *space_row(space)))
    for member in change.members:
        await _put_member(transaction, member)
    return Stored(space.id)


async def set_member(transaction: Transaction, change: SetMember) -> Outcome:
    """The user has the role, or none. Raises `NotFound` for a space or user that is not there."""
    if change.role is None:
        await transaction.connection.execute(
            "DELETE FROM members WHERE tenant_id = %s AND space_id = %s AND user_id = %s",
            (transaction.tenant_id, change.space_id, change.user_id),
        )
    else:
        member = Membership(space_id=change.space_id, user_id=change.user_id, role=change.role)
        await _put_member(transaction, member)
    return Updated(change.space_id)


async def append_audit(transaction: Transaction, entries: Sequence[Audit]) -> list[Outcome]:
    """The entries stand in the tenant's audit log, under the commit's number and their place in the commit."""
    rows, outcomes = [], list[Outcome]()
    for entry in entries:
        transaction.audit_entries += 1
        place = (transaction.change_no, transaction.audit_entries)
        rows.append((transaction.tenant_id, *place, *audit_row(entry)))
        outcomes.append(Stored("{}.{}".format(*place)))
    await insert_rows(transaction.connection, _INSERT_AUDIT, rows)
    return outcomes


async def _put_member(transaction: Transaction, member: Membership) -> None:
    connection, tenant_id = transaction.connection, transaction.tenant_id
    there = await fetch_one(connection, _ARE_THERE, (tenant_id, member.space_id, tenant_id, member.user_id))
    has_space, has_user = there or (False, False)
    if not has_space:
        raise NotFound("space", member.space_id)
    if not has_user:
        raise NotFound("user", member.user_id)
    await connection.execute(_PUT_MEMBER, (tenant_id, member.space_id, member.user_id, member.role.value))
