"""Tenants, users, keys and plans."""

from collections.abc import Hashable
from datetime import datetime
from typing import Final

import psycopg

from polymem.domain.model import Key, KeyId, Plan, Space, Tenant, TenantId, User, UserId
from polymem.errors import Conflict, NotFound
from polymem.ports.directory import Credentials, NewAccount
from polymem.storage.postgres.connection import Database, Unit
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.notices import Notices
from polymem.storage.postgres.space_changes import INSERT_SPACE
from polymem.storage.postgres.transaction import Row, done_again, fetch_all, fetch_one
from polymem.storage.rows import (
    KEY_COLUMNS,
    PLAN_COLUMNS,
    TENANT_COLUMNS,
    USER_COLUMNS,
    columns,
    credentials_from_row,
    insert_into,
    key_from_row,
    key_row,
    microseconds,
    plan_from_row,
    plan_row,
    space_row,
    tenant_from_row,
    tenant_row,
    user_from_row,
    user_row,
)

# "pmem" in ASCII, and its number among what one process at a time may do: see `migrate.MIGRATING`.
FIRST_ACCOUNT: Final = (0x706D656D, 2)

_INSERT_TENANT: Final = (
    f"INSERT INTO tenants (tenant_no, {columns(TENANT_COLUMNS)})"
    f" VALUES (nextval('tenant_no'), {', '.join(['%s'] * len(TENANT_COLUMNS))})"
)
_INSERT_USER: Final = insert_into("users", USER_COLUMNS, mark="%s")
_INSERT_KEY: Final = insert_into("keys", ("key_hash", *KEY_COLUMNS), mark="%s")
_PUT_PLAN: Final = (
    insert_into("plans", PLAN_COLUMNS, mark="%s") + " ON CONFLICT (name) DO UPDATE SET"
    " requests_per_minute = excluded.requests_per_minute, burst = excluded.burst,"
    " max_memories = excluded.max_memories, queries_per_day = excluded.queries_per_day"
)
_FIND_KEY: Final = f"SELECT {columns(KEY_COLUMNS)} FROM keys WHERE key_hash = %s"
# The rest of what a key opens, once its tenant is known.
_FIND_OWNER: Final = (
    f"SELECT {columns(TENANT_COLUMNS, 't')}, {columns(USER_COLUMNS, 'u')}, {columns(PLAN_COLUMNS, 'p')}"
    " FROM tenants AS t JOIN users AS u ON u.tenant_id = t.tenant_id AND u.user_id = %s"
    " JOIN plans AS p ON p.name = t.plan WHERE t.tenant_id = %s"
)
_LIST_KEYS_OF: Final = f"SELECT {columns(KEY_COLUMNS)} FROM keys WHERE tenant_id = %s ORDER BY created_at, key_id"

_TENANT_OF_KEY: Final = KEY_COLUMNS.index("tenant_id")
_USER_OF_KEY: Final = KEY_COLUMNS.index("user_id")

_LIST_KEYS: Final = f"SELECT {columns(KEY_COLUMNS)} FROM keys ORDER BY created_at, key_id"
_LIST_TENANTS: Final = f"SELECT {columns(TENANT_COLUMNS)} FROM tenants ORDER BY created_at, tenant_id"
_ANY_TENANT: Final = "SELECT 1 FROM tenants LIMIT 1"

# Statements that name no tenant: an administrator's list of all, and whether a first account is to be made.
ACROSS_TENANTS: Final = (_LIST_TENANTS, _ANY_TENANT)


