"""Posting lists in memory: for each term the positions of the memories that hold it, and how often.

Postings stand in segments that never change once they are made, so that a reader keeps what it saw. New and changed
memories come in as a new segment; small neighbours are merged, so that there are few. An old posting of a memory
that was changed or deleted stays in its segment; the segment says of which positions it no longer speaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from polymem.storage.sqlite.index_arrays import with_room
from polymem.storage.terms import clip_counts, codes_of, unpack_terms

# A segment is merged with the one before it while that is less than so many times as large, up to the largest size:
# a merge sorts all postings of both, 0.14 s for a million on one core.
_GROWTH = 4
_LARGEST_MERGED = 1 << 20

# The largest size after a load: a million memories have 26 million postings.
_LARGEST_SETTLED = 1 << 23

_NO_SEGMENT: Final = -1
_ARRAYS: Final = ("codes", "starts", "positions", "counts", "gone")
_NONE: Final = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class PostingList:
    """The postings of one term in one segment: positions, ascending, and counts; `gone` are no longer true."""

    positions: NDArray[np.int32]
    counts: NDArray[np.uint16]
    gone: NDArray[np.int32]

    @property
    def size(self) -> int:
        """How many of the postings are true."""
        return len(self.positions) - len(self.gone_places())

    def gone_places(self) -> NDArray[np.int64]:
        """Where in the list the postings stand that are no longer true."""
        if not len(self.gone):
            return np.empty(0, dtype=np.int64)
        places = np.searchsorted(self.positions, self.gone)
        places[places == len(self.positions)] = 0
        found: NDArray[np.int64] = places[self.positions[places] == self.gone]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """Postings grouped by the ascending `codes`: those of code n stand from `starts[n]` to `starts[n + 1]`.

    `gone`: the positions, ascending, of which it no longer speaks; `memories`: of how many it once spoke.
    """

    number: int
    codes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    counts: NDArray[np.uint16]
    gone: NDArray[np.int32]
    memories: int

    @property
    def size_bytes(self) -> int:
        arrays = (self.codes, self.starts, self.positions, self.counts, self.gone)
        return sum(array.nbytes for array in arrays)

    @property
    def is_mostly_gone(self) -> bool:
        return 2 * len(self.gone) > self.memories

    def expanded(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint16]]:
        """Every true posting with its code."""
        codes = np.repeat(self.codes, np.diff(self.starts))
        if not len(self.gone):
            return codes, self.positions, self.counts
        kept = ~np.isin(self.positions, self.gone)
        return codes[kept], self.positions[kept], self.counts[kept]


@dataclass(frozen=True, slots=True)
class PostingsView:
    """The postings as they were at one change count; later changes do not touch them."""

    segments: tuple[_Segment, ...]

    def find(self, codes: NDArray[np.uint64]) -> list[list[PostingList]]:
        """For each code its lists, one for each segment that has it."""
        found: list[list[PostingList]] = [[] for _ in codes]
        for segment in self.segments:
            places = np.searchsorted(segment.codes, codes)
            places[places == len(segment.codes)] = 0
            for number in np.flatnonzero(segment.codes[places] == codes).tolist():
                start, end = segment.starts[places[number]], segment.starts[places[number] + 1]
                found[number].append(PostingList(segment.positions[start:end], segment.counts[start:end], segment.gone))
        return found

    def find_terms(self, terms: Sequence[str]) -> dict[str, list[PostingList]]:
        """For each of the terms, in order, its lists."""
        distinct = tuple(dict.fromkeys(terms))
        return dict(zip(distinct, self.find(codes_of(distinct)), strict=True))


class Postings:
    """The posting lists of a tenant, kept in step by the columns of its memories. The owner holds a lock."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._made = 0
        # Which segment speaks of each position.
        self._spoken_by: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._known = 0

    @property
    def size_bytes(self) -> int:
        """The memory the lists hold."""
        return self._spoken_by.nbytes + sum(segment.size_bytes for segment in self._segments)

    def view(self) -> PostingsView:
        """The lists as they are now."""
        return PostingsView(tuple(self._segments))

    def pack(self) -> dict[str, NDArray[Any]]:
        """All of it as named arrays, without postings that are no longer true."""
        for place in [place for place, segment in enumerate(self._segments) if len(segment.gone)]:
            self._join(place, place + 1)
        arrays = {
            f"segment_{place}_{name}": getattr(segment, name)
            for place, segment in enumerate(self._segments)
            for name in _ARRAYS
        }
        numbers = [(segment.number, segment.memories) for segment in self._segments]
        return {
            "segments": np.array(numbers, dtype=np.int64).reshape(-1, 2),
            "spoken_by": self._spoken_by[: self._known],
            **arrays,
        }

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[Any]]) -> "Postings":
        """What `pack` took apart. Raises `KeyError` for anything else."""
        postings = cls()
        for place, (number, memories) in enumerate(arrays["segments"].tolist()):
            parts = {name: arrays[f"segment_{place}_{name}"] for name in _ARRAYS}
            postings._segments.append(_Segment(number=number, memories=memories, **parts))
        postings._made = max((segment.number for segment in postings._segments), default=0)
        postings._spoken_by = arrays["spoken_by"]
        postings._known = len(postings._spoken_by)
        return postings

    def write(self, positions: NDArray[np.int64], stored: Sequence[tuple[bytes, bytes]]) -> None:
        """The memories at these positions hold the stored terms, and no others."""
        codes, counts, sizes = unpack_terms(stored)
        self._make_room(int(positions.max(initial=-1)) + 1)
        self.forget(positions)
        postings = np.repeat(positions.astype(np.int32), sizes)
        self._append(codes, postings, clip_counts(counts), positions)
        self._merge()

    def settle(self) -> None:
        """The segments are few, each of at most `_LARGEST_SETTLED` postings: what a question costs goes with them.

        Long work, for the end of a long load.
        """
        start = 0
        while start < len(self._segments):
            sizes = accumulate(len(segment.positions) for segment in self._segments[start:])
            count = max(1, sum(size <= _LARGEST_SETTLED for size in sizes))
            if count > 1:
                self._join(start, start + count)
            start += 1

    def forget(self, positions: NDArray[np.int64]) -> None:
        """No segment speaks of these positions any more."""
        speakers = self._spoken_by[positions]
        for place, segment in enumerate(self._segments):
            gone = positions[speakers == segment.number].astype(np.int32)
            if len(gone):
                self._segments[place] = replace(segment, gone=np.union1d(segment.gone, gone))
        self._spoken_by[positions] = _NO_SEGMENT

    def _make_room(self, known: int) -> None:
        if known > self._known:
            self._spoken_by = with_room(self._spoken_by, self._known, known - self._known)
            self._spoken_by[self._known : known] = _NO_SEGMENT
            self._known = known

    def _append(
        self,
        codes: NDArray[np.uint64],
        postings: NDArray[np.int32],
        counts: NDArray[np.uint16],
        positions: NDArray[np.int64] | NDArray[np.int32],
    ) -> None:
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        is_first = np.ones(len(codes), dtype=np.bool_)
        np.not_equal(codes[1:], codes[:-1], out=is_first[1:])
        self._made += 1
        self._segments.append(
            _Segment(
                number=self._made,
                codes=codes[is_first],
                starts=np.append(np.flatnonzero(is_first), len(codes)),
                positions=postings[order],
                counts=counts[order],
                gone=_NONE,
                memories=len(positions),
            )
        )
        self._spoken_by[positions] = self._made

    def _merge(self) -> None:
        """The last segments are few and each much larger than the next; none speaks mostly of what is gone."""
        for place in [place for place, segment in enumerate(self._segments) if segment.is_mostly_gone]:
            self._join(place, place + 1)
        self._segments = [segment for segment in self._segments if len(segment.codes)]
        while len(self._segments) > 1:
            before, last = (len(segment.positions) for segment in self._segments[-2:])
            if before >= _GROWTH * last or before + last > _LARGEST_MERGED:
                return
            self._join(len(self._segments) - 2, len(self._segments))

    def _join(self, start: int, end: int) -> None:
        """One segment stands in the place of these."""
        joined = self._segments[start:end]
        numbers = [segment.number for segment in joined]
        expanded = [segment.expanded() for segment in joined]
        codes = np.concatenate([each[0] for each in expanded])
        postings = np.concatenate([each[1] for each in expanded])
        counts = np.concatenate([each[2] for each in expanded])
        positions = np.flatnonzero(np.isin(self._spoken_by[: self._known], numbers))
        ranges = [(each[1].min(), each[1].max()) for each in expanded if len(each[1])]
        if any(before[1] > after[0] for before, after in pairwise(ranges)):
            order = np.argsort(postings, kind="stable")
            codes, postings, counts = codes[order], postings[order], counts[order]
        self._append(codes, postings, counts, positions)
        self._segments[start:end] = [self._segments.pop()]
