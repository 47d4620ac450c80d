"""Concepts: key terms of a memory, compared by their keys."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from polymem.domain.text import fold

# A key is an index key of both storages: 1,024 bytes of UTF-8 at most.
MAX_KEY_CHARACTERS = 256
# Of a memory, so many concepts form associations with each other; the others are found by, and form none.
MOST_ASSOCIATED = 16

_SPACE = re.compile(r"\s+")
_MARKS_AROUND = " \t\r\n.,;:!?\"'`()[]{}<>*_"


def concept_key(concept: str) -> str:
    """What two spellings of one concept have in common: folded, single spaces, no marks around; may be empty.

    At most `MAX_KEY_CHARACTERS` long.
    """
    return _SPACE.sub(" ", fold(concept)).strip(_MARKS_AROUND)[:MAX_KEY_CHARACTERS].rstrip()


def concept_keys(concepts: Iterable[str]) -> tuple[str, ...]:
    """The different keys of these concepts, in order, without empty ones."""
    return tuple(dict.fromkeys(key for concept in concepts if (key := concept_key(concept))))


def pairs_within(keys: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Every pair of the first `MOST_ASSOCIATED` keys, the smaller one first."""
    return frozenset(combinations(sorted(set(keys[:MOST_ASSOCIATED])), 2))


def pairs_between(some: Sequence[str], others: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Every pair of one of the first `MOST_ASSOCIATED` keys each, the smaller one first; none with itself."""
    return frozenset(
        (min(one, other), max(one, other))
        for one in some[:MOST_ASSOCIATED]
        for other in others[:MOST_ASSOCIATED]
        if one != other
    )


def content_key(content: str) -> str:
    """128 bits, hexadecimal, that are equal for texts that differ in case and white space alone."""
    folded = _SPACE.sub(" ", fold(content)).strip()
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def external_ref_identity(external_ref: str) -> str:
    """The identity under which the memory of an external reference is stored once per tenant."""
    return f"ref:{external_ref}"
