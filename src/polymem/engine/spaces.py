"""Spaces by name: the personal one is called "general", the others are domains."""

from collections.abc import Sequence
from typing import Final

from polymem.domain.access import SCOPE_OF, Action, is_allowed, is_allowed_in_personal
from polymem.domain.limits import MAX_NAME_CHARACTERS, check_label
from polymem.domain.model import (
    Call,
    Membership,
    Memory,
    MemoryType,
    Role,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
)
from polymem.domain.query import FeedPosition, MemoryFilter
from polymem.engine.access import Access
from polymem.engine.audit import AuditAction, audit
from polymem.engine.commits import claim_of, commit
from polymem.engine.queueing import author_of
from polymem.errors import Forbidden, NotFound
from polymem.ports.changes import AddSpace, Change, Deleted, DeleteMemory, Replayed, Stored
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

GENERAL: Final = "general"
# Taking a large text out of the index costs seconds; other writes pass between the commits.
_DELETES_PER_COMMIT: Final = 50


class Spaces:
    """The spaces a principal may use, found, made and emptied by their names."""

    def __init__(self, storage: Storage, access: Access, *, clock: Clock, ids: Ids) -> None:
        self._storage = storage
        self._access = access
        self._clock = clock
        self._ids = ids

    async def find(self, call: Call, name: str | None, action: Action) -> SpaceId | None:
        """The space of this name, where the principal may do this; None when it is unknown or not even readable.

        None, "" and "general" name the personal space; any other name a domain, byte for byte. Raises `Forbidden` when
        the key lacks the scope, or the space may be read and this may not be done there.
        """
        principal = call.principal
        self._access.require(call, SCOPE_OF[action])
        domain = _domain_name(name)
        if domain is None:
            return principal.personal_space_id if is_allowed_in_personal(principal, action) else None
        found = await self._domain(call, domain)
        if found is None:
            return None
        space, membership = found
        if is_allowed(principal, space, membership, action):
            return space.id
        if is_allowed(principal, space, membership, Action.READ):
            raise Forbidden(f"your role in this domain does not allow to {action.value} there")
        return None

    async def ensure(self, call: Call, name: str | None) -> SpaceId:
        """The space of this name, where the principal may write; a domain that is not there is made, open to all.

        Raises `InvalidInput` for a name beyond the limits, `Forbidden` when the principal may not write there.
        """
        self._access.require(call, Scope.WRITE)
        domain = _domain_name(name)
        if domain is None:
            return await self._access.writable(call, None)
        check_label("domain", domain, max_characters=MAX_NAME_CHARACTERS)
        found = await self._domain(call, domain)
        if found is None:
            return await self._make(call, domain)
        space, membership = found
        if not is_allowed(call.principal, space, membership, Action.WRITE):
            raise Forbidden("you may not write to this domain")
        return space.id

    async def names(self, call: Call) -> dict[SpaceId, str]:
        """The name of every space that the principal may read; "general" of the personal one.

        Raises `Forbidden` when the key lacks the scope.
        """
        return {space.id: name_of(space) for space in await self._access.readable_spaces(call)}

    async def wipe(self, call: Call, name: str) -> int:
        """Every memory of the space is gone for good; how many there were. The empty space stays.

        What is written meanwhile stays. Raises `NotFound` for an unknown name, `Forbidden`, `IdempotencyConflict`.
        """
        space_id = await self.find(call, name, Action.DELETE)
        if space_id is None:
            raise NotFound("domain", name)
        return await self._delete_all(call, frozenset({space_id}))

    async def reset(self, call: Call) -> int:
        """As `wipe`, in every space where the principal may delete."""
        return await self._delete_all(call, await self._access.allowing(call, Action.DELETE))

    async def _delete_all(self, call: Call, spaces: frozenset[SpaceId]) -> int:
        """How many memories were deleted, newest first, in bounded commits.

        With an idempotency key each commit has its number, and one without changes ends them: so a retry counts what
        the first call deleted, and goes on where that ended.
        """
        store = self._storage.tenant(call.principal.tenant_id)
        where = MemoryFilter(spaces=spaces, states=None)
        after: FeedPosition | None = None
        deleted = part = 0
        while True:
            page = await store.feed(where, after=after, limit=_DELETES_PER_COMMIT, with_superseded=True)
            claim = claim_of(call, part)
            if not page and claim is None:
                return deleted
            result = await commit(store, self._deletions(call, page), now=self._clock.now(), claim=claim)
            deleted += sum(isinstance(outcome, Deleted) for outcome in result.outcomes)
            part += 1
            if not result.outcomes:
                return deleted
            if page and not isinstance(result, Replayed):
                after = FeedPosition(page[-1].created_at, page[-1].id)

    def _deletions(self, call: Call, memories: Sequence[Memory]) -> list[Change]:
        now = self._clock.now()
        changes: list[Change] = []
        for memory in memories:
            is_turn = memory.memory_type is MemoryType.SESSION
            changes += (
                DeleteMemory(memory_id=memory.id, spaces=frozenset({memory.space_id}), remembers_identity=is_turn),
                audit(author_of(call), AuditAction.DELETE_MEMORY, memory.id, at=now),
            )
        return changes

    async def _domain(self, call: Call, name: str) -> tuple[Space, Membership | None] | None:
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.find_space(SpaceKind.DOMAIN, name, call.principal.user_id)

    async def _make(self, call: Call, name: str) -> SpaceId:
        """The new domain of this name, owned by its maker; one that another made meanwhile, if it may be written to."""
        if call.principal.allowed_spaces is not None:
            raise Forbidden("this key may not make new domains")
        now = self._clock.now()
        space = Space(
            id=SpaceId(self._ids.new_id()),
            kind=SpaceKind.DOMAIN,
            name=name,
            is_restricted=False,
            created_at=now,
        )
        owner = Membership(space_id=space.id, user_id=call.principal.user_id, role=Role.OWNER)
        store = self._storage.tenant(call.principal.tenant_id)
        result = await commit(store, [AddSpace(space=space, members=(owner,))], now=now)
        return space.id if isinstance(result.outcomes[0], Stored) else await self.ensure(call, name)


def name_of(space: Space) -> str:
    """How clients name a space."""
    return GENERAL if space.kind is SpaceKind.PERSONAL else space.name


def _domain_name(name: str | None) -> str | None:
    """The name when it is that of a domain, None for the personal space."""
    return None if not name or name == GENERAL else name
