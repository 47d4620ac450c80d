"""Texts kept when they are news: concepts, importance, the gate, and what they replace."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from polymem.domain.access import Action
from polymem.domain.concepts import concept_keys, content_key, external_ref_identity
from polymem.domain.gate import LEAST_IMPORTANCE
from polymem.domain.keyphrases import candidates, keyphrases
from polymem.domain.limits import MAX_BATCH, check_count
from polymem.domain.model import Call, IdempotencyClaim, Memory, MemoryId, Scope, SpaceId
from polymem.engine.access import Access
from polymem.engine.checks import check_atom
from polymem.engine.commits import claim_of, commit
from polymem.engine.compose import Atom, Compose, DraftedAtom
from polymem.engine.gauging import Gauge, Gauged
from polymem.engine.queueing import author_of
from polymem.engine.requests import Filtered, NewAtom, Remembered
from polymem.engine.spaces import Spaces
from polymem.errors import Conflict, Forbidden, InvalidInput, NotFound, PolymemError, QuotaExceeded, TooLarge
from polymem.ports.changes import Applied, Change, Duplicate, Outcome, Replayed, Stored, Supersede
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

# So many texts, or characters, are gauged against each other and committed together.
_ATOMS_PER_COMMIT: Final = 50
_CHARACTERS_PER_COMMIT: Final = 250_000
# `TenantStore.find_repeats` tells at most 100 memories, perhaps several of one text.
_KEYS_AT_ONCE: Final = 20
# How often room under the quota is counted anew because others took it.
_QUOTA_TRIES: Final = 3

_KEPT_BEFORE: Final = "kept before, when this call was first made"
_NOT_KEPT: Final = "not kept when this call was first made"

Kept = Remembered | Filtered | PolymemError


@dataclass(frozen=True, slots=True)
class _Judged:
    """An atom on its way into a commit."""

    draft: DraftedAtom
    reason: str


@dataclass(slots=True)
class _Item:
    """One text of a batch: what is known of it so far, and in the end what came of it."""

    new: NewAtom
    space_id: SpaceId | None = None
    judged: _Judged | None = None
    result: Kept | None = None
    follows: bool = False


class Remember:
    """Texts are kept unless they repeat what their space holds; see `polymem.domain.gate`."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        spaces: Spaces,
        compose: Compose,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
        importance_threshold: float = LEAST_IMPORTANCE,
    ) -> None:
        self._storage = storage
        self._access = access
        self._spaces = spaces
        self._compose = compose
        self._gauge = Gauge(storage)
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._threshold = importance_threshold

    async def one(self, call: Call, new: NewAtom) -> Remembered | Filtered:
        """The text is kept, with its associations, or found to be no news.

        A text with `supersedes` or `external_ref` is always kept; a reference that named this very text before gives
        that memory again. A retry under the same idempotency key gets what the first call did. Raises `InvalidInput`,
        `TooLarge`, `Forbidden`, `NotFound` for an unknown superseded memory, `Conflict` for a reference of another
        text, `QuotaExceeded`, `IdempotencyConflict`.
        """
        item = _Item(new)
        await self._prepare(call, [item])
        if item.result is None:
            await self._check_superseded(call, item)
        await self._keep(call, [item], part=0)
        result = _result(item)
        if isinstance(result, PolymemError):
            raise result
        return result

    async def many(self, call: Call, news: Sequence[NewAtom]) -> tuple[Kept, ...]:
        """What came of each text, in order, as `one` would tell it; a bad one is told as its error.

        Each is judged beside what is stored and those before it. Committed in parts, so that other writes pass between
        them; a part in which the quota refuses something has no idempotency key, as it is worth another try.
        Raises `TooLarge` for too many, `Forbidden` when the key lacks the scope, `IdempotencyConflict`.
        """
        check_count("items", len(news), most=MAX_BATCH)
        self._access.require(call, Scope.WRITE)
        items = [_Item(new) for new in news]
        for item in items:
            if item.new.supersedes:
                item.result = InvalidInput("supersedes", "a text of a batch cannot supersede others")
        for part, some in enumerate(_parts(items)):
            await self._prepare(call, some)
            await self._keep(call, some, part=part)
        return tuple(_result(item) for item in items)

    # --- before the commit -------------------------------------------------------------------------------

    async def _prepare(self, call: Call, items: Sequence[_Item]) -> None:
        """Each good item has its space, which is made when it is not there; each bad one its error."""
        found: dict[str | None, SpaceId | PolymemError] = {}
        for item in items:
            if item.result is not None:
                continue
            try:
                check_atom(item.new)
            except (InvalidInput, TooLarge) as error:
                item.result = error
                continue
            domain = item.new.domain
            if domain not in found:
                found[domain] = await self._space(call, domain)
            space_id = found[domain]
            if isinstance(space_id, PolymemError):
                item.result = space_id
            else:
                item.space_id = space_id

    async def _space(self, call: Call, domain: str | None) -> SpaceId | PolymemError:
        try:
            return await self._spaces.ensure(call, domain)
        except Forbidden as error:
            return error

    async def _check_superseded(self, call: Call, item: _Item) -> None:
        """The item has an error when it supersedes what is not there, or may not be written."""
        wanted = tuple(dict.fromkeys(item.new.supersedes))
        if not wanted:
            return
        store = self._storage.tenant(call.principal.tenant_id)
        present = await store.get_memories(wanted, await self._access.allowing(call, Action.WRITE))
        for memory_id in wanted:
            if memory_id not in present:
                item.result = await self._why_not(call, memory_id)
                return

    async def _why_not(self, call: Call, memory_id: MemoryId) -> PolymemError:
        try:
            await self._access.find(call, memory_id, Action.WRITE)
        except Forbidden as error:
            return error
        return NotFound("atom", memory_id)

    async def _keep(self, call: Call, items: Sequence[_Item], *, part: int) -> None:
        """Every item has its result, and what is kept is durable."""
        now = self._clock.now()
        await self._find_references(call, items)
        await self._find_repeats(call, items)
        followers = _set_aside(items)
        await self._judge(call, items, now=now)
        await self._commit(call, items, claim_of(call, part), now=now)
        for follower, leader in followers:
            follower.result = _after(leader)

    async def _find_references(self, call: Call, items: Sequence[_Item]) -> None:
        """An item whose reference names its very text has its result."""
        named = [(item, item.new.external_ref) for item in _open(items) if item.new.external_ref is not None]
        if not named:
            return
        store = self._storage.tenant(call.principal.tenant_id)
        known = await store.known_identities([external_ref_identity(ref) for _, ref in named])
        for item, ref in named:
            if external_ref_identity(ref) in known:
                memory = await store.find_external_ref(ref, await self._visible(call, item))
                item.result = None if memory is None else _by_reference(item.new, memory)

    async def _find_repeats(self, call: Call, items: Sequence[_Item]) -> None:
        """An item whose very text is found in its space at the first look has its result."""
        keys: dict[SpaceId, dict[str, list[_Item]]] = {}
        for item, space_id in _gated(items):
            keys.setdefault(space_id, {}).setdefault(content_key(item.new.content), []).append(item)
        store = self._storage.tenant(call.principal.tenant_id)
        for space_id, wanted in keys.items():
            every = list(wanted)
            for start in range(0, len(every), _KEYS_AT_ONCE):
                some = every[start : start + _KEYS_AT_ONCE]
                found = await store.find_repeats(frozenset({space_id}), content_keys=some)
                for memory_id, key in reversed(found):
                    for item in wanted[key]:
                        item.result = _exact_duplicate(memory_id)

    async def _visible(self, call: Call, item: _Item) -> frozenset[SpaceId]:
        """Where the caller may learn that a text is there: what it may read, and where it writes this one."""
        own = frozenset[SpaceId]() if item.space_id is None else frozenset({item.space_id})
        return own | await self._access.readable(call) if Scope.READ in call.principal.scopes else own

    async def _judge(self, call: Call, items: Sequence[_Item], *, now: datetime) -> None:
        """Each open item is to be kept, or has its result."""
        waiting = [item for item in _open(items) if not item.follows]
        if not waiting:
            return
        tenant_id = call.principal.tenant_id
        atoms = await self._atoms(call, waiting)
        drafts = await self._compose.atoms(author_of(call), atoms, now=now)
        gauged = await self._gauge.gauge(tenant_id, drafts, threshold=self._threshold)
        for item, draft, each in zip(waiting, drafts, gauged, strict=True):
            if _is_gated(item.new) and each.importance < self._threshold:
                item.result = self._filtered(each)
            else:
                kept = replace(draft, memory=replace(draft.memory, importance=each.importance))
                item.judged = _Judged(kept, _reason(item.new, each))

    async def _atoms(self, call: Call, items: Sequence[_Item]) -> list[Atom]:
        """The items with their concepts: those given, else read from the text, the vocabulary of the space first."""
        store = self._storage.tenant(call.principal.tenant_id)
        given: dict[SpaceId, set[str]] = {}
        for item, space_id in _placed(items):
            given.setdefault(space_id, set()).update(concept_keys(item.new.concepts))
        atoms: list[Atom] = []
        for item, space_id in _placed(items):
            concepts = item.new.concepts
            if not concepts:
                possible = candidates(item.new.content)
                held = await store.count_concepts(possible, frozenset({space_id})) if possible else {}
                concepts = keyphrases(item.new.content, known=held.keys() | given[space_id])
            atoms.append(Atom(new=item.new, space_id=space_id, concepts=concepts))
        return atoms

    def _filtered(self, gauged: Gauged) -> Filtered:
        reason = f"Below importance threshold ({gauged.importance:.3f} < {self._threshold:.3f})"
        if gauged.nearest is not None:
            reason += f": repeats {gauged.nearest}"
        return Filtered(importance=gauged.importance, reason=reason, repeats=gauged.nearest)

    # --- the commit --------------------------------------------------------------------------------------

    async def _commit(
        self, call: Call, items: Sequence[_Item], claim: IdempotencyClaim | None, *, now: datetime
    ) -> None:
        """What is to be kept is durable, as far as the quota allows; each item that is no follower has its result."""
        try:
            result = await self._try_commit(call, items, claim, now=now)
        except QuotaExceeded as refusal:
            result = await self._commit_within(call, items, refusal, now=now)
        if result is None:
            return
        is_replay = isinstance(result, Replayed)
        for item, outcome in zip(items, result.outcomes, strict=False):
            await (self._tell_again if is_replay else self._tell)(call, item, outcome)

    async def _try_commit(
        self, call: Call, items: Sequence[_Item], claim: IdempotencyClaim | None, *, now: datetime
    ) -> Applied | Replayed | None:
        """What came of the commit, or None when there was nothing to commit. Raises `QuotaExceeded`.

        One change leads for each item, in their order, so that a replay tells what became of which.
        """
        drafts = [item.judged.draft for item in items if item.judged is not None]
        if not drafts and claim is None:
            return None
        leads = [self._nothing() if item.judged is None else item.judged.draft.put for item in items]
        replaces = any(draft.memory.supersedes for draft in drafts)
        writable = await self._access.allowing(call, Action.WRITE) if replaces else frozenset[SpaceId]()
        following = self._compose.following(author_of(call), drafts, writable, now=now)
        store = self._storage.tenant(call.principal.tenant_id)
        most = call.principal.plan.max_memories
        result = await commit(store, [*leads, *following], now=now, claim=claim, max_memories=most)
        if any(draft.needs_job for draft in drafts):
            self._wake()
        return result

    def _nothing(self) -> Change:
        """A change that changes nothing; its outcome is `Missing`."""
        return Supersede(memory_ids=(), by=MemoryId(self._ids.new_id()), spaces=frozenset())

    async def _commit_within(
        self, call: Call, items: Sequence[_Item], refusal: QuotaExceeded, *, now: datetime
    ) -> Applied | Replayed | None:
        """What came of the commit of the first items for which the quota has room; the others are refused."""
        store = self._storage.tenant(call.principal.tenant_id)
        tries = 0
        while True:
            tries += 1
            room = refusal.limit - await store.count_memories() if tries <= _QUOTA_TRIES else 0
            identities = [item.judged.draft.put.identity for item in items if item.judged is not None]
            stored = await store.known_identities([each for each in identities if each is not None])
            _refuse_beyond(room, items, stored, refusal)
            with suppress(QuotaExceeded):
                return await self._try_commit(call, items, None, now=now)

    async def _tell(self, call: Call, item: _Item, outcome: Outcome) -> None:
        """The item has its result, after its commit."""
        if item.judged is None:
            return
        memory = item.judged.draft.memory
        match outcome:
            case Stored():
                item.result = Remembered(
                    memory=memory, reason=item.judged.reason, is_new=True, superseded=memory.supersedes
                )
            case Duplicate(id=found):
                item.result = await self._found(call, item, MemoryId(found))
            case _:
                item.result = Conflict("what this external_ref named was deleted for good")

    async def _found(self, call: Call, item: _Item, memory_id: MemoryId) -> Kept:
        """What it means that the storage had this memory already: it has the text, or the reference."""
        if item.new.external_ref is None:
            return _exact_duplicate(memory_id)
        store = self._storage.tenant(call.principal.tenant_id)
        present = await store.get_memories([memory_id], await self._visible(call, item))
        return _by_reference(item.new, present.get(memory_id))

    async def _kept_before(
        self, call: Call, space_id: SpaceId, memory_id: MemoryId, judged: _Judged | None
    ) -> Remembered | None:
        """The memory that this very call kept before; None for one that is gone, when nothing tells what it was."""
        store = self._storage.tenant(call.principal.tenant_id)
        present = (await store.get_memories([memory_id], frozenset({space_id}))).get(memory_id)
        memory = replace(judged.draft.memory, id=memory_id) if present is None and judged else present
        if memory is None:
            return None
        return Remembered(memory=memory, reason=_KEPT_BEFORE, is_new=False, superseded=memory.supersedes)

    async def _tell_again(self, call: Call, item: _Item, outcome: Outcome) -> None:
        """The item has the result that this very call had before; of a memory deleted since, as it was asked for."""
        judged, item.judged = item.judged, None
        match outcome:
            case Stored(id=first) if item.space_id is not None:
                kept = await self._kept_before(call, item.space_id, MemoryId(first), judged)
                item.result = kept or item.result
            case Duplicate(id=found):
                item.result = await self._found(call, item, MemoryId(found))
            case _ if judged is not None:
                item.result = Filtered(importance=judged.draft.memory.importance, reason=_NOT_KEPT, repeats=None)
            case _:
                pass


