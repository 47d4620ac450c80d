"""Configurations of recall: names for changes of its weights, and the recall that has them.

This is the only module that knows how the engine is given its weights.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from bench.recall.lab_engine import LabClock, LabEngine
from bench.recall.memo import remembering_embedder, remembering_storage
from polymem.domain.model import TenantId
from polymem.domain.ranking import DEFAULT_WEIGHTS
from polymem.engine.access import Access
from polymem.engine.recall import Recall
from polymem.errors import InferenceUnavailable
from polymem.ports.inference import Embedder
from polymem.ports.search import SearchIndex, WordsFound
from polymem.ports.storage import Storage

Changes = Mapping[str, Any]

# No memory of the data sets was replaced by a client.
_NOT_ASKED = frozenset({"superseded"})
_LATE_INTERACTION = frozenset({"narrow", "wide"})

DEFAULTS = "defaults"
# Said in a configuration beside weights: which stages take no part. Without the model words alone decide.
WITHOUT = "without"
STAGES = ("model", "lexical", "dense", "neighbours")
_NOTHING: Mapping[str, object] = {"lexical": (), "dense": (), "neighbours": {}}


@dataclass(frozen=True, slots=True)
class Configuration:
    """A name, and the weights that differ from the defaults."""

    name: str
    changes: Changes


class _NoModel:
    """A model that is away."""

    def __init__(self, embedder: Embedder) -> None:
        self.identity = embedder.identity
        self.problem = "left out"

    async def embed_query(self, text: str) -> None:
        raise InferenceUnavailable(f"no model for a question of {len(text)} characters")


class _IndexWithout:
    """An index some of whose methods find nothing."""

    def __init__(self, index: SearchIndex, left_out: frozenset[str]) -> None:
        self._index = index
        self._left_out = left_out

    async def words(self, *asked: Any, **bounds: Any) -> WordsFound:
        """What the words are, and what they find unless the lexical arm is left out."""
        found = await self._index.words(*asked, **bounds)
        return replace(found, hits=()) if "lexical" in self._left_out else found

    def __getattr__(self, name: str) -> Any:
        if name not in self._left_out:
            return getattr(self._index, name)

        async def nothing(*_: object, **__: object) -> object:
            return _NOTHING[name]

        return nothing


class _StorageWithout:
    """A storage whose indexes find nothing by some methods."""

    def __init__(self, storage: Storage, left_out: frozenset[str]) -> None:
        self._storage = storage
        self._left_out = left_out
        self.tenant = storage.tenant

    def search(self, tenant_id: TenantId) -> SearchIndex:
        return cast(SearchIndex, _IndexWithout(self._storage.search(tenant_id), self._left_out))


class RecallMaker:
    """Recalls of different weights over one engine; what they fetch is remembered and shared."""

    def __init__(self, engine: LabEngine) -> None:
        self._storage = remembering_storage(engine.storage)
        self._embedder = remembering_embedder(engine.embedder)

    def recall(self, changes: Changes) -> Recall:
        """A recall that has the changed weights, and not the stages left out."""
        weights = {name: value for name, value in changes.items() if name != WITHOUT}
        left_out = frozenset(changes.get(WITHOUT, ()))
        embedder = cast(Embedder, _NoModel(self._embedder)) if "model" in left_out else self._embedder
        storage = cast(Storage, _StorageWithout(self._storage, left_out)) if left_out else self._storage
        return Recall(storage, embedder, Access(storage), clock=LabClock(), weights=replace(DEFAULT_WEIGHTS, **weights))


def default_weights() -> dict[str, Any]:
    """The name and default value of everything that can be changed."""
    return {field.name: getattr(DEFAULT_WEIGHTS, field.name) for field in fields(DEFAULT_WEIGHTS)}


def stages_left_out() -> list[Configuration]:
    """One configuration for each stage left out, and one for late interaction alone: every other weight zero."""
    found = [Configuration(f"without {stage}", {WITHOUT: (stage,)}) for stage in STAGES]
    zero = dict.fromkeys(default_weights().keys() - _LATE_INTERACTION, 0.0)
    return [*found, Configuration("late interaction alone", zero)]


def variants(defaults: Changes) -> list[Configuration]:
    """For every weight of ranking: off or zero, half, and double; a switch is turned over.

    Texts, None and numbers that are zero stay as they are.
    """
    found: list[Configuration] = []
    for name, value in defaults.items():
        if name in _NOT_ASKED:
            continue
        if isinstance(value, bool):
            found.append(Configuration(f"{name} {'off' if value else 'on'}", {name: not value}))
        elif isinstance(value, int | float) and value:
            found += [Configuration(f"{name} {_plain(each)}", {name: each}) for each in _neighbours(value)]
        elif isinstance(value, tuple) and all(isinstance(each, int | float) for each in value):
            for label, place in (("half", 1), ("double", 2)):
                changed = tuple(_neighbours(each)[place] for each in value)
                found.append(Configuration(f"{name} {label}", {name: changed}))
    return found


def read_configurations(path: Path) -> list[Configuration]:
    """The configurations of a JSON file: an object of names, each with an object of changed weights.

    Ends the program when a weight is not known.
    """
    known = default_weights()
    found = []
    for name, changes in json.loads(path.read_text(encoding="utf-8")).items():
        unknown = sorted({*(set(changes) - known.keys() - {WITHOUT}), *(set(changes.get(WITHOUT, ())) - set(STAGES))})
        if unknown:
            sys.exit(f"{path.name}: {name}: no such weight or stage: {', '.join(unknown)}")
        listed = {weight: tuple(value) if isinstance(value, list) else value for weight, value in changes.items()}
        found.append(Configuration(name, listed))
    return found


def _neighbours(value: float) -> tuple[float, float, float]:
    """Zero, half and double, whole numbers staying whole."""
    return (0, value // 2, value * 2) if isinstance(value, int) else (0.0, value / 2, value * 2)


def _plain(value: float) -> str:
    return f"{value:g}"
