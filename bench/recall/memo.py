"""What the ports answered, remembered: configurations that ask the same of the storage and the model share it.

A configuration changes how answers are weighed more often than what is fetched, so a run over many of them reads
each candidate once. Nothing may be written meanwhile.
"""

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import numpy as np

from polymem.domain.model import TenantId
from polymem.ports.inference import Embedder
from polymem.ports.search import SearchIndex
from polymem.ports.storage import Storage, TenantStore

# Methods from a sequence of ids, and more, to a mapping by id: remembered id by id.
_BY_ID = frozenset({"evidence", "get_memories", "neighbours"})


class Remembering:
    """Stands for a port: every asynchronous method is asked once for the same arguments."""

    def __init__(self, target: object) -> None:
        self._target = target
        self._answers: dict[Hashable, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not inspect.iscoroutinefunction(found):
            return found
        remembered = self._by_id(name, found) if name in _BY_ID else self._whole(name, found)
        setattr(self, name, remembered)
        return remembered

    def _whole(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def asked(*args: object, **named: object) -> Any:
            key = (name, _key(args), _key(named))
            if key not in self._answers:
                self._answers[key] = await method(*args, **named)
            return self._answers[key]

        return asked

    def _by_id(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def asked(ids: Sequence[str], *args: object, **named: object) -> dict[str, Any]:
            known: dict[str, Any] = self._answers.setdefault((name, _key(args), _key(named)), {})
            missing = [each for each in ids if each not in known]
            if missing:
                known |= dict.fromkeys(missing) | await method(missing, *args, **named)
            return {each: known[each] for each in ids if known[each] is not None}

        return asked


class RememberingStorage:
    """Stands for the storage: stores and indexes of tenants remember what they were asked."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: dict[tuple[str, TenantId], Remembering] = {}

    def search(self, tenant_id: TenantId) -> SearchIndex:
        """The index of a tenant, remembering."""
        return cast(SearchIndex, self._remembering("search", tenant_id))

    def tenant(self, tenant_id: TenantId) -> TenantStore:
        """The store of a tenant, remembering."""
        return cast(TenantStore, self._remembering("tenant", tenant_id))

    def _remembering(self, kind: str, tenant_id: TenantId) -> Remembering:
        if (kind, tenant_id) not in self._kept:
            self._kept[kind, tenant_id] = Remembering(getattr(self._storage, kind)(tenant_id))
        return self._kept[kind, tenant_id]


def remembering_storage(storage: Storage) -> Storage:
    """The storage, asked once for the same; good for recall alone."""
    return cast(Storage, RememberingStorage(storage))


def remembering_embedder(embedder: Embedder) -> Embedder:
    """The model, asked once for the same."""
    return cast(Embedder, Remembering(embedder))


def _key(value: object) -> Hashable:
    """Equal for equal arguments. Raises `TypeError` for one that cannot be compared so."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.dtype.str, value.tobytes())
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, _key(value[name])) for name in sorted(value))
    if not isinstance(value, Hashable):
        raise TypeError(f"no key for a {type(value).__name__}")
    return value
