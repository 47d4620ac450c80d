"""The lexical arm: BM25 in two steps, both by the tenant's own counts.

The inverted index gives the entries that hold a term; the server orders them by about their BM25, and the best of them
are scored exactly here. Entries that hold one of the terms are scored exactly, all of them, while they are no more
than `FEWEST_RESCORED`.

The work is bounded by the entries read. Where all asked terms stand in more of them than that, the most common terms no
longer find entries: they only add to the score of those that rarer ones found. Where few memories pass the filter,
these are read instead, and every term finds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.domain.scoring import BM25_B, BM25_K1, idf
from polymem.ports.search import ArmHit
from polymem.storage.entries import bm25_norms
from polymem.storage.postgres.codes import places_of, sent_codes, sparse, tenant_codes
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.estimate import estimate_passing
from polymem.storage.postgres.filters import TagsBy, where_clause
from polymem.storage.terms import codes_of, unpack_counts

# Reading so many entries takes some 15 ms.
MOST_MATCHES: Final = 10_000
FEWEST_RESCORED: Final = 512
_RESCORED_PER_HIT: Final = 4

# What the server would choose by a table's statistics is wrong here: a term stands in the entries of one tenant, and
# they say little of one tenant. Which entries are read where a bound cuts must not depend on how fast a helper is.
_PLANNING = "SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
_COUNTS = (
    "SELECT n.tenant_no, n.memory_count, n.terms_total, t.code, t.documents FROM tenants AS n"
    " LEFT JOIN term_counts AS t ON t.tenant_id = n.tenant_id AND t.tenant_id = %s AND t.code = ANY(%s)"
    " WHERE n.tenant_id = %s"
)
# The tenant is compared under another collation than that of the primary key: the lists of the terms are the tenant's
# own, and to read the tenant's part of the primary key beside them takes longer than they do. OFFSET 0 keeps out the
# filter, which names the tenant once more.
_BY_TERMS = (
    'SELECT * FROM (SELECT * FROM index_entries AS f WHERE f.tenant_id = %s COLLATE "default" AND f.codes && %s'
    " OFFSET 0) AS e WHERE {condition}"
)
_BY_FILTER = (
    "SELECT e.* FROM memories AS m JOIN index_entries AS e ON e.tenant_id = m.tenant_id AND e.memory_id = m.memory_id"
    " WHERE e.tenant_id = %s AND e.codes && %s AND {condition}"
)
# What is sent of an entry is made of the best alone, after they are chosen.
_BEST = (
    "SELECT b.memory_id, b.length, array_send(b.codes), b.counts FROM ("
    "SELECT e.memory_id, e.length, e.codes, e.counts FROM ({matches} LIMIT %s) AS e"
    " ORDER BY (e.weights <#> %s) / (%s::float8 + %s::float8 * e.length), e.memory_id LIMIT %s) AS b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCounts:
    """What the tenant's index counts: its memories, all their terms, and the memories that hold each asked term."""

    tenant_no: int
    documents: int
    terms_total: int
    documents_with: Mapping[str, int]

    @property
    def average_length(self) -> float:
        """The mean number of terms of a memory; 0 when there is none."""
        return self.terms_total / self.documents if self.documents else 0.0


async def count_terms(connection: Connection, tenant_id: TenantId, terms: tuple[str, ...]) -> TermCounts:
    """The tenant's counts, with one, perhaps 0, for each of the terms; all 0 for an unknown tenant."""
    codes = codes_of(terms).view(np.int64)
    async with connection.pipeline():
        await connection.execute(_PLANNING)
        cursor = await connection.execute(_COUNTS, (tenant_id, codes, tenant_id))
    rows = await cursor.fetchall()
    found: dict[int, int] = {row[3]: row[4] for row in rows}
    tenant_no, documents, terms_total = rows[0][:3] if rows else (0, 0, 0)
    return TermCounts(
        tenant_no=tenant_no,
        documents=documents,
        terms_total=terms_total,
        documents_with={term: found.get(code, 0) for term, code in zip(terms, codes.tolist(), strict=True)},
    )


