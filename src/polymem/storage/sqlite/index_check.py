"""The comparisons of `check` that take a program: what is packed into index entries, and the totals of tenants."""

import sqlite3
from collections.abc import Iterator

import numpy as np

from polymem.errors import StorageDamaged
from polymem.ports.storage import Finding, FindingKind
from polymem.storage.findings import verdict
from polymem.storage.sqlite.index_rows import CHUNK_BYTES
from polymem.storage.terms import unpack_terms

_ENTRIES = (
    "SELECT coalesce('memory ' || m.memory_id, 'document ' || e.doc_no), e.length, e.terms, e.counts, e.chunks,"
    " length(t.vectors), o.token_dimension FROM index_entries AS e"
    " LEFT JOIN memories AS m ON m.doc_no = e.doc_no LEFT JOIN token_vectors AS t ON t.doc_no = e.doc_no"
    " LEFT JOIN models AS o ON o.model_no = e.model_no ORDER BY e.doc_no"
)
_TOTALS = (
    "SELECT 'tenant ' || n.tenant_id FROM tenants AS n"
    " WHERE n.memory_count <> (SELECT count(*) FROM memories AS m WHERE m.tenant_id = n.tenant_id)"
    " OR n.terms_total <> (SELECT coalesce(sum(e.length), 0) FROM index_entries AS e WHERE e.tenant_no = n.tenant_no)"
    " ORDER BY n.tenant_id"
)


def check_entries(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Whether the terms of each entry are in order and add up to its length, and its tokens to its chunks."""
    wrong_terms: list[str] = []
    wrong_tokens: list[str] = []
    compared = 0
    for name, length, terms, counts, chunks, token_bytes, token_dimension in connection.execute(_ENTRIES):
        compared += 1
        if not _are_terms(terms, counts, length):
            wrong_terms.append(name)
        if token_bytes is not None and token_dimension is not None:
            tokens = np.frombuffer(chunks[: len(chunks) // CHUNK_BYTES * CHUNK_BYTES], dtype="<i4").reshape(-1, 3)
            if int(tokens[:, 2].sum()) * token_dimension != token_bytes or bool((tokens[:, 0] > tokens[:, 1]).any()):
                wrong_tokens.append(name)
    yield verdict(FindingKind.TERMS, "the counts of an index entry's terms add up to its length", compared, wrong_terms)
    yield verdict(FindingKind.VECTORS, "the token vectors of an entry are those of its chunks", compared, wrong_tokens)


def check_totals(connection: sqlite3.Connection) -> Finding:
    """Whether the totals of each tenant are what its rows add up to."""
    (tenants,) = connection.execute("SELECT count(*) FROM tenants").fetchone()
    differing = (name for (name,) in connection.execute(_TOTALS))
    return verdict(FindingKind.COUNTS, "the totals of a tenant are those of its rows", tenants, differing)


def _are_terms(terms: bytes, counts: bytes, length: int) -> bool:
    """True when the codes are whole, distinct and ascending, each with a count, which add up to the length."""
    try:
        codes, held, _ = unpack_terms([(terms, counts)])
    except StorageDamaged:
        return False
    return bool((codes[1:] > codes[:-1]).all()) and bool((held > 0).all()) and int(held.sum()) == length
