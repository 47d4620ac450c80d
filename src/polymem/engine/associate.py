"""Associations of concepts: which ones a question activates, and the graph that they form."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from polymem.domain.concepts import MAX_KEY_CHARACTERS, concept_keys
from polymem.domain.keyphrases import candidates, keyphrases, telling_words
from polymem.domain.learning import EXPANDED_PER_SEED, spread
from polymem.domain.limits import check_count, check_label, check_range
from polymem.domain.model import Association, Call, SpaceId
from polymem.engine.access import Access
from polymem.engine.requests import Graph, GraphRequest
from polymem.errors import InvalidInput
from polymem.ports.storage import Storage, TenantStore

MOST_SEEDS: Final = 20
MOST_DEPTH: Final = 3
MOST_EDGES: Final = 500
# From so many concepts the next step of a graph goes on.
MOST_FRONTIER: Final = 64
# From the second step on a graph is cut at this weight unless the caller says another.
FAR_MIN_WEIGHT: Final = 0.05

_QUERY_CONCEPTS: Final = 8


@dataclass(frozen=True, slots=True)
class Named:
    """The concepts that come with a question and those that stand in it, by key, and the associations of both."""

    hints: tuple[str, ...]
    spoken: tuple[str, ...]
    associations: tuple[Association, ...]

    @property
    def concepts(self) -> tuple[str, ...]:
        """All of them, the hints first."""
        return (*self.hints, *self.spoken)


class Associate:
    """Reads associations, within the spaces that a principal may read."""

    def __init__(self, storage: Storage, access: Access) -> None:
        self._storage = storage
        self._access = access

    async def named(self, store: TenantStore, text: str, hints: Sequence[str], spaces: frozenset[SpaceId]) -> Named:
        """The hints, then the concepts of the text: those that memories or associations know, then single words.

        A run of words that nobody knows is no concept of a question: it would never be asked in just these words again.
        """
        keys = concept_keys(hints)
        possible = tuple(dict.fromkeys((*keys, *candidates(text))))
        edges = await store.associations(spaces, possible, min_weight=0.0, limit_per_seed=EXPANDED_PER_SEED)
        ends = {end for edge in edges for end in (edge.source, edge.target)}
        known = ends.intersection(possible) | (await store.count_concepts(possible, spaces)).keys()
        phrases = [key for key in keyphrases(text, known=known, most=len(known)) if key in known]
        words = telling_words(text, most=_QUERY_CONCEPTS)
        read = tuple(dict.fromkeys((*phrases, *words)))[:_QUERY_CONCEPTS]
        spoken = tuple(key for key in read if key not in keys)
        concepts = frozenset((*keys, *spoken))
        return Named(keys, spoken, tuple(edge for edge in edges if not concepts.isdisjoint((edge.source, edge.target))))

    async def received(
        self, store: TenantStore, named: Named, seeds: Mapping[str, float], spaces: frozenset[SpaceId]
    ) -> dict[str, float]:
        """The activation that concepts receive from the seeds; the question's own are among these."""
        fresh = sorted(seeds.keys() - set(named.concepts))
        edges: tuple[Association, ...] = ()
        if fresh:
            edges = await store.associations(spaces, fresh, min_weight=0.0, limit_per_seed=EXPANDED_PER_SEED)
        return spread(seeds, (*named.associations, *edges))

    async def graph(self, call: Call, request: GraphRequest) -> Graph:
        """The associations within `depth` steps of the seeds, heaviest first. Raises `InvalidInput`, `Forbidden`."""
        seeds = _checked_seeds(request.seeds)
        check_range("depth", request.depth, least=1, most=MOST_DEPTH)
        check_range("limit", request.limit, least=1, most=MOST_EDGES)
        readable = await self._access.readable(call)
        spaces = readable if request.spaces is None else request.spaces & readable
        floor = request.min_weight
        if floor is None:
            floor = FAR_MIN_WEIGHT if request.depth > 1 else 0.0
        store = self._storage.tenant(call.principal.tenant_id)
        found: dict[tuple[SpaceId, str, str], Association] = {}
        reached = set(seeds)
        frontier: Sequence[str] = seeds
        is_cut = False
        for step in range(request.depth):
            if step:
                frontier, is_narrowed = _next_step(found.values(), reached)
                is_cut = is_cut or is_narrowed
                reached.update(frontier)
            # One more than is asked for tells that there are more.
            edges = await store.associations(spaces, frontier, min_weight=floor, limit_per_seed=request.limit + 1)
            found |= {(edge.space_id, edge.source, edge.target): edge for edge in edges}
        ordered = _merged(found.values())
        shown = ordered[: request.limit]
        degrees = dict.fromkeys(seeds, 0)
        for edge in shown:
            for end in (edge.source, edge.target):
                degrees[end] = degrees.get(end, 0) + 1
        return Graph(degrees=degrees, edges=shown, is_truncated=is_cut or len(ordered) > len(shown), min_weight=floor)


def _next_step(edges: Iterable[Association], reached: AbstractSet[str]) -> tuple[tuple[str, ...], bool]:
    """The concepts that were reached last, at most `MOST_FRONTIER`, heaviest first; whether there were more."""
    weights: dict[str, float] = {}
    for edge in edges:
        for end in (edge.source, edge.target):
            if end not in reached:
                weights[end] = max(weights.get(end, 0.0), edge.weight)
    ordered = tuple(sorted(weights, key=lambda end: (-weights[end], end)))
    return ordered[:MOST_FRONTIER], len(ordered) > MOST_FRONTIER


def _merged(edges: Iterable[Association]) -> tuple[Association, ...]:
    """One association for each pair, heaviest first: over several spaces the heaviest, with the counts of all."""
    of_pair: dict[tuple[str, str], list[Association]] = {}
    for edge in edges:
        of_pair.setdefault((edge.source, edge.target), []).append(edge)
    merged = [
        replace(
            min(same, key=lambda edge: (-edge.weight, edge.space_id)),
            count=sum(edge.count for edge in same),
            updated_at=max(edge.updated_at for edge in same),
        )
        for same in of_pair.values()
    ]
    return tuple(sorted(merged, key=lambda edge: (-edge.weight, edge.source, edge.target)))


def _checked_seeds(seeds: Sequence[str]) -> tuple[str, ...]:
    check_count("seeds", len(seeds), most=MOST_SEEDS)
    for seed in seeds:
        check_label("seeds", seed, max_characters=MAX_KEY_CHARACTERS)
    keys = concept_keys(seeds)
    if not keys:
        raise InvalidInput("seeds", "must name a concept")
    return keys
