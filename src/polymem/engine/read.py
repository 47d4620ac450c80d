"""Memories read back: by id, by reference, by filter, by session, with their history; all of them, and their counts."""

from collections.abc import AsyncIterator, Sequence

from polymem.domain.access import Action
from polymem.domain.limits import MAX_BATCH, MAX_OFFSET, MAX_PAGE, check_count, check_label, check_range
from polymem.domain.model import (
    Association,
    Call,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryVersion,
    Scope,
    SpaceId,
    SpaceKind,
)
from polymem.domain.query import FeedPosition, ListOrder, MemoryFilter, MemoryPage, SpaceStatistics
from polymem.engine.access import Access
from polymem.engine.requests import MemoryStatistics
from polymem.engine.spaces import name_of
from polymem.errors import NotFound
from polymem.ports.storage import Storage

# A memory may hold a megabyte.
_EXPORTED_AT_ONCE = 50

ExportedPage = tuple[tuple[Memory, tuple[Association, ...]], ...]


class Read:
    """What is stored, as far as the principal may read it."""

    def __init__(self, storage: Storage, access: Access) -> None:
        self._storage = storage
        self._access = access

    async def get(self, call: Call, memory_id: MemoryId) -> Memory:
        """The memory of this id. Raises `NotFound` when there is none that the principal may read."""
        memory = await self._access.find(call, memory_id, Action.READ)
        if memory is None:
            raise NotFound("memory", memory_id)
        return memory

    async def list(
        self,
        call: Call,
        where: MemoryFilter,
        *,
        order: ListOrder = ListOrder.UPDATED_NEWEST,
        limit: int,
        offset: int = 0,
    ) -> MemoryPage:
        """One page of what passes the filter and may be read. Raises `InvalidInput` for a page beyond the limits."""
        check_range("limit", limit, least=1, most=MAX_PAGE)
        check_range("offset", offset, least=0, most=MAX_OFFSET)
        narrowed = await self._access.narrow(call, where)
        if not narrowed.spaces:
            return MemoryPage(memories=(), total=0)
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.list_memories(narrowed, order=order, limit=limit, offset=offset)

    async def session_messages(
        self,
        call: Call,
        session_ids: Sequence[str],
        *,
        limit_per_session: int,
        spaces: frozenset[SpaceId] | None = None,
    ) -> tuple[Memory, ...]:
        """The first turns of each session, ordered by session, time, seq; unknown sessions have none.

        `spaces` None is every space the principal may read.
        """
        check_count("session_id", len(session_ids), most=MAX_BATCH)
        check_range("limit_per_session", limit_per_session, least=1, most=MAX_PAGE)
        if spaces is None:
            readable = await self._access.readable(call)
        else:
            readable = await self._access.within(call, spaces, Action.READ)
        wanted = tuple(dict.fromkeys(session_ids))
        if not readable or not wanted:
            return ()
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.list_session_messages(wanted, readable, limit_per_session=limit_per_session)

    async def versions(self, call: Call, memory_id: MemoryId) -> tuple[MemoryVersion, ...]:
        """The earlier states of a memory, newest first. Raises `NotFound` as `get` does."""
        memory = await self.get(call, memory_id)
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.list_versions(memory_id, frozenset({memory.space_id}))

    async def by_external_ref(self, call: Call, external_ref: str) -> Memory:
        """The memory of this reference. Raises `InvalidInput`, `NotFound` as `get` does."""
        check_label("external_ref", external_ref)
        readable = await self._access.readable(call)
        store = self._storage.tenant(call.principal.tenant_id)
        memory = await store.find_external_ref(external_ref, readable)
        if memory is None:
            raise NotFound("memory", external_ref)
        return memory

    async def feed(
        self, call: Call, where: MemoryFilter, *, after: FeedPosition | None, limit: int, with_superseded: bool
    ) -> tuple[Memory, ...]:
        """What passes the filter and may be read, newest first, from the position on.

        Following the last position of each page shows every memory that was there all the time once.
        Raises `InvalidInput` for a page beyond the limits.
        """
        check_range("limit", limit, least=1, most=MAX_PAGE)
        narrowed = await self._access.narrow(call, where)
        if not narrowed.spaces:
            return ()
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.feed(narrowed, after=after, limit=limit, with_superseded=with_superseded)

    def export(self, call: Call) -> AsyncIterator[ExportedPage]:
        """Every memory, in any state, that the principal may read and delete, page by page, newest first.

        Each with the associations that it owns: so all of them are told, each once. Raises `Forbidden` at once when
        the key lacks a scope.
        """
        self._access.require(call, Scope.READ)
        self._access.require(call, Scope.DELETE)
        return self._pages(call)

    async def _pages(self, call: Call) -> AsyncIterator[ExportedPage]:
        spaces = await self._access.readable(call) & await self._access.allowing(call, Action.DELETE)
        store = self._storage.tenant(call.principal.tenant_id)
        where = MemoryFilter(spaces=spaces, states=None)
        after: FeedPosition | None = None
        while spaces:
            page = await store.feed(where, after=after, limit=_EXPORTED_AT_ONCE, with_superseded=True)
            if not page:
                return
            owned = await store.owned_associations([memory.id for memory in page])
            yield tuple((memory, owned.get(memory.id, ())) for memory in page)
            after = FeedPosition(page[-1].created_at, page[-1].id)

    async def statistics(self, call: Call) -> MemoryStatistics:
        """Counts of what the principal may read; zeros when that is nothing. Raises `Forbidden` without the scope."""
        spaces = {space.id: space for space in await self._access.readable_spaces(call)}
        store = self._storage.tenant(call.principal.tenant_id)
        every = await store.statistics(frozenset(spaces)) if spaces else ()
        shown = (spaces[each.space_id] for each in every if _count(each))
        names = (name_of(space) for space in shown if space.kind in (SpaceKind.PERSONAL, SpaceKind.DOMAIN))
        memories = max(1, sum(map(_count, every)))
        return MemoryStatistics(
            episodes=sum(each.by_role[MemoryRole.EPISODE] for each in every),
            prototypes=sum(each.by_role[MemoryRole.PROTOTYPE] for each in every),
            singletons=sum(each.by_role[MemoryRole.SINGLETON] for each in every),
            associations=sum(each.associations for each in every),
            fingerprints=sum(each.fingerprints for each in every),
            domains=tuple(sorted(names)),
            average_valence=sum(each.valence_sum for each in every) / memories,
            average_importance=sum(each.importance_sum for each in every) / memories,
        )


def _count(statistics: SpaceStatistics) -> int:
    return sum(statistics.by_role.values())
