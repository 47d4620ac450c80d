"""What a stored text tells beside its words: who speaks, whether it asks, the days it names.

Made at the write, kept in the index as a few bytes, read when the memory is a candidate of a question.
"""

import re
import struct
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Final

from polymem.domain.model import Memory
from polymem.domain.timewords import DaySpan, read_times

# Roles of a chat with an assistant. Whoever speaks under another role, or before a colon, has a name.
ASSISTANT_ROLES: Final = frozenset({"assistant", "ai", "bot", "model", "system", "tool", "agent"})
PERSON_ROLES: Final = frozenset({"user", "human", "customer", "me"})
_ROLES = ASSISTANT_ROLES | PERSON_ROLES

SPEAKER_LIMIT: Final = 64
# Longer texts are judged by their beginning.
_READ_CHARACTERS = 16_384

_SENTENCE = re.compile("[^.!?\n\u3002\uff01\uff1f]+[.!?\u3002\uff01\uff1f]*")
_ASKS = ("?", "\uff1f")
_NUMBER = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|hundred|thousand|dozen|couple"
    r"|several|few|once|twice)\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(?:yesterday|today|tomorrow|tonight|last|next|ago|weeks?|weekend|months?|years?|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|january|february|march|april|may|june|july|august|september|october|november|december|summer|winter|spring"
    r"|autumn|recently|since|(?:19|20)\d\d|morning|evening|night)\b",
    re.IGNORECASE,
)
# A capital inside a sentence begins a name, as far as English goes.
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z][a-z]+")
_PREFIX = re.compile(r"\s*([A-Z][\w.'-]{0,30}(?: [A-Z][\w.'-]{0,30}){0,2}): ")

_HEAD = struct.Struct("<BBBB")
_SPAN = struct.Struct("<iH")
_EPOCH = date(1970, 1, 1)
_SHARES = 255
_NAME_STEPS = 500
_HAS_NUMBER, _HAS_TIME, _ENDS_ASKING, _IS_NOTE = 1, 2, 4, 8


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Shares in [0, 1]: `asking` of the characters in sentences that ask, `names` of the words that begin a name.

    `speaker` is who said it, in the letters of the text, or None; `is_note`: it is no turn of a session; `spans` the
    days that the text names, resolved against the day it was said.
    """

    speaker: str | None = None
    asking: float = 0.0
    ends_asking: bool = False
    has_number: bool = False
    has_time: bool = False
    names: float = 0.0
    spans: tuple[DaySpan, ...] = ()
    is_note: bool = False

    @cached_property
    def has_name(self) -> bool:
        """True when the speaker has a name."""
        return self.speaker is not None and self.speaker.lower() not in _ROLES

    @cached_property
    def is_dialogue(self) -> bool:
        """True for a turn of a named speaker, as people have among themselves."""
        return self.has_name and not self.is_note

    @cached_property
    def is_chat(self) -> bool:
        """True for what a person and an assistant say to each other."""
        return self.speaker is not None and not self.has_name

    @cached_property
    def is_assistant(self) -> bool:
        """True for what an assistant said."""
        return self.speaker is not None and self.speaker.lower() in ASSISTANT_ROLES


def traits_of(memory: Memory) -> Traits:
    """The traits of a memory's text, which depend on the text, its role and its day alone."""
    text = memory.content[:_READ_CHARACTERS]
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text)]
    asked = sum(len(sentence) for sentence in sentences if sentence.endswith(_ASKS))
    words = len(text.split())
    return Traits(
        speaker=_speaker(memory),
        asking=asked / max(sum(map(len, sentences)), 1),
        ends_asking=text.rstrip().endswith(_ASKS),
        has_number=_NUMBER.search(text) is not None,
        has_time=_TIME.search(text) is not None,
        names=min(len(_NAME.findall(text)) / max(words, 1), 1.0),
        spans=read_times(text, memory.created_at.date()),
        is_note=memory.turn is None,
    )


def encode_traits(traits: Traits) -> bytes:
    """The traits as bytes, shares rounded to what `decode_traits` gives back."""
    flags = _HAS_NUMBER * traits.has_number | _HAS_TIME * traits.has_time
    flags |= _ENDS_ASKING * traits.ends_asking | _IS_NOTE * traits.is_note
    names = min(round(traits.names * _NAME_STEPS), _SHARES)
    head = _HEAD.pack(flags, round(traits.asking * _SHARES), names, len(traits.spans))
    spans = b"".join(_SPAN.pack((span.first - _EPOCH).days, min(span.days, 0xFFFF)) for span in traits.spans)
    return head + spans + (traits.speaker or "").encode("utf-8", "replace")


def decode_traits(stored: bytes) -> Traits:
    """The traits that were encoded; without any bytes those of a text that tells nothing."""
    if not stored:
        return Traits()
    flags, asking, names, count = _HEAD.unpack_from(stored)
    end = _HEAD.size + count * _SPAN.size
    spans = tuple(
        DaySpan(first, first + timedelta(days=days - 1))
        for first, days in (
            (_EPOCH + timedelta(days=start), days) for start, days in _SPAN.iter_unpack(stored[_HEAD.size : end])
        )
    )
    return Traits(
        speaker=stored[end:].decode() or None,
        asking=asking / _SHARES,
        ends_asking=bool(flags & _ENDS_ASKING),
        has_number=bool(flags & _HAS_NUMBER),
        has_time=bool(flags & _HAS_TIME),
        names=names / _NAME_STEPS,
        spans=spans,
        is_note=bool(flags & _IS_NOTE),
    )


def _speaker(memory: Memory) -> str | None:
    """Who said it: the role of a turn, or the name before the first colon where no role tells more."""
    role = None if memory.turn is None else memory.turn.role.strip()
    if role is None or role.lower() in PERSON_ROLES:
        named = _PREFIX.match(memory.content)
        role = named.group(1) if named is not None else role
    return role[:SPEAKER_LIMIT] if role else None
