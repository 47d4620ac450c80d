"""Short records of bytes by position, one after another in one array: no object for each of a million memories."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.storage.sqlite.index_arrays import with_room

# Bytes of records that were written anew are kept until there are so many, and more of them than of others.
_WORTH_COMPACTING: Final = 1 << 20


class Records:
    """One record for each position. The owner holds a lock."""

    def __init__(self) -> None:
        self._bytes: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._starts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._sizes: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._count = 0
        self._used = 0
        self._gone = 0

    @property
    def size_bytes(self) -> int:
        """The memory the records hold."""
        return self._bytes.nbytes + self._starts.nbytes + self._sizes.nbytes

    def pack(self, is_alive: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """The records in the order of positions, and their sizes; empty ones for what is not alive."""
        sizes = np.where(is_alive, self._sizes[: len(is_alive)], 0).astype(np.int32)
        return self._gathered(sizes), sizes

    @classmethod
    def unpack(cls, packed: NDArray[np.uint8], sizes: NDArray[np.int32]) -> "Records":
        """The records that `pack` took apart."""
        records = cls()
        records._bytes, records._sizes, records._used = packed, sizes, len(packed)
        records._count = len(sizes)
        records._starts = np.cumsum(sizes, dtype=np.int64) - sizes
        return records

    def make_room(self, used: int, more: int) -> None:
        """There are `more` empty records after the first `used`."""
        self._starts = with_room(self._starts, used, more)
        self._sizes = with_room(self._sizes, used, more)
        self._starts[used : used + more] = 0
        self._sizes[used : used + more] = 0
        self._count = used + more

    def write(self, positions: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Each position has its record."""
        joined = np.frombuffer(b"".join(values), dtype=np.uint8)
        sizes = np.array([len(value) for value in values], dtype=np.int32)
        self._gone += int(self._sizes[positions].sum())
        self._bytes = with_room(self._bytes, self._used, len(joined))
        self._bytes[self._used : self._used + len(joined)] = joined
        self._starts[positions] = self._used + np.cumsum(sizes, dtype=np.int64) - sizes
        self._sizes[positions] = sizes
        self._used += len(joined)
        if self._gone > _WORTH_COMPACTING and 2 * self._gone > self._used:
            self._compact()

    def read(self, positions: NDArray[np.int64]) -> list[bytes]:
        """The record of each position."""
        starts, sizes = self._starts[positions].tolist(), self._sizes[positions].tolist()
        held = self._bytes.data
        return [held[start : start + size].tobytes() for start, size in zip(starts, sizes, strict=True)]

    def _compact(self) -> None:
        sizes = self._sizes[: self._count]
        self._bytes = self._gathered(sizes)
        self._starts[: self._count] = np.cumsum(sizes, dtype=np.int64) - sizes
        self._used, self._gone = len(self._bytes), 0

    def _gathered(self, sizes: NDArray[np.int32]) -> NDArray[np.uint8]:
        """So many bytes of each record, in the order of positions."""
        ends = np.cumsum(sizes, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(self._starts[: len(sizes)] - (ends - sizes), sizes)
        gathered: NDArray[np.uint8] = self._bytes[places]
        return gathered
