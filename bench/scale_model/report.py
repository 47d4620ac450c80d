"""The tables of docs/scaling.md."""

from collections.abc import Iterator, Sequence
from functools import cache
from statistics import median

from bench.scale_model import figures
from bench.scale_model.arithmetic import (
    Kind,
    Need,
    api_cores,
    database_cpu_seconds,
    graph_seconds,
    mixed,
    need_of_tenant,
    nodes,
    statement_seconds,
    total,
)
from bench.scale_model.figures import LONG, NODE, SHORT
from bench.scale_model.tenants import Law, hottest, log_normal, on_nodes, packed, shard_loads, zipf

TENANTS = 10_000
MEMORIES = 1_000_000_000
LAWS = (log_normal(1.5), log_normal(2.0), log_normal(2.5), zipf(0.8), zipf(1.0), zipf(1.2))
SHARD_COUNTS = (32, figures.SHARDS, 512)
SEEDS = range(10)
_MILLION = 1_000_000
_HOUR = 3600


def report() -> str:
    """All tables, in the order of the paper."""
    return "\n".join(
        "\n".join(section) for section in (_per_million(), _one_tenant(), _growth(), _billion(), _spread(), _largest())
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"### {title}\n"
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def _per_million() -> Iterator[str]:
    kinds = {"short": Kind.of(SHORT), "long": Kind.of(LONG), "planning mix": Kind.mixture()}
    sqlite = {"short": SHORT.sqlite_bytes, "long": LONG.sqlite_bytes, "planning mix": mixed("sqlite_bytes")}
    rows = []
    for name, kind in kinds.items():
        need = need_of_tenant(_MILLION, kind)
        rows.append(
            (
                name,
                _gigabytes(sqlite[name] * _MILLION),
                _gigabytes(need.disk_bytes),
                _gigabytes(need.hot_bytes),
                _gigabytes(kind.chunks * _MILLION * figures.GRAPH_BYTES_PER_CHUNK),
                _gigabytes(kind.log_bytes * _MILLION),
                f"{kind.write_cpu_seconds * _MILLION / _HOUR:.1f}",
                f"{graph_seconds(kind.chunks * _MILLION) / 60:.0f}",
            )
        )
    heads = (
        "a million memories of one tenant",
        "SQLite disk, GB",
        "PostgreSQL disk, GB",
        "of it hot, GB",
        "of it graph, GB",
        "log written, GB",
        "to embed, core hours",
        "to build the graph, minutes",
    )
    yield from _table("Per million memories", heads, rows)


def _one_tenant() -> Iterator[str]:
    kind = Kind.mixture()
    rows = []
    for memories in (1_000, 5_000, 8_000, 10_000, 100_000, _MILLION, 10 * _MILLION):
        need = need_of_tenant(memories, kind)
        milliseconds = database_cpu_seconds(memories, kind) * 1000
        rows.append(
            (
                f"{memories:,}",
                _gigabytes(need.disk_bytes),
                f"{need.disk_bytes / memories:,.0f}",
                "graph" if need.graphs else "exact",
                f"{milliseconds:.1f}",
                f"{1000 / (milliseconds + figures.RECALL_API_CPU_SECONDS * 1000):.0f}",
            )
        )
    heads = (
        "memories of one tenant",
        "disk, GB",
        "bytes a memory",
        "search",
        "database, ms CPU a recall",
        "recalls a second a core, API and database",
    )
    yield from _table("One tenant as it grows", heads, rows)


def _growth() -> Iterator[str]:
    kind = Kind.mixture()
    rows = []
    for memories in (_MILLION, 10 * _MILLION, 50 * _MILLION, 100 * _MILLION, 200 * _MILLION, 500 * _MILLION, MEMORIES):
        need, recall = _installation(log_normal(2.0), memories, 0)
        found = nodes(need, NODE, recall_cpu_seconds=recall)
        on_part, on_shard = need.graphs / figures.PARTS, need.graphs / figures.PARTS / figures.SHARDS
        rows.append(
            (
                f"{memories / 1e6:,.0f} M",
                f"{need.disk_bytes / 1e12:.2f}",
                f"{need.hot_bytes / 1e12:.2f}",
                f"{need.graphs:,}",
                f"{statement_seconds(need.graphs) * 1000:.1f}",
                f"{on_part:.1f}",
                f"{statement_seconds(on_part) * 1000:.2f}",
                f"{on_shard:.1f}",
                f"{statement_seconds(on_shard) * 1000:.2f}",
                found.by_disk,
                found.by_memory,
                found.by_processors,
                f"**{found.needed}**",
                f"{api_cores(memories):.1f}",
                f"{memories * kind.write_cpu_seconds / _HOUR / 24:.1f}",
            )
        )
    heads = (
        "memories",
        "disk, TB",
        "hot, TB",
        "graphs",
        "on one table they would add to a plan, ms",
        f"on {figures.PARTS} parts: graphs a part",
        "they add, ms",
        f"on {figures.SHARDS} shards of {figures.PARTS} parts, each on its own shard alone: graphs a part",
        "they would add, ms",
        "nodes by disk",
        "by memory",
        "by processors",
        "nodes",
        "API cores",
        "to embed all again, core days",
    )
    yield from _table(f"As it grows: {TENANTS:,} tenants, {LAWS[1].name}, planning mix", heads, rows)


def _billion() -> Iterator[str]:
    rows = []
    for law in LAWS:
        sizes = sorted(_sizes(law, MEMORIES, 0), reverse=True)
        limit = figures.EXACT_LIMIT_CHUNKS / Kind.mixture().chunks
        large = [size for size in sizes if size > limit]
        need, recall = _installation(law, MEMORIES, 0)
        found = nodes(need, NODE, recall_cpu_seconds=recall)
        everyone = nodes(need, NODE, recall_cpu_seconds=recall, active_share=1.0)
        rows.append(
            (
                law.name,
                f"{median(sizes):,.0f}",
                f"{sizes[0] / 1e6:.1f} M",
                f"{len(large) / len(sizes):.0%}",
                f"{sum(large) / sum(sizes):.1%}",
                f"{need.graphs:,}",
                f"{need.disk_bytes / 1e12:.1f}",
                f"{need.hot_bytes / 1e12:.1f}",
                f"{found.by_disk} / {found.by_memory} / {found.by_processors}",
                f"**{found.needed}**",
                everyone.needed,
            )
        )
    heads = (
        "sizes of tenants",
        "middle tenant",
        "largest",
        "tenants with a graph",
        "memories in them",
        "graphs",
        "disk, TB",
        "hot, TB",
        "nodes by disk / memory / processors",
        "nodes",
        "nodes if all are active",
    )
    yield from _table("A billion memories over 10,000 tenants", heads, rows)


def _spread() -> Iterator[str]:
    rows = []
    for law in LAWS:
        need, recall = _installation(law, MEMORIES, 0)
        count = nodes(need, NODE, recall_cpu_seconds=recall).needed
        cells: list[str] = []
        dealt, placed = [], []
        for shards in SHARD_COUNTS:
            spread = [shard_loads(_bytes(law, seed), shards, seed) for seed in SEEDS]
            ratios = [hottest(loads) for loads in spread]
            cells.append(f"{median(ratios):.1f} ({max(ratios):.1f})")
            if shards == figures.SHARDS:
                dealt = [hottest(on_nodes(loads, count)) for loads in spread]
                placed = [hottest(packed(loads, count)) for loads in spread]
        both = (f"{median(each):.2f} ({max(each):.2f})" for each in (dealt, placed))
        rows.append((law.name, *cells, count, *both))
    heads = (
        "sizes of tenants",
        *(f"hottest of {shards} shards" for shards in SHARD_COUNTS),
        "nodes",
        f"hottest node, {figures.SHARDS} shards dealt in turn",
        "the same, largest shards placed first",
    )
    yield from _table("The hottest shard and node, times the mean: middle of ten seeds (worst)", heads, rows)


def _largest() -> Iterator[str]:
    kind = Kind.mixture()
    rows = []
    for law in LAWS:
        largest = max(_sizes(law, MEMORIES, 0))
        need = need_of_tenant(largest, kind)
        chunks = largest * kind.chunks
        fits = need.hot_bytes <= NODE.memory_bytes * NODE.memory_share
        rows.append(
            (
                law.name,
                f"{largest / 1e6:.1f} M",
                _gigabytes(need.disk_bytes),
                _gigabytes(need.hot_bytes),
                _gigabytes(chunks * figures.GRAPH_BYTES_PER_CHUNK),
                f"{graph_seconds(chunks) / _HOUR:.1f}",
                "yes" if fits else "no",
            )
        )
    heads = (
        "sizes of tenants",
        "largest tenant",
        "disk, GB",
        "hot, GB",
        "graph, GB",
        "graph, hours to build",
        "hot bytes fit in a node's memory",
    )
    yield from _table("The largest tenant, which cannot be split", heads, rows)


@cache
def _sizes(law: Law, memories: int, seed: int) -> tuple[int, ...]:
    return tuple(law.sizes(TENANTS, memories, seed))


@cache
def _bytes(law: Law, seed: int) -> tuple[float, ...]:
    """What each tenant of a billion memories takes on disk."""
    kind = Kind.mixture()
    return tuple(need_of_tenant(size, kind).disk_bytes for size in _sizes(law, MEMORIES, seed))


@cache
def _installation(law: Law, memories: int, seed: int) -> tuple[Need, float]:
    """What all tenants take, and the database's time for a recall: each tenant asks in proportion to its size."""
    kind = Kind.mixture()
    sizes = _sizes(law, memories, seed)
    recall = sum(size * database_cpu_seconds(size, kind) for size in sizes) / sum(sizes)
    return total([need_of_tenant(size, kind) for size in sizes]), recall


def _gigabytes(count: float) -> str:
    gigabytes = count / 1e9
    return f"{gigabytes:,.0f}" if gigabytes >= 100 else f"{gigabytes:.1f}" if gigabytes >= 1 else f"{gigabytes:.3f}"
