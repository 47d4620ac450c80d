"""Sleep: which memories of a space say the same and become one, and which are kept for being rare.

    vectors ─► nearest ─► pairs that say the same, neither with news ─► connected pieces ─► HDBSCAN in each piece
            ─► each cluster's medoid ─► those that say the same as the medoid are its sources; the rest stays as it is

A cluster's medoid is the text nearest in meaning to all others, and stands for them word for word. Every source was
compared with it, so that no chain of small steps takes a text to another that says something else.

What was decided once is not decided otherwise later: pairs are judged by the two texts alone, and what is left is
looked at again until no two near ones say the same. So a second run over what the first one left finds nothing to do.

Density clusters: HDBSCAN (Campello, Moulavi, Sander 2013). Distinctive memories are kept, as people keep them (von
Restorff 1933); what is distinctive is told by the modified z-score (Iglewicz and Hoaglin 1993).
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from polymem.domain.concepts import content_key
from polymem.domain.news import Facts, facts_of, tells_news
from polymem.domain.resemblance import LEAST_COSINE, letters_of, may_say_the_same, says_the_same
from polymem.domain.text import fold

LISTED: Final = 32
"""How many of the nearest are told of each memory."""
NEIGHBOURS: Final = 16
"""How many of those that are left are looked at: fewer than are told, for many merge away."""
MOST_SOURCES: Final = 512
"""How many memories a prototype stands for at most."""
# Distances of all pairs of a piece are in memory at once.
MOST_IN_PIECE: Final = 1_024
PROTECTING_VALENCE: Final = 0.5
"""A memory of at least this valence, good or bad, is kept as it is."""

# Columns of a block of cosines whose greatest stands for them while the nearest are sought.
_GROUP: Final = 16
_KEPT: Final = 4_096
_NEAREST: Final = 5
_ISOLATED: Final = 3.5
_NORMAL_MAD: Final = 1.4826
_FEWEST_TO_COMPARE: Final = 8
_ROWS_AT_ONCE: Final = 256

_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")
# Marks that tell nothing; points and the like inside a word may: 3.5 is not 35.
_MARKS: Final = dict.fromkeys(map(ord, ',;!?*"()'))
_ENDS: Final = ". :-"

Made = TypeVar("Made")
Floats = NDArray[np.float32]


class Part(StrEnum):
    """What may become of a memory: it may merge, may be joined by others, or stays alone whatever resembles it."""

    MEMBER = "member"
    PROTOTYPE = "prototype"
    PROTECTED = "protected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """What consolidation sees of a memory; `sources`: how many it stands for, 0 unless it is a prototype."""

    id: str
    content: str
    created_at: datetime
    part: Part
    sources: int = 0


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest others of each of some rows, nearest first: (rows, k) positions and cosines."""

    positions: NDArray[np.int32]
    cosines: Floats


@dataclass(frozen=True, slots=True)
class Group:
    """Memories that say the same: `head` for all. It is one of `members`, or the prototype that these join.

    `members` by time, then by id.
    """

    head: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Consolidation:
    """The groups, and which of the memories that stay are singletons: protected, or distinctive."""

    groups: tuple[Group, ...]
    singletons: frozenset[int]


def mean_direction(chunks: Floats) -> Floats:
    """The unit vector between the unit rows of a text's chunks: its meaning as a whole."""
    middle = chunks.mean(axis=0)
    direction: Floats = (middle / max(float(np.linalg.norm(middle)), 1e-12)).astype(np.float32)
    return direction


def nearest_of(vectors: Floats, start: int, stop: int, *, count: int = LISTED) -> Nearest:
    """The nearest others of the unit rows from start to stop: exact, ties by position; fewer where there are no more.

    Takes (stop - start) * len(vectors) * 4 bytes meanwhile.
    """
    return _nearest_in(vectors[start:stop] @ vectors.T, np.arange(start, stop), min(count, len(vectors) - 1))


def _nearest_in(found: Floats, own: NDArray[np.intp], count: int) -> Nearest:
    """The columns of the greatest cosines in each row, without its own; `found` is changed."""
    found[np.arange(len(found)), own] = -np.inf
    columns = _promising(found, count)
    cosines = np.take_along_axis(found, columns, axis=1)
    order = np.lexsort((columns, -cosines), axis=1)[:, :count]
    return Nearest(
        positions=np.take_along_axis(columns, order, axis=1).astype(np.int32),
        cosines=np.take_along_axis(cosines, order, axis=1),
    )


