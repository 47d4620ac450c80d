"""Whether a text says something that another one, close to it in meaning, does not.

A correction is near what it corrects by every measure of likeness: "the port is 8080" and "the port is 9090". What
differs are facts: numbers, dates, names, and whether a thing is so or not. A paraphrase has the same facts in other
words. English, by rules, on the words alone; in doubt a text counts as news, for a repeat costs less than a loss.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Final

from polymem.domain.english import stem
from polymem.domain.polarity import Polarity, contradicts, polarity_of
from polymem.domain.quantities import (
    Number,
    Quantities,
    context_of,
    differ_in_place,
    other_quantities,
    quantities_of,
)
from polymem.domain.text import fold, is_stop_word

# Longer texts are read to here.
_READ_CHARACTERS: Final = 8_192

_stem = lru_cache(maxsize=1 << 14)(stem)

_QUOTES: Final = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
# What cannot be anything but a name, whatever it holds: addresses, links, paths.
_ADDRESS: Final = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,9}://[^\s<>\"')]+|\bwww\.[^\s<>\"')]+|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,5}"
    r"|(?<![\w/.])(?:~|\.{1,2})?/[\w.@-]+(?:/[\w.@-]*)*|(?<![\w.-])[\w.-]{1,64}(?:/[\w.-]+){2,16}",
    re.IGNORECASE,
)
_ADDRESS_MARKS: Final = ("/", "@", "www.", "WWW.")
# Marks or digits inside a word: versions, hosts, files, variables, error codes.
_IDENTIFIER: Final = re.compile(
    r"(?<![\w-])(?=[\w.:#-]{0,64}[\d_])[\w#]+(?:[.:-]+\w+)*|\b[\w-]+(?:\.[a-zA-Z]\w*)+\b|\b[a-z]+[A-Z]\w*|\b\w+(?:::\w+)+"
)
_NUMBER_SIGN: Final = re.compile(r"\bno\.(?=\s?#?[a-z]{0,8}-?\d)", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_BEGINS: Final = re.compile(r"(?:^|[.!?:;\n\u2022*>(\[\"-])\s*[\"'*_(\[]*$")
_RUN_GAP: Final = re.compile(r"\s+(?:of\s+|the\s+)?")
_LIST_BEFORE: Final = re.compile(r"(?:,|\b(?:and|or))\s*\Z")
_LIST_BEHIND: Final = re.compile(r"\s*(?:,|(?:and|or)\b)")
_ORDERED: Final = re.compile(r"[^\W\d_]+|,")
_JOINERS: Final = frozenset({"and", "or", ","})
_JOINED: Final = "&"
_ARTICLES: Final = frozenset({"the", "a", "an"})
# Longer texts are not copies of each other but for two words.
_ORDERED_TOKENS: Final = 60
_NAME_LOOKBACK: Final = 8
_SHORTEST_PREFIX: Final = 5
_HEADLINE_WORDS: Final = 4
_HEADLINE_SHARE: Final = 0.6
# Capitals that shout instead of naming.
_SHOUTED_WORDS = "note todo fyi important warning reminder update please btw ps eod asap ok okay user yes no not never"
_SHOUTED: Final = frozenset(_SHOUTED_WORDS.split())
# A word at the start of a sentence is a name where it does what people and places do.
_DOES: Final = re.compile(
    r"(?:'s)?\s+(?:is|was|are|were|has|had|will|can|does|did|and|wants|said|says|told|[a-z]{2,}s|[A-Z][a-z]+|[a-z]{2,}ed)\b"
)
_NO_NAME_ENDINGS: Final = ("ing", "ed", "ly", "tion", "ment", "ness", "ity")
_OF_ONE: Final = re.compile(r"(?:'s)?\s+(?:is|was|has|does)\b")
_PART: Final = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a text states, in spellings that can be compared. Made by `facts_of`, for `tells_news`.

    `names` are sure to be names; `openings` begin a sentence and may be. `initials`: of names of several words.
    `placed`: the words on both sides of a name, with it, where it is no member of a list.
    `plain`: every word outside of those, folded; `words`: these, the parts of identifiers, and the stems of all.
    `order`: the stems of the first words as they follow each other, without articles; one mark for "and", "or", commas.
    """

    quantities: Quantities
    polarity: Polarity
    names: frozenset[str]
    openings: frozenset[str]
    initials: frozenset[str]
    placed: frozenset[tuple[str, str]]
    identifiers: frozenset[str]
    plain: frozenset[str]
    words: frozenset[str]
    order: tuple[str, ...]


