"""The directory port: tenants, users, keys and plans, across tenants."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from polymem.domain.model import Key, KeyId, Plan, Space, Tenant, TenantId, User


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """A tenant with its first user, that user's personal space, and a first key, made together."""

    tenant: Tenant
    user: User
    space: Space
    key: Key
    key_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one key opens; `key` may be expired or revoked, `tenant` inactive: the engine decides."""

    key: Key
    tenant: Tenant
    user: User
    plan: Plan


class Directory(Protocol):
    """Tenants, users, keys and plans, across tenants; changes are visible to the next call of any process."""

    async def find_credentials(self, key_hash: bytes) -> Credentials | None:
        """What the key of this hash opens, or None when there is no such key."""
        ...

    def mark(self) -> Hashable:
        """A value that any change of keys, tenants, users or plans moves, told without waiting.

        A change made through this object moves it before it returns; one made elsewhere soon after.
        """
        ...

    async def create_account(self, account: NewAccount, *, only_if_empty: bool = False) -> bool:
        """The account is there, whole, and True is returned.

        With `only_if_empty` False is returned, and nothing made, when any tenant exists: of several processes that
        start at once exactly one gets True.
        """
        ...

    async def add_user(self, user: User, space: Space) -> None:
        """The user and its personal space are there.

        Raises `NotFound` for an unknown tenant, `Conflict` when the tenant has a user of that name.
        """
        ...

    async def add_key(self, key: Key, key_hash: bytes) -> None:
        """The key opens its tenant from now on. Raises `NotFound` for an unknown tenant or user."""
        ...

    async def revoke_key(self, key_id: KeyId, *, now: datetime) -> Key | None:
        """The key opens nothing any more; revoking again keeps the first time. None for an unknown key."""
        ...

    async def list_keys(self, tenant_id: TenantId | None) -> tuple[Key, ...]:
        """All keys, of one tenant or of all, oldest first."""
        ...

    async def list_tenants(self) -> tuple[Tenant, ...]:
        """All tenants, oldest first."""
        ...

    async def list_users(self, tenant_id: TenantId) -> tuple[User, ...]:
        """All users of a tenant, oldest first."""
        ...

    async def set_tenant(self, tenant: Tenant) -> None:
        """Name, plan and `is_active` of the tenant are as given. Raises `NotFound` for an unknown tenant or plan."""
        ...

    async def list_plans(self) -> tuple[Plan, ...]:
        """All plans by name; `self-hosted` is always there."""
        ...

    async def put_plan(self, plan: Plan) -> None:
        """The plan of that name is as given, for every tenant on it, from the next request on."""
        ...
