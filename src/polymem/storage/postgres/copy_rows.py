"""Index entries as this storage keeps them, told in the neutral form of a copy and made from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pgvector import HalfVector

from polymem.domain.model import ModelIdentity, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.copy import INDEX_ENTRIES, CopyRow
from polymem.storage.postgres.codes import plain_terms, stored_terms
from polymem.storage.postgres.index_rows import CHUNK_COLUMNS, COPIED_COLUMNS, ENTRY_COLUMNS
from polymem.storage.rows import Row, columns

# Of an index entry, what it repeats of the memory, and the types of all its columns and of those of a chunk.
TOLD_COLUMNS: Final = ENTRY_COLUMNS[2 : ENTRY_COLUMNS.index("length")]
_TYPES: Final = {
    "chunk_no": "int4",
    "tenant_no": "int4",
    "model_no": "int4",
    "length": "int4",
    "start_at": "int4",
    "end_at": "int4",
    "tags": "text[]",
    "created_at": "int8",
    "updated_at": "int8",
    "turn_seq": "int8",
    "is_complete": "bool",
    "traits": "bytea",
    "counts": "bytea",
    "token_vectors": "bytea",
    "weights": "sparsevec",
    "codes": "int8[]",
    "embedding": "halfvec",
}
ENTRY_TYPES: Final = tuple(_TYPES.get(name, "text") for name in ENTRY_COLUMNS)
CHUNK_TYPES: Final = tuple(_TYPES.get(name, "text") for name in CHUNK_COLUMNS)

# Of each entry with its chunks one after another, as the server sends numbers: big-endian.
ENTRIES: Final = (
    "SELECT e.memory_id, e.length, e.model_no, e.is_complete, e.codes, e.counts, e.traits,"
    " c.places, c.embeddings, c.token_vectors FROM index_entries AS e CROSS JOIN LATERAL ("
    "SELECT string_agg(int4send(k.start_at) || int4send(k.end_at) || int4send(octet_length(k.token_vectors)),"
    " ''::bytea ORDER BY k.chunk_no) AS places,"
    " string_agg(halfvec_send(k.embedding), ''::bytea ORDER BY k.chunk_no) AS embeddings,"
    " string_agg(k.token_vectors, ''::bytea ORDER BY k.chunk_no) AS token_vectors"
    " FROM chunks AS k WHERE k.tenant_id = e.tenant_id AND k.memory_id = e.memory_id) AS c"
    " WHERE e.tenant_id = %s{after} ORDER BY e.memory_id"
)
TOLD_OF_MEMORIES: Final = (
    f"SELECT memory_id, {columns(TOLD_COLUMNS)} FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s)"
)

_HALFVEC_HEADER_BYTES: Final = 4
_PLACE_NUMBERS: Final = 3
_TAGS: Final = TOLD_COLUMNS.index("tags")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model by its number, with the name that a copy gives it and the dimensions of its vectors."""

    number: int
    name: str
    identity: ModelIdentity


def entry_teller(tenant_no: int, models: Mapping[int, NamedModel]) -> Callable[[Row], CopyRow]:
    """What makes a neutral row of a row of `ENTRIES`."""

    def told(row: Row) -> CopyRow:
        memory_id, length, model_no, is_complete, codes, counts, traits, places, embeddings, token_vectors = row
        model = None if model_no is None else models[model_no]
        vectors = (b"", b"", b"") if places is None else _told_vectors(model, places, embeddings, token_vectors)
        name = None if model is None else model.name
        return (memory_id, length, name, is_complete, *plain_terms(tenant_no, codes, counts), traits, *vectors)

    return told


