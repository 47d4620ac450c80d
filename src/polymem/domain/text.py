"""Text as terms: what the lexical index holds, what a query asks for, and the text that is indexed.

Both storages index the terms made here and never tokenise on their own, so they agree. A term is a
case-folded word, number or pair of characters of a script written without spaces; it holds no white space
and no underscore and is at most 64 characters long. Everything here is total (any `str`, lone surrogates
included) and linear in the length of the text.
"""

import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from polymem.domain.english import STOP_TERMS, stem
from polymem.domain.model import Memory

TERM_LENGTH_LIMIT = 64

# Scripts written without spaces between words: Han with its marks, kana, bopomofo, hangul (which glues
# particles to words), Thai, Lao, Myanmar, Khmer. Their runs are indexed as overlapping pairs.
_UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\u1100-\u11ff\U00020000-\U0003ffff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecf\u1000-\u103f\u1050-\u109f\u1780-\u17d3"
)
# Vowel signs and other marks that stand inside words of spaced scripts but are no letters to `re`.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u0900-\u0963\u0971-\u0df3"
    "\u0f18-\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f84\u0f90-\u0fbc\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])|[0-9]{1,15}(?:\.[0-9]{1,15}){1,3}"
_LANGUAGE_NAME = r"\b[a-z](?:\+\+|\#)(?!\w)"
_ASCII_WORD = r"[a-z0-9]{1,64}(?:'[a-z]{1,16}(?![a-z0-9]))?"
_WORD = rf"(?:[^\W_{_UNSPACED}]|[{_MARKS}]){{1,64}}(?:'[a-z]{{1,16}}(?!\w))?"

_ASCII_TERM = re.compile(f"{_NUMBER}|{_LANGUAGE_NAME}|{_ASCII_WORD}")
_TERM = re.compile(f"[{_UNSPACED}]+|{_NUMBER}|{_LANGUAGE_NAME}|{_WORD}")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_MEASURE = re.compile(r"([0-9]{1,15}|[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:\.[0-9]+)+)([a-z]{1,3})?")
_ORDINAL_ENDINGS = frozenset({"st", "nd", "rd", "th"})
_CLITICS = frozenset({"s", "t", "ll", "re", "ve", "d", "m"})
_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = tuple(stem(month) for month in _MONTH_NAMES.split())
_NEGATED = {"can": "can", "won": "will", "shan": "shall"}


def _folding() -> dict[int, str | None]:
    """A table from letters with marks to the letters a searcher types: accents, Arabic forms, quotes."""
    table: dict[int, str | None] = {0x2018: "'", 0x2019: "'", 0x02BC: "'", 0x00AD: None, 0x0640: None}
    for code in (*range(0x00C0, 0x0250), *range(0x1E00, 0x1F00)):
        base = unicodedata.normalize("NFD", chr(code))[0]
        if base.isascii():
            table[code] = base.lower()
    table |= {0x00F8: "o", 0x0142: "l", 0x0111: "d", 0x0131: "i", 0x00E6: "ae", 0x0153: "oe"}
    table |= dict.fromkeys([*range(0x0300, 0x0370), *range(0x064B, 0x0653), 0x0670, 0xFE0E, 0xFE0F])
    table |= {0x0622: "\u0627", 0x0623: "\u0627", 0x0625: "\u0627", 0x0649: "\u064a", 0x0629: "\u0647"}
    return table


_FOLDING = _folding()


def fold(text: str) -> str:
    """The text as it is compared: NFKC, case folded, without accents; not for display."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)


def terms(text: str) -> tuple[str, ...]:
    """The terms of a text in order, with repeats; empty for a text of symbols alone."""
    folded = fold(text)
    if folded.isascii():
        return tuple(term for word in _ASCII_TERM.findall(folded) for term in _terms_of_word(word))
    return tuple(term for match in _TERM.findall(folded) for term in _terms_of_match(match))


def query_terms(text: str) -> tuple[str, ...]:
    """The distinct terms a query asks for, in order: without stop words, unless nothing would be left."""
    every = tuple(dict.fromkeys(terms(text)))
    telling = tuple(term for term in every if term not in STOP_TERMS)
    return telling or every


def is_mostly_latin(text: str) -> bool:
    """True when at least half of a text's terms are Latin letters or digits: what an English model can read."""
    every = terms(text)
    return bool(every) and 2 * sum(term.isascii() for term in every) >= len(every)


