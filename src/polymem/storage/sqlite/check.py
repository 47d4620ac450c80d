"""Compares every derived copy with the rows it comes from, in one snapshot; changes and rebuilds nothing."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from polymem.domain.concepts import concept_keys
from polymem.ports.storage import Finding, FindingKind
from polymem.storage.findings import NAMED_AT_MOST, verdict
from polymem.storage.rows import to_json
from polymem.storage.sqlite.driver import connect, storage_error
from polymem.storage.sqlite.index_check import check_entries, check_totals
from polymem.storage.sqlite.index_rows import CHUNK_BYTES


class OnDisk(Protocol):
    """A database that is a file."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What should hold of rows: `differing` selects the names of those of which it does not, among `compared`."""

    kind: FindingKind
    subject: str
    compared: str
    differing: str


# The jobs that workers should be shown, as job_dispatch shows them, against those that it shows.
_WRONGLY_SHOWN = (
    "WITH due AS (SELECT j.queue, coalesce(j.lease_until_at, j.run_after_at), j.priority, j.sequence, j.tenant_id,"
    " j.job_id FROM jobs AS j WHERE j.state = 'running' OR (j.state = 'queued' AND NOT EXISTS (SELECT 1 FROM jobs AS e"
    " WHERE e.tenant_id = j.tenant_id AND e.ordering_key = j.ordering_key AND e.sequence < j.sequence AND"
    " e.state IN ('queued', 'running', 'failed') AND (e.state <> 'failed' OR e.blocks_key_when_failed = 1)))),"
    " shown AS (SELECT queue, due_at, priority, sequence, tenant_id, job_id FROM job_dispatch)"
    " SELECT 'job ' || job_id FROM (SELECT * FROM due EXCEPT SELECT * FROM shown)"
    " UNION SELECT 'job ' || job_id FROM (SELECT * FROM shown EXCEPT SELECT * FROM due)"
)

