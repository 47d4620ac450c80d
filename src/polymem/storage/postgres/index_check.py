"""The comparisons of `check` that take a program: tags, concepts, and the terms that are packed into index entries.

Rows are read through cursors of the server, part by part.
"""

import json
from collections.abc import AsyncIterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pgvector import SparseVector

from polymem.domain.concepts import concept_keys
from polymem.errors import StorageDamaged
from polymem.ports.storage import Finding, FindingKind
from polymem.storage.findings import verdict
from polymem.storage.postgres.codes import plain_terms, stored_terms
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.transaction import Row, fetch_all
from polymem.storage.terms import unpack_terms

_ROWS_AT_A_TIME: Final = 1000
# Counted terms are added up once so many wait.
_TERMS_AT_A_TIME: Final = 1 << 20

_TAGS: Final = (
    "SELECT coalesce(m.memory_id, t.memory_id), m.tags, e.tags, t.tags FROM memories AS m"
    " LEFT JOIN index_entries AS e ON e.tenant_id = m.tenant_id AND e.memory_id = m.memory_id"
    " FULL JOIN (SELECT tenant_id, memory_id, array_agg(tag ORDER BY tag) AS tags FROM memory_tags"
    " GROUP BY tenant_id, memory_id) AS t ON t.tenant_id = m.tenant_id AND t.memory_id = m.memory_id"
)
_CONCEPTS: Final = (
    "SELECT coalesce(m.memory_id, c.memory_id), m.space_id, m.concepts, c.space_ids, c.concepts FROM memories AS m"
    " FULL JOIN (SELECT tenant_id, memory_id, array_agg(DISTINCT space_id) AS space_ids,"
    " array_agg(concept ORDER BY concept) AS concepts FROM memory_concepts GROUP BY tenant_id, memory_id) AS c"
    " ON c.tenant_id = m.tenant_id AND c.memory_id = m.memory_id"
)
_ENTRIES: Final = (
    "SELECT e.tenant_id, t.tenant_no, e.memory_id, e.length, e.codes, e.counts, e.weights FROM index_entries AS e"
    " JOIN tenants AS t ON t.tenant_id = e.tenant_id ORDER BY e.tenant_id"
)
_TERM_COUNTS_OF_NOBODY: Final = (
    "SELECT 'tenant ' || tenant_id FROM (SELECT DISTINCT tenant_id FROM term_counts) AS c WHERE NOT EXISTS"
    " (SELECT 1 FROM index_entries AS e WHERE e.tenant_id = c.tenant_id)"
)
# Statements that name no tenant: see `check`.
ACROSS_TENANTS: Final = (_TAGS, _CONCEPTS, _ENTRIES, _TERM_COUNTS_OF_NOBODY)

_TERM_COUNTS: Final = "SELECT code, documents FROM term_counts WHERE tenant_id = %s ORDER BY code"


async def check_tags(connection: Connection) -> Finding:
    """Whether a memory's tags are those it is found by, in lists and in searches."""
    compared, wrong = 0, list[str]()
    async for memory_id, tags, in_entry, in_table in _rows(connection, _TAGS):
        compared += 1
        own: list[str] = [] if tags is None else json.loads(tags)
        has_entry = in_entry is not None
        if tags is None or sorted(set(own)) != sorted(in_table or []) or (has_entry and own != in_entry):
            wrong.append(f"memory {memory_id}")
    return verdict(FindingKind.ROWS, "a memory's tags are those it is found by", compared, wrong)


async def check_concepts(connection: Connection) -> Finding:
    """Whether the keys of a memory's concepts are those it is found by, in its own space."""
    compared, wrong = 0, list[str]()
    async for memory_id, space_id, concepts, space_ids, in_table in _rows(connection, _CONCEPTS):
        compared += 1
        own = [] if concepts is None else sorted(concept_keys(json.loads(concepts)))
        if own != (in_table or []) or (space_ids or [space_id]) != [space_id]:
            wrong.append(f"memory {memory_id}")
    return verdict(FindingKind.CONCEPTS, "a memory's concepts are those it is found by", compared, wrong)


