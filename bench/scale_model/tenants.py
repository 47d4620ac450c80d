"""Tenants of unlike sizes, made from a seed, and how they lie on shards when a hash of their id decides."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_HASH_BITS = 32


@dataclass(frozen=True, slots=True)
class Law:
    """How tenants differ in size."""

    name: str
    sizes: Callable[[int, int, int], list[int]]


def log_normal(sigma: float) -> Law:
    """Sizes whose logarithms are normal with this deviation: at 2, one of six tenants is 7 times the middle one."""

    def sizes(tenants: int, memories: int, seed: int) -> list[int]:
        chance = random.Random(seed)  # noqa: S311 - a simulation, no secret
        normal = NormalDist(0.0, sigma)
        # The quantile function of a uniform number: the same in every Python, unlike the library's own draws.
        return _scaled([math.e ** normal.inv_cdf(_open_unit(chance)) for _ in range(tenants)], memories)

    return Law(f"log-normal, deviation {sigma:g}", sizes)


def zipf(exponent: float) -> Law:
    """The tenant of rank r has a size of 1 / r to this power."""

    def sizes(tenants: int, memories: int, _seed: int) -> list[int]:
        return _scaled([rank**-exponent for rank in range(1, tenants + 1)], memories)

    return Law(f"Zipf, exponent {exponent:g}", sizes)


def shard_loads(sizes: Sequence[float], shards: int, seed: int) -> list[float]:
    """The load of each shard when every tenant goes to one by the hash of its id, even over all shards."""
    # A stream of its own: the seed of the sizes would put the largest tenants beside each other.
    chance = random.Random(f"shards {seed}")  # noqa: S311 - a simulation, no secret
    loads = [0.0] * shards
    for size in sizes:
        loads[chance.getrandbits(_HASH_BITS) * shards >> _HASH_BITS] += size
    return loads


def hottest(loads: Sequence[float]) -> float:
    """How many times the mean the fullest one carries."""
    return max(loads) * len(loads) / sum(loads)


def on_nodes(shards: Sequence[float], nodes: int) -> list[float]:
    """The load of each node when the shards are dealt out in turn."""
    return [sum(shards[node::nodes]) for node in range(nodes)]


def packed(shards: Sequence[float], nodes: int) -> list[float]:
    """The load of each node when the largest shards are placed first, each on the emptiest node."""
    loads = [0.0] * nodes
    for shard in sorted(shards, reverse=True):
        loads[loads.index(min(loads))] += shard
    return loads


def _open_unit(chance: random.Random) -> float:
    """A number between 0 and 1, neither of them."""
    return (chance.getrandbits(_HASH_BITS) + 0.5) / (1 << _HASH_BITS)


def _scaled(weights: Sequence[float], memories: int) -> list[int]:
    factor = memories / sum(weights)
    return [max(1, round(weight * factor)) for weight in weights]