def _promising(found: Floats, count: int) -> NDArray[np.int64]:
    """Columns among which the `count` greatest of each row are.

    No more than `count` groups of columns have a greatest that is one of them.
    """
    rows, width = found.shape
    groups = width // _GROUP
    if groups <= count:
        return np.broadcast_to(np.arange(width), (rows, width))
    # A group is every `groups`-th column: so the greatest of all groups are found by whole rows.
    greatest = found[:, : groups * _GROUP].reshape(rows, _GROUP, groups).max(axis=1)
    best = np.argpartition(greatest, groups - count, axis=1)[:, groups - count :]
    members = (best[:, :, np.newaxis] + groups * np.arange(_GROUP)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(groups * _GROUP, width), (rows, width - groups * _GROUP))
    return np.concatenate([members, rest], axis=1)


def consolidate(
    atoms: Sequence[Atom], vectors: Floats, nearest: Nearest, look_up: Callable[[], None] = lambda: None
) -> Consolidation:
    """What becomes of the memories, whose unit vectors are the rows and whose nearest others are given for each row.

    `look_up` is called now and then and may raise, which ends the work.
    """
    judge = _Judge(atoms, vectors)
    stays = np.ones(len(atoms), dtype=np.bool_)
    members: dict[int, list[int]] = {}
    same = _copies(atoms)
    while True:
        left = _among(vectors, nearest, stays)
        pairs = _agreeing(_candidates(left, same, stays), judge, look_up)
        groups: list[Group] = []
        for piece in _pieces(len(atoms), pairs):
            look_up()
            groups += _groups_of(piece, judge)
        if not groups:
            break
        for group in groups:
            members.setdefault(group.head, []).extend(group.members)
            stays[[each for each in group.members if each != group.head]] = False
            judge.stand_for(group)
    made = tuple(Group(head, _by_time(some, judge)) for head, some in sorted(members.items()))
    return Consolidation(groups=made, singletons=_singletons(judge, left, stays))


def _agreeing(
    candidates: Sequence[tuple[int, int]], judge: "_Judge", look_up: Callable[[], None]
) -> list[tuple[int, int]]:
    found = []
    for pair in candidates:
        look_up()
        if judge.agree(*pair):
            found.append(pair)
    return found


def _among(vectors: Floats, nearest: Nearest, stays: NDArray[np.bool_]) -> Nearest:
    """The nearest of those that stay, of each that stays; the other rows tell nothing.

    As if the others had never been: where too many of the nearest merged away, further ones are sought.
    """
    others = np.flatnonzero(stays)
    count = min(NEIGHBOURS, len(others) - 1)
    told = stays[nearest.positions]
    kept = np.argsort(~told, axis=1, kind="stable")[:, :count]
    positions = np.take_along_axis(nearest.positions, kept, axis=1)
    cosines = np.take_along_axis(nearest.cosines, kept, axis=1)
    short = np.flatnonzero(stays & (told.sum(axis=1) < count))
    rest = vectors[others] if len(short) else vectors[:0]
    for start in range(0, len(short), _ROWS_AT_ONCE):
        rows = short[start : start + _ROWS_AT_ONCE]
        found = _nearest_in(vectors[rows] @ rest.T, np.searchsorted(others, rows), count)
        positions[rows], cosines[rows] = others[found.positions], found.cosines
    cosines[~stays] = -np.inf
    return Nearest(positions, cosines)


