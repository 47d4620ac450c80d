"""Whether one text says again what another says, as far as meaning and letters tell.

Three measures: the cosine of their meaning, and the share of the runs of four letters that they have in common, of the
text with fewer and of the text with more. Letters besides meaning, because follow-ups in a conversation are as near in
meaning as restatements, but share fewer words; runs of letters, because a slip of the pen or another ending changes a
word, but few of its runs. The weights come from a logistic regression on real turns and restatements of them, and are
rounded (`python -m bench.consolidation`). What differs in numbers, names and negation is not judged here: see `news`.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.text import fold

_OF_MEANING: Final = 0.5
_OF_LONGER: Final = 0.15
_OF_SHORTER: Final = 0.35
# From here on two texts say the same. In a short text one other word is a larger share of all.
_SAME: Final = 0.88
_SAME_WHEN_SHORT: Final = 0.84
_SHORT_CHARACTERS: Final = 250
# So near in meaning that other letters do not count; long texts on one matter come as near as that.
_SAME_MEANING: Final = 0.94
_ONE_THOUGHT_CHARACTERS: Final = 600
_LEAST_SHARE_OF_LENGTH: Final = 0.6
# A text that repeats itself has fewer different runs than its length lets expect.
_RUNS_SLACK: Final = 1.5

LEAST_COSINE: Final = (_SAME_WHEN_SHORT - _OF_LONGER - _OF_SHORTER) / _OF_MEANING
"""Below this cosine no two texts say the same."""

# Of a longer text its beginning is compared, and its length.
_COMPARED_CHARACTERS: Final = 8_192
_RUN: Final = 4
_BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Letters:
    """What is compared of a text's letters: its different runs of four bytes, sorted, and its length in characters."""

    runs: NDArray[np.uint32]
    length: int


def letters_of(text: str) -> Letters:
    """The letters of a text as it is compared: folded, marks and space between words as one space."""
    plain = f"  {_BETWEEN_WORDS.sub(' ', fold(text[:_COMPARED_CHARACTERS])).strip()} ".encode("utf-8", "surrogatepass")
    codes = np.frombuffer(plain.ljust(_RUN), dtype=np.uint8).astype(np.uint32)
    ends = len(codes) - _RUN + 1
    runs = codes[:ends].copy()
    for place in range(1, _RUN):
        runs |= codes[place : place + ends] << np.uint32(8 * place)
    return Letters(runs=np.unique(runs), length=len(text))


def says_the_same(cosine: float, some: Letters, others: Letters) -> bool:
    """True when texts with this cosine and these letters say the same in other words, or in the same."""
    longer = max(some.length, others.length)
    share_of_length = min(some.length, others.length) / max(longer, 1)
    if cosine >= _SAME_MEANING and longer <= _ONE_THOUGHT_CHARACTERS and share_of_length >= _LEAST_SHARE_OF_LENGTH:
        return True
    fewer, more = sorted((some.runs, others.runs), key=len)
    places = np.searchsorted(more, fewer)
    places[places == len(more)] = 0
    shared = int(np.count_nonzero(more[places] == fewer))
    likeness = _OF_MEANING * cosine + _OF_SHORTER * shared / len(fewer) + _OF_LONGER * shared / len(more)
    return likeness >= _threshold(longer)


def may_say_the_same(cosine: float, length: int, other_length: int) -> bool:
    """False when letters need not be looked at: texts of this cosine and these lengths do not say the same."""
    longer = max(length, other_length, 1)
    share = min(1.0, _RUNS_SLACK * min(length, other_length) / longer)
    return _OF_MEANING * cosine + _OF_SHORTER + _OF_LONGER * share >= _threshold(longer)


def _threshold(longer: int) -> float:
    return _SAME_WHEN_SHORT if longer <= _SHORT_CHARACTERS else _SAME
