"""The comparisons of `check` that take a program: the token table and the counts against the index entries."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from polymem.ports.storage import Finding, FindingKind
from polymem.storage.sqlite.index_rows import fts_token, split_terms

NAMED_AT_MOST: Final = 5

_MASK: Final = (1 << 64) - 1
_ENTRIES = (
    "SELECT e.doc_no, t.tenant_no, e.terms FROM index_entries AS e JOIN tenants AS t ON t.tenant_id = e.tenant_id"
    " ORDER BY e.doc_no"
)


def verdict(kind: FindingKind, subject: str, compared: int, differing: Iterable[str]) -> Finding:
    """A finding on `subject`, a sentence of what should hold; when something differs it names the first ones."""
    named = list(islice(differing, NAMED_AT_MOST + 1))
    if not named:
        return Finding(kind=kind, is_ok=True, compared=compared, message=subject)
    listed = ", ".join(named[:NAMED_AT_MOST]) + (" and more" if len(named) > NAMED_AT_MOST else "")
    return Finding(kind=kind, is_ok=False, compared=compared, message=f"not so: {subject}: {listed}")


def check_token_table(connection: sqlite3.Connection) -> Finding:
    """Whether `terms_fts` holds exactly the terms of the entries, each at its place.

    Per document the places are added up as hashes, on one side as they should be, on the other as they are: two
    numbers a document, whatever the order in which the table gives its places.
    """
    subject = "the token table holds exactly the terms of the index entries"
    differences: dict[int, int] = {}
    for doc_no, tenant_no, stored in connection.execute(_ENTRIES):
        places = enumerate(split_terms(stored))
        differences[doc_no] = sum(_hash(fts_token(tenant_no, term), place) for place, term in places) & _MASK
    entries = len(differences)
    for token, doc_no, place in connection.execute("SELECT term, doc, offset FROM temp.token_places"):
        differences[doc_no] = (differences.get(doc_no, 0) - _hash(token, place)) & _MASK
    differing = (doc_no for doc_no, difference in differences.items() if difference)
    return verdict(FindingKind.TERMS, subject, entries, (_name_document(connection, doc_no) for doc_no in differing))


def check_term_counts(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Whether each tenant's term counts and totals are what its entries add up to."""
    tenants = connection.execute(
        "SELECT tenant_id, memory_count, terms_total FROM tenants ORDER BY tenant_id"
    ).fetchall()
    wrong_counts: list[str] = []
    wrong_totals: list[str] = []
    terms = 0
    for tenant_id, memory_count, terms_total in tenants:
        documents_with, lengths = _count_terms(connection, tenant_id)
        terms += len(documents_with)
        stored = dict(connection.execute("SELECT term, documents FROM term_counts WHERE tenant_id = ?", (tenant_id,)))
        if stored != documents_with:
            wrong_counts.append(f"tenant {tenant_id} ({_count_differing(stored, documents_with)} terms)")
        if lengths != terms_total or _count_memories(connection, tenant_id) != memory_count:
            wrong_totals.append(f"tenant {tenant_id}")
    yield verdict(FindingKind.COUNTS, "term counts are those of the index entries", terms, wrong_counts)
    yield verdict(FindingKind.COUNTS, "the totals of a tenant are those of its rows", len(tenants), wrong_totals)


def _hash(token: str, place: int) -> int:
    """A number for the token at its place. A text hashes well; a pair does not: sums of swapped places collide."""
    return hash(f"{place} {token}")


def _name_document(connection: sqlite3.Connection, doc_no: int) -> str:
    row = connection.execute("SELECT memory_id FROM index_entries WHERE doc_no = ?", (doc_no,)).fetchone()
    return f"document {doc_no}" if row is None else f"memory {row[0]}"


def _count_terms(connection: sqlite3.Connection, tenant_id: str) -> tuple[dict[str, int], int]:
    """In how many of the tenant's entries each term stands, and the sum of their lengths."""
    documents_with: Counter[str] = Counter()
    lengths = 0
    for length, stored in connection.execute(
        "SELECT length, terms FROM index_entries WHERE tenant_id = ?", (tenant_id,)
    ):
        documents_with.update(set(split_terms(stored)))
        lengths += length
    return dict(documents_with), lengths


def _count_memories(connection: sqlite3.Connection, tenant_id: str) -> int:
    row = connection.execute("SELECT count(*) FROM memories WHERE tenant_id = ?", (tenant_id,)).fetchone()
    return int(row[0])


def _count_differing(left: dict[str, int], right: dict[str, int]) -> int:
    return sum(left.get(term) != right.get(term) for term in left.keys() | right.keys())
