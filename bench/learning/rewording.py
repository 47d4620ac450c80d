"""Questions said again in other words, and follow-ups to them: by rule, the same every time.

Nothing here looks at the answers. A rewording keeps what is asked; a follow-up keeps two of its telling words.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from polymem.domain.keyphrases import telling_words
from polymem.domain.text import is_stop_word, terms

_SYNONYMS: Final[Mapping[str, str]] = {
    "acquire": "get",
    "advice": "suggestion",
    "area": "region",
    "attend": "go to",
    "attended": "went to",
    "automobile": "car",
    "began": "started",
    "bike": "bicycle",
    "bought": "purchased",
    "brand": "make",
    "buy": "purchase",
    "car": "automobile",
    "city": "town",
    "complete": "finish",
    "completed": "finished",
    "cost": "price",
    "current": "present",
    "currently": "now",
    "doctor": "physician",
    "earlier": "before",
    "event": "occasion",
    "favorite": "preferred",
    "film": "movie",
    "finish": "complete",
    "finished": "completed",
    "first": "earliest",
    "gift": "present",
    "graduate": "finish my studies",
    "happened": "took place",
    "home": "house",
    "house": "home",
    "issue": "problem",
    "job": "position",
    "kids": "children",
    "latest": "most recent",
    "meal": "dish",
    "meet": "encounter",
    "met": "came across",
    "money": "cash",
    "movie": "film",
    "name": "title",
    "occupation": "profession",
    "order": "sequence",
    "pay": "spend",
    "phone": "mobile",
    "photo": "picture",
    "previous": "former",
    "problem": "issue",
    "purchased": "bought",
    "received": "was given",
    "recommend": "suggest",
    "recommended": "suggested",
    "shop": "store",
    "sibling": "brother or sister",
    "spend": "pay",
    "spent": "paid",
    "store": "shop",
    "take": "need",
    "trip": "journey",
    "visit": "go to",
    "visited": "went to",
    "watch": "see",
    "watched": "saw",
    "work": "be employed",
}
_WORD = re.compile(r"[A-Za-z]+")
_FOLLOW_UP_WORDS: Final = 2


def in_other_words(question: str) -> str:
    """The question with every word that has a synonym replaced by it, and a request around it."""
    replaced = _WORD.sub(lambda match: _SYNONYMS.get(match.group().lower(), match.group()), question)
    return f"Could you remind me? {replaced[:1].lower()}{replaced[1:]}"


def thinned(question: str) -> str:
    """The telling words of the question without every third, as somebody in a hurry types them."""
    words = [word for word in _WORD.findall(question) if not all(is_stop_word(term) for term in terms(word))]
    return " ".join(word for place, word in enumerate(words) if place % 3 != 2)


def follow_up(question: str) -> str:
    """Something else about the two longest telling words of the question."""
    words = sorted(telling_words(question, most=16), key=lambda word: (-len(word), word))[:_FOLLOW_UP_WORDS]
    return f"And what else about {' and '.join(words)}?"


KINDS: Final[Mapping[str, Callable[[str], str]]] = {
    "in other words": in_other_words,
    "thinned": thinned,
    "follow-up": follow_up,
}