_RULES = (
    _Rule(
        kind=FindingKind.ROWS,
        subject="rows refer to rows that are there",
        compared="SELECT count(*) FROM memories",
        differing="SELECT \"table\" || ' row ' || coalesce(rowid, '?') FROM pragma_foreign_key_check",
    ),
    _Rule(
        kind=FindingKind.ROWS,
        subject="a memory's tags are those it is found by",
        compared="SELECT count(*) FROM memory_tags",
        differing="SELECT 'memory ' || m.memory_id FROM memories AS m JOIN json_each(m.tags) AS tag WHERE NOT EXISTS"
        " (SELECT 1 FROM memory_tags AS t"
        " WHERE t.tenant_id = m.tenant_id AND t.tag = tag.value AND t.memory_id = m.memory_id)"
        " UNION SELECT 'memory ' || t.memory_id FROM memory_tags AS t LEFT JOIN memories AS m"
        " ON m.tenant_id = t.tenant_id AND m.memory_id = t.memory_id"
        " WHERE m.memory_id IS NULL OR t.tag NOT IN (SELECT value FROM json_each(m.tags))",
    ),
    _Rule(
        kind=FindingKind.CONCEPTS,
        subject="a memory's concepts are those it is found by",
        compared="SELECT count(*) FROM memory_concepts",
        differing="SELECT 'memory ' || m.memory_id FROM memories AS m JOIN json_each(keys_of(m.concepts)) AS own"
        " WHERE NOT EXISTS (SELECT 1 FROM memory_concepts AS c WHERE c.tenant_id = m.tenant_id"
        " AND c.space_id = m.space_id AND c.concept = own.value AND c.memory_id = m.memory_id AND c.doc_no = m.doc_no)"
        " UNION SELECT 'memory ' || c.memory_id FROM memory_concepts AS c LEFT JOIN memories AS m"
        " ON m.tenant_id = c.tenant_id AND m.memory_id = c.memory_id WHERE m.memory_id IS NULL"
        " OR m.space_id <> c.space_id OR c.concept NOT IN (SELECT value FROM json_each(keys_of(m.concepts)))",
    ),
    _Rule(
        kind=FindingKind.CONCEPTS,
        subject="an association is of two concepts in order, one of which a memory of the space has, and within bounds",
        compared="SELECT count(*) FROM associations",
        differing="SELECT 'association ' || a.source || ' - ' || a.target FROM associations AS a"
        " WHERE a.source >= a.target OR a.count < 1"
        " OR a.weight NOT BETWEEN 0 AND 1 OR a.valence NOT BETWEEN -1 AND 1"
        " OR NOT EXISTS (SELECT 1 FROM memory_concepts AS c"
        " WHERE c.tenant_id = a.tenant_id AND c.space_id = a.space_id AND c.concept IN (a.source, a.target))",
    ),
    _Rule(
        kind=FindingKind.ROWS,
        subject="a deleted memory left nothing behind",
        compared="SELECT count(*) FROM tombstones",
        differing="SELECT 'memory ' || d.memory_id FROM tombstones AS d WHERE"
        " EXISTS (SELECT 1 FROM memories AS m WHERE m.tenant_id = d.tenant_id AND m.memory_id = d.memory_id)"
        " OR EXISTS (SELECT 1 FROM memory_versions AS v WHERE v.tenant_id = d.tenant_id AND v.memory_id = d.memory_id)",
    ),
    _Rule(
        kind=FindingKind.ROWS,
        subject="earlier versions belong to a memory that has moved on from them",
        compared="SELECT count(*) FROM memory_versions",
        differing="SELECT 'memory ' || v.memory_id FROM memory_versions AS v LEFT JOIN memories AS m"
        " ON m.tenant_id = v.tenant_id AND m.memory_id = v.memory_id"
        " WHERE m.memory_id IS NULL OR v.revision >= m.revision",
    ),
    _Rule(
        kind=FindingKind.COUNTS,
        subject="no change is numbered beyond its tenant's count",
        compared="SELECT count(*) FROM memories",
        differing="SELECT 'memory ' || c.memory_id FROM"
        " (SELECT tenant_id, memory_id, change_no FROM memories"
        "  UNION ALL SELECT tenant_id, memory_id, change_no FROM tombstones) AS c"
        " LEFT JOIN tenants AS t ON t.tenant_id = c.tenant_id WHERE t.tenant_id IS NULL OR c.change_no > t.change_no",
    ),
    _Rule(
        kind=FindingKind.COUNTS,
        subject="no document number is beyond the last one given out, and none was given out twice",
        compared="SELECT count(*) FROM memories",
        differing="SELECT 'document ' || doc_no FROM"
        " (SELECT doc_no FROM memories UNION ALL SELECT doc_no FROM tombstones) GROUP BY doc_no"
        " HAVING count(*) > 1 OR doc_no > (SELECT value FROM counters WHERE name = 'doc_no')",
    ),
    _Rule(
        kind=FindingKind.TERMS,
        subject="every memory has one index entry under its own number",
        compared="SELECT count(*) FROM memories",
        differing="SELECT 'memory ' || m.memory_id FROM memories AS m JOIN tenants AS n ON n.tenant_id = m.tenant_id"
        " LEFT JOIN index_entries AS e ON e.doc_no = m.doc_no AND e.tenant_no = n.tenant_no WHERE e.doc_no IS NULL",
    ),
    _Rule(
        kind=FindingKind.TERMS,
        subject="every index entry belongs to a memory",
        compared="SELECT count(*) FROM index_entries",
        differing="SELECT 'document ' || doc_no FROM index_entries WHERE doc_no NOT IN (SELECT doc_no FROM memories)",
    ),
    _Rule(
        kind=FindingKind.VECTORS,
        subject="an index entry has chunks exactly when it names a model, with embeddings of that model's size",
        compared="SELECT count(*) FROM index_entries",
        differing="SELECT 'document ' || e.doc_no FROM index_entries AS e LEFT JOIN models AS o"
        " ON o.model_no = e.model_no WHERE CASE WHEN e.model_no IS NULL"
        " THEN e.is_complete = 1 OR length(e.chunks) > 0 OR length(e.embeddings) > 0"
        f" ELSE o.model_no IS NULL OR length(e.chunks) % {CHUNK_BYTES} <> 0"
        " OR (e.is_complete = 1 AND length(e.chunks) = 0)"
        f" OR length(e.embeddings) * {CHUNK_BYTES} <> length(e.chunks) * 2 * o.dimension END",
    ),
    _Rule(
        kind=FindingKind.VECTORS,
        subject="an index entry has token vectors exactly when it names a model",
        compared="SELECT count(*) FROM token_vectors",
        differing="SELECT 'document ' || e.doc_no FROM index_entries AS e LEFT JOIN token_vectors AS t"
        " ON t.doc_no = e.doc_no AND t.tenant_no = e.tenant_no WHERE (e.model_no IS NULL) <> (t.doc_no IS NULL)"
        " UNION ALL SELECT 'document ' || doc_no FROM token_vectors"
        " WHERE doc_no NOT IN (SELECT doc_no FROM index_entries)",
    ),
    _Rule(
        kind=FindingKind.JOBS,
        subject="workers are shown exactly the jobs that are running or next of their key, as they stand",
        compared="SELECT count(*) FROM jobs",
        differing=_WRONGLY_SHOWN,
    ),
    _Rule(
        kind=FindingKind.JOBS,
        subject="a job that has ended says when and holds no lease, and one that has not says neither",
        compared="SELECT count(*) FROM jobs",
        differing="SELECT 'job ' || job_id FROM jobs"
        " WHERE (finished_at IS NULL) = (state IN ('done', 'failed', 'cancelled'))"
        " OR (lease_until_at IS NULL) = (state = 'running')",
    ),
)