def _told_vectors(
    model: NamedModel | None, places: bytes, embeddings: bytes, token_vectors: bytes
) -> tuple[bytes, bytes, bytes]:
    """Chunks, embeddings and token vectors in neutral form. Raises `StorageDamaged`."""
    numbers = np.frombuffer(places, dtype=">i4").reshape(-1, _PLACE_NUMBERS).astype("<i4")
    count = len(numbers)
    if model is None or len(embeddings) != count * (_HALFVEC_HEADER_BYTES + 2 * model.identity.dimension):
        raise StorageDamaged("the chunks of an index entry are not of the model that it names")
    numbers[:, 2] //= model.identity.token_dimension
    packed = np.frombuffer(embeddings, dtype=np.uint8).reshape(count, -1)[:, _HALFVEC_HEADER_BYTES:]
    return numbers.tobytes(), np.ascontiguousarray(packed).view(">u2").astype("<u2").tobytes(), token_vectors


class EntryWriter:
    """Makes this storage's rows of neutral ones, for the memories of one tenant."""

    def __init__(
        self, tenant_id: TenantId, tenant_no: int, models: Mapping[str, NamedModel], memories: Mapping[str, Row]
    ) -> None:
        self._tenant_id = tenant_id
        self._tenant_no = tenant_no
        self._models = models
        self._memories = memories

    def entries(self, rows: Sequence[CopyRow]) -> Iterator[Row]:
        """Rows of `ENTRY_COLUMNS`. Raises `StorageDamaged`."""
        for row in rows:
            values: dict[str, Any] = dict(zip(INDEX_ENTRIES.columns, row, strict=True))
            terms = stored_terms(self._tenant_no, (values["codes"], values["counts"]))
            model = self._model(values)
            yield (
                self._tenant_id,
                values["memory_id"],
                *self._told(values),
                values["length"],
                None if model is None else model.number,
                bool(values["is_complete"]),
                values["traits"],
                terms.weights,
                terms.codes,
                terms.counts,
            )

    def chunks(self, rows: Sequence[CopyRow]) -> Iterator[Row]:
        """Rows of `CHUNK_COLUMNS`. Raises `StorageDamaged`."""
        for row in rows:
            values: dict[str, Any] = dict(zip(INDEX_ENTRIES.columns, row, strict=True))
            model = self._model(values)
            if model is None:
                continue
            copied = self._told(values)[: len(COPIED_COLUMNS)]
            for number, (start, end, embedding, vectors) in enumerate(_chunks(values, model.identity)):
                owner = (self._tenant_id, values["memory_id"], number, self._tenant_no, model.number)
                yield (*owner, *copied, start, end, embedding, vectors)

    def _told(self, values: Mapping[str, Any]) -> Row:
        told = self._memories.get(values["memory_id"])
        if told is None:
            raise StorageDamaged("an index entry belongs to no memory")
        return (*told[:_TAGS], orjson.loads(told[_TAGS]), *told[_TAGS + 1 :])

    def _model(self, values: Mapping[str, Any]) -> NamedModel | None:
        if values["model"] is None:
            return None
        model = self._models.get(values["model"])
        if model is None:
            raise StorageDamaged("an index entry names a model that is not there")
        return model


def _chunks(values: Mapping[str, Any], model: ModelIdentity) -> Iterator[tuple[int, int, HalfVector, bytes]]:
    """Start, end, embedding and token vectors of each chunk. Raises `StorageDamaged`."""
    try:
        places: NDArray[np.int32] = np.frombuffer(values["chunks"], dtype="<i4").reshape(-1, _PLACE_NUMBERS)
        embeddings = np.frombuffer(values["embeddings"], dtype="<f2").reshape(len(places), model.dimension)
    except ValueError as error:
        raise StorageDamaged("the chunks of an index entry are not of the model that it names") from error
    tokens: bytes = values["token_vectors"]
    ends = np.cumsum(places[:, 2], dtype=np.int64) * model.token_dimension
    if len(tokens) != (int(ends[-1]) if len(ends) else 0):
        raise StorageDamaged("the token vectors of an index entry are not those of its chunks")
    first = 0
    for (start, end, _), vector, last in zip(places.tolist(), embeddings, ends.tolist(), strict=True):
        yield start, end, HalfVector(vector), tokens[first:last]
        first = last
