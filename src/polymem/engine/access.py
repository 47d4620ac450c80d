"""Checks of scopes and roles, on every path into stored things.

The personal space alone needs no read of the storage: most calls of most dialects touch nothing else.
"""

from dataclasses import replace

from polymem.domain.access import SCOPE_OF, Action, is_allowed, is_allowed_in_personal
from polymem.domain.model import Call, Membership, Memory, MemoryId, Scope, Space, SpaceId
from polymem.domain.query import MemoryFilter
from polymem.errors import Forbidden, NotFound
from polymem.ports.storage import Storage


class Access:
    """What the principal of a call may touch."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def require(self, call: Call, scope: Scope) -> None:
        """The key has the scope. Raises `Forbidden` when it has not."""
        if scope not in call.principal.scopes:
            raise Forbidden(f"this key lacks the scope {scope.value}")

    async def allowing(self, call: Call, action: Action) -> frozenset[SpaceId]:
        """The spaces where the principal may do this. Raises `Forbidden` when its key lacks the scope."""
        principal = call.principal
        self.require(call, SCOPE_OF[action])
        spaces = await self._spaces(call)
        return frozenset(space.id for space, role in spaces if is_allowed(principal, space, role, action))

    async def readable(self, call: Call) -> frozenset[SpaceId]:
        """The spaces the principal may read. Raises `Forbidden` when its key lacks the scope."""
        return await self.allowing(call, Action.READ)

    async def readable_spaces(self, call: Call) -> tuple[Space, ...]:
        """The spaces the principal may read, oldest first. Raises `Forbidden` when its key lacks the scope."""
        self.require(call, Scope.READ)
        spaces = await self._spaces(call)
        return tuple(space for space, role in spaces if is_allowed(call.principal, space, role, Action.READ))

    async def narrow(self, call: Call, where: MemoryFilter) -> MemoryFilter:
        """The filter without the spaces that the principal may not read; it never gains one.

        Raises `Forbidden` when the key lacks the scope.
        """
        return replace(where, spaces=await self.within(call, where.spaces, Action.READ))

    async def within(self, call: Call, spaces: frozenset[SpaceId], action: Action) -> frozenset[SpaceId]:
        """Those of `spaces` where the principal may do this. Raises `Forbidden` when its key lacks the scope."""
        self.require(call, SCOPE_OF[action])
        if spaces <= {call.principal.personal_space_id}:
            return spaces if is_allowed_in_personal(call.principal, action) else frozenset()
        return spaces & await self.allowing(call, action)

    async def writable(self, call: Call, space_id: SpaceId | None) -> SpaceId:
        """The space to write to: the one asked for, or with None the principal's personal space.

        Raises `NotFound` for a space that is not there or may not even be read, `Forbidden` for one that may
        be read but not written, or when the key lacks the scope.
        """
        principal = call.principal
        self.require(call, Scope.WRITE)
        wanted = principal.personal_space_id if space_id is None else space_id
        if wanted == principal.personal_space_id:
            if not is_allowed_in_personal(principal, Action.WRITE):
                raise Forbidden("this key may not use the personal space of its user")
            return wanted
        for space, membership in await self._spaces(call):
            if space.id != wanted:
                continue
            if is_allowed(principal, space, membership, Action.WRITE):
                return wanted
            if is_allowed(principal, space, membership, Action.READ):
                raise Forbidden("your role in this space does not allow writing")
        raise NotFound("space", wanted)

    async def find(self, call: Call, memory_id: MemoryId, action: Action) -> Memory | None:
        """The memory of this id, when the principal may do this with it; None when it may not even read it.

        Raises `Forbidden` when the key lacks the scope, or the memory may be read but this may not be done.
        """
        principal = call.principal
        self.require(call, SCOPE_OF[action])
        store = self._storage.tenant(principal.tenant_id)
        personal = frozenset({principal.personal_space_id})
        if is_allowed_in_personal(principal, action):
            found = await store.get_memories([memory_id], personal)
            if found:
                return found[memory_id]
        spaces = await self._spaces(call)
        allowed = frozenset(space.id for space, role in spaces if is_allowed(principal, space, role, action))
        readable = frozenset(space.id for space, role in spaces if is_allowed(principal, space, role, Action.READ))
        elsewhere = (allowed | readable) - personal
        if not elsewhere:
            return None
        memory = (await store.get_memories([memory_id], elsewhere)).get(memory_id)
        if memory is not None and memory.space_id not in allowed:
            raise Forbidden(f"your role in this space does not allow to {action.value} its memories")
        return memory

    async def _spaces(self, call: Call) -> tuple[tuple[Space, Membership | None], ...]:
        """Every space of the tenant, with this user's membership."""
        return await self._storage.tenant(call.principal.tenant_id).list_spaces(call.principal.user_id)
