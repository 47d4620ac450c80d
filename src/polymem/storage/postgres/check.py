"""Compares every derived copy with the rows it comes from, in one snapshot; changes and rebuilds nothing.

That rows refer to rows that are there is held by the server itself, by foreign keys.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from polymem.ports.storage import Finding, FindingKind
from polymem.storage.findings import NAMED_AT_MOST, verdict
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.index_check import ACROSS_TENANTS as INDEX_ACROSS_TENANTS
from polymem.storage.postgres.index_check import check_concepts, check_tags, check_terms
from polymem.storage.postgres.index_rows import COPIED_COLUMNS, TOLD_COLUMNS
from polymem.storage.postgres.job_changes import UNFINISHED
from polymem.storage.postgres.migrate import packaged_migrations
from polymem.storage.postgres.transaction import fetch_all


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What should hold of rows: `differing` selects the names of those of which it does not, among `compared`."""

    kind: FindingKind
    subject: str
    compared: str
    differing: str
    parameters: tuple[object, ...] = ()

    @property
    def named(self) -> str:
        """The statement for the first names of those that differ."""
        return f"SELECT * FROM ({self.differing}) AS found ORDER BY 1 LIMIT {NAMED_AT_MOST + 1}"


# The jobs that workers should be shown, as job_dispatch shows them, against those that it shows.
_WRONGLY_SHOWN: Final = (
    "WITH due AS (SELECT j.queue, coalesce(j.lease_until_at, j.run_after_at), j.priority, j.sequence, j.tenant_id,"
    " j.job_id FROM jobs AS j WHERE j.state = 'running' OR (j.state = 'queued' AND NOT EXISTS (SELECT 1 FROM jobs AS e"
    " WHERE e.tenant_id = j.tenant_id AND e.ordering_key = j.ordering_key AND e.sequence < j.sequence"
    f" AND {UNFINISHED.format(job='e')}))),"
    " shown AS (SELECT queue, due_at, priority, sequence, tenant_id, job_id FROM job_dispatch)"
    " SELECT 'job ' || job_id FROM (SELECT * FROM due EXCEPT SELECT * FROM shown) AS lacking"
    " UNION SELECT 'job ' || job_id FROM (SELECT * FROM shown EXCEPT SELECT * FROM due) AS extra"
)


def _differ(copy: str, names: tuple[str, ...]) -> str:
    """True for a row of which one of these columns is not that of its memory `m`; tags are compared elsewhere."""
    plain = [name for name in names if name != "tags"]
    return f"({', '.join(f'{copy}.{name}' for name in plain)}) IS DISTINCT FROM ({', '.join(f'm.{n}' for n in plain)})"


_OF_MEMORY: Final = "JOIN memories AS m ON m.tenant_id = {row}.tenant_id AND m.memory_id = {row}.memory_id"