class _Kept(Generic[Made]):
    """What is made of texts by their numbers, when it is asked for; that asked for last is kept."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._kept: OrderedDict[int, Made] = OrderedDict()

    def of(self, number: int) -> Made:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        made = self._kept[number] = self._make(number)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return made


class _Judge:
    """Tells of two memories whether they may become one; remembers what it said."""

    def __init__(self, atoms: Sequence[Atom], vectors: Floats) -> None:
        self.atoms = atoms
        self.vectors = vectors
        self.sources = {at: atom.sources for at, atom in enumerate(atoms) if atom.part is Part.PROTOTYPE}
        self._letters = _Kept(lambda number: letters_of(atoms[number].content))
        self._facts = _Kept(lambda number: facts_of(atoms[number].content))
        self._said: dict[tuple[int, int], bool] = {}

    def stand_for(self, group: Group) -> None:
        """The head of the group stands for its members, beside those it stood for before."""
        self.sources[group.head] = self.sources.get(group.head, 0) + len(group.members)

    def agree(self, one: int, other: int) -> bool:
        """True when both say the same, neither has news for the other, none is protected, not both are prototypes."""
        if (one in self.sources and other in self.sources) or self._is_protected(one) or self._is_protected(other):
            return False
        pair = (min(one, other), max(one, other))
        if pair not in self._said:
            self._said[pair] = self._looks_same(*pair) and not self._differ(*pair)
        return self._said[pair]

    def _is_protected(self, number: int) -> bool:
        return self.atoms[number].part is Part.PROTECTED

    def _looks_same(self, one: int, other: int) -> bool:
        some, others = self.atoms[one], self.atoms[other]
        cosine = float(self.vectors[one] @ self.vectors[other])
        if not may_say_the_same(cosine, len(some.content), len(others.content)):
            return False
        return says_the_same(cosine, self._letters.of(one), self._letters.of(other))

    def _differ(self, one: int, other: int) -> bool:
        """True when one has news for the other; where what only one of them says holds none, no more is read."""
        text, other_text = self.atoms[one].content, self.atoms[other].content
        rest, other_rest = _without_common(text, other_text)
        if _words(rest) == _words(other_rest) or not _has_news(facts_of(rest), facts_of(other_rest)):
            return False
        return _has_news(self._facts.of(one), self._facts.of(other))


def _has_news(facts: Facts, others: Facts) -> bool:
    return tells_news(facts, others) or tells_news(others, facts)


def _without_common(text: str, other: str) -> tuple[str, str]:
    """Both texts without the sentences that both have, whatever their case and marks."""
    some, others = _sentences(text), _sentences(other)
    return (
        "\n".join(sentence for key, sentence in some.items() if key not in others),
        "\n".join(sentence for key, sentence in others.items() if key not in some),
    )


def _words(text: str) -> list[str]:
    """The words of a text, whatever their order, case and marks."""
    return sorted(word.strip(_ENDS) for word in fold(text).translate(_MARKS).split())


def _sentences(text: str) -> dict[str, str]:
    """The different sentences of a text by what is compared of them."""
    plain = ((" ".join(fold(sentence).translate(_MARKS).split()), sentence) for sentence in _BREAK.split(text))
    return {key.strip(_ENDS): sentence for key, sentence in plain}


def _candidates(nearest: Nearest, same: Sequence[Sequence[int]], stays: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs worth a look, each once, in order: near neighbours, and texts that are the same letter for letter."""
    rows, columns = np.nonzero(nearest.cosines >= LEAST_COSINE)
    others = nearest.positions[rows, columns]
    near = set(zip(np.minimum(rows, others).tolist(), np.maximum(rows, others).tolist(), strict=True))
    for numbers in same:
        near.update(pairwise([number for number in numbers if stays[number]]))
    return sorted(near)


def _copies(atoms: Sequence[Atom]) -> list[list[int]]:
    """Those whose texts are the same but for case and space, where there are several."""
    same: dict[str, list[int]] = {}
    for number, atom in enumerate(atoms):
        same.setdefault(content_key(atom.content), []).append(number)
    return [numbers for numbers in same.values() if len(numbers) > 1]


