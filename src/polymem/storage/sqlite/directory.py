"""Tenants, users, keys and plans."""

import sqlite3
from collections.abc import Hashable
from datetime import datetime
from pathlib import Path

from polymem.domain.model import Key, KeyId, Plan, Space, Tenant, TenantId, User, UserId
from polymem.errors import Conflict, NotFound
from polymem.ports.directory import Credentials, NewAccount
from polymem.storage.rows import (
    CREDENTIALS,
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
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.space_changes import INSERT_SPACE
from polymem.storage.sqlite.transaction import next_number

_INSERT_TENANT = insert_into("tenants", ("tenant_no", *TENANT_COLUMNS))
_INSERT_USER = insert_into("users", USER_COLUMNS)
_INSERT_KEY = insert_into("keys", ("key_hash", *KEY_COLUMNS))


class SqliteDirectory:
    """The `Directory` of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = Path(f"{database.path}-wal")

    async def find_credentials(self, key_hash: bytes) -> Credentials | None:
        """What the key of this hash opens, or None when there is no such key."""

        def unit(connection: sqlite3.Connection) -> Credentials | None:
            row = connection.execute(f"{CREDENTIALS} WHERE k.key_hash = ?", (key_hash,)).fetchone()
            return None if row is None else credentials_from_row(row)

        return await self._database.read(unit)

    def mark(self) -> Hashable:
        """When and to what length the log of writes was last written; None while there is none."""
        try:
            found = self._log.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    async def create_account(self, account: NewAccount, *, only_if_empty: bool = False) -> bool:
        """The account is there, whole; False, and nothing made, when it should be the first and is not.

        Raises `NotFound` for an unknown plan, `Conflict` when an id or the key is taken.
        """

        def unit(connection: sqlite3.Connection) -> bool:
            if only_if_empty and connection.execute("SELECT 1 FROM tenants LIMIT 1").fetchone() is not None:
                return False
            _require_plan(connection, account.tenant.plan)
            tenant_no = next_number(connection, "tenant_no")
            try:
                connection.execute(_INSERT_TENANT, (tenant_no, *tenant_row(account.tenant)))
                connection.execute(_INSERT_USER, user_row(account.user))
                connection.execute(INSERT_SPACE, (account.tenant.id, *space_row(account.space)))
                connection.execute(_INSERT_KEY, (account.key_hash, *key_row(account.key)))
            except sqlite3.IntegrityError as error:
                raise Conflict("the account or its key is there already") from error
            return True

        return await self._database.write(unit)

    async def add_user(self, user: User, space: Space) -> None:
        """The user and its personal space are there. Raises `NotFound`, or `Conflict` for a name that is taken."""

        def unit(connection: sqlite3.Connection) -> None:
            _require_tenant(connection, user.tenant_id)
            try:
                connection.execute(_INSERT_USER, user_row(user))
                connection.execute(INSERT_SPACE, (user.tenant_id, *space_row(space)))
            except sqlite3.IntegrityError as error:
                raise Conflict("the tenant has this user already") from error

        await self._database.write(unit)

    async def add_key(self, key: Key, key_hash: bytes) -> None:
        """The key opens its tenant from now on. Raises `NotFound`, or `Conflict` for a key that is there."""

        def unit(connection: sqlite3.Connection) -> None:
            _require_tenant(connection, key.tenant_id)
            _require_user(connection, key.tenant_id, key.user_id)
            try:
                connection.execute(_INSERT_KEY, (key_hash, *key_row(key)))
            except sqlite3.IntegrityError as error:
                raise Conflict("the key is there already") from error

        await self._database.write(unit)

    async def revoke_key(self, key_id: KeyId, *, now: datetime) -> Key | None:
        """The key opens nothing any more, since the first time it was revoked; None for an unknown key."""

        def unit(connection: sqlite3.Connection) -> Key | None:
            row = connection.execute(
                "UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE key_id = ?"
                f" RETURNING {columns(KEY_COLUMNS)}",
                (microseconds(now), key_id),
            ).fetchone()
            return None if row is None else key_from_row(row)

        return await self._database.write(unit)

    async def list_keys(self, tenant_id: TenantId | None) -> tuple[Key, ...]:
        """All keys, of one tenant or of all, oldest first."""

        def unit(connection: sqlite3.Connection) -> tuple[Key, ...]:
            condition, parameters = ("1", ()) if tenant_id is None else ("tenant_id = ?", (tenant_id,))
            rows = connection.execute(
                f"SELECT {columns(KEY_COLUMNS)} FROM keys WHERE {condition} ORDER BY created_at, key_id", parameters
            )
            return tuple(key_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def list_tenants(self) -> tuple[Tenant, ...]:
        """All tenants, oldest first."""

        def unit(connection: sqlite3.Connection) -> tuple[Tenant, ...]:
            rows = connection.execute(f"SELECT {columns(TENANT_COLUMNS)} FROM tenants ORDER BY created_at, tenant_id")
            return tuple(tenant_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def list_users(self, tenant_id: TenantId) -> tuple[User, ...]:
        """All users of a tenant, oldest first."""

        def unit(connection: sqlite3.Connection) -> tuple[User, ...]:
            rows = connection.execute(
                f"SELECT {columns(USER_COLUMNS)} FROM users WHERE tenant_id = ? ORDER BY created_at, user_id",
                (tenant_id,),
            )
            return tuple(user_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def set_tenant(self, tenant: Tenant) -> None:
        """Name, plan and `is_active` are as given; nothing else of the tenant moves."""

        def unit(connection: sqlite3.Connection) -> None:
            _require_tenant(connection, tenant.id)
            _require_plan(connection, tenant.plan)
            connection.execute(
                "UPDATE tenants SET name = ?, plan = ?, is_active = ? WHERE tenant_id = ?",
                (tenant.name, tenant.plan, int(tenant.is_active), tenant.id),
            )

        await self._database.write(unit)

    async def list_plans(self) -> tuple[Plan, ...]:
        """All plans by name."""

        def unit(connection: sqlite3.Connection) -> tuple[Plan, ...]:
            rows = connection.execute(f"SELECT {columns(PLAN_COLUMNS)} FROM plans ORDER BY name")
            return tuple(plan_from_row(row) for row in rows)

        return await self._database.read(unit)

    async def put_plan(self, plan: Plan) -> None:
        """The plan of that name is as given, for every tenant on it."""

        def unit(connection: sqlite3.Connection) -> None:
            connection.execute(
                insert_into("plans", PLAN_COLUMNS) + " ON CONFLICT (name) DO UPDATE SET"
                " requests_per_minute = excluded.requests_per_minute, burst = excluded.burst,"
                " max_memories = excluded.max_memories, queries_per_day = excluded.queries_per_day",
                plan_row(plan),
            )

        await self._database.write(unit)


def _require_tenant(connection: sqlite3.Connection, tenant_id: TenantId) -> None:
    if connection.execute("SELECT 1 FROM tenants WHERE tenant_id = ?", (tenant_id,)).fetchone() is None:
        raise NotFound("tenant", tenant_id)


def _require_user(connection: sqlite3.Connection, tenant_id: TenantId, user_id: UserId) -> None:
    row = connection.execute("SELECT 1 FROM users WHERE tenant_id = ? AND user_id = ?", (tenant_id, user_id)).fetchone()
    if row is None:
        raise NotFound("user", user_id)


def _require_plan(connection: sqlite3.Connection, name: str) -> None:
    if connection.execute("SELECT 1 FROM plans WHERE name = ?", (name,)).fetchone() is None:
        raise NotFound("plan", name)
