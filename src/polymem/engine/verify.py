"""Whether the index still says what the stored texts say: the check that needs to know how texts are indexed."""

from collections import Counter
from dataclasses import dataclass

from polymem.domain.model import Memory, MemoryId, ModelIdentity, TenantId
from polymem.domain.query import ListOrder, MemoryFilter
from polymem.domain.text import index_terms
from polymem.domain.traits import encode_traits, traits_of
from polymem.ports.search import Evidence, SearchIndex
from polymem.ports.storage import Finding, FindingKind, Storage, TenantStore

_PAGE = 200
_NAMED = 5
# Only the terms and traits of the evidence are looked at, so any model will do.
_NO_MODEL = ModelIdentity(name="none", revision="none", dimension=1, token_dimension=1)


@dataclass(frozen=True, slots=True)
class _Tenant:
    store: TenantStore
    index: SearchIndex
    everything: MemoryFilter


async def verify_terms(storage: Storage) -> Finding:
    """The terms and traits of every memory are made anew and compared with its index entry; nothing is changed.

    Also beside a running server: what differs is read a second time, because it may have been changed meanwhile.
    """
    compared, differing = 0, list[str]()
    for tenant in await storage.directory.list_tenants():
        place = await _place(storage, tenant.id)
        offset = 0
        while memories := await _page(place, offset):
            offset += len(memories)
            compared += len(memories)
            differing += await _differing(place, memories)
    if differing:
        named = ", ".join(differing[:_NAMED])
        message = f"{len(differing)} index entries hold other terms or traits than their text has, such as {named}"
        return Finding(kind=FindingKind.TERMS, is_ok=False, compared=compared, message=message)
    message = "index entries hold the terms and traits of their texts"
    return Finding(kind=FindingKind.TERMS, is_ok=True, compared=compared, message=message)


async def _place(storage: Storage, tenant_id: TenantId) -> _Tenant:
    """The tenant with a filter that every memory in it passes; a tenant always has a user."""
    store = storage.tenant(tenant_id)
    user = (await storage.directory.list_users(tenant_id))[0]
    spaces = frozenset(space.id for space, _ in await store.list_spaces(user.id))
    return _Tenant(store, storage.search(tenant_id), MemoryFilter(spaces=spaces, states=None))


async def _page(place: _Tenant, offset: int) -> tuple[Memory, ...]:
    page = await place.store.list_memories(place.everything, order=ListOrder.CREATED_NEWEST, limit=_PAGE, offset=offset)
    return page.memories


async def _differing(place: _Tenant, memories: tuple[Memory, ...]) -> list[str]:
    """The ids whose entries differ from their text, twice."""
    suspects = await _mismatches(place, {memory.id: memory for memory in memories})
    if suspects:
        again = await place.store.get_memories(list(suspects), place.everything.spaces)
        suspects = await _mismatches(place, again)
    return sorted(suspects)


async def _mismatches(place: _Tenant, memories: dict[MemoryId, Memory]) -> dict[MemoryId, Memory]:
    expected = {memory_id: Counter(index_terms(memory)) for memory_id, memory in memories.items()}
    every = tuple(dict.fromkeys(term for counts in expected.values() for term in counts))
    evidence = await place.index.evidence(list(memories), _NO_MODEL, every)
    return {
        memory_id: memory
        for memory_id, memory in memories.items()
        if memory_id not in evidence or not _says(evidence[memory_id], memory, expected[memory_id])
    }


def _says(held: Evidence, memory: Memory, terms: Counter[str]) -> bool:
    return (
        held.frequencies == terms and held.length == terms.total() and held.traits == encode_traits(traits_of(memory))
    )