def rarest(counts: TermCounts, terms: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Those of the terms that stand anywhere, at most so many, fewest memories first, ties by the alphabet."""
    known = sorted((counts.documents_with[term], term) for term in set(terms) if counts.documents_with[term])
    return tuple(term for _, term in known[:most])


async def best_by_words(
    connection: Connection,
    tenant_id: TenantId,
    counts: TermCounts,
    terms: tuple[str, ...],
    where: MemoryFilter,
    *,
    limit: int,
) -> tuple[ArmHit, ...]:
    """The best memories by BM25 over the terms, which stand somewhere and come rarest first."""
    asked = _Asked(
        codes=tenant_codes(counts.tenant_no, codes_of(terms)),
        weights=np.array([idf(counts.documents, counts.documents_with[term]) for term in terms], dtype=np.float32),
        average_length=max(counts.average_length, 1.0),
    )
    leading = _leading([counts.documents_with[term] for term in terms])
    is_cut = leading < len(terms) or counts.documents_with[terms[0]] > MOST_MATCHES
    if not (is_cut and await estimate_passing(connection, tenant_id, where) <= MOST_MATCHES):
        condition, parameters = where_clause(where, tenant_id, "e", tags=TagsBy.COPY)
        by_terms = (_BY_TERMS.format(condition=condition), (tenant_id, asked.codes[:leading], *parameters))
        rows = await _read(connection, asked, by_terms, limit)
        # How many metadata let pass is known of a sample alone: too few hits are not believed.
        if len(rows) >= limit or not (is_cut and where.metadata):
            return _rescored(asked, rows, limit)
    condition, parameters = where_clause(where, tenant_id, "m")
    by_filter = (_BY_FILTER.format(condition=condition), (tenant_id, asked.codes, *parameters))
    return _rescored(asked, await _read(connection, asked, by_filter, limit), limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The asked terms as stored codes with their weights, and the tenant's mean length of a memory."""

    codes: NDArray[np.int64]
    weights: NDArray[np.float32]
    average_length: float


async def _read(
    connection: Connection, asked: _Asked, matches: tuple[str, tuple[object, ...]], limit: int
) -> list[tuple[Any, ...]]:
    """The rows that are scored exactly: the best by their stored weights of those that the statement matches."""
    statement, parameters = matches
    cursor = await connection.execute(
        _BEST.format(matches=statement),
        (
            *parameters,
            MOST_MATCHES,
            sparse(places_of(asked.codes), asked.weights),
            1.0 + BM25_K1 * (1.0 - BM25_B),
            BM25_K1 * BM25_B / asked.average_length,
            max(_RESCORED_PER_HIT * limit, FEWEST_RESCORED),
        ),
    )
    return await cursor.fetchall()


def _leading(documents_with: list[int]) -> int:
    """How many of the terms, rarest first, find entries: at least one, and as many as fit the bound together."""
    total = np.cumsum(documents_with)
    return max(1, int(np.searchsorted(total, MOST_MATCHES, side="right")))


def _rescored(asked: _Asked, rows: list[tuple[Any, ...]], limit: int) -> tuple[ArmHit, ...]:
    """The best of the entries of these rows by their exact BM25, ties by id."""
    if not rows:
        return ()
    codes, sizes = sent_codes([row[2] for row in rows])
    counts = unpack_counts([row[3] for row in rows], sizes)
    norms = bm25_norms(np.array([row[1] for row in rows], dtype=np.int32), asked.average_length)
    order = np.argsort(asked.codes)
    known, weights = asked.codes[order], asked.weights[order]
    places = np.searchsorted(known, codes)
    places[places == len(known)] = 0
    held = np.flatnonzero(known[places] == codes)
    owners = np.repeat(np.arange(len(rows)), sizes)[held]
    found = counts[held].astype(np.float32)
    parts = weights[places[held]] * np.float32(BM25_K1 + 1.0) * found / (found + norms[owners])
    scores = np.bincount(owners, weights=parts, minlength=len(rows)).tolist()
    ranked = sorted((-score, row[0]) for score, row in zip(scores, rows, strict=True))
    return tuple(ArmHit(MemoryId(memory_id), -score) for score, memory_id in ranked[:limit])