def _result(item: _Item) -> Kept:
    """What came of it; nothing only when a replay tells of other work than this."""
    return item.result or Conflict("this idempotency key did other work before")


def _parts(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """The items in order, cut so that one commit never holds other writers up for long; the same for a retry."""
    part: list[_Item] = []
    size = 0
    for item in items:
        length = len(item.new.content)
        if part and (len(part) == _ATOMS_PER_COMMIT or size + length > _CHARACTERS_PER_COMMIT):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


def _open(items: Iterable[_Item]) -> list[_Item]:
    return [item for item in items if item.result is None]


def _placed(items: Iterable[_Item]) -> list[tuple[_Item, SpaceId]]:
    """The open items, each with its space."""
    return [(item, item.space_id) for item in _open(items) if item.space_id is not None]


def _gated(items: Iterable[_Item]) -> list[tuple[_Item, SpaceId]]:
    """The open items that are kept only if they are news."""
    return [(item, space_id) for item, space_id in _placed(items) if _is_gated(item.new)]


def _is_gated(new: NewAtom) -> bool:
    return new.external_ref is None and not new.supersedes


def _set_aside(items: Sequence[_Item]) -> list[tuple[_Item, _Item]]:
    """The items whose text another one before them has, for the same space: each with that, whose fate it shares."""
    leaders: dict[tuple[SpaceId, str], _Item] = {}
    followers: list[tuple[_Item, _Item]] = []
    for item, space_id in _gated(items):
        leader = leaders.setdefault((space_id, content_key(item.new.content)), item)
        if leader is not item:
            item.follows = True
            followers.append((item, leader))
    return followers


def _after(leader: _Item) -> Kept:
    """What comes of a text after the same text."""
    result = _result(leader)
    return _exact_duplicate(result.memory.id) if isinstance(result, Remembered) else result


def _refuse_beyond(room: int, items: Sequence[_Item], stored: AbstractSet[str], refusal: QuotaExceeded) -> None:
    """Only the first so many items are still to be kept, beside those whose reference is there already."""
    references = set(stored)
    for item in items:
        if item.judged is None:
            continue
        identity = item.judged.draft.put.identity
        if identity is not None and identity in references:
            continue
        if room > 0:
            room -= 1
            references.update(() if identity is None else (identity,))
        else:
            item.judged, item.result = None, refusal


def _exact_duplicate(memory_id: MemoryId) -> Filtered:
    return Filtered(importance=0.0, reason=f"exact duplicate of {memory_id}", repeats=memory_id)


def _by_reference(new: NewAtom, memory: Memory | None) -> Kept:
    """What a reference that is taken means: this very text is kept already, or it names another."""
    if memory is None or memory.content != new.content:
        return Conflict("this external_ref names another text")
    return Remembered(
        memory=memory,
        reason="this external_ref named this text before",
        is_new=False,
        superseded=memory.supersedes,
    )


def _reason(new: NewAtom, gauged: Gauged) -> str:
    """Why a text is kept."""
    figure = f"importance {gauged.importance:.3f}"
    if new.supersedes:
        return f"kept because it supersedes others ({figure})"
    if new.external_ref is not None:
        return f"kept under its external_ref ({figure})"
    if gauged.nearest is None:
        return f"novel insight: nothing here is like it ({figure})"
    return f"novel insight: it says what {gauged.nearest} does not ({figure})"
