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

from polymem.domain.model import MemoryId, ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.domain.text import terms
from polymem.errors import StorageDamaged
from polymem.ports.storage import EmbeddedChunk, Embedding, IndexEntry
from polymem.storage.sqlite.driver import connect
from polymem.storage.sqlite.filters import microseconds, one_of, where_clause
from polymem.storage.sqlite.index_arrays import with_room
from polymem.storage.sqlite.index_postings import term_frequencies
from polymem.storage.sqlite.index_rows import fts_text, fts_token, join_terms, put_entry, remove_entry, split_terms
from polymem.storage.sqlite.migrate import migrate

TENANT = TenantId("t")
# What can be stored as text at all: lone surrogates are refused at the edge.
texts = st.text(st.characters(exclude_categories=["Cs"]))
words = st.lists(texts.filter(lambda text: text != "" and " " not in text and "\0" not in text), max_size=8)


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A writing connection to a new database."""
    migrate(tmp_path / "test.db")
    with closing(connect(tmp_path / "test.db")) as connection:
        yield connection


def tokens_of(text: str) -> list[str]:
    """The tokens that FTS5 makes of a text."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE f USING fts5 (terms, content='', tokenize=\"ascii tokenchars '_'\")")
        connection.execute("CREATE VIRTUAL TABLE v USING fts5vocab (f, instance)")
        connection.execute("INSERT INTO f (rowid, terms) VALUES (1, ?)", (text,))
        return [term for (term,) in connection.execute("SELECT term FROM v ORDER BY offset")]


@given(words)
def test_every_term_is_one_token_of_fts5_and_comes_out_as_it_went_in(given_terms: list[str]) -> None:
    assert tokens_of(fts_text(7, given_terms)) == [fts_token(7, term) for term in given_terms]


@given(texts)
def test_every_term_of_every_text_is_one_token_of_fts5(text: str) -> None:
    found = terms(text)
    assert tokens_of(fts_text(1, found)) == [fts_token(1, term) for term in found]


@given(words)
def test_different_terms_and_tenants_never_share_a_token(given_terms: list[str]) -> None:
    distinct = set(given_terms)
    tokens = {fts_token(tenant_no, term) for tenant_no in (1, 11) for term in distinct}
    assert len(tokens) == 2 * len(distinct)


@given(words)
def test_joined_terms_are_split_into_the_same_terms(given_terms: list[str]) -> None:
    assert split_terms(join_terms(given_terms)) == tuple(given_terms)


@pytest.mark.parametrize("broken", [("a b",), ("",), ("a", ""), ("", ""), (" ",)])
def test_a_term_that_is_empty_or_holds_a_space_is_refused(broken: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="empty or holds a space"):
        join_terms(broken)


@given(words, words, st.lists(st.sampled_from(["a", "b", "aa", "ab"]), max_size=20))
def test_frequencies_are_plain_counts_for_few_and_for_many_terms(
    given_terms: list[str], asked: list[str], letters: list[str]
) -> None:
    entry = [*given_terms, *letters]
    for wanted in ([*asked, *letters[:3]], [*asked, *letters, *(f"z{number}" for number in range(20))]):
        counted = Counter(entry)
        expected = {term: counted[term] for term in dict.fromkeys(wanted) if counted[term]}
        assert term_frequencies(join_terms(entry), dict.fromkeys(wanted, 0)) == expected


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
        put_entry(migrated, tenant_id=TENANT, tenant_no=1, memory_id=MemoryId("m"), doc_no=1, entry=entry)


def test_removing_what_has_no_entry_says_that_the_storage_is_damaged(migrated: sqlite3.Connection) -> None:
    with pytest.raises(StorageDamaged):
        remove_entry(migrated, tenant_id=TENANT, tenant_no=1, memory_id=MemoryId("m"), doc_no=1)
