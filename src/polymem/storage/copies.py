"""What both storages have of an unfinished copy: its rows as statements read them, its marks, and what it derives."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from polymem.domain.concepts import concept_keys
from polymem.domain.model import ModelIdentity
from polymem.ports.copy import MEMORIES, CopiedTable, CopyRow, Mark, Tally, TenantExtent
from polymem.storage.rows import Row, columns, insert_into, to_json

UNFINISHED_COPY: Final = (
    "this is the unfinished destination of `polymem copy`: no server can open it; run the same copy again to finish it"
)
# How many plans a database has in which nothing was stored yet.
FIRST_PLANS: Final = 4
MARK_COLUMNS: Final = ("tenant_id", "table_name", "after_key", "row_count", "digest", "is_done")
TAG_COLUMNS: Final = ("tenant_id", "tag", "memory_id")

_TAGS: Final = MEMORIES.columns.index("tags")
_SPACE: Final = MEMORIES.columns.index("space_id")
_CONCEPTS: Final = MEMORIES.columns.index("concepts")

# Every table with rows of tenants, those that refer to others before those.
EMPTIED_TABLES: Final = (
    "job_dispatch",
    "jobs",
    "idempotency",
    "audit_log",
    "daily_queries",
    "forgotten_identities",
    "tombstones",
    "memory_versions",
    "memory_tags",
    "memory_concepts",
    "associations",
    "memories",
    "members",
    "spaces",
    "keys",
    "users",
    "copy_marks",
    "tenants",
)

# The jobs that workers should be shown: the queued ones that no earlier job of their ordering key holds back.
# A copy has no running ones.
_WAITING: Final = (
    "j.state = 'queued' AND NOT EXISTS (SELECT 1 FROM jobs AS e WHERE e.tenant_id = j.tenant_id"
    " AND e.ordering_key = j.ordering_key AND e.sequence < j.sequence"
    " AND e.state IN ('queued', 'running', 'failed') AND (e.state <> 'failed' OR e.blocks_key_when_failed))"
)


def rows_statement(table: CopiedTable, *, is_shared: bool, is_resumed: bool, mark: str) -> str:
    """The statement that reads a table in key order: of a tenant unless it is shared, after a key when resumed."""
    conditions = [] if is_shared else [f"tenant_id = {mark}"]
    if is_resumed:
        conditions.append(after_key(table.key, mark=mark))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {columns(table.columns)} FROM {table.name}{where} ORDER BY {columns(table.key)}"


def after_key(names: tuple[str, ...], *, mark: str) -> str:
    """The condition that a row stands after a key of these columns."""
    return f"({', '.join(names)}) > ({', '.join([mark] * len(names))})"


def dispatch_statement(*, mark: str) -> str:
    """The statement that shows workers the jobs of a tenant of which they are shown none."""
    return (
        "INSERT INTO job_dispatch (queue, due_at, priority, sequence, tenant_id, job_id)"
        " SELECT j.queue, j.run_after_at, j.priority, j.sequence, j.tenant_id, j.job_id FROM jobs AS j"
        f" WHERE j.tenant_id = {mark} AND {_WAITING}"
    )


def put_shared_statement(table: CopiedTable, *, mark: str) -> str:
    """The statement that stores a row of a shared table, in the place of one with its key."""
    values = table.columns[table.key_size :]
    then = f"UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in values)}" if values else "NOTHING"
    return f"{insert_into(table.name, table.columns, mark=mark)} ON CONFLICT ({columns(table.key)}) DO {then}"


def put_mark_statement(*, mark: str) -> str:
    """The statement that stores a row of `MARK_COLUMNS`, in the place of an earlier one."""
    return put_shared_statement(CopiedTable(name="copy_marks", columns=MARK_COLUMNS, key_size=2), mark=mark)


def tag_rows(tenant_id: str, memories: Sequence[CopyRow]) -> list[Row]:
    """Rows of `TAG_COLUMNS` for rows of memories."""
    found = [(row[0], json.loads(str(row[_TAGS]))) for row in memories if row[_TAGS] != "[]"]
    return [(tenant_id, tag, memory_id) for memory_id, tags in found for tag in sorted(set(tags))]


def copied_concept_rows(tenant_id: str, memories: Sequence[CopyRow]) -> list[Row]:
    """Rows of `CONCEPT_COLUMNS` for rows of memories."""
    return [
        (tenant_id, row[_SPACE], key, row[0])
        for row in memories
        if row[_CONCEPTS] != "[]"
        for key in concept_keys(json.loads(str(row[_CONCEPTS])))
    ]


def mark_row(tenant_id: str, table: CopiedTable, mark: Mark) -> Row:
    """The mark's values in the order of `MARK_COLUMNS`."""
    after = None if mark.after is None else json.dumps(mark.after)
    return (tenant_id, table.name, after, mark.tally.rows, f"{mark.tally.digest:x}", mark.is_done)


def marks_from_rows(rows: Iterable[Row]) -> dict[str, Mark]:
    """The marks of rows of `MARK_COLUMNS` after the tenant's, by table."""
    return {
        name: Mark(
            tally=Tally(rows=row_count, digest=int(digest, 16)),
            after=None if after is None else tuple(json.loads(after)),
            is_done=bool(is_done),
        )
        for name, after, row_count, digest, is_done in rows
    }


def extents(rows: Iterable[Row]) -> tuple[TenantExtent, ...]:
    """The tenants of rows of id, change count and memory count."""
    return tuple(
        TenantExtent(tenant_id=tenant_id, change_no=change_no, memory_count=memory_count)
        for tenant_id, change_no, memory_count in rows
    )


def model_name(row: Row) -> str:
    """How a model of these columns (name, revision, dimension, token dimension) is named in a copied index entry."""
    return to_json(list(row))


def model_named(name: str) -> ModelIdentity:
    """The model that `model_name` named."""
    return model_of(tuple(json.loads(name)))


def model_of(row: Row) -> ModelIdentity:
    """The model of these columns (name, revision, dimension, token dimension)."""
    return ModelIdentity(name=row[0], revision=row[1], dimension=row[2], token_dimension=row[3])
