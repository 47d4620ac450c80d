"""Tenants, users and plans, as an operator sees them."""

from dataclasses import replace

from polymem.domain.limits import MAX_NAME_CHARACTERS, check_label, check_range
from polymem.domain.model import Plan, Tenant, TenantId, User
from polymem.engine.keys import DEFAULT_PLAN, Keys, new_user
from polymem.engine.requests import NewSecret
from polymem.errors import NotFound
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

_MOST = 1_000_000_000


class Accounts:
    """Tenants, their users, and the plans they are on."""

    def __init__(self, storage: Storage, keys: Keys, clock: Clock, ids: Ids) -> None:
        self._directory = storage.directory
        self._keys = keys
        self._clock = clock
        self._ids = ids

    async def list_tenants(self) -> tuple[Tenant, ...]:
        """All tenants, oldest first."""
        return await self._directory.list_tenants()

    async def create_tenant(self, name: str, plan: str = DEFAULT_PLAN) -> NewSecret:
        """The tenant is there with a first user and a first key. Raises `NotFound` for an unknown plan."""
        return await self._keys.create_tenant(name=name, plan=plan)

    async def set_tenant(
        self,
        tenant_id: TenantId,
        *,
        name: str | None = None,
        plan: str | None = None,
        is_active: bool | None = None,
    ) -> Tenant:
        """The tenant as it is now; None leaves a part as it was. Raises `NotFound` for an unknown tenant or plan."""
        tenant = await self._tenant(tenant_id)
        if name is not None:
            check_label("name", name, max_characters=MAX_NAME_CHARACTERS)
        changed = replace(
            tenant,
            name=tenant.name if name is None else name,
            plan=tenant.plan if plan is None else plan,
            is_active=tenant.is_active if is_active is None else is_active,
        )
        await self._directory.set_tenant(changed)
        self._keys.forget()
        return changed

    async def list_users(self, tenant_id: TenantId) -> tuple[User, ...]:
        """All users of a tenant, oldest first. Raises `NotFound` for an unknown tenant."""
        await self._tenant(tenant_id)
        return await self._directory.list_users(tenant_id)

    async def create_user(self, tenant_id: TenantId, name: str) -> User:
        """The user is there with its personal space.

        Raises `NotFound` for an unknown tenant, `Conflict` for a name that is taken.
        """
        check_label("name", name, max_characters=MAX_NAME_CHARACTERS)
        user, space = new_user(self._ids, tenant_id, name=name, now=self._clock.now())
        await self._directory.add_user(user, space)
        return user

    async def list_plans(self) -> tuple[Plan, ...]:
        """All plans by name."""
        return await self._directory.list_plans()

    async def put_plan(self, plan: Plan) -> Plan:
        """The plan of that name is as given, for every tenant on it, from the next request on."""
        check_label("name", plan.name, max_characters=MAX_NAME_CHARACTERS)
        check_range("requests_per_minute", plan.requests_per_minute, least=1, most=_MOST)
        check_range("burst", plan.burst, least=1, most=_MOST)
        if plan.max_memories is not None:
            check_range("max_memories", plan.max_memories, least=1, most=_MOST)
        if plan.queries_per_day is not None:
            check_range("queries_per_day", plan.queries_per_day, least=1, most=_MOST)
        await self._directory.put_plan(plan)
        self._keys.forget()
        return plan

    async def _tenant(self, tenant_id: TenantId) -> Tenant:
        for tenant in await self._directory.list_tenants():
            if tenant.id == tenant_id:
                return tenant
        raise NotFound("tenant", tenant_id)
