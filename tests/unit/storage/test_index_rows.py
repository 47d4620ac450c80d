"""How terms and vectors become rows."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.model import ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageDamaged
from polymem.ports.changes import EmbeddedChunk, Embedding, IndexEntry
from polymem.storage.entries import frequencies_of
from polymem.storage.rows import microseconds
from polymem.storage.sqlite.driver import connect
from polymem.storage.sqlite.filters import one_of, where_clause
from polymem.storage.sqlite.index_arrays import with_room
from polymem.storage.sqlite.index_rows import put_entry, remove_entry
from polymem.storage.sqlite.migrate import migrate
from polymem.storage.terms import clip_counts, codes_of, pack_terms, term_code, unpack_terms

TENANT = TenantId("t")
# What can be stored as text at all: lone surrogates are refused at the edge.
texts = st.text(st.characters(exclude_categories=["Cs"]))
words = st.lists(texts, max_size=8)


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A writing connection to a new database."""
    migrate(tmp_path / "test.db")
    with closing(connect(tmp_path / "test.db")) as connection:
        yield connection


@given(words)
def test_packed_terms_are_the_distinct_codes_in_order_with_their_counts(given_terms: list[str]) -> None:
    codes, counts, sizes = unpack_terms([pack_terms(given_terms), pack_terms(())])
    expected = sorted((term_code(term), count) for term, count in Counter(given_terms).items())
    assert list(zip(codes.tolist(), counts.tolist(), strict=True)) == expected
    assert sizes.tolist() == [len(expected), 0]


def test_counts_of_any_size_are_kept_whole_in_a_file_and_bounded_in_memory() -> None:
    many = ("a",) * 70_000 + ("b",) * 3
    few = ("c", "c")
    codes, counts, sizes = unpack_terms([pack_terms(few), pack_terms(many)])
    assert sizes.tolist() == [1, 2]
    assert dict(zip(codes.tolist(), counts.tolist(), strict=True)) == {
        term_code("a"): 70_000,
        term_code("b"): 3,
        term_code("c"): 2,
    }
    assert sorted(clip_counts(counts).tolist()) == [2, 3, 65_535]


def test_the_code_of_a_term_is_the_same_in_every_file() -> None:
    assert codes_of(["cat", "", "\ud800"]).tolist() == [
        3429664268601861939,
        13020603013274838756,
        7497787021708494914,
    ]


@pytest.mark.parametrize("damaged", [(b"1234567", b"\1"), (b"12345678", b""), (b"12345678" * 2, b"\1" * 5)])
def test_terms_that_are_not_whole_say_that_the_storage_is_damaged(damaged: tuple[bytes, bytes]) -> None:
    with pytest.raises(StorageDamaged):
        unpack_terms([damaged])


@given(words, words)
def test_frequencies_are_plain_counts_of_the_asked_terms(given_terms: list[str], asked: list[str]) -> None:
    stored = [pack_terms(given_terms), pack_terms(asked)]
    found = frequencies_of(*unpack_terms(stored), {term_code(term): term for term in asked})
    plain = Counter(given_terms)
    assert found == [{term: plain[term] for term in set(asked) & set(given_terms)}, dict(Counter(asked))]


def test_growing_keeps_what_is_there_and_leaves_old_views_alone() -> None:
    first = with_room(np.empty((0, 2), dtype=np.int8), 0, 3)
    first[:3] = 5
    view = first[:3]
    grown = with_room(first, 3, 1000)
    grown[:3] = 6
    assert len(grown) >= 1003
    assert view.tolist() == [[5, 5]] * 3
    assert with_room(grown, 3, 10) is grown


def test_a_set_too_large_for_parameters_asks_the_same() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for count in (1, 200, 201, 50_000):
            wanted = [f"s'{number}" for number in range(count)]
            condition, values = one_of("v", wanted)
            query = f"SELECT {condition} FROM (SELECT ? AS v)"
            for value, is_in in (("s'0", 1), (f"s'{count - 1}", 1), ("s'x", 0)):
                # The condition stands before the value in the statement, and so do its parameters.
                assert connection.execute(query, (*values, value)).fetchone()[0] == is_in


def test_an_empty_set_matches_nothing() -> None:
    assert one_of("v", ()) == ("0", [])
    condition, _ = where_clause(MemoryFilter(spaces=frozenset()), TENANT)
    assert condition.startswith("m.tenant_id = ? AND 0")


def test_a_tag_leads_or_is_looked_up_with_the_same_meaning() -> None:
    where = MemoryFilter(spaces=frozenset({SpaceId("s")}), tags=("red", "red"))
    leading, first = where_clause(where, TENANT)
    looked_up, second = where_clause(where, TENANT, tags_lead=False)
    assert leading.count("memory_tags") == looked_up.count("memory_tags") == 1
    assert first == [TENANT, "s", "active", TENANT, "red"]
    assert second == [TENANT, "s", "active", "red"]


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_stored_to_the_microsecond(moment: datetime) -> None:
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds(moment)) == moment


def chunk_of(embedding: int, token: int) -> EmbeddedChunk:
    return EmbeddedChunk(
        start=0,
        end=1,
        embedding=np.zeros(embedding, dtype=np.float32),
        token_vectors=np.zeros((2, token), dtype=np.int8),
    )


@pytest.mark.parametrize("chunk", [chunk_of(7, 4), chunk_of(8, 5)])
def test_vectors_of_another_size_than_their_models_are_refused(
    migrated: sqlite3.Connection, chunk: EmbeddedChunk
) -> None:
    model = ModelIdentity(name="m", revision="1", dimension=8, token_dimension=4)
    entry = IndexEntry(terms=("a",), embedding=Embedding(model=model, chunks=(chunk,), is_complete=True))
    with pytest.raises(ValueError, match="shape"):
        put_entry(migrated, tenant_id=TENANT, tenant_no=1, doc_no=1, entry=entry)


def test_removing_what_has_no_entry_says_that_the_storage_is_damaged(migrated: sqlite3.Connection) -> None:
    with pytest.raises(StorageDamaged):
        remove_entry(migrated, tenant_id=TENANT, tenant_no=1, doc_no=1)
