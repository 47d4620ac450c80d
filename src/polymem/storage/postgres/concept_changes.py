"""The concepts by which memories are found, kept in step with the memories' own rows."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from polymem.domain.concepts import concept_keys
from polymem.domain.model import Memory
from polymem.storage.postgres.transaction import Transaction
from polymem.storage.rows import CONCEPT_COLUMNS, Row, columns, concept_rows

_GIVEN: Final = "unnest(%s::text[], %s::text[], %s::text[]) AS g (space_id, concept, memory_id)"
_PUT: Final = (
    f"INSERT INTO memory_concepts ({columns(CONCEPT_COLUMNS)})"
    f" SELECT %s, g.space_id, g.concept, g.memory_id FROM {_GIVEN}"
)
_TAKE: Final = (
    f"DELETE FROM memory_concepts AS c USING {_GIVEN} WHERE c.tenant_id = %s AND c.space_id = g.space_id"
    " AND c.concept = g.concept AND c.memory_id = g.memory_id"
)
# Of the concepts given those that no memory of their space has, and every association that ends in one.
_FORGET: Final = (
    "DELETE FROM associations AS a USING (SELECT g.space_id, g.concept FROM unnest(%s::text[], %s::text[])"
    " AS g (space_id, concept) LEFT JOIN LATERAL (SELECT c.memory_id FROM memory_concepts AS c WHERE c.tenant_id = %s"
    " AND c.space_id = g.space_id AND c.concept = g.concept LIMIT 1) AS c ON true WHERE c.memory_id IS NULL OFFSET 0)"
    " AS dead WHERE a.tenant_id = %s AND a.space_id = dead.space_id AND a.{end} = dead.concept"
)


async def put_concepts(transaction: Transaction, memories: Iterable[Memory]) -> None:
    """These new memories are found by the keys of their concepts."""
    await _put(transaction, [row for memory in memories for row in concept_rows(transaction.tenant_id, memory)])


async def move_concepts(transaction: Transaction, before: Sequence[Row], memory: Memory) -> None:
    """The memory that was found by these rows of `CONCEPT_COLUMNS` is found by exactly the concepts that it has now."""
    after = concept_rows(transaction.tenant_id, memory)
    await _put(transaction, [row for row in after if row not in before])
    await remove_concepts(transaction, [row for row in before if row not in after])


async def remove_concepts(transaction: Transaction, rows: Sequence[Row]) -> None:
    """None of these rows of `CONCEPT_COLUMNS` is there, nor an association of what no memory of its space has now."""
    if not rows:
        return
    await transaction.connection.execute(_TAKE, (*_arrays(rows), transaction.tenant_id))
    spaces, concepts = zip(*sorted({(space_id, concept) for _, space_id, concept, _ in rows}), strict=True)
    for end in ("source", "target"):
        await transaction.connection.execute(
            _FORGET.format(end=end), (list(spaces), list(concepts), transaction.tenant_id, transaction.tenant_id)
        )


def stored_concept_rows(tenant_id: str, space_id: str, memory_id: str, concepts: str) -> list[Row]:
    """The rows of `CONCEPT_COLUMNS` of a memory, made of its columns as they are stored."""
    return [(tenant_id, space_id, key, memory_id) for key in concept_keys(json.loads(concepts))]


async def _put(transaction: Transaction, rows: Sequence[Row]) -> None:
    if rows:
        await transaction.connection.execute(_PUT, (transaction.tenant_id, *_arrays(rows)))


def _arrays(rows: Sequence[Row]) -> tuple[list[str], ...]:
    """The spaces, concepts and memories of the rows, in the order of their key."""
    return tuple([row[place] for row in sorted(rows)] for place in range(1, len(CONCEPT_COLUMNS)))
