"""The evidence of candidates: one statement that reads their index entries with the chunks of one model."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, MemoryType, ModelIdentity, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.search import Evidence
from polymem.storage.entries import cut, frequencies_of, unit
from polymem.storage.postgres.codes import plain_codes, sent_codes
from polymem.storage.postgres.driver import Connection
from polymem.storage.rows import moment
from polymem.storage.terms import term_code, unpack_counts

# Of a memory's chunks one row: its embeddings as the server sends halfvecs, one after another, and its token vectors.
_ENTRIES = (
    "SELECT e.memory_id, e.length, e.created_at, e.session_id, e.turn_role, e.turn_seq, e.superseded_by,"
    " e.memory_type, e.traits, array_send(e.codes), e.counts, v.embeddings, v.token_vectors,"
    " (SELECT n.tenant_no FROM tenants AS n WHERE n.tenant_id = %s)"
    " FROM index_entries AS e LEFT JOIN LATERAL ("
    "SELECT string_agg(halfvec_send(c.embedding), ''::bytea ORDER BY c.chunk_no) AS embeddings,"
    " array_agg(c.token_vectors ORDER BY c.chunk_no) AS token_vectors"
    " FROM chunks AS c WHERE c.tenant_id = %s AND c.memory_id = e.memory_id AND c.model_no ="
    " (SELECT d.model_no FROM models AS d"
    " WHERE d.name = %s AND d.revision = %s AND d.dimension = %s AND d.token_dimension = %s)"
    ") AS v ON true WHERE e.tenant_id = %s AND e.memory_id = ANY(%s)"
)
_HALFVEC_HEADER_BYTES: Final = 4


async def read_evidence(
    connection: Connection,
    tenant_id: TenantId,
    ids: tuple[MemoryId, ...],
    model: ModelIdentity,
    terms: Sequence[str],
) -> dict[MemoryId, Evidence]:
    """What the index holds of these memories; vectors of another model are left out. Raises `StorageDamaged`."""
    identity = (model.name, model.revision, model.dimension, model.token_dimension)
    cursor = await connection.execute(_ENTRIES, (tenant_id, tenant_id, *identity, tenant_id, list(ids)))
    rows = await cursor.fetchall()
    if not rows:
        return {}
    frequencies = _frequencies(rows, terms)
    embeddings = unit_rows([row[11] or b"" for row in rows], model.dimension)
    return {
        row[0]: Evidence(
            frequencies=held,
            length=row[1],
            created_at=moment(row[2]),
            session_id=row[3],
            role=row[4],
            seq=row[5],
            superseded_by=row[6],
            memory_type=MemoryType(row[7]),
            traits=row[8],
            token_vectors=_token_vectors(row[12] or [], model.token_dimension),
            embeddings=of_chunks,
        )
        for row, held, of_chunks in zip(rows, frequencies, embeddings, strict=True)
    }


def _frequencies(rows: list[tuple[Any, ...]], terms: Sequence[str]) -> list[dict[str, int]]:
    codes, sizes = sent_codes([row[9] for row in rows])
    counts = unpack_counts([row[10] for row in rows], sizes)
    return frequencies_of(plain_codes(rows[0][13], codes), counts, sizes, {term_code(term): term for term in terms})


def unit_rows(sent: list[bytes], dimension: int) -> list[NDArray[np.float32]]:
    """The unit rows of each memory, from its halfvecs as sent. Raises `StorageDamaged` for one of another size."""
    row = np.dtype([("header", f"V{_HALFVEC_HEADER_BYTES}"), ("values", ">f2", (dimension,))])
    if any(len(each) % row.itemsize for each in sent):
        raise StorageDamaged("a stored embedding has not the size of its model")
    stored = np.frombuffer(b"".join(sent), dtype=row)["values"]
    return cut(unit(stored.astype(np.float32)), [len(each) // row.itemsize for each in sent])


def _token_vectors(stored: Sequence[bytes], dimension: int) -> tuple[NDArray[np.int8], ...]:
    """The token vectors of each chunk. Raises `StorageDamaged` for some of another size."""
    if any(len(each) % dimension for each in stored):
        raise StorageDamaged("stored token vectors have not the size of their model")
    return tuple([np.frombuffer(each, dtype=np.int8).reshape(-1, dimension) for each in stored])