@dataclass(slots=True)
class _Named:
    """The names in a text, what begins a sentence and may be one, initials, and names in their places."""

    sure: set[str] = field(default_factory=set)
    openings: set[str] = field(default_factory=set)
    initials: set[str] = field(default_factory=set)
    placed: set[tuple[str, str]] = field(default_factory=set)


def facts_of(text: str) -> Facts:
    """The facts that the beginning of a text states; any text has some, perhaps none."""
    rest = text[:_READ_CHARACTERS].translate(_QUOTES)
    rest = _NUMBER_SIGN.sub("number", rest)
    addresses: set[str] = set()
    if any(mark in rest for mark in _ADDRESS_MARKS):
        addresses, rest = _taken_out(_ADDRESS, rest)
    quantities, rest = quantities_of(rest)
    identifiers, rest = _taken_out(_IDENTIFIER, rest)
    named = _names(rest)
    folded = fold(rest)
    parts = {part for identifier in identifiers for part in _PART.findall(identifier)}
    plain = {word.removesuffix("'s") for word in _WORD.findall(folded)}
    words = plain | parts
    counts = frozenset(Number(part, "") for part in parts if part.isdigit())
    return Facts(
        quantities=replace(quantities, vague=quantities.vague | counts),
        polarity=polarity_of(folded),
        names=frozenset(named.sure),
        openings=frozenset(named.openings),
        initials=frozenset(named.initials),
        placed=frozenset(named.placed),
        identifiers=frozenset(addresses | identifiers),
        plain=frozenset(plain),
        words=frozenset(words | set(map(_stem, words))),
        order=_order(folded),
    )


def tells_news(new: Facts, old: Facts) -> bool:
    """True when the new text has a fact that the old one has not: a number, a date, a name, the opposite.

    Also when two things changed places and nothing else did: "Ann reports to Bo" is no repeat of "Bo reports to Ann".
    """
    return (
        other_quantities(new.quantities, old.quantities)
        or contradicts(new.polarity, old.polarity)
        or _names_others(new, old)
        or differ_in_place(new.placed, old.placed)
        or _swaps(new.order, old.order)
    )


def _names_others(new: Facts, old: Facts) -> bool:
    """The new text names what the old one does not; a name that may be none counts where one of the old is gone."""
    if any(not _is_known_identifier(each, old) for each in new.identifiers):
        return True
    strange = {name for name in new.names if not _is_known(name, old)}
    if strange and not _is_spelled_out(new, old):
        return True
    opened = any(not _is_known(name, old) for name in new.openings)
    return opened and any(not _is_known(name, new) for name in old.openings | old.names)


def _order(folded: str) -> tuple[str, ...]:
    tokens = islice((match.group() for match in _ORDERED.finditer(folded)), _ORDERED_TOKENS)
    return tuple(_JOINED if token in _JOINERS else _stem(token) for token in tokens if token not in _ARTICLES)


def _swaps(new: tuple[str, ...], old: tuple[str, ...]) -> bool:
    """Two words changed places; members of one list may stand in any order."""
    if len(new) != len(old):
        return False
    places = [place for place, (one, other) in enumerate(zip(new, old, strict=True)) if one != other]
    if len(places) != len(("one", "other")):
        return False
    first, second = places
    is_list = _JOINED in (new[first + 1], new[second - 1])
    return not is_list and (new[first], new[second]) == (old[second], old[first])


