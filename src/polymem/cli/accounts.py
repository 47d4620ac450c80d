"""`polymem keys`, `tenants`, `users` and `plans`: who may use the server, and how much. A server may run meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from polymem.bootstrap import Administration, open_administration
from polymem.cli.options import AsJson, Config, DataDir, settings_from, time_in
from polymem.cli.output import moment, print_json, print_rows, say
from polymem.domain.model import JsonValue, Key, KeyId, Plan, Scope, Tenant, TenantId, User, UserId
from polymem.engine.requests import NewSecret
from polymem.errors import InvalidInput, NotFound

T = TypeVar("T")
Row = dict[str, JsonValue]
_KEY_COLUMNS = ("id", "name", "prefix", "scopes", "expires_at", "revoked_at")

TenantOption = Annotated[
    str | None, typer.Option("--tenant", metavar="ID", help="Tenant. [default: the oldest]", show_default=False)
]

keys = typer.Typer(help="Keys: who may call, and what for.", no_args_is_help=True)
tenants = typer.Typer(help="Tenants: organisations that never see each other's memories.", no_args_is_help=True)
users = typer.Typer(help="Users of a tenant, each with a personal space.", no_args_is_help=True)
plans = typer.Typer(help="Plans: limits of the tenants that are on them.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """The app has the four groups."""
    app.add_typer(keys, name="keys")
    app.add_typer(tenants, name="tenants")
    app.add_typer(users, name="users")
    app.add_typer(plans, name="plans")


# --- keys ------------------------------------------------------------------------------------------------


@keys.command("create")
def _create_key(
    *,
    tenant: TenantOption = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help="User. [default: the tenant's oldest]", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="What the key is for.")] = "command line",
    scopes: Annotated[
        str,
        typer.Option("--scopes", metavar="LIST", help=f"What the key may do, separated by commas: {', '.join(Scope)}."),
    ] = ",".join(Scope),
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="TIME", help="When it stops working, ISO 8601. [default: never]", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, this once."""
    granted = _scopes(scopes)
    expires_at = None if expires is None else time_in("expires", expires)

    async def act(admin: Administration) -> NewSecret:
        return await admin.keys.create(
            None if tenant is None else TenantId(tenant),
            user_id=None if user is None else UserId(user),
            name=name,
            scopes=granted,
            expires_at=expires_at,
        )

    made = _run(act, data_dir, config)
    _tell_secret(made, as_json=as_json)


