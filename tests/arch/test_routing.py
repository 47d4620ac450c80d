"""The watch over statements itself: `tests/conftest.py` holds every statement of every test on PostgreSQL to it."""

import pytest

from routing import tables_without_tenant

TABLES = frozenset({"memories", "jobs", "tenants", "chunks", "term_counts"})


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT * FROM plans",
        "SELECT m.a FROM memories AS m WHERE m.tenant_id = %s AND m.x = ANY(%s) FOR NO KEY UPDATE",
        "SELECT c.a, c.w <#> %s::sparsevec FROM chunks AS c WHERE c.tenant_id = %s AND c.tags @> %s::text[]",
        "SELECT m.a FROM memories AS m JOIN chunks AS c ON c.tenant_id = m.tenant_id WHERE m.tenant_id = %(tenant)s",
        "SELECT 1 FROM memories WHERE (tenant_id = %s AND (a = 1 OR b = 2))",
        (
            "SELECT 1 FROM jobs AS j WHERE j.tenant_id = %s AND NOT EXISTS"
            " (SELECT 1 FROM jobs AS e WHERE e.tenant_id = j.tenant_id AND e.sequence < j.sequence)"
        ),
        "WITH one AS (SELECT tenant_id FROM tenants WHERE tenant_id = %s) SELECT 1 FROM one",
        (
            "SELECT 1 FROM unnest(%s::text[]) AS asked (id) CROSS JOIN LATERAL"
            " (SELECT 1 FROM memories AS m WHERE m.tenant_id = %s AND m.memory_id = asked.id) AS found"
        ),
        "UPDATE jobs SET state = 'running' WHERE tenant_id = %s AND job_id = %s RETURNING job_id",
        "DELETE FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s)",
        (
            "INSERT INTO term_counts (tenant_id, code) SELECT %s, d.code FROM unnest(%s::bigint[]) AS d (code)"
            " ON CONFLICT (tenant_id, code) DO UPDATE SET documents = term_counts.documents + excluded.documents"
        ),
        "CREATE INDEX CONCURRENTLY i ON chunks USING hnsw (embedding) WHERE tenant_no = 7",
        "VACUUM memories",
    ],
)
def test_a_statement_that_names_its_tenant_passes(statement: str) -> None:
    assert tables_without_tenant(statement, TABLES) == ()


@pytest.mark.parametrize(
    ("statement", "lacking"),
    [
        ("SELECT * FROM memories", ("memories",)),
        ("SELECT * FROM memories WHERE memory_id = %s", ("memories",)),
        ("SELECT * FROM memories WHERE tenant_id = %s OR memory_id = %s", ("memories",)),
        ("SELECT * FROM memories WHERE NOT tenant_id = %s", ("memories",)),
        ("SELECT * FROM memories WHERE tenant_id <> %s", ("memories",)),
        ("SELECT tenant_id = %s FROM memories", ("memories",)),
        (
            "SELECT 1 FROM memories AS m JOIN chunks AS c ON c.memory_id = m.memory_id WHERE m.tenant_id = %s",
            ("chunks",),
        ),
        ("SELECT 1 FROM jobs AS j WHERE EXISTS (SELECT 1 FROM jobs AS e WHERE e.tenant_id = %s)", ("jobs",)),
        ("SELECT 1 FROM job_dispatch AS d JOIN jobs AS j ON j.tenant_id = d.tenant_id", ("jobs",)),
        ("UPDATE jobs SET state = 'done' WHERE job_id = %s", ("jobs",)),
        ("DELETE FROM memories WHERE memory_id = %s", ("memories",)),
        ("INSERT INTO memories (memory_id) VALUES (%s)", ("memories",)),
        ("INSERT INTO memories VALUES (%s)", ("memories",)),
        ("SELECT 1; SELECT * FROM jobs", ("jobs",)),
    ],
)
def test_a_statement_that_does_not_is_caught(statement: str, lacking: tuple[str, ...]) -> None:
    assert tables_without_tenant(statement, TABLES) == lacking
