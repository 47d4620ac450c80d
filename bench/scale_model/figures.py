"""What the model starts from: measured figures with the command that gave them, and what is assumed."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of memory: its averages, and what one costs in bytes, measured.

    postgres_bytes: all tables and indexes, without the graph and the counts of terms. postgres_hot_bytes: of these,
    what a recall reads of many memories: rows and indexes of index_entries and chunks, not the token vectors beside.
    term_root_bytes: counts of terms of a tenant with n memories take so much times the square root of n.
    log_bytes: write-ahead log. write_cpu_seconds: processor time of one write, nearly all of it the embedding model.
    """

    name: str
    text_bytes: int
    terms: int
    distinct_terms: int
    tokens: int
    chunks: float
    sqlite_bytes: int
    postgres_bytes: int
    postgres_hot_bytes: int
    term_root_bytes: int
    log_bytes: int
    write_cpu_seconds: float


# Averages of the tokeniser and the analyser over the 200-character pieces of `bench.speed` (short) and over the turns
# of the LongMemEval development set (long). sqlite_bytes and write_cpu_seconds: bench/RESULTS.md, the last of a long
# one from "Stored 3603 turns in 95.3 s" by one encoder thread. The others: `python -m bench.scale_model measure`,
# 50,000 short ones and 15,000 long ones of 20 tenants each, 2026-11-21, PostgreSQL 18 with pgvector, 2 cores.
SHORT: Final = Profile(
    name="short",
    text_bytes=170,
    terms=28,
    distinct_terms=24,
    tokens=38,
    chunks=1.0,
    sqlite_bytes=5_192,
    postgres_bytes=7_780,
    postgres_hot_bytes=2_414,
    term_root_bytes=95_000,
    log_bytes=16_396,
    write_cpu_seconds=0.00475,
)
LONG: Final = Profile(
    name="long",
    text_bytes=939,
    terms=148,
    distinct_terms=76,
    tokens=220,
    chunks=1.51,
    sqlite_bytes=20_481,
    postgres_bytes=23_299,
    postgres_hot_bytes=4_382,
    term_root_bytes=174_000,
    log_bytes=48_968,
    write_cpu_seconds=0.026,
)

# Measured by the same command: the graph over a tenant's vectors, and the exact scan that small tenants do without it.
# Building takes 0.32 ms a chunk at 2,500 chunks, 0.55 at 10,000 and 1.03 at 50,000: faster than their logarithm grows.
GRAPH_BYTES_PER_CHUNK: Final = 1_171
GRAPH_SECONDS_PER_CHUNK: Final = 0.001_03
GRAPH_MEASURED_CHUNKS: Final = 50_000
EXACT_SECONDS_PER_CHUNK: Final = 0.000_000_8

# Measured by the same command with `--partial 0 100 1000 3000 --undivided`: so many graphs on one table add so much to
# each plan of a query of that table, whichever tenant asks; a sixth to a half of it to each write.
STATEMENT_SECONDS: Final = ((0, 0.0), (100, 0.000_50), (1000, 0.010_9), (3000, 0.041_4))

# bench/RESULTS.md, 100,000 memories in one tenant on SQLite: 13.0 ms of processor time a recall, of which the dense
# arm takes 2.3. On PostgreSQL the dense arm is the database's, and the rest is taken to stay.
RECALL_API_CPU_SECONDS: Final = 0.0107
# Measured by `python -m bench.scale`: what the database spends on a recall of a tenant of 2,000 memories beside its
# exact scan (5.7 ms with it); and how much more on one of 100,000, in graph and word search (25.4 ms in all).
RECALL_DATABASE_CPU_SECONDS: Final = 0.0041
GRAPH_SEARCH_CPU_SECONDS: Final = 0.0213
# One server on SQLite, a million memories in one tenant (bench/RESULTS.md).
SQLITE_MILLION_BYTES_OF_MEMORY: Final = 1_414_000_000
SQLITE_MILLION_RECALL_CPU_SECONDS: Final = 0.0273

# --- assumed -------------------------------------------------------------------------------------------------

# Of the memories that people keep, so many are short ones.
SHORT_SHARE: Final = 0.75
# A tenant with more chunks gets a graph; smaller ones are scanned exactly.
EXACT_LIMIT_CHUNKS: Final = 10_000
# Into so many parts the schema divides the chunks, on one node and in each shard alike.
PARTS: Final = 32
# So many shards a cluster has.
SHARDS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A database machine, and how far it is filled."""

    cores: int
    memory_bytes: int
    disk_bytes: int
    memory_share: float
    disk_share: float
    core_share: float


# memory_share: what the operating system and the connections leave for pages. disk_share: the rest is for the
# write-ahead log, dead rows, index builds and growth. core_share: the rest is for writes, vacuum and peaks.
NODE: Final = Node(
    cores=16, memory_bytes=128 * 10**9, disk_bytes=4 * 10**12, memory_share=0.75, disk_share=0.7, core_share=0.5
)
# The share of hot bytes that belongs to tenants who are active in the same hour.
ACTIVE_SHARE: Final = 0.25
# Recalls at the busiest time: so many a second for each million memories.
RECALLS_PER_SECOND_PER_MILLION: Final = 1.0
