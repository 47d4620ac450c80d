"""How much a new text is worth keeping beside what is known: its importance, in [0, 1].

    importance = novelty * (1/2 + 3/10 * information + 1/5 * rarity)

Novelty is a factor, as in accounts of memory where the prediction error gates what is stored (Lisman and Grace 2005):
what is there already is worth nothing however rich it is. It is the square of the distance to the nearest memory, where
`NEW_FROM` is as new as can be; squared, because restatements are spread over small distances. The distance mixes what
the cosine leaves with the share of telling terms that the memory has not: cosine tells a synonym from another thing
(.97 and above against .89 and below when one word of a sentence is changed, by the built-in model), terms tell apart
long texts of one form. A text that tells news (see `news`) is at least `NEWS_NOVELTY` new, however close it is.
Information saturates with the telling terms, each counted by its rarity; rarity is that of the text's concepts, on the
scale of their logarithms.

The figures are choices, made on restatements and corrections written by hand: a text with average information falls
below `LEAST_IMPORTANCE` when its distance is below about a tenth.
"""

import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from polymem.domain.scoring import idf

# Below it a text is not kept, unless its writer insists.
LEAST_IMPORTANCE: Final = 0.1
NEWS_NOVELTY: Final = 0.5
NEW_FROM: Final = 0.3

_OF_COSINE: Final = 0.8
_OF_TERMS: Final = 0.2
# So many new terms are a new text, however long it is.
_MANY_TERMS: Final = 8
# Words that stand scattered in a much longer text say nothing together; only words can tell where there is no vector.
_OF_REMAINDER: Final = 0.5

_BASE: Final = 0.5
_OF_INFORMATION: Final = 0.3
_OF_RARITY: Final = 0.2
# Terms of full weight that make 63 % of all the information a text can have.
_TELLING_TERMS: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How a new text stands to one memory.

    `cosine`: of the part of the new text that the memory covers worst; None without vectors. `shared`: how many of the
    telling terms are in both; `terms`: of the new text, `memory_terms`: of the memory. `is_news`: it says what the
    memory does not.
    """

    cosine: float | None
    shared: int
    terms: int
    memory_terms: int
    is_news: bool = False


def likeness(
    cosine: float | None, terms: AbstractSet[str], memory_terms: AbstractSet[str], *, is_news: bool = False
) -> Likeness:
    """How a text of these telling terms stands to a memory of those."""
    return Likeness(
        cosine=cosine,
        shared=len(terms & memory_terms),
        terms=len(terms),
        memory_terms=len(memory_terms),
        is_news=is_news,
    )


def distance(like: Likeness) -> float:
    """How far the text is from the memory, in [0, 1]: 0 for one that says the same in the same words.

    A text without any telling term is as far in its terms as can be.
    """
    missing = like.terms - like.shared
    unknown = max(missing / like.terms, min(1.0, missing / _MANY_TERMS)) if like.terms else 1.0
    if like.cosine is not None:
        return _OF_COSINE * min(1.0, max(0.0, 1.0 - like.cosine)) + _OF_TERMS * unknown
    remainder = 1.0 - like.shared / like.memory_terms if like.memory_terms else 0.0
    return min(1.0, unknown + _OF_REMAINDER * remainder)


def least_novelty(cosine: float) -> float:
    """How new a text at least is beside a memory of this cosine."""
    return min(1.0, _OF_COSINE * min(1.0, max(0.0, 1.0 - cosine)) / NEW_FROM) ** 2


def novelty_beside(like: Likeness) -> float:
    """How new the text is beside this memory, in [0, 1]."""
    new = min(1.0, distance(like) / NEW_FROM) ** 2
    return max(new, NEWS_NOVELTY) if like.is_news else new


def novelty(likenesses: Iterable[Likeness]) -> float:
    """How new the text is, in [0, 1]: beside the memory that says most of it; 1 where there is none."""
    return min((novelty_beside(like) for like in likenesses), default=1.0)


def information(documents_with: Sequence[int], *, documents: int) -> float:
    """How much the text tells, in [0, 1], by its telling terms: how many of the documents hold each.

    The weight of a term is its idf as part of the highest there can be; without documents each weighs full.
    """
    highest = idf(documents, 0)
    weights = (idf(documents, found) / highest if documents > 0 else 1.0 for found in documents_with)
    return 1.0 - math.exp(-sum(weights) / _TELLING_TERMS)


def concept_rarity(memories_with: Sequence[int], *, memories: int) -> float:
    """How rare the concepts of the text are on average, in [0, 1]: 1 for what no memory has, 0 for what all have.

    On the scale of logarithms: a concept of ten memories among a thousand is two thirds as rare as one of none. A text
    without concepts has rarity 0.
    """
    if not memories_with:
        return 0.0
    if memories < 1:
        return 1.0
    whole = math.log1p(memories)
    return sum(1.0 - min(1.0, math.log1p(found) / whole) for found in memories_with) / len(memories_with)


def importance(*, novelty: float, information: float, rarity: float) -> float:
    """The importance of a text, in [0, 1], from these three, each in [0, 1]; it grows with each."""
    return novelty * (_BASE + _OF_INFORMATION * information + _OF_RARITY * rarity)