def _is_known(name: str, facts: Facts) -> bool:
    if name in facts.words or _stem(name) in facts.words or name in facts.initials:
        return True
    return any(name == other or _is_beginning(name, other) for other in (*facts.names, *facts.openings))


def _is_beginning(name: str, other: str) -> bool:
    """The one is the other cut short, as "Postgres" is of "PostgreSQL"."""
    shorter, longer = sorted((name, other), key=len)
    return len(shorter) >= _SHORTEST_PREFIX and longer.startswith(shorter)


def _is_spelled_out(new: Facts, old: Facts) -> bool:
    """What is new are the words behind initials that the old text has."""
    return bool(new.initials) and all(each in old.words for each in new.initials)


def _is_known_identifier(identifier: str, facts: Facts) -> bool:
    """It is there, or its parts are, each on its own: "GPT-4" in "GPT 4"."""
    if identifier in facts.identifiers or identifier in facts.words:
        return True
    values = {number.value for number in facts.quantities.numbers}
    return all(part in facts.plain or part in values for part in _PART.findall(identifier))


def _names(text: str) -> _Named:
    words = list(_WORD.finditer(text))
    capitals = [match for match in words if match.group()[0].isupper() and not _is_common(match.group())]
    found = _Named()
    if len(words) >= _HEADLINE_WORDS and len(capitals) > _HEADLINE_SHARE * len(words):
        # In a headline every word has a capital, and tells no name by it.
        found.openings.update(map(_key, capitals))
        return found
    for match in capitals:
        if _BEGINS.search(text[max(0, match.start() - _NAME_LOOKBACK) : match.start()]) is None:
            found.sure.add(_key(match))
        elif _may_open(match, text):
            found.openings.add(_key(match))
        else:
            continue
        before, behind = (
            text[max(0, match.start() - _NAME_LOOKBACK) : match.start()],
            text[match.end() : match.end() + _NAME_LOOKBACK],
        )
        if _LIST_BEFORE.search(before) is None and _LIST_BEHIND.match(behind) is None:
            found.placed.add((context_of(match), _key(match)))
    found.initials.update(_initials(capitals, text))
    return found


def _may_open(match: re.Match[str], text: str) -> bool:
    word = match.group()
    if word.isupper() and len(word) > 1:
        return True
    behaves = _DOES.match(text, match.end()) is not None or word.endswith("'s")
    is_of_one = not word.endswith("s") or _OF_ONE.match(text, match.end()) is not None
    return behaves and is_of_one and not _key(match).endswith(_NO_NAME_ENDINGS)


def _initials(capitals: Iterable[re.Match[str]], text: str) -> set[str]:
    """The initials of capitalised words that stand side by side: "nyc" of New York City."""
    runs: list[list[re.Match[str]]] = []
    for match in capitals:
        if runs and _RUN_GAP.fullmatch(text, runs[-1][-1].end(), match.start()) is not None:
            runs[-1].append(match)
        else:
            runs.append([match])
    return {"".join(_key(match)[0] for match in run) for run in runs if len(run) > 1}


def _key(match: re.Match[str]) -> str:
    return fold(match.group()).removesuffix("'s") or match.group()


@lru_cache(maxsize=1 << 14)
def _is_common(word: str) -> bool:
    folded = fold(word)
    return is_stop_word(stem(folded)) or folded in _SHOUTED or ("'" in folded and not folded.endswith("'s"))


def _taken_out(pattern: re.Pattern[str], text: str) -> tuple[set[str], str]:
    """What matches, folded and without marks around it, and the text with white space in its place."""
    found: set[str] = set()

    def note(match: re.Match[str]) -> str:
        found.add(fold(match.group()).rstrip(".,;:!?)/-").lstrip(".:#-"))
        return " "

    return found, pattern.sub(note, text)