async def check_terms(connection: Connection) -> AsyncIterator[Finding]:
    """Whether the terms of each entry are in order and add up to its length, and are counted once for the tenant."""
    compared, wrong_terms, wrong_counts = 0, list[str](), list[str]()
    counted: _Counted | None = None
    async for tenant_id, tenant_no, memory_id, length, codes, counts, weights in _rows(connection, _ENTRIES):
        compared += 1
        if counted is None or counted.tenant_id != tenant_id:
            if counted is not None and not await counted.is_stored(connection):
                wrong_counts.append(f"tenant {counted.tenant_id}")
            counted = _Counted(tenant_id)
        plain = _plain(tenant_no, length, (codes, counts, weights))
        if plain is None:
            wrong_terms.append(f"memory {memory_id}")
        else:
            counted.add(plain)
    if counted is not None and not await counted.is_stored(connection):
        wrong_counts.append(f"tenant {counted.tenant_id}")
    wrong_counts += [name for (name,) in await fetch_all(connection, _TERM_COUNTS_OF_NOBODY, ())]
    yield verdict(
        FindingKind.TERMS,
        "the counts of an index entry's terms add up to its length, and its weights are made of them",
        compared,
        wrong_terms,
    )
    yield verdict(FindingKind.TERMS, "each term is counted in the entries that hold it", compared, wrong_counts)


class _Counted:
    """In how many entries of a tenant each plain code stands."""

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self._codes: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._documents: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._waiting: list[NDArray[np.int64]] = []
        self._waiting_terms = 0

    def add(self, codes: NDArray[np.int64]) -> None:
        """One more entry holds these codes."""
        self._waiting.append(codes)
        self._waiting_terms += len(codes)
        if self._waiting_terms >= _TERMS_AT_A_TIME:
            self._add_up()

    async def is_stored(self, connection: Connection) -> bool:
        """True when the stored counts are these."""
        self._add_up()
        stored = [row async for row in _rows(connection, _TERM_COUNTS, (self.tenant_id,), name="term_counts")]
        pairs = np.array(stored, dtype=np.int64).reshape(-1, 2)
        return np.array_equal(pairs[:, 0], self._codes) and np.array_equal(pairs[:, 1], self._documents)

    def _add_up(self) -> None:
        codes = np.concatenate([self._codes, *self._waiting])
        once = np.ones(len(codes) - len(self._codes), dtype=np.int64)
        self._codes, places = np.unique(codes, return_inverse=True)
        added = np.bincount(places, weights=np.concatenate([self._documents, once]), minlength=len(self._codes))
        self._documents = added.astype(np.int64)
        self._waiting, self._waiting_terms = [], 0


def _plain(
    tenant_no: int, length: int, stored: tuple[NDArray[np.int64], bytes, SparseVector]
) -> NDArray[np.int64] | None:
    """The plain codes of an entry, ascending; None when its terms are not in order, or do not add up."""
    codes, counts, weights = stored
    try:
        packed = plain_terms(tenant_no, codes, counts)
        plain, held, _ = unpack_terms([packed])
    except StorageDamaged:
        return None
    expected = stored_terms(tenant_no, packed)
    is_whole = (
        bool((codes[1:] > codes[:-1]).all())
        and bool((held > 0).all())
        and int(held.sum()) == length
        and expected.weights.indices() == weights.indices()
        and expected.weights.values() == weights.values()
    )
    return plain.view(np.int64) if is_whole else None


async def _rows(
    connection: Connection, statement: str, parameters: tuple[object, ...] = (), *, name: str = "compared"
) -> AsyncIterator[Row]:
    """The rows that the statement gives, a bounded number of them in memory at a time."""
    async with connection.cursor(name=name) as cursor:
        cursor.itersize = _ROWS_AT_A_TIME
        await cursor.execute(statement, parameters, binary=True)
        async for row in cursor:
            yield row