def _pieces(count: int, pairs: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """The connected pieces of what the pairs connect, each in order, none larger than `MOST_IN_PIECE`."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - a server that never consolidates never loads it
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - likewise

    if not pairs:
        return
    rows, columns = np.array(pairs, dtype=np.int32).T
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    touched = np.unique(np.concatenate([rows, columns]))
    order = touched[np.argsort(labels[touched], kind="stable")]
    for piece in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        # A piece too large to be compared whole is taken in parts: what is said a thousand times is said alike.
        for start in range(0, len(piece), MOST_IN_PIECE):
            yield piece[start : start + MOST_IN_PIECE].tolist()


def _groups_of(piece: Sequence[int], judge: _Judge) -> Iterator[Group]:
    """The groups in a piece; of what is left afterwards no two agree, but with prototypes that are full."""
    heads = {each: judge.sources[each] for each in piece if each in judge.sources}
    left = [each for each in piece if each not in heads]
    joined: dict[int, list[int]] = {}
    while True:
        left = _join(left, joined, heads, judge)
        made = _apart(_clusters(left, judge), judge) or _pair_off(left, judge)
        if not made:
            break
        for group in made:
            heads[group.head] = len(group.members)
            joined[group.head] = list(group.members)
        taken = {each for group in made for each in group.members}
        left = [each for each in left if each not in taken]
    for head, members in joined.items():
        yield Group(head, tuple(members))


def _apart(clusters: Sequence[Sequence[int]], judge: _Judge) -> list[Group]:
    """The groups of these clusters, without those whose head says the same as one before: its members can join that."""
    made: list[Group] = []
    for cluster in clusters:
        group = _group(cluster, judge)
        if group is not None and not any(judge.agree(group.head, other.head) for other in made):
            made.append(group)
    return made


def _join(left: Sequence[int], joined: dict[int, list[int]], heads: dict[int, int], judge: _Judge) -> list[int]:
    """Each memory has joined the nearest head that it agrees with and that has room; those that have not are told."""
    alone = []
    for each in left:
        fits = [head for head, sources in heads.items() if sources < MOST_SOURCES and judge.agree(head, each)]
        if not fits:
            alone.append(each)
            continue
        head = max(fits, key=lambda head: (float(judge.vectors[head] @ judge.vectors[each]), -head))
        joined.setdefault(head, []).append(each)
        heads[head] += 1
    return alone


def _clusters(left: Sequence[int], judge: _Judge) -> list[list[int]]:
    """The density clusters of what is left of a piece, by cosine distance, the largest first."""
    if len(left) < 2:  # noqa: PLR2004 - two are the fewest that can be alike
        return []
    if len(left) == 2:  # noqa: PLR2004 - nothing to cluster
        return [list(left)]
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415 - 60 MB that a server without consolidation does without

    rows = judge.vectors[list(left)].astype(np.float64)
    distances = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    found = HDBSCAN(
        min_cluster_size=2,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    ).fit(distances)
    clusters: dict[int, list[int]] = {}
    for each, label in zip(left, found.labels_.tolist(), strict=True):
        if label >= 0:
            clusters.setdefault(label, []).append(each)
    return sorted(clusters.values(), key=len, reverse=True)


def _group(cluster: Sequence[int], judge: _Judge) -> Group | None:
    """The cluster's medoid with those that agree with it, the nearest as far as there is room; None when none does."""
    rows = judge.vectors[list(cluster)]
    cosines = rows @ rows.T
    # Without its own, which is 1 but for the last bits; what differs by no more is a tie, and the oldest stands.
    others = cosines.sum(axis=1) - cosines.diagonal()
    place = min(range(len(cluster)), key=lambda at: (-round(float(others[at]), 4), *_age(cluster[at], judge)))
    nearest = sorted(range(len(cluster)), key=lambda at: (-float(cosines[place, at]), at))
    head = cluster[place]
    members = [head, *(cluster[at] for at in nearest if at != place and judge.agree(head, cluster[at]))][:MOST_SOURCES]
    return Group(head, _by_time(members, judge)) if len(members) > 1 else None


def _pair_off(left: Sequence[int], judge: _Judge) -> list[Group]:
    """One group of the first memory that some other agrees with: no medoid had a say."""
    for place, one in enumerate(left):
        agreeing = [other for other in left[place + 1 :] if judge.agree(one, other)]
        if agreeing:
            group = _group([one, *agreeing], judge) or Group(one, _by_time([one, *agreeing][:MOST_SOURCES], judge))
            return [group]
    return []


def _by_time(members: Sequence[int], judge: _Judge) -> tuple[int, ...]:
    return tuple(sorted(members, key=lambda each: _age(each, judge)))


def _age(number: int, judge: _Judge) -> tuple[datetime, str]:
    return judge.atoms[number].created_at, judge.atoms[number].id


def _singletons(judge: _Judge, left: Nearest, stays: NDArray[np.bool_]) -> frozenset[int]:
    """Of those that stay, the protected ones and those far from all others; what stands for many is none."""
    protected = {number for number, atom in enumerate(judge.atoms) if atom.part is Part.PROTECTED}
    nearest = left.cosines[:, :_NEAREST]
    if nearest.shape[1]:
        isolation = 1.0 - nearest.mean(axis=1, dtype=np.float64)
        protected.update(number for number in _far_out(isolation, stays) if number not in judge.sources)
    return frozenset(protected)


def _far_out(isolation: NDArray[np.float64], stays: NDArray[np.bool_]) -> list[int]:
    """Those whose isolation is far above the median of all, by the median absolute deviation."""
    told = isolation[stays]
    if len(told) < _FEWEST_TO_COMPARE:
        return []
    middle = float(np.median(told))
    spread = _NORMAL_MAD * float(np.median(np.abs(told - middle)))
    if spread <= 0.0:
        return []
    return np.flatnonzero(stays & (isolation > middle + _ISOLATED * spread)).tolist()
