"""The terms of an entry as PostgreSQL stores them: codes mixed with the tenant's number, counts, and search weights.

A code is XORed with a mix of the tenant's number: equal terms of two tenants stand in two lists of the inverted index,
and the plain code comes back exactly.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pgvector import SparseVector

from polymem.domain.scoring import BM25_K1
from polymem.storage.terms import unpack_terms

# The most dimensions, and the most entries other than zero, that pgvector lets a sparse vector have.
PLACES: Final = 1_000_000_000
MOST_WEIGHTS: Final = 16_000

_MASK: Final = (1 << 64) - 1

# A bigint[] of one dimension as the server's array_send gives it; an empty one is its header alone, and shorter.
_HEADER_BYTES: Final = 20
_ITEM: Final = np.dtype([("size", ">i4"), ("value", ">i8")])


class StoredTerms(NamedTuple):
    """The columns codes, counts and weights of an index entry."""

    codes: NDArray[np.int64]
    counts: bytes
    weights: SparseVector


def tenant_codes(tenant_no: int, codes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The stored form of plain codes, in their order."""
    mixed: NDArray[np.int64] = (codes ^ np.uint64(_mix(tenant_no))).view(np.int64)
    return mixed


def plain_codes(tenant_no: int, stored: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The plain codes of stored ones, in their order."""
    plain: NDArray[np.uint64] = stored.view(np.uint64) ^ np.uint64(_mix(tenant_no))
    return plain


def stored_terms(tenant_no: int, packed: tuple[bytes, bytes]) -> StoredTerms:
    """The columns of an entry whose terms are packed as `storage.terms` does. Raises `StorageDamaged`."""
    plain, counts, _ = unpack_terms([packed])
    codes = tenant_codes(tenant_no, plain)
    order = np.argsort(codes)
    codes, counts = codes[order], counts[order]
    return StoredTerms(codes, _packed_counts(counts, like=packed[1]), _weights(codes, counts))


def plain_terms(tenant_no: int, codes: NDArray[np.int64], counts: bytes) -> tuple[bytes, bytes]:
    """The terms of a stored entry, packed as `storage.terms` does. Raises `StorageDamaged`."""
    plain, numbers, _ = unpack_terms([(plain_codes(tenant_no, codes).astype("<u8").tobytes(), counts)])
    order = np.argsort(plain)
    return plain[order].astype("<u8").tobytes(), _packed_counts(numbers[order], like=counts)


def sent_codes(sent: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stored codes of entries one after another, and how many each has; `sent` as array_send gives them.

    One array for all of them: to make one for each takes longer than all that is done with it.
    """
    sizes = np.array([max(len(each) - _HEADER_BYTES, 0) // _ITEM.itemsize for each in sent], dtype=np.int64)
    items = np.frombuffer(b"".join([each[_HEADER_BYTES:] for each in sent]), dtype=_ITEM)
    return items["value"].astype(np.int64), sizes


def places_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the weights of stored codes stand in `weights`; two codes may share a place."""
    return (codes.view(np.uint64) % np.uint64(PLACES)).astype(np.int64)


def sparse(places: NDArray[np.int64], values: NDArray[np.float32]) -> SparseVector:
    """The sparse vector of these places; of two values at one place, the larger."""
    order = np.argsort(values, kind="stable")
    return SparseVector(dict(zip(places[order].tolist(), values[order].tolist(), strict=True)), PLACES)


def _weights(codes: NDArray[np.int64], counts: NDArray[np.uint32]) -> SparseVector:
    """What BM25 gives each term in an entry of average length; the length itself is reckoned with by who searches.

    So they suit every average that a tenant will ever have. An entry of more distinct terms than fit keeps the largest:
    what is left out stands once in a text of 16,000 words, which BM25 gives next to nothing.
    """
    found = counts.astype(np.float32)
    values = found * np.float32(BM25_K1 + 1.0) / (found + np.float32(BM25_K1))
    if len(values) > MOST_WEIGHTS:
        kept = np.argsort(-values, kind="stable")[:MOST_WEIGHTS]
        codes, values = codes[kept], values[kept]
    return sparse(places_of(codes), values)


def _packed_counts(counts: NDArray[np.uint32], *, like: bytes) -> bytes:
    """The counts as bytes, one each or four, as in `like`."""
    return counts.astype("<u1" if len(like) == len(counts) else "<u4").tobytes()


def _mix(number: int) -> int:
    """A 64-bit number for each number, all bits of which depend on all of its bits (the finalizer of SplitMix64)."""
    mixed = (number * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
