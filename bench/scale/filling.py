"""The same memories in both storages, block by block in random order."""

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bench.scale.exact import ExactTenant
from bench.scale.sides import CountedIds, Dealer, Side, Timings, timings
from bench.speed.fill import Maker
from bench.speed.vectors import Pieces
from polymem.bootstrap import SystemClock
from polymem.domain.model import ModelIdentity
from polymem.engine.keys import DEFAULT_PLAN, Keys
from polymem.engine.requests import NewSecret
from polymem.ports.changes import Applied, PutMemory

PER_COMMIT = 50
_PER_BLOCK = 500
_TURN_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """What to fill in, and of what; `name` decides every id."""

    name: str
    memories: int
    tenants: int
    source: Pieces
    model: ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Both storages hold the same.

    `commits` of each side that was filled just now, `server_cpu_seconds` of the database server meanwhile.
    """

    accounts: tuple[NewSecret, ...]
    exact: tuple[ExactTenant, ...]
    commits: dict[str, Timings]
    server_cpu_seconds: float


async def fill(
    sides: Sequence[Side], order: Fill, *, vocabulary: Collection[str], server_cpu: Callable[[], float], seed: int
) -> Filled:
    """Every side holds the memories; one that an earlier run left full is left as it is."""
    accounts = {each.name: await _accounts(each, order) for each in sides}
    told = accounts[sides[0].name]
    share = order.memories // order.tenants
    to_fill = [each for each in sides if not await _is_full(each, told, share)]
    dealer, taken = Dealer(to_fill, seed), timings(to_fill)
    makers = [_maker(order, account, number, share) for number, account in enumerate(told)]
    exact = tuple(ExactTenant(vocabulary) for _ in told)
    cpu, started = server_cpu(), time.perf_counter()
    for start in range(0, share, _PER_BLOCK):
        for account, maker, known in zip(told, makers, exact, strict=True):
            puts = maker.puts(start, min(_PER_BLOCK, share - start))
            known.add(puts)
            for each in dealer.deal():
                await _store(each, account, puts, taken[each.name])
        done = min(start + _PER_BLOCK, share) * len(told)
        print(f"{order.name}: {done} memories after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return Filled(accounts=told, exact=exact, commits=taken, server_cpu_seconds=server_cpu() - cpu)


async def _store(each: Side, account: NewSecret, puts: Sequence[PutMemory], taken: Timings) -> None:
    store = each.storage.tenant(account.tenant.id)
    for start in range(0, len(puts), PER_COMMIT):
        with taken.taken():
            result = await store.commit(puts[start : start + PER_COMMIT], now=SystemClock().now())
        if not isinstance(result, Applied):
            sys.exit(f"{each.name} refused a commit: {result}")


async def _accounts(each: Side, order: Fill) -> tuple[NewSecret, ...]:
    """The accounts of the tenants; there already where an earlier run made them."""
    if await each.storage.directory.list_tenants():
        return await _known_accounts(each, order)
    keys = Keys(each.storage, SystemClock(), CountedIds(f"accounts of {order.name}"))
    return tuple([await keys.create_tenant(name=f"scale {n}", plan=DEFAULT_PLAN) for n in range(order.tenants)])


async def _known_accounts(each: Side, order: Fill) -> tuple[NewSecret, ...]:
    directory = each.storage.directory
    tenants = {tenant.name: tenant for tenant in await directory.list_tenants()}
    found = []
    for number in range(order.tenants):
        tenant = tenants.get(f"scale {number}")
        if tenant is None:
            sys.exit(f"{each.name} holds something else than {order.name}")
        (key,), (user,) = await directory.list_keys(tenant.id), await directory.list_users(tenant.id)
        found.append(NewSecret(key=key, secret="", tenant=tenant, user=user))
    return tuple(found)


async def _is_full(each: Side, accounts: Sequence[NewSecret], share: int) -> bool:
    counts = [await each.storage.tenant(account.tenant.id).count_memories() for account in accounts]
    return all(count >= share for count in counts)


def _maker(order: Fill, account: NewSecret, number: int, share: int) -> Maker:
    return Maker(
        source=order.source,
        model=order.model,
        chance=np.random.default_rng(number),
        account=account,
        turns=round(share * _TURN_SHARE),
        ids=CountedIds(f"{order.name}, tenant {number}"),
        first_piece=number * share,
    )
