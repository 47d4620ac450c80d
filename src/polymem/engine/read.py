"""Memories read back: by id, by filter, by session, with their history."""

from collections.abc import Sequence

from polymem.domain.access import Action
from polymem.domain.limits import MAX_BATCH, MAX_OFFSET, MAX_PAGE, check_count, check_range
from polymem.domain.model import Call, Memory, MemoryId, MemoryVersion, SpaceId
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.engine.access import Access
from polymem.errors import NotFound
from polymem.ports.storage import Storage


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
