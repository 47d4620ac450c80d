"""From figures to needs: what so many memories of one tenant, of many, or of a whole installation take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.scale_model.figures import (
    ACTIVE_SHARE,
    EXACT_LIMIT_CHUNKS,
    EXACT_SECONDS_PER_CHUNK,
    GRAPH_BYTES_PER_CHUNK,
    GRAPH_MEASURED_CHUNKS,
    GRAPH_SEARCH_CPU_SECONDS,
    GRAPH_SECONDS_PER_CHUNK,
    LONG,
    RECALL_API_CPU_SECONDS,
    RECALL_DATABASE_CPU_SECONDS,
    RECALLS_PER_SECOND_PER_MILLION,
    SHORT,
    SHORT_SHARE,
    STATEMENT_SECONDS,
    Node,
    Profile,
)


def mixed(of: str, short_share: float = SHORT_SHARE) -> float:
    """The average of a profile's figure over short and long memories."""
    return short_share * float(getattr(SHORT, of)) + (1 - short_share) * float(getattr(LONG, of))


@dataclass(frozen=True, slots=True)
class Kind:
    """The figures of one memory of an average kind, in bytes and seconds."""

    chunks: float
    fixed_bytes: float
    hot_bytes: float
    term_root_bytes: float
    log_bytes: float
    write_cpu_seconds: float

    @classmethod
    def of(cls, profile: Profile) -> "Kind":
        """One kind alone."""
        return cls(
            profile.chunks,
            profile.postgres_bytes,
            profile.postgres_hot_bytes,
            profile.term_root_bytes,
            profile.log_bytes,
            profile.write_cpu_seconds,
        )

    @classmethod
    def mixture(cls, short_share: float = SHORT_SHARE) -> "Kind":
        """Short and long ones together."""
        names = ("chunks", "postgres_bytes", "postgres_hot_bytes", "term_root_bytes", "log_bytes", "write_cpu_seconds")
        return cls(*(mixed(name, short_share) for name in names))


@dataclass(frozen=True, slots=True)
class Need:
    """What a tenant, a node or an installation takes: bytes on disk, bytes worth keeping in memory, graphs."""

    memories: int
    disk_bytes: float
    hot_bytes: float
    graphs: int

    def __add__(self, other: "Need") -> "Need":
        return Need(
            self.memories + other.memories,
            self.disk_bytes + other.disk_bytes,
            self.hot_bytes + other.hot_bytes,
            self.graphs + other.graphs,
        )


NOTHING = Need(0, 0.0, 0.0, 0)


def need_of_tenant(memories: int, kind: Kind) -> Need:
    """What one tenant takes in PostgreSQL: rows and indexes, the counts of its terms, a graph when it is large."""
    chunks = memories * kind.chunks
    has_graph = chunks > EXACT_LIMIT_CHUNKS
    graph = chunks * GRAPH_BYTES_PER_CHUNK if has_graph else 0.0
    terms = kind.term_root_bytes * math.sqrt(memories)
    return Need(
        memories=memories,
        disk_bytes=memories * kind.fixed_bytes + terms + graph,
        hot_bytes=memories * kind.hot_bytes + terms + graph,
        graphs=int(has_graph),
    )


def total(needs: Sequence[Need]) -> Need:
    """All of them together."""
    return sum(needs, NOTHING)


def graph_seconds(chunks: float) -> float:
    """How long one process builds a graph: so much a chunk, growing with the logarithm of their number."""
    return chunks * GRAPH_SECONDS_PER_CHUNK * math.log(chunks) / math.log(GRAPH_MEASURED_CHUNKS)


def statement_seconds(graphs: float) -> float:
    """What so many graphs add to each statement on the table on which they stand: between and beyond the measured."""
    lines = list(pairwise(STATEMENT_SECONDS))
    (low, start), (high, end) = next((line for line in lines if graphs <= line[1][0]), lines[-1])
    return start + (end - start) * (graphs - low) / (high - low)


def database_cpu_seconds(memories: int, kind: Kind) -> float:
    """Processor time that the database spends on one recall of a tenant of this size."""
    chunks = memories * kind.chunks
    search = chunks * EXACT_SECONDS_PER_CHUNK if chunks <= EXACT_LIMIT_CHUNKS else GRAPH_SEARCH_CPU_SECONDS
    return RECALL_DATABASE_CPU_SECONDS + search


def api_cores(memories: int, rate: float = RECALLS_PER_SECOND_PER_MILLION) -> float:
    """Processors that the API processes keep busy with recalls."""
    return memories / 1e6 * rate * RECALL_API_CPU_SECONDS


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many database nodes each resource asks for by itself; the most of them are needed."""

    by_disk: int
    by_memory: int
    by_processors: int

    @property
    def needed(self) -> int:
        """The number that satisfies all."""
        return max(self.by_disk, self.by_memory, self.by_processors)


def nodes(need: Need, node: Node, *, recall_cpu_seconds: float, active_share: float = ACTIVE_SHARE) -> Nodes:
    """The nodes over which the need must be spread evenly, without standbys."""
    cores = need.memories / 1e6 * RECALLS_PER_SECOND_PER_MILLION * recall_cpu_seconds
    return Nodes(
        by_disk=math.ceil(need.disk_bytes / (node.disk_bytes * node.disk_share)),
        by_memory=math.ceil(need.hot_bytes * active_share / (node.memory_bytes * node.memory_share)),
        by_processors=math.ceil(cores / (node.cores * node.core_share)),
    )