_RULES: Final = (
    _Rule(
        kind=FindingKind.SCHEMA,
        subject="every index is whole",
        compared="SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relnamespace = current_schema()::regnamespace",
        differing="SELECT 'index ' || c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
        " WHERE c.relnamespace = current_schema()::regnamespace AND NOT (i.indisvalid AND i.indisready)"
        " AND NOT EXISTS (SELECT 1 FROM vector_graphs AS g WHERE g.index_name = c.relname AND NOT g.is_ready)",
    ),
    _Rule(
        kind=FindingKind.SCHEMA,
        subject="all migrations were applied",
        compared="SELECT count(*) FROM migrations",
        differing="SELECT 'migration ' || n.number FROM generate_series(1, %s) AS n (number)"
        " WHERE NOT EXISTS (SELECT 1 FROM migrations AS m WHERE m.number = n.number)",
        parameters=(len(packaged_migrations()),),
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
        differing="SELECT 'memory ' || v.memory_id FROM memory_versions AS v LEFT"
        f" {_OF_MEMORY.format(row='v')} WHERE m.memory_id IS NULL OR v.revision >= m.revision",
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
        subject="no two tenants have one number",
        compared="SELECT count(*) FROM tenants",
        differing="SELECT 'number ' || tenant_no FROM tenants GROUP BY tenant_no HAVING count(*) > 1",
    ),
    _Rule(
        kind=FindingKind.COUNTS,
        subject="the totals of a tenant are those of its rows",
        compared="SELECT count(*) FROM tenants",
        differing="SELECT 'tenant ' || t.tenant_id FROM tenants AS t"
        " LEFT JOIN (SELECT tenant_id, count(*) AS held FROM memories GROUP BY tenant_id) AS m"
        " ON m.tenant_id = t.tenant_id"
        " LEFT JOIN (SELECT tenant_id, sum(length) AS terms FROM index_entries GROUP BY tenant_id) AS e"
        " ON e.tenant_id = t.tenant_id"
        " WHERE t.memory_count <> coalesce(m.held, 0) OR t.terms_total <> coalesce(e.terms, 0)",
    ),
    _Rule(
        kind=FindingKind.TERMS,
        subject="every memory has an index entry that copies its columns",
        compared="SELECT count(*) FROM memories",
        differing="SELECT 'memory ' || m.memory_id FROM memories AS m LEFT JOIN index_entries AS e"
        " ON e.tenant_id = m.tenant_id AND e.memory_id = m.memory_id"
        f" WHERE e.memory_id IS NULL OR {_differ('e', TOLD_COLUMNS)}",
    ),
    _Rule(
        kind=FindingKind.TERMS,
        subject="every index entry belongs to a memory",
        compared="SELECT count(*) FROM index_entries",
        differing=f"SELECT 'memory ' || e.memory_id FROM index_entries AS e LEFT {_OF_MEMORY.format(row='e')}"
        " WHERE m.memory_id IS NULL",
    ),
    _Rule(
        kind=FindingKind.VECTORS,
        subject="an index entry has chunks, one after another, exactly when it names a model that is known",
        compared="SELECT count(*) FROM index_entries",
        differing="SELECT 'memory ' || e.memory_id FROM index_entries AS e"
        " LEFT JOIN models AS o ON o.model_no = e.model_no"
        " LEFT JOIN (SELECT tenant_id, memory_id, count(*) AS held, max(chunk_no) + 1 AS reached FROM chunks"
        "  GROUP BY tenant_id, memory_id) AS c ON c.tenant_id = e.tenant_id AND c.memory_id = e.memory_id"
        " WHERE CASE WHEN e.model_no IS NULL THEN e.is_complete OR c.held IS NOT NULL"
        " ELSE o.model_no IS NULL OR c.held <> c.reached OR (e.is_complete AND c.held IS NULL) END",
    ),
    _Rule(
        kind=FindingKind.VECTORS,
        subject="a chunk is of its entry's model, has vectors of that model's size, and copies the memory's columns",
        compared="SELECT count(*) FROM chunks",
        differing=f"SELECT DISTINCT 'memory ' || c.memory_id FROM chunks AS c LEFT {_OF_MEMORY.format(row='c')}"
        " LEFT JOIN index_entries AS e ON e.tenant_id = c.tenant_id AND e.memory_id = c.memory_id"
        " LEFT JOIN tenants AS t ON t.tenant_id = c.tenant_id LEFT JOIN models AS o ON o.model_no = c.model_no"
        " WHERE m.memory_id IS NULL OR e.memory_id IS NULL OR o.model_no IS NULL"
        " OR c.tenant_no IS DISTINCT FROM t.tenant_no OR c.model_no IS DISTINCT FROM e.model_no"
        " OR vector_dims(c.embedding) <> o.dimension OR length(c.token_vectors) %% o.token_dimension <> 0"
        f" OR c.start_at > c.end_at OR c.tags IS DISTINCT FROM e.tags OR {_differ('c', COPIED_COLUMNS)}",
    ),
    _Rule(
        kind=FindingKind.VECTORS,
        subject="every graph that searches may use is a whole index",
        compared="SELECT count(*) FROM vector_graphs",
        differing="SELECT 'graph ' || g.index_name FROM vector_graphs AS g LEFT JOIN pg_class AS c"
        " ON c.relname = g.index_name AND c.relnamespace = current_schema()::regnamespace"
        " LEFT JOIN pg_index AS i ON i.indexrelid = c.oid WHERE g.is_ready AND i.indisvalid IS NOT TRUE",
    ),
    _Rule(
        kind=FindingKind.CONCEPTS,
        subject="an association is of two concepts in order, one of which a memory of the space has, and within bounds",
        compared="SELECT count(*) FROM associations",
        differing="SELECT 'association ' || a.source || ' - ' || a.target FROM associations AS a"
        " WHERE a.source >= a.target OR a.count < 1"
        " OR a.weight NOT BETWEEN 0 AND 1 OR a.valence NOT BETWEEN -1 AND 1"
        " OR NOT EXISTS (SELECT 1 FROM memory_concepts AS c WHERE c.tenant_id = a.tenant_id"
        " AND c.space_id = a.space_id AND c.concept IN (a.source, a.target))",
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

# Statements that name no tenant: a check is of the whole database. Rows are only compared within a tenant.
ACROSS_TENANTS: Final = (*INDEX_ACROSS_TENANTS, *(text for rule in _RULES for text in (rule.compared, rule.named)))


async def check(database: Database) -> tuple[Finding, ...]:
    """What was compared, one finding each. Raises the storage errors."""

    async def unit(connection: Connection) -> tuple[Finding, ...]:
        return tuple([finding async for finding in _all_findings(connection)])

    return await database.read(unit, in_snapshot=True)


async def _all_findings(connection: Connection) -> AsyncIterator[Finding]:
    for rule in _RULES:
        yield await _apply(connection, rule)
    yield await check_tags(connection)
    yield await check_concepts(connection)
    async for finding in check_terms(connection):
        yield finding


async def _apply(connection: Connection, rule: _Rule) -> Finding:
    ((compared,),) = await fetch_all(connection, rule.compared, ())
    rows = await fetch_all(connection, rule.named, rule.parameters)
    return verdict(rule.kind, rule.subject, compared, (name for (name,) in rows))
