"""What a question asks for, beside its words: a moment, a number, a name, a present or a past state.

English only, by rules; a question that they do not know asks for nothing in particular.
"""

import re
from dataclasses import dataclass
from datetime import date

from polymem.domain.timewords import DaySpan, read_times

_WORD = re.compile(r"[a-z']+")
_OPENING_WORDS = 3
_FIRST_PERSON = frozenset({"i", "my", "me", "mine", "we", "our", "us", "i've", "i'm", "i'd", "i'll", "we've", "we're"})
_SECOND_PERSON = frozenset({"you", "your", "yours", "you've", "you're"})
_CONVERSATION = re.compile(r"conversation|\bchat\b|\bremind me\b|\bassistant\b")
_WHEN = re.compile(
    r"\bwhen\b|\bwh(?:at|ich) (?:date|day|month|year|time)\b|\bhow long\b|\bhow many (?:days|weeks|months|years)\b"
)
_HOW_MANY = re.compile(r"\bhow (?:many|much|often|old)\b|\btotal\b|\bnumber of\b")
_WHO = re.compile(r"\bwho(?:se|m)?\b")
_PAST = re.compile(
    r"\b(?:previous(?:ly)?|before|former(?:ly)?|used to|original(?:ly)?|initial(?:ly)?|first|earlier|old|past|ago"
    r"|last (?:week|month|year)|when did|what date)\b"
)
_PRESENT = re.compile(
    r"\b(?:do|does|have|has|is|are|am|currently|current|now|still|latest|recent|recently|so far|these days|usually)\b"
)
_PRESENT_FOR_CERTAIN = re.compile(r"\b(?:most recent|latest|currently|current|now)\b")
_DID = re.compile(r"\bdid\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a question asks for. `spans` are the days it names, read against the day it is asked."""

    of_the_asker: bool
    of_the_assistant: bool
    for_a_time: bool
    for_a_number: bool
    for_a_name: bool
    of_the_present: bool
    of_the_past: bool
    spans: tuple[DaySpan, ...]


def read_question(text: str, asked_on: date) -> Asked:
    """What the question asks for."""
    plain = text.lower().replace("\u2019", "'")
    words = _WORD.findall(plain)
    known = set(words)
    of_the_past = _PAST.search(plain) is not None
    is_present = _PRESENT.search(plain) is not None and _DID.search(plain) is None
    return Asked(
        of_the_asker=bool(known & _FIRST_PERSON),
        of_the_assistant=bool(known & _SECOND_PERSON) or _CONVERSATION.search(plain) is not None,
        for_a_time=_WHEN.search(plain) is not None,
        for_a_number=_HOW_MANY.search(plain) is not None,
        for_a_name=_WHO.search(plain) is not None or "where" in words[:_OPENING_WORDS],
        of_the_present=not of_the_past and (is_present or _PRESENT_FOR_CERTAIN.search(plain) is not None),
        of_the_past=of_the_past,
        spans=read_times(text, asked_on, is_question=True),
    )
