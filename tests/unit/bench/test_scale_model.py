"""The arithmetic of the capacity model, and that its paper shows what it prints."""

import math
from pathlib import Path

import pytest

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
from bench.scale_model.figures import (
    EXACT_LIMIT_CHUNKS,
    EXACT_SECONDS_PER_CHUNK,
    GRAPH_SEARCH_CPU_SECONDS,
    LONG,
    PARTS,
    RECALL_DATABASE_CPU_SECONDS,
    SHORT,
    Node,
)
from bench.scale_model.measure import Order, measure
from bench.scale_model.report import report
from bench.scale_model.tenants import Law, hottest, log_normal, on_nodes, packed, shard_loads, zipf
from polymem.storage.postgres.graphs import EXACT_ROWS
from postgres import PostgresServer

ROOT = Path(__file__).parents[3]
PLAIN = Kind(
    chunks=2.0, fixed_bytes=1000.0, hot_bytes=100.0, term_root_bytes=10.0, log_bytes=0.0, write_cpu_seconds=0.0
)


def test_the_paper_shows_the_tables_that_are_printed() -> None:
    assert report().strip() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_a_mixture_lies_between_its_parts_by_their_shares() -> None:
    assert mixed("tokens", 0.75) == pytest.approx(0.75 * 38 + 0.25 * 220)
    assert Kind.mixture(1.0) == Kind.of(SHORT)
    assert Kind.mixture(0.0) == Kind.of(LONG)


def test_a_small_tenant_takes_rows_and_terms_and_no_graph() -> None:
    assert need_of_tenant(100, PLAIN) == Need(100, 100 * 1000 + 10 * 10, 100 * 100 + 10 * 10, 0)


def test_a_tenant_has_a_graph_beyond_the_limit_in_chunks() -> None:
    assert need_of_tenant(5_000, PLAIN).graphs == 0
    large = need_of_tenant(5_001, PLAIN)
    assert large.graphs == 1
    assert large.disk_bytes == pytest.approx(5_001 * 1000 + 10 * math.sqrt(5_001) + 10_002 * 1171)


def test_needs_add_up() -> None:
    assert total([Need(1, 2.0, 3.0, 0), Need(10, 20.0, 30.0, 1)]) == Need(11, 22.0, 33.0, 1)
    assert total([]) == Need(0, 0.0, 0.0, 0)


def test_building_a_graph_takes_the_measured_time_at_the_measured_size_and_grows_with_n_log_n() -> None:
    assert graph_seconds(50_000) == pytest.approx(51.5)
    assert graph_seconds(100_000) / graph_seconds(50_000) == pytest.approx(2 * math.log(100_000) / math.log(50_000))


def test_a_recall_costs_the_database_by_the_chunk_until_there_is_a_graph() -> None:
    beside, in_graph = RECALL_DATABASE_CPU_SECONDS, GRAPH_SEARCH_CPU_SECONDS
    assert database_cpu_seconds(5_000, PLAIN) == pytest.approx(beside + 5_000 * PLAIN.chunks * EXACT_SECONDS_PER_CHUNK)
    large = database_cpu_seconds(5_001, PLAIN)
    assert large == database_cpu_seconds(5_000_000, PLAIN) == pytest.approx(beside + in_graph)


def test_graphs_cost_every_statement_of_the_part_they_stand_on() -> None:
    assert statement_seconds(0) == 0
    assert statement_seconds(50) == pytest.approx(0.000_25)
    assert statement_seconds(1000) == pytest.approx(0.010_9)
    assert statement_seconds(5000) == pytest.approx(0.041_4 + (0.041_4 - 0.010_9))


def test_the_model_has_the_limit_that_the_storage_has() -> None:
    assert EXACT_LIMIT_CHUNKS == EXACT_ROWS


def test_the_model_divides_chunks_as_the_schema_does(postgres_server: PostgresServer) -> None:
    name = postgres_server.new_database().partition("@/")[2].partition("?")[0]
    parts = postgres_server.run("SELECT count(*) FROM pg_partition_tree('chunks') WHERE isleaf", name)
    assert parts == [(PARTS,)]


@pytest.mark.parametrize("is_undivided", [False, True], ids=["parts", "one table"])
def test_a_small_database_is_filled_and_measured(
    postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str], *, is_undivided: bool
) -> None:
    order = Order(profile="long", memories=60, tenants=3, graphs=(20,), partial=(0, 2), is_undivided=is_undivided)
    measure(postgres_server.new_database(is_empty=True), order)
    printed = capsys.readouterr().out

    rows = {
        line.split(" | ")[1]: float(line.split(" | ")[2][:-2]) for line in printed.splitlines() if "| chunks |" in line
    }
    # 220 tokens of 64 bytes beside, 1.5 rows of 384 halves: whichever tables hold them.
    assert rows["beside"] > 220 * 64
    assert rows["rows"] > 384 * 2
    tables = 1 if is_undivided else PARTS
    for line in (
        "60 long memories, 3 tenants, filled in",
        "20 chunks: exact scan p50",
        f"0 other graphs on {tables} tables: one more row p50",
        f"2 other graphs on {tables} tables: one more row p50",
    ):
        assert line in printed


def test_the_scarcest_resource_says_how_many_nodes() -> None:
    node = Node(cores=10, memory_bytes=1000, disk_bytes=1000, memory_share=0.5, disk_share=0.5, core_share=0.5)
    found = nodes(Need(20_000_000, 1_600.0, 9_000.0, 0), node, recall_cpu_seconds=0.5, active_share=0.5)

    assert (found.by_disk, found.by_memory, found.by_processors) == (4, 9, 2)
    assert found.needed == 9
    assert api_cores(1_000_000, rate=100) == pytest.approx(1.07)


@pytest.mark.parametrize("law", [log_normal(2.0), zipf(1.0)], ids=lambda law: law.name)
def test_sizes_follow_from_the_seed_and_add_up(law: Law) -> None:
    made = law.sizes(1000, 1_000_000, 7)

    assert made == law.sizes(1000, 1_000_000, 7)
    assert len(made) == 1000
    assert min(made) >= 1
    assert sum(made) == pytest.approx(1_000_000, rel=0.001)


def test_zipf_gives_the_first_twice_the_second() -> None:
    first, second, *_ = zipf(1.0).sizes(100, 1_000_000, 0)
    assert first == pytest.approx(2 * second, rel=0.001)


def test_tenants_of_one_size_spread_evenly_whatever_made_their_sizes() -> None:
    loads = shard_loads([1.0] * 100_000, 10, 3)

    assert sum(loads) == 100_000
    assert hottest(loads) < 1.05


def test_large_tenants_are_not_on_one_shard() -> None:
    sizes = sorted(range(10_000), key=lambda size: size % 97)
    assert hottest(shard_loads(sizes, 16, 0)) < 1.15


def test_the_hottest_is_told_as_a_multiple_of_the_mean() -> None:
    assert hottest([1.0, 1.0, 4.0]) == pytest.approx(2.0)


def test_shards_are_dealt_in_turn_or_by_weight() -> None:
    shards = [8.0, 1.0, 4.0, 1.0, 2.0, 2.0]
    assert on_nodes(shards, 2) == [14.0, 4.0]
    assert sorted(packed(shards, 2)) == [9.0, 9.0]
