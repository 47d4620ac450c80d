"""Keys, accounts and limits."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from polymem.domain.model import KeyId, Plan, Scope, TenantId, UserId
from polymem.engine.keys import CREDENTIALS_SECONDS, hash_secret, is_plausible_secret
from polymem.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated

ABSENT: Any = "0190b4a0-0000-7000-8000-000000000000"


async def test_the_first_start_makes_one_account_and_a_second_none(world: Any) -> None:
    assert world.account.secret.startswith("pm_")
    assert world.account.key.prefix == world.account.secret[:8]
    assert world.account.key.scopes == frozenset(Scope)
    assert await world.engine.keys.first_start() is None
    assert len(await world.engine.accounts.list_tenants()) == 1


async def test_a_secret_opens_its_own_account_on_behalf_of_the_agent(world: Any) -> None:
    principal = await world.engine.keys.authenticate(world.account.secret, agent_id="agent")
    assert principal == replace(world.principal, agent_id="agent")
    assert principal.tenant_id == world.account.tenant.id
    assert principal.personal_space_id == world.account.user.personal_space_id
    assert principal.plan.name == "self-hosted"


@pytest.mark.parametrize(
    "secret",
    ["", "short", "pm_" + "x" * 300, "pm_unknown_but_plausible", "pm_ with spaces in it", "pm_\x00" + "a" * 20],
)
async def test_a_secret_that_is_not_ours_opens_nothing(world: Any, secret: str) -> None:
    with pytest.raises(Unauthenticated, match=r"^invalid API key$"):
        await world.engine.keys.authenticate(secret)


async def test_a_revoked_or_expired_key_opens_nothing_any_more(world: Any) -> None:
    keys = world.engine.keys
    until = world.clock.now() + timedelta(hours=1)
    made = await keys.create(None, name="short", scopes=[Scope.READ], expires_at=until)
    assert (await keys.authenticate(made.secret)).scopes == {Scope.READ}
    world.clock.pass_time(hours=1)
    with pytest.raises(Unauthenticated, match=r"^invalid API key$"):
        await keys.authenticate(made.secret)
    revoked = await keys.revoke(world.account.key.id)
    assert revoked.revoked_at == world.clock.now()
    with pytest.raises(Unauthenticated, match=r"^invalid API key$"):
        await keys.authenticate(world.account.secret)
    assert [key.id for key in await keys.list(None)] == [world.account.key.id, made.key.id]


async def test_a_change_by_another_process_counts_at_the_next_call(world: Any) -> None:
    await world.engine.keys.authenticate(world.account.secret)
    await world.engine.storage.directory.revoke_key(world.account.key.id, now=world.clock.now())
    with pytest.raises(Unauthenticated):
        await world.engine.keys.authenticate(world.account.secret)


async def test_what_a_key_opens_is_read_once_a_second_while_nothing_seems_to_change(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, secret = world.engine.storage.directory, world.account.secret
    find, reads = directory.find_credentials, 0

    async def counted(key_hash: bytes) -> Any:
        nonlocal reads
        reads += 1
        return await find(key_hash)

    monkeypatch.setattr(directory, "find_credentials", counted)
    monkeypatch.setattr(directory, "mark", lambda: "the same")
    world.clock.pass_time(seconds=CREDENTIALS_SECONDS)
    for _ in range(3):
        await world.engine.keys.authenticate(secret)
    assert reads == 1
    await directory.revoke_key(world.account.key.id, now=world.clock.now())
    await world.engine.keys.authenticate(secret)
    world.clock.pass_time(seconds=CREDENTIALS_SECONDS)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await world.engine.keys.authenticate(secret)
    assert reads == 2


async def test_a_lookup_that_began_before_a_change_is_not_remembered_after_it(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, directory = world.engine.keys, world.engine.storage.directory
    find, has_read, may_end = directory.find_credentials, asyncio.Event(), asyncio.Event()

    async def slow(key_hash: bytes) -> Any:
        found = await find(key_hash)
        has_read.set()
        await may_end.wait()
        return found

    monkeypatch.setattr(directory, "find_credentials", slow)
    monkeypatch.setattr(directory, "mark", lambda: "the same")
    keys.forget()
    early = asyncio.create_task(keys.authenticate(world.account.secret))
    await has_read.wait()
    await keys.revoke(world.account.key.id)
    may_end.set()
    await early
    with pytest.raises(Unauthenticated):
        await keys.authenticate(world.account.secret)


async def test_only_so_many_keys_are_remembered(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.engine.keys.MAX_REMEMBERED", 2)
    world.engine.keys.forget()
    for number in range(4):
        made = await world.engine.keys.provision(name=f"tenant {number}")
        await world.engine.keys.authenticate(made.secret)
    assert len(world.engine.keys._remembered) == 2


@pytest.mark.parametrize("change", ["tenant", "plan"])
async def test_a_change_of_a_tenant_or_a_plan_counts_at_once(world: Any, change: str) -> None:
    secret, accounts = world.account.secret, world.engine.accounts
    before = await world.engine.keys.authenticate(secret)
    if change == "tenant":
        await accounts.set_tenant(world.account.tenant.id, is_active=False)
        with pytest.raises(Forbidden):
            await world.engine.keys.authenticate(secret)
    else:
        changed = replace(before.plan, burst=before.plan.burst + 1)
        await accounts.put_plan(changed)
        assert (await world.engine.keys.authenticate(secret)).plan == changed


async def test_a_key_of_an_inactive_tenant_is_forbidden(world: Any) -> None:
    await world.engine.accounts.set_tenant(world.account.tenant.id, is_active=False)
    with pytest.raises(Forbidden):
        await world.engine.keys.authenticate(world.account.secret)


async def test_an_agent_id_beyond_its_limit_is_refused(world: Any) -> None:
    with pytest.raises(InvalidInput):
        await world.engine.keys.authenticate(world.account.secret, agent_id="x" * 256)


async def test_provisioning_makes_a_tenant_of_its_own_whose_secret_is_a_uuid(world: Any) -> None:
    made = await world.engine.keys.provision(name="mem9")
    assert is_plausible_secret(made.secret)
    assert made.secret.count("-") == 4
    assert made.tenant.id != world.account.tenant.id
    assert (await world.engine.keys.authenticate(made.secret)).tenant_id == made.tenant.id


async def test_of_several_first_starts_exactly_one_makes_the_account_with_the_given_secret(world: Any) -> None:
    with pytest.raises(InvalidInput):
        await world.engine.keys.first_start(secret="weak")
    assert await asyncio.gather(*(world.engine.keys.first_start(secret="a-secret-of-my-own") for _ in range(3))) == [
        None,
        None,
        None,
    ]


async def test_a_key_is_made_for_the_named_user_and_spaces(world: Any) -> None:
    user = await world.engine.accounts.create_user(world.account.tenant.id, "second")
    made = await world.engine.keys.create(
        world.account.tenant.id,
        user_id=user.id,
        name="k",
        scopes={Scope.READ},
        allowed_spaces=frozenset({user.personal_space_id}),
    )
    principal = await world.engine.keys.authenticate(made.secret)
    assert (principal.user_id, principal.allowed_spaces) == (user.id, {user.personal_space_id})
    assert made.secret not in repr(made.key)
    assert len(hash_secret(made.secret)) == 32


async def test_a_key_for_nobody_or_nothing_is_refused(world: Any) -> None:
    keys = world.engine.keys
    with pytest.raises(NotFound, match="tenant not found"):
        await keys.create(TenantId(ABSENT), name="k", scopes=[Scope.READ])
    with pytest.raises(NotFound, match="user not found"):
        await keys.create(None, user_id=UserId(ABSENT), name="k", scopes=[Scope.READ])
    with pytest.raises(InvalidInput, match="at least one scope"):
        await keys.create(None, name="k", scopes=[])
    with pytest.raises(InvalidInput, match="in the future"):
        await keys.create(None, name="k", scopes=[Scope.READ], expires_at=world.clock.now())
    with pytest.raises(NotFound, match="key not found"):
        await keys.revoke(KeyId(ABSENT))


async def test_tenants_users_and_plans_are_what_the_operator_sets(world: Any) -> None:
    accounts = world.engine.accounts
    plan = Plan(name="small", requests_per_minute=60, burst=2, max_memories=3)
    assert await accounts.put_plan(plan) == plan
    assert await accounts.put_plan(replace(plan, name="open", max_memories=None))
    made = await accounts.create_tenant("acme", "small")
    assert made.tenant.plan == "small"
    renamed = await accounts.set_tenant(made.tenant.id, name="acme 2", plan="self-hosted")
    assert (renamed.name, renamed.plan, renamed.is_active) == ("acme 2", "self-hosted", True)
    assert [tenant.name for tenant in await accounts.list_tenants()] == ["default", "acme 2"]
    assert [user.name for user in await accounts.list_users(made.tenant.id)] == ["owner"]
    plans = [known.name for known in await accounts.list_plans()]
    assert plans == ["free", "open", "pro", "self-hosted", "small", "team"]


async def test_accounts_that_contradict_what_is_there_are_refused(world: Any) -> None:
    accounts, tenant = world.engine.accounts, world.account.tenant
    with pytest.raises(NotFound, match="plan not found"):
        await accounts.create_tenant("acme", "unknown")
    with pytest.raises(NotFound, match="plan not found"):
        await accounts.set_tenant(tenant.id, plan="unknown")
    with pytest.raises(NotFound, match="tenant not found"):
        await accounts.set_tenant(TenantId(ABSENT))
    with pytest.raises(NotFound, match="tenant not found"):
        await accounts.list_users(TenantId(ABSENT))
    with pytest.raises(NotFound, match="tenant not found"):
        await accounts.create_user(TenantId(ABSENT), "x")
    with pytest.raises(Conflict):
        await accounts.create_user(tenant.id, "owner")
    for broken in (
        {"requests_per_minute": 0},
        {"burst": 0},
        {"max_memories": 0},
        {"queries_per_day": 0},
        {"name": " "},
    ):
        plan = Plan(name="p", requests_per_minute=1, burst=1, max_memories=None)
        with pytest.raises(InvalidInput):
            await accounts.put_plan(replace(plan, **broken))
