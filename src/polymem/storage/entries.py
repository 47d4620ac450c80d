"""What is computed of an index entry in every storage alike: what it holds of asked terms, and its vectors."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import ModelIdentity
from polymem.domain.scoring import BM25_B, BM25_K1
from polymem.ports.changes import EmbeddedChunk

Scalar = TypeVar("Scalar", np.float32, np.int8, np.int32)

_SMALLEST_NORM: Final = 1e-12


def bm25_norms(lengths: NDArray[np.int32], average_length: float) -> NDArray[np.float32]:
    """What BM25 adds to the count of a term under the line, for each memory."""
    relative = lengths / np.float32(max(average_length, 1.0))
    norms: NDArray[np.float32] = (BM25_K1 * (1.0 - BM25_B + BM25_B * relative)).astype(np.float32)
    return norms


def frequencies_of(
    codes: NDArray[np.uint64], counts: NDArray[np.uint32], sizes: NDArray[np.int64], terms: Mapping[int, str]
) -> list[dict[str, int]]:
    """For each of the entries, one after another in the arrays, how often it holds each of the terms it holds."""
    found: list[dict[str, int]] = [{} for _ in sizes]
    if not terms or not len(codes):
        return found
    asked = np.sort(np.array(list(terms), dtype=np.uint64))
    places = np.searchsorted(asked, codes)
    places[places == len(asked)] = 0
    held = np.flatnonzero(asked[places] == codes)
    owners = np.repeat(np.arange(len(sizes)), sizes)[held]
    for owner, code, count in zip(owners.tolist(), codes[held].tolist(), counts[held].tolist(), strict=True):
        found[owner][terms[code]] = count
    return found


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows at unit length."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, np.newaxis]
    scaled: NDArray[np.float32] = rows / np.maximum(norms, np.float32(_SMALLEST_NORM))
    return scaled


def cut(rows: NDArray[Scalar], sizes: Sequence[int]) -> list[NDArray[Scalar]]:
    """The rows in parts of these sizes."""
    ends = list(accumulate(sizes))
    return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def check_shapes(chunk: EmbeddedChunk, model: ModelIdentity) -> None:
    """The vectors of the chunk have the model's dimensions. Raises `ValueError`."""
    if chunk.embedding.shape != (model.dimension,):
        message = f"an embedding has the shape {chunk.embedding.shape}, its model the dimension {model.dimension}"
        raise ValueError(message)
    if chunk.token_vectors.ndim != 2 or chunk.token_vectors.shape[1] != model.token_dimension:  # noqa: PLR2004 - rows and columns
        message = f"token vectors have the shape {chunk.token_vectors.shape}, not (*, {model.token_dimension})"
        raise ValueError(message)