def is_stop_word(term: str) -> bool:
    """True for a term too common in English to tell one memory from another."""
    return term in STOP_TERMS


def words_with_spans(text: str) -> tuple[tuple[str, int, int], ...]:
    """Each term of a text with the character span it comes from, in order.

    Where folding changes the length of a run of text, the span is the whole run.
    """
    found: list[tuple[str, int, int]] = []
    for run in _RUN.finditer(text):
        folded = fold(run.group())
        is_exact = len(folded) == len(run.group())
        for match in _TERM.finditer(folded):
            start, end = (run.start() + match.start(), run.start() + match.end()) if is_exact else run.span()
            is_unspaced = is_exact and _IS_UNSPACED.match(match.group()) is not None
            for position, term in enumerate(_terms_of_match(match.group())):
                span = (start + position, min(start + position + 2, end)) if is_unspaced else (start, end)
                found.append((term, *span))
    return tuple(found)


def index_text(memory: Memory) -> str:
    """The text of a memory that is indexed and embedded: who said it, what, and its tags.

    The speaker matters: on dialogues the dense arm loses a third of its recall without it.
    """
    text = memory.content if memory.turn is None else f"{memory.turn.role}: {memory.content}"
    return f"{text}\n{', '.join(memory.tags)}" if memory.tags else text


def index_terms(memory: Memory) -> tuple[str, ...]:
    """The terms under which a memory is found, in order with repeats: its text, then the day it is from.

    The date is for the lexical index alone ("what did we plan in May 2023"): all@10 on dialogues .568 without,
    .586 with it; the model gains nothing from it.
    """
    return (*terms(index_text(memory)), *_date_terms(memory.created_at))


def _date_terms(moment: datetime) -> tuple[str, ...]:
    return (str(moment.day), _MONTHS[moment.month - 1], str(moment.year))


_RUN = re.compile(r"\S+")


def _pairs(run: str) -> Iterator[str]:
    """The overlapping pairs of characters of a run, or the one character it has."""
    if len(run) == 1:
        yield run
    for position in range(len(run) - 1):
        yield run[position : position + 2]


def _terms_of_match(folded: str) -> tuple[str, ...]:
    """The terms of one match of the term pattern."""
    return tuple(_pairs(folded)) if _IS_UNSPACED.match(folded) else _terms_of_word(folded)


@lru_cache(maxsize=1 << 15)
def _terms_of_word(word: str) -> tuple[str, ...]:
    """The terms of one folded word: its stem, a number and its unit, or nothing."""
    head, _, clitic = word.partition("'")
    if clitic:
        head = _without_clitic(head, clitic)
    if not head.isascii():
        return (_decimal(head),)
    measure = _MEASURE.fullmatch(head)
    if measure is not None:
        number, unit = measure.groups()
        return (_decimal(number), unit) if unit and unit not in _ORDINAL_ENDINGS else (_decimal(number),)
    return (stem(head),)


def _without_clitic(head: str, clitic: str) -> str:
    """The word before an English clitic (dogs: "dog's", "we'll", "isn't"); other names are closed up (o'brien)."""
    if clitic == "t" and head.endswith("n"):
        return _NEGATED.get(head, head[:-1] or head)
    return head if clitic in _CLITICS else (head + clitic)[:TERM_LENGTH_LIMIT]


def _decimal(word: str) -> str:
    """A number in ASCII digits, without separators of thousands or the zero before a day or month."""
    if not word.isascii():
        return "".join(str(unicodedata.decimal(char, char)) for char in word)
    plain = word.replace(",", "")
    return plain.removeprefix("0") if len(plain) == len("05") else plain
