"""Tenants, users, keys, plans; spaces and their members."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import KeyId, Membership, Plan, Role, Scope, SpaceId, SpaceKind, TenantId, UserId
from polymem.errors import Conflict, NotFound
from polymem.ports.changes import AddSpace, Applied, Duplicate, SetMember, Stored, Updated
from polymem.ports.directory import Credentials, NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Connect, Made

SELF_HOSTED = Plan(name="self-hosted", requests_per_minute=60000, burst=60000, max_memories=None)


async def test_a_key_opens_its_account_whole(storage: Storage, account: NewAccount) -> None:
    found = await storage.directory.find_credentials(account.key_hash)
    assert found == Credentials(key=account.key, tenant=account.tenant, user=account.user, plan=SELF_HOSTED)
    assert await storage.directory.find_credentials(b"") is None
    assert await storage.directory.find_credentials(account.key_hash + b"0") is None


async def test_a_new_account_has_its_personal_space_and_counts_nothing(
    account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    assert await store.list_spaces(account.user.id) == ((account.space, None),)
    assert (await store.count_memories(), await store.change_no()) == (0, 0)
    assert await storage.directory.list_tenants() == (account.tenant,)
    assert await storage.directory.list_users(account.tenant.id) == (account.user,)
    assert await storage.directory.list_keys(account.tenant.id) == (account.key,)


async def test_an_account_only_for_an_empty_storage_is_made_once(storage: Storage, make: Made) -> None:
    first, second = make.account("first"), make.account("second")
    assert await storage.directory.create_account(first, only_if_empty=True)
    assert not await storage.directory.create_account(second, only_if_empty=True)
    assert await storage.directory.find_credentials(second.key_hash) is None
    assert await storage.directory.create_account(second)
    assert await storage.directory.list_tenants() == (first.tenant, second.tenant)


async def test_of_several_first_starts_at_once_exactly_one_makes_the_account(make: Made, connect: Connect) -> None:
    handles = await asyncio.gather(*(connect() for _ in range(4)))
    accounts = [make.account(f"start {number}") for number in range(12)]
    made = await asyncio.gather(
        *(
            handles[number % 4].directory.create_account(account, only_if_empty=True)
            for number, account in enumerate(accounts)
        )
    )
    assert sorted(made) == [False] * 11 + [True]
    assert await handles[0].directory.list_tenants() == (accounts[made.index(True)].tenant,)


async def test_an_account_that_is_there_or_has_no_plan_is_refused_whole(
    storage: Storage, account: NewAccount, make: Made
) -> None:
    with pytest.raises(Conflict):
        await storage.directory.create_account(account)
    same_key = replace(make.account("same key"), key_hash=account.key_hash)
    with pytest.raises(Conflict):
        await storage.directory.create_account(same_key)
    with pytest.raises(NotFound) as raised:
        await storage.directory.create_account(make.account("planless", plan="none"))
    assert (raised.value.kind, raised.value.identifier) == ("plan", "none")
    assert await storage.directory.list_tenants() == (account.tenant,)
    assert await storage.directory.list_keys(None) == (account.key,)


# --- users and keys --------------------------------------------------------------------------------------


async def test_a_user_comes_with_its_personal_space(
    storage: Storage, account: NewAccount, store: TenantStore, make: Made
) -> None:
    user, space = make.user(account.tenant.id, "amy")
    await storage.directory.add_user(user, space)
    assert await storage.directory.list_users(account.tenant.id) == (account.user, user)
    assert await store.list_spaces(user.id) == ((account.space, None), (space, None))


async def test_a_user_needs_its_tenant_and_a_free_name(storage: Storage, account: NewAccount, make: Made) -> None:
    stranger, space = make.user(TenantId("nobody"), "amy")
    with pytest.raises(NotFound) as raised:
        await storage.directory.add_user(stranger, space)
    assert raised.value.kind == "tenant"
    twin, space = make.user(account.tenant.id, account.user.name)
    with pytest.raises(Conflict):
        await storage.directory.add_user(twin, space)
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    same_name, space = make.user(rival.tenant.id, "amy")
    await storage.directory.add_user(same_name, space)
    assert await storage.directory.list_users(account.tenant.id) == (account.user,)


async def test_keys_keep_scopes_spaces_and_times(storage: Storage, account: NewAccount, make: Made) -> None:
    tenant_id, user_id = account.tenant.id, account.user.id
    keys = [
        make.key(tenant_id, user_id, scopes=frozenset(Scope), allowed_spaces=frozenset({account.space.id})),
        make.key(tenant_id, user_id, scopes=frozenset(), allowed_spaces=frozenset(), expires_at=make.at(99.000001)),
    ]
    for key in keys:
        await storage.directory.add_key(key, key.id.encode())
    assert await storage.directory.list_keys(tenant_id) == (account.key, *keys)
    for key in keys:
        found = await storage.directory.find_credentials(key.id.encode())
        assert found == Credentials(key=key, tenant=account.tenant, user=account.user, plan=SELF_HOSTED)


async def test_a_key_needs_its_tenant_its_user_and_a_secret_of_its_own(
    storage: Storage, account: NewAccount, make: Made
) -> None:
    with pytest.raises(NotFound) as raised:
        await storage.directory.add_key(make.key(TenantId("none"), account.user.id), b"1")
    assert raised.value.kind == "tenant"
    with pytest.raises(NotFound) as raised:
        await storage.directory.add_key(make.key(account.tenant.id, UserId("none")), b"1")
    assert raised.value.kind == "user"
    with pytest.raises(Conflict):
        await storage.directory.add_key(make.key(account.tenant.id, account.user.id), account.key_hash)
    assert await storage.directory.list_keys(None) == (account.key,)


async def test_the_mark_stays_while_nothing_is_committed_and_moves_with_a_commit(
    storage: Storage, account: NewAccount, make: Made
) -> None:
    before = storage.directory.mark()
    await storage.directory.find_credentials(account.key_hash)
    assert storage.directory.mark() == before
    await storage.directory.revoke_key(account.key.id, now=make.at(5))
    assert storage.directory.mark() != before


async def test_revoking_a_key_again_keeps_the_first_time(storage: Storage, account: NewAccount, make: Made) -> None:
    revoked = replace(account.key, revoked_at=make.at(5))
    assert await storage.directory.revoke_key(account.key.id, now=make.at(5)) == revoked
    assert await storage.directory.revoke_key(account.key.id, now=make.at(6)) == revoked
    assert await storage.directory.revoke_key(KeyId("none"), now=make.at(6)) is None
    found = await storage.directory.find_credentials(account.key_hash)
    assert found is not None
    assert found.key == revoked


async def test_keys_are_listed_oldest_first_of_one_tenant_or_of_all(
    storage: Storage, account: NewAccount, make: Made
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    older = make.key(account.tenant.id, account.user.id, created_at=make.at(-100))
    await storage.directory.add_key(older, b"older")
    assert await storage.directory.list_keys(account.tenant.id) == (older, account.key)
    assert await storage.directory.list_keys(None) == (older, account.key, rival.key)
    assert await storage.directory.list_keys(TenantId("none")) == ()
    assert await storage.directory.list_users(TenantId("none")) == ()


# --- tenants and plans -----------------------------------------------------------------------------------


async def test_a_changed_tenant_is_seen_by_the_next_call_of_any_process(
    storage: Storage, account: NewAccount, connect: Connect, make: Made
) -> None:
    plan = Plan(name="small", requests_per_minute=60, burst=5, max_memories=100)
    await storage.directory.put_plan(plan)
    changed = replace(account.tenant, name="renamed", plan="small", is_active=False)
    other = (await connect()).directory
    await other.set_tenant(replace(changed, created_at=make.at(12345)))
    found = await storage.directory.find_credentials(account.key_hash)
    assert found == Credentials(key=account.key, tenant=changed, user=account.user, plan=plan)
    bigger = replace(plan, max_memories=None, burst=6)
    await storage.directory.put_plan(bigger)
    found = await other.find_credentials(account.key_hash)
    assert found is not None
    assert found.plan == bigger


async def test_a_tenant_that_is_not_there_or_a_plan_that_is_not_there_is_not_found(
    storage: Storage, account: NewAccount, make: Made
) -> None:
    with pytest.raises(NotFound) as raised:
        await storage.directory.set_tenant(make.account("stranger").tenant)
    assert raised.value.kind == "tenant"
    with pytest.raises(NotFound) as raised:
        await storage.directory.set_tenant(replace(account.tenant, plan="none"))
    assert raised.value.kind == "plan"
    assert await storage.directory.list_tenants() == (account.tenant,)


FREE = Plan(name="free", requests_per_minute=60, burst=60, max_memories=10_000, queries_per_day=1000)
PRO = Plan(name="pro", requests_per_minute=600, burst=600, max_memories=500_000, queries_per_day=50_000)
TEAM = Plan(name="team", requests_per_minute=3000, burst=3000, max_memories=5_000_000, queries_per_day=500_000)


async def test_plans_are_listed_by_name_and_those_that_we_bring_are_always_there(storage: Storage) -> None:
    assert await storage.directory.list_plans() == (FREE, PRO, SELF_HOSTED, TEAM)
    big = Plan(name="Big", requests_per_minute=1, burst=1, max_memories=1)
    tiny = Plan(name="tiny", requests_per_minute=1, burst=1, max_memories=None, queries_per_day=7)
    for plan in (tiny, big):
        await storage.directory.put_plan(plan)
    assert await storage.directory.list_plans() == (big, FREE, PRO, SELF_HOSTED, TEAM, tiny)
    bounded, unbounded = replace(big, queries_per_day=2), replace(tiny, queries_per_day=None)
    for plan in (bounded, unbounded):
        await storage.directory.put_plan(plan)
    assert await storage.directory.list_plans() == (bounded, FREE, PRO, SELF_HOSTED, TEAM, unbounded)


# --- spaces ----------------------------------------------------------------------------------------------


async def test_a_space_comes_with_its_members_and_each_user_sees_its_own_role(
    storage: Storage, account: NewAccount, store: TenantStore, make: Made
) -> None:
    amy, personal = make.user(account.tenant.id, "amy")
    await storage.directory.add_user(amy, personal)
    hub = make.space(kind=SpaceKind.HUB, name="hub", is_restricted=True)
    owner = Membership(space_id=hub.id, user_id=account.user.id, role=Role.OWNER)
    viewer = Membership(space_id=hub.id, user_id=amy.id, role=Role.VIEWER)
    result = await store.commit([AddSpace(space=hub, members=(owner, viewer))], now=make.at())
    assert result == Applied((Stored(hub.id),), 1)
    assert await store.list_spaces(account.user.id) == ((account.space, None), (personal, None), (hub, owner))
    assert await store.list_spaces(amy.id) == ((account.space, None), (personal, None), (hub, viewer))
    assert await store.list_spaces(UserId("none")) == ((account.space, None), (personal, None), (hub, None))


async def test_kind_and_name_are_taken_once_in_a_tenant_except_for_personal_spaces(
    storage: Storage, store: TenantStore, make: Made
) -> None:
    first = make.space(kind=SpaceKind.HUB, name="notes")
    same, domain = make.space(kind=SpaceKind.HUB, name="notes"), make.space(kind=SpaceKind.DOMAIN, name="notes")
    personal = make.space(kind=SpaceKind.PERSONAL, name="general")
    changes = [AddSpace(space=space, members=()) for space in (first, same, domain, personal, first)]
    result = await store.commit(changes, now=make.at())
    expected = (Stored(first.id), Duplicate(first.id), Stored(domain.id), Stored(personal.id), Duplicate(first.id))
    assert result == Applied(expected, 1)
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    theirs = make.space(kind=SpaceKind.HUB, name="notes")
    result = await storage.tenant(rival.tenant.id).commit([AddSpace(space=theirs, members=())], now=make.at())
    assert result == Applied((Stored(theirs.id),), 1)


async def test_spaces_are_listed_by_creation_then_id(account: NewAccount, store: TenantStore, make: Made) -> None:
    one, two = make.space(created_at=make.at(-5)), make.space(created_at=make.at(-5))
    oldest = make.space(created_at=make.at(-6))
    await store.commit([AddSpace(space=space, members=()) for space in (two, oldest, one)], now=make.at())
    spaces = [space for space, _ in await store.list_spaces(account.user.id)]
    assert spaces == [oldest, one, two, account.space]


async def test_a_role_is_given_changed_and_taken_away(account: NewAccount, store: TenantStore, make: Made) -> None:
    space = make.space()
    await store.commit([AddSpace(space=space, members=())], now=make.at())
    for role in (Role.VIEWER, Role.ADMIN, None, None):
        change = SetMember(space_id=space.id, user_id=account.user.id, role=role)
        result = await store.commit([change], now=make.at())
        assert isinstance(result, Applied)
        assert result.outcomes == (Updated(space.id),)
        expected = role and Membership(space_id=space.id, user_id=account.user.id, role=role)
        assert (space, expected) in await store.list_spaces(account.user.id)


async def test_a_member_needs_its_space_and_its_user(
    storage: Storage, account: NewAccount, store: TenantStore, make: Made
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    for space_id, user_id, kind in (
        (SpaceId("none"), account.user.id, "space"),
        (rival.space.id, account.user.id, "space"),
        (account.space.id, UserId("none"), "user"),
        (account.space.id, rival.user.id, "user"),
    ):
        with pytest.raises(NotFound) as raised:
            await store.commit([SetMember(space_id=space_id, user_id=user_id, role=Role.VIEWER)], now=make.at())
        assert raised.value.kind == kind
    assert await store.list_spaces(account.user.id) == ((account.space, None),)