async def check(database: OnDisk) -> tuple[Finding, ...]:
    """What was compared, one finding each; a part that cannot be read is a finding too. Raises the storage errors."""
    return await asyncio.to_thread(_check_file, database.path)


def _check_file(path: Path) -> tuple[Finding, ...]:
    try:
        with closing(connect(path, is_reader=True)) as connection:
            connection.create_function("keys_of", 1, _keys_of, deterministic=True)
            connection.execute("BEGIN")
            return tuple(_all_findings(connection))
    except sqlite3.Error as error:
        known = storage_error(error)
        if known is None:
            raise
        raise known from error


def _keys_of(concepts: str) -> str:
    """The keys of concepts as a row lists them."""
    return to_json(concept_keys(json.loads(concepts)))


def _all_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    yield from _guarded(FindingKind.SCHEMA, lambda: [_check_structure(connection)])
    for rule in _RULES:
        yield from _guarded(rule.kind, partial(_apply, connection, rule))
    yield from _guarded(FindingKind.TERMS, lambda: list(check_entries(connection)))
    yield from _guarded(FindingKind.COUNTS, lambda: [check_totals(connection)])


def _guarded(kind: FindingKind, find: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings, or one that says that the rows cannot be read."""
    try:
        return find()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return [Finding(kind=kind, is_ok=False, compared=0, message=f"the rows cannot be read: {error}")]


def _check_structure(connection: sqlite3.Connection) -> Finding:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    rows = connection.execute(f"PRAGMA integrity_check ({NAMED_AT_MOST + 1})").fetchall()
    problems = [text for (text,) in rows if text != "ok"]
    return verdict(FindingKind.SCHEMA, "the file and its indexes are sound", pages, problems)


def _apply(connection: sqlite3.Connection, rule: _Rule) -> list[Finding]:
    compared = connection.execute(rule.compared).fetchone()[0]
    named = (name for (name,) in connection.execute(rule.differing))
    return [verdict(rule.kind, rule.subject, compared, named)]