@keys.command("list")
def _list_keys(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="ID", help="Only this tenant's.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List keys, oldest first; secrets are stored nowhere and cannot be shown."""

    async def act(admin: Administration) -> list[Row]:
        if tenant is not None:
            await admin.accounts.list_users(TenantId(tenant))
        return [_key_row(key) for key in await admin.keys.list(None if tenant is None else TenantId(tenant))]

    print_rows(_run(act, data_dir, config), as_json=as_json, empty="no keys", columns=_KEY_COLUMNS)


@keys.command("revoke")
def _revoke_key(
    *,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `keys list` shows it.")],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key stop working, at once and for good."""

    async def act(admin: Administration) -> Key:
        return await admin.keys.revoke(KeyId(key_id))

    row = _key_row(_run(act, data_dir, config))
    _tell(row, f"key {row['id']} was revoked at {row['revoked_at']}", as_json=as_json)


# --- tenants ---------------------------------------------------------------------------------------------


@tenants.command("create")
def _create_tenant(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the tenant is called.")],
    plan: Annotated[str, typer.Option("--plan", metavar="NAME", help="Its plan.")] = "self-hosted",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a tenant with a first user and a first key, and print the key's secret, this once."""

    async def act(admin: Administration) -> NewSecret:
        return await admin.accounts.create_tenant(name, plan)

    _tell_secret(_run(act, data_dir, config), as_json=as_json)


@tenants.command("list")
def _list_tenants(*, data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """List tenants, oldest first."""

    async def act(admin: Administration) -> list[Row]:
        return [_tenant_row(tenant) for tenant in await admin.accounts.list_tenants()]

    print_rows(_run(act, data_dir, config), as_json=as_json, empty="no tenants")


@tenants.command("set")
def _set_tenant(
    *,
    tenant_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the tenant.")],
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="New name.", show_default=False)] = None,
    plan: Annotated[str | None, typer.Option("--plan", metavar="NAME", help="New plan.", show_default=False)] = None,
    is_active: Annotated[
        bool | None,
        typer.Option("--active/--inactive", help="Whether its keys open anything.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change a tenant's name or plan, or switch it off and on."""

    async def act(admin: Administration) -> Tenant:
        return await admin.accounts.set_tenant(TenantId(tenant_id), name=name, plan=plan, is_active=is_active)

    row = _tenant_row(_run(act, data_dir, config))
    state = "active" if row["active"] else "inactive"
    _tell(row, f"tenant {row['id']} is {state}, called {row['name']}, on plan {row['plan']}", as_json=as_json)


# --- users -----------------------------------------------------------------------------------------------


@users.command("create")
def _create_user(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the user is called.")],
    tenant: TenantOption = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a user with a personal space; `keys create --user` makes a key for it."""

    async def act(admin: Administration) -> User:
        return await admin.accounts.create_user(await _tenant_or_oldest(admin, tenant), name)

    row = _user_row(_run(act, data_dir, config))
    _tell(row, f"user {row['id']} was made, called {row['name']}", as_json=as_json)


@users.command("list")
def _list_users(
    *, tenant: TenantOption = None, data_dir: DataDir = None, config: Config = None, as_json: AsJson = False
) -> None:
    """List the users of a tenant, oldest first."""

    async def act(admin: Administration) -> list[Row]:
        tenant_id = await _tenant_or_oldest(admin, tenant)
        return [_user_row(user) for user in await admin.accounts.list_users(tenant_id)]

    print_rows(_run(act, data_dir, config), as_json=as_json, empty="no users")


# --- plans -----------------------------------------------------------------------------------------------


@plans.command("list")
def _list_plans(*, data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """List plans by name."""

    async def act(admin: Administration) -> list[Row]:
        return [_plan_row(plan) for plan in await admin.accounts.list_plans()]

    print_rows(_run(act, data_dir, config), as_json=as_json, empty="no plans")


@plans.command("set")
def _set_plan(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plan; a new one is made.")],
    requests_per_minute: Annotated[
        int, typer.Option("--requests-per-minute", metavar="N", help="Requests a minute in the long run.")
    ],
    burst: Annotated[
        int | None,
        typer.Option("--burst", metavar="N", help="Requests at once. [default: those of a minute]", show_default=False),
    ] = None,
    max_memories: Annotated[
        int | None,
        typer.Option(
            "--max-memories", metavar="N", help="Memories a tenant may hold. [default: no limit]", show_default=False
        ),
    ] = None,
    queries_per_day: Annotated[
        int | None,
        typer.Option(
            "--queries-per-day",
            metavar="N",
            help="Queries a day (UTC) of a tenant. [default: no limit]",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make or change a plan, for every tenant on it, from the next request on."""
    plan = Plan(
        name=name,
        requests_per_minute=requests_per_minute,
        burst=requests_per_minute if burst is None else burst,
        max_memories=max_memories,
        queries_per_day=queries_per_day,
    )

    async def act(admin: Administration) -> Plan:
        return await admin.accounts.put_plan(plan)

    _run(act, data_dir, config)
    most = "any number of" if max_memories is None else f"at most {max_memories}"
    daily = "any number of" if queries_per_day is None else f"at most {queries_per_day}"
    line = (
        f"plan {name}: {plan.requests_per_minute} requests a minute, {plan.burst} at once, {most} memories,"
        f" {daily} queries a day"
    )
    _tell(_plan_row(plan), line, as_json=as_json)


# --- shared ----------------------------------------------------------------------------------------------


def _run(act: Callable[[Administration], Awaitable[T]], data_dir: Path | None, config: Path | None) -> T:
    settings = settings_from(data_dir, config)

    async def opened() -> T:
        async with open_administration(settings) as admin:
            return await act(admin)

    return asyncio.run(opened())


def _tell(row: Row, line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        say(line)


def _tell_secret(made: NewSecret, *, as_json: bool) -> None:
    row: Row = {**_key_row(made.key), "secret": made.secret}
    if as_json:
        print_json(row)
        return
    say(made.secret)
    say(f"key {made.key.id} of user {made.user.name} in tenant {made.tenant.name} ({made.tenant.id})")
    say("Keep the secret now: it is stored nowhere and cannot be shown again.")


async def _tenant_or_oldest(admin: Administration, tenant: str | None) -> TenantId:
    if tenant is not None:
        return TenantId(tenant)
    found = await admin.accounts.list_tenants()
    if not found:
        raise NotFound("tenant", "any")
    return found[0].id


def _scopes(text: str) -> frozenset[Scope]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return frozenset(Scope(name) for name in names)
    except ValueError as error:
        raise InvalidInput("scopes", f"scopes: allowed are {', '.join(Scope)}") from error


def _key_row(key: Key) -> Row:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "tenant": key.tenant_id,
        "user": key.user_id,
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
    }


def _tenant_row(tenant: Tenant) -> Row:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "plan": tenant.plan,
        "active": tenant.is_active,
        "created_at": moment(tenant.created_at),
    }


def _user_row(user: User) -> Row:
    return {"id": user.id, "name": user.name, "tenant": user.tenant_id, "created_at": moment(user.created_at)}


def _plan_row(plan: Plan) -> Row:
    return {
        "name": plan.name,
        "requests_per_minute": plan.requests_per_minute,
        "burst": plan.burst,
        "max_memories": plan.max_memories,
        "queries_per_day": plan.queries_per_day,
    }
