"""Terms as stored and compared: an 8-byte code for each, and how often each stands in an entry.

Codes are a hash without a key, the same in every file, process and version. Two of a million terms share one with a
probability of 3e-8; they would then be found for each other.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.errors import StorageDamaged

CODE_BYTES: Final = 8

_CODES_KEPT = 1 << 16
_MOST_IN_ONE_BYTE = 255

# A posting keeps a count in two bytes; beyond it BM25 tells no difference.
_MOST_COUNTED = 65_535


@lru_cache(maxsize=_CODES_KEPT)
def term_code(term: str) -> int:
    """The code of a term, the same for equal terms everywhere."""
    digest = blake2b(term.encode("utf-8", "surrogatepass"), digest_size=CODE_BYTES).digest()
    return int.from_bytes(digest, "little")


def codes_of(terms: Iterable[str]) -> NDArray[np.uint64]:
    """The codes of the terms, in their order."""
    return np.array([term_code(term) for term in terms], dtype=np.uint64)


def pack_terms(terms: Sequence[str]) -> tuple[bytes, bytes]:
    """The stored form of an entry's terms: the distinct codes, ascending, and their counts."""
    counted = sorted((term_code(term), count) for term, count in Counter(terms).items())
    codes = np.array([code for code, _ in counted], dtype="<u8")
    counts = np.array([count for _, count in counted], dtype="<u4")
    is_short = not counted or int(counts.max()) <= _MOST_IN_ONE_BYTE
    return codes.tobytes(), (counts.astype("<u1") if is_short else counts).tobytes()


def unpack_terms(
    stored: Sequence[tuple[bytes, bytes]],
) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
    """Codes and counts of these entries one after another, and how many each has. Raises `StorageDamaged`."""
    sizes = np.array([len(codes) // CODE_BYTES for codes, _ in stored], dtype=np.int64)
    packed = b"".join([codes for codes, _ in stored])
    total = int(sizes.sum())
    if len(packed) != total * CODE_BYTES:
        raise StorageDamaged("the terms of an index entry are damaged")
    return np.frombuffer(packed, dtype="<u8"), unpack_counts([counts for _, counts in stored], sizes), sizes


def unpack_counts(stored: Sequence[bytes], sizes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The counts of entries of so many codes, one after another. Raises `StorageDamaged`."""
    counted = b"".join(stored)
    if len(counted) == int(sizes.sum()):
        return np.frombuffer(counted, dtype="<u1").astype(np.uint32)
    return np.concatenate([_counts(blob, size) for blob, size in zip(stored, sizes.tolist(), strict=True)])


def clip_counts(counts: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """The counts as postings keep them."""
    return np.minimum(counts, _MOST_COUNTED).astype(np.uint16)


def _counts(blob: bytes, size: int) -> NDArray[np.uint32]:
    if len(blob) not in (size, 4 * size):
        raise StorageDamaged("the term counts of an index entry are damaged")
    return np.frombuffer(blob, dtype="<u1" if len(blob) == size else "<u4").astype(np.uint32)
