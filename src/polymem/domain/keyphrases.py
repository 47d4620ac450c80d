"""Concepts read from a text by rule, for callers who name none.

A candidate is a run of one to four words that neither begins nor ends with a stop word and crosses no punctuation (the
idea of RAKE, Rose et al. 2010). What the caller's own vocabulary knows comes first, then names, then what is said more
than once or in several words. Everything here is pure, total, and bounded in the length of text it reads.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from polymem.domain.concepts import MAX_KEY_CHARACTERS, concept_key
from polymem.domain.english import stem
from polymem.domain.text import fold, is_stop_word

MOST_CANDIDATES: Final = 192
MOST_WORDS: Final = 4
_CHARACTERS_READ: Final = 4_096
_PHRASE_WORDS: Final = 3
_SHORTEST: Final = 3
_LONGEST_WORD: Final = 40

# What a phrase is worth beside its repeats: a name tells more than a run of words, and that more than a single one.
_NAME: Final = 2.0
_EACH_WORD_MORE: Final = 0.75

_WORD = re.compile(r"[^\W_](?:[^\W_]|[-'\u2019.+#/](?=[^\W_]))*(?:\+\+|\#)?")
_BREAK = re.compile(r"[^\w\s'\u2019-]|\n|\s-+\s")
_NUMBER_LIKE = re.compile(r"[\d.,:/-]+")
_SENTENCE_END = re.compile(r"[.!?:\n]")
# Words that name no thing of their own: verbs of saying and wanting, measures of everything, politeness.
_EMPTY_WORDS: Final = (
    "able actually ago already also always amazing anyone anything awesome back bit came can come could day days did"
    " different doing done each etc ever every everything example exactly feel find finally first get gets getting give"
    " glad go goes going gonna good got great guess happen happened happy hear hello help helpful here hey hi hope idea"
    " interested just keep kind know last lately later let like likely little long look looking lot lots love made"
    " make makes making many maybe mean might mind more most much need needed never new next nice now ok okay old one"
    " ones only part people perfect please point possible pretty probably quite ready really recent recently remember"
    " right said same say see seem seems sense share should show similar small something soon sort sound sounds start"
    " started still stuff suggest suggestions super sure take taking talk tell thank thanks thing things think thinking"
    " thought time times tip tips today told too tried try trying two use used using usually various want wanted way"
    " ways week well went will wonder wondering work would year years yes yesterday yet"
)
_EMPTY: Final = frozenset(_EMPTY_WORDS.split())


class _Word(NamedTuple):
    """One word: as written, as compared, and whether it is written like a name."""

    text: str
    key: str
    is_name: bool
    is_empty: bool


def keyphrases(text: str, *, known: AbstractSet[str] = frozenset(), most: int = 5) -> tuple[str, ...]:
    """The keys of at most `most` concepts of the text, the most telling first; ties in order of the text.

    `known`: keys of the caller's vocabulary (see `candidates`); those that stand in the text come first, the longest
    of overlapping ones.
    """
    runs = _runs(text)
    chosen = _known_ones(runs, known)
    taken = {word for key in chosen for word in key.split()}
    scores = _scores(runs)
    for key in sorted(scores, key=lambda key: -scores[key]):
        words = key.split()
        if key in chosen or taken.issuperset(words):
            continue
        chosen.append(key)
        taken.update(words)
    return tuple(chosen[:most])


def candidates(text: str) -> tuple[str, ...]:
    """The keys, of one to four words, that could be known as concepts, in order of the text; at most 192.

    For looking up which of them a vocabulary knows. A plural is told in the singular, too.
    """
    found: dict[str, None] = {}
    for run in _runs(text):
        for start, end in _spans(len(run), MOST_WORDS):
            words = run[start:end]
            if words[0].is_empty or words[-1].is_empty:
                continue
            key = _key_of(words)
            found[key] = None
            if singular := _singular(key):
                found[singular] = None
            if len(found) >= MOST_CANDIDATES:
                return tuple(found)[:MOST_CANDIDATES]
    return tuple(found)


def concepts_after(concepts: Sequence[str], before: str, after: str) -> tuple[str, ...]:
    """The concepts of a memory whose text was changed: those that stood in the old text and not in the new are gone.

    Where none is left they are read from the new text.
    """
    gone = set(candidates(before)) - set(candidates(after))
    return tuple(concept for concept in concepts if concept_key(concept) not in gone) or keyphrases(after)


def telling_words(text: str, *, most: int) -> tuple[str, ...]:
    """The keys of the single words of the text that name something, in order, at most so many."""
    found = dict.fromkeys(word.key for run in _runs(text) for word in run if _may_stand_alone(word))
    return tuple(found)[:most]


def _known_ones(runs: list[list[_Word]], known: AbstractSet[str]) -> list[str]:
    """The known concepts that stand in the text, in order; of overlapping ones the longest."""
    found: dict[str, None] = {}
    if not known:
        return []
    for run in runs:
        start = 0
        while start < len(run):
            end = min(len(run), start + MOST_WORDS)
            while end > start and (match := _known_key(run[start:end], known)) is None:
                end -= 1
            if end > start and match is not None:
                found[match] = None
                start = end
            else:
                start += 1
    return list(found)


def _known_key(words: list[_Word], known: AbstractSet[str]) -> str | None:
    key = _key_of(words)
    if key in known:
        return key
    singular = _singular(key)
    return singular if singular in known else None


def _scores(runs: list[list[_Word]]) -> dict[str, float]:
    """What each phrase of the text is worth, by key, in order of the text."""
    counts: Counter[str] = Counter()
    worth: dict[str, float] = {}
    for run in runs:
        for phrase in _phrases(run):
            key = _key_of(phrase)
            counts[key] += 1
            is_name = all(word.is_name for word in phrase)
            value = (_NAME if is_name else 0.0) + _EACH_WORD_MORE * (len(phrase) - 1)
            worth[key] = max(worth.get(key, 0.0), value)
    return {key: worth[key] + counts[key] for key in worth}


def _phrases(run: list[_Word]) -> Iterator[list[_Word]]:
    """The longest runs of telling words, of at most three; a name is kept apart from what stands beside it."""
    phrase: list[_Word] = []
    for word in run:
        ends = word.is_empty or (phrase and phrase[-1].is_name != word.is_name) or len(phrase) == _PHRASE_WORDS
        if ends and phrase:
            yield phrase
            phrase = []
        if not word.is_empty and (phrase or _may_stand_alone(word)):
            phrase.append(word)
    if phrase:
        yield phrase


def _runs(text: str) -> list[list[_Word]]:
    """The words of the text, in runs that no punctuation crosses."""
    runs: list[list[_Word]] = []
    read = text[:_CHARACTERS_READ]
    last_end = 0
    starts_sentence = True
    for match in _WORD.finditer(read):
        between = read[last_end : match.start()]
        if last_end == 0 or _BREAK.search(between):
            runs.append([])
        if _SENTENCE_END.search(between):
            starts_sentence = True
        runs[-1].append(_word(match.group(), starts_sentence=starts_sentence))
        starts_sentence = False
        last_end = match.end()
    return [run for run in runs if run]


def _word(text: str, *, starts_sentence: bool) -> _Word:
    bare = text.replace("\u2019", "'").removesuffix("'s")
    key = concept_key(bare)
    is_written_so = text[:1].isupper() and (not starts_sentence or text[1:].lower() != text[1:])
    is_empty = not key or key in _EMPTY or is_stop_word(fold(key)) or is_stop_word(stem(fold(key))) or "'" in key
    return _Word(text, key, is_written_so and not is_empty, is_empty)


def _may_stand_alone(word: _Word) -> bool:
    """False for what names nothing by itself: numbers, single letters, scraps of links and code."""
    if word.is_empty or _NUMBER_LIKE.fullmatch(word.key):
        return False
    return len(word.key) <= _LONGEST_WORD and (len(word.key) >= _SHORTEST or not word.key.isascii() or word.is_name)


def _key_of(words: list[_Word]) -> str:
    return " ".join(word.key for word in words)[:MAX_KEY_CHARACTERS]


def _singular(key: str) -> str:
    """The key with its last word in the singular, "" when it is no plural that can be told by its ending."""
    if not key.endswith("s") or key.endswith(("ss", "us", "is")) or len(key) <= _SHORTEST:
        return ""
    return f"{key[:-3]}y" if key.endswith("ies") else key[:-1]


def _spans(count: int, longest: int) -> Iterator[tuple[int, int]]:
    for start in range(count):
        for end in range(start + 1, min(count, start + longest) + 1):
            yield start, end