class PostgresDirectory:
    """The `Directory` of one database."""

    def __init__(self, database: Database, notices: Notices) -> None:
        self._database = database
        self._notices = notices

    async def find_credentials(self, key_hash: bytes) -> Credentials | None:
        """What the key of this hash opens, or None when there is no such key."""

        async def unit(connection: Connection) -> Credentials | None:
            key = await fetch_one(connection, _FIND_KEY, (key_hash,))
            if key is None:
                return None
            owner = await fetch_one(connection, _FIND_OWNER, (key[_USER_OF_KEY], key[_TENANT_OF_KEY]))
            return None if owner is None else credentials_from_row((*key, *owner))

        return await self._database.read(unit)

    def mark(self) -> Hashable:
        """The mark of the notices: it moves with each change that was made here or heard of."""
        return self._notices.mark

    async def create_account(self, account: NewAccount, *, only_if_empty: bool = False) -> bool:
        """The account is there, whole; False, and nothing made, when it should be the first and is not.

        Raises `NotFound` for an unknown plan, `Conflict` when an id or the key is taken.
        """
        tenant_id = account.tenant.id

        async def unit(connection: Connection) -> bool:
            if only_if_empty:
                await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", FIRST_ACCOUNT)
                if await fetch_one(connection, _ANY_TENANT, ()) is not None:
                    return False
            await _require_plan(connection, account.tenant.plan)
            try:
                async with connection.pipeline():
                    await connection.execute(_INSERT_TENANT, tenant_row(account.tenant))
                    await connection.execute(_INSERT_USER, user_row(account.user))
                    await connection.execute(INSERT_SPACE, (tenant_id, *space_row(account.space)))
                    await connection.execute(_INSERT_KEY, (account.key_hash, *key_row(account.key)))
            except psycopg.errors.UniqueViolation as error:
                raise Conflict("the account or its key is there already") from error
            return True

        made = await self._database.write(unit, was_stored=_key_is_there(account.key_hash, account.key.id))
        await self._notices.directory_changed()
        return made

    async def add_user(self, user: User, space: Space) -> None:
        """The user and its personal space are there. Raises `NotFound`, or `Conflict` for a name that is taken."""

        async def unit(connection: Connection) -> None:
            await _require_tenant(connection, user.tenant_id)
            try:
                async with connection.pipeline():
                    await connection.execute(_INSERT_USER, user_row(user))
                    await connection.execute(INSERT_SPACE, (user.tenant_id, *space_row(space)))
            except psycopg.errors.UniqueViolation as error:
                raise Conflict("the tenant has this user already") from error

        async def was_stored(connection: Connection) -> bool:
            return await _has_user(connection, user.tenant_id, user.id)

        await self._database.write(unit, was_stored=was_stored)
        await self._notices.directory_changed()

    async def add_key(self, key: Key, key_hash: bytes) -> None:
        """The key opens its tenant from now on. Raises `NotFound`, or `Conflict` for a key that is there."""

        async def unit(connection: Connection) -> None:
            await _require_tenant(connection, key.tenant_id)
            if not await _has_user(connection, key.tenant_id, key.user_id):
                raise NotFound("user", key.user_id)
            try:
                await connection.execute(_INSERT_KEY, (key_hash, *key_row(key)))
            except psycopg.errors.UniqueViolation as error:
                raise Conflict("the key is there already") from error

        await self._database.write(unit, was_stored=_key_is_there(key_hash, key.id))
        await self._notices.directory_changed()

    async def revoke_key(self, key_id: KeyId, *, now: datetime) -> Key | None:
        """The key opens nothing any more, since the first time it was revoked; None for an unknown key."""

        async def unit(connection: Connection) -> Row | None:
            return await fetch_one(
                connection,
                "UPDATE keys SET revoked_at = coalesce(revoked_at, %s) WHERE key_id = %s"
                f" RETURNING {columns(KEY_COLUMNS)}",
                (microseconds(now), key_id),
            )

        row = await self._database.write(unit, was_stored=done_again)
        await self._notices.directory_changed()
        return None if row is None else key_from_row(row)

    async def list_keys(self, tenant_id: TenantId | None) -> tuple[Key, ...]:
        """All keys, of one tenant or of all, oldest first."""
        statement, parameters = (_LIST_KEYS, ()) if tenant_id is None else (_LIST_KEYS_OF, (tenant_id,))
        rows = await self._database.read(lambda connection: fetch_all(connection, statement, parameters))
        return tuple(key_from_row(row) for row in rows)

    async def list_tenants(self) -> tuple[Tenant, ...]:
        """All tenants, oldest first."""
        rows = await self._database.read(lambda connection: fetch_all(connection, _LIST_TENANTS, ()))
        return tuple(tenant_from_row(row) for row in rows)

    async def list_users(self, tenant_id: TenantId) -> tuple[User, ...]:
        """All users of a tenant, oldest first."""
        statement = f"SELECT {columns(USER_COLUMNS)} FROM users WHERE tenant_id = %s ORDER BY created_at, user_id"
        rows = await self._database.read(lambda connection: fetch_all(connection, statement, (tenant_id,)))
        return tuple(user_from_row(row) for row in rows)

    async def set_tenant(self, tenant: Tenant) -> None:
        """Name, plan and `is_active` are as given; nothing else of the tenant moves."""

        async def unit(connection: Connection) -> None:
            await _require_tenant(connection, tenant.id)
            await _require_plan(connection, tenant.plan)
            await connection.execute(
                "UPDATE tenants SET name = %s, plan = %s, is_active = %s WHERE tenant_id = %s",
                (tenant.name, tenant.plan, tenant.is_active, tenant.id),
            )

        await self._database.write(unit, was_stored=done_again)
        await self._notices.directory_changed()

    async def list_plans(self) -> tuple[Plan, ...]:
        """All plans by name."""
        statement = f"SELECT {columns(PLAN_COLUMNS)} FROM plans ORDER BY name"
        rows = await self._database.read(lambda connection: fetch_all(connection, statement, ()))
        return tuple(plan_from_row(row) for row in rows)

    async def put_plan(self, plan: Plan) -> None:
        """The plan of that name is as given, for every tenant on it."""

        async def unit(connection: Connection) -> None:
            await connection.execute(_PUT_PLAN, plan_row(plan))

        await self._database.write(unit, was_stored=done_again)
        await self._notices.directory_changed()


async def _require_tenant(connection: Connection, tenant_id: TenantId) -> None:
    if await fetch_one(connection, "SELECT 1 FROM tenants WHERE tenant_id = %s", (tenant_id,)) is None:
        raise NotFound("tenant", tenant_id)


async def _has_user(connection: Connection, tenant_id: TenantId, user_id: UserId) -> bool:
    statement = "SELECT 1 FROM users WHERE tenant_id = %s AND user_id = %s"
    return await fetch_one(connection, statement, (tenant_id, user_id)) is not None


async def _require_plan(connection: Connection, name: str) -> None:
    if await fetch_one(connection, "SELECT 1 FROM plans WHERE name = %s", (name,)) is None:
        raise NotFound("plan", name)


def _key_is_there(key_hash: bytes, key_id: KeyId) -> Unit[bool]:
    """Whether this very key was stored: of two keys with one secret the other one may be there."""

    async def unit(connection: Connection) -> bool:
        statement = "SELECT 1 FROM keys WHERE key_hash = %s AND key_id = %s"
        return await fetch_one(connection, statement, (key_hash, key_id)) is not None

    return unit
