"""Numbers, times and dates as a text states them, each in one spelling, so that "three" is "3" and "3 pm" is "15:00".

English names. For comparing two texts, not for arithmetic: a number is the text of its digits, so "3.10" and "3.1"
are different.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from polymem.domain.english import STOP_TERMS, stem

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES: Final = {name: number for number, name in enumerate(_ONES.split())} | {
    name: 10 * number for number, name in enumerate(_TENS.split(), start=2)
}
_SCALES: Final = {"hundred": 100, "thousand": 1000, "k": 1000, "million": 10**6, "billion": 10**9, "bn": 10**9}
_ORDINAL_NAMES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINALS: Final = {name: number for number, name in enumerate(_ORDINAL_NAMES.split(), start=1)}
_MULTIPLES: Final = (
    {"twice": "2 times", "thrice": "3 times", "half": "0.5", "dozen": "12"}
    | dict.fromkeys(("doubled", "doubles", "doubling"), "2 times")
    | dict.fromkeys(("tripled", "triples", "tripling"), "3 times")
    | dict.fromkeys(("halved", "halves", "halving"), "0.5")
)
_FRACTIONS: Final = {name: parts for name, parts in _ORDINALS.items() if name not in {"first", "second"}} | {
    "quarter": 4
}
_VAGUE: Final = {"one": "1", "a": "1", "an": "1", "first": "1", "once": "1", "couple": "2"}
_UNIT_SPELLINGS = """
s: s sec secs second seconds; min: min mins minute minutes; h: h hr hrs hour hours; day: day days
week: week weeks; month: month months; year: year years yr yrs; ms: ms millisecond milliseconds
kb: kb kilobyte kilobytes; mb: mb megabyte megabytes; gb: gb gigabyte gigabytes; tb: tb terabyte terabytes
%: % percent; km: km kilometer kilometers kilometre kilometres; m: m meter meters metre metres; mile: mile miles
cm: cm; mm: mm; foot: ft foot feet; inch: inch inches; kg: kg kilo kilos kilogram kilograms; g: g gram grams
mg: mg; lb: lb lbs; l: l liter liters litre litres; ml: ml; times: times x
usd: usd dollar dollars buck bucks $; eur: eur euro euros \u20ac; gbp: gbp \u00a3
"""
_UNITS: Final = {
    spelling: unit.strip()
    for unit, _, spellings in (group.partition(":") for group in re.split("[;\n]", _UNIT_SPELLINGS))
    for spelling in spellings.split()
}
_PERIODS: Final = {"hourly": "h", "daily": "day", "weekly": "week", "monthly": "month"} | dict.fromkeys(
    ("yearly", "annually", "annual"), "year"
)
_STEPS: Final = {"next": "next", "coming": "next", "last": "last", "previous": "last", "past": "last", "this": "this"}

_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS: Final = {name: str(number) for number, name in enumerate(_MONTH_NAMES.split(), start=1)}
_SHORT_MONTHS: Final = {name[:3]: number for name, number in _MONTHS.items()} | {"sept": "9"}
_WEEKDAY_NAMES = "monday tuesday wednesday thursday friday saturday sunday"
_SHORT_WEEKDAYS: Final = {name[:3].title(): name for name in _WEEKDAY_NAMES.split()} | {
    "Tues": "tuesday",
    "Thur": "thursday",
    "Thurs": "thursday",
}
_NAMED_DAYS = "today tomorrow yesterday tonight morning afternoon evening night weekend weekday summer winter autumn"
_CLOCK_NAMES: Final = {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}
_HALF_DAY_HOURS = 12
_DAY_HOURS = 24
_MONTH_LIMIT = 12
_SHORT_YEAR = 2
_FOLLOWING_CHARACTERS = 40
_LOOKBACK_CHARACTERS = 6
_CONTEXT_CHARACTERS = 24


# Letters that match "i", "s" and "k" where case is ignored, and are none of them.
_LOOKALIKES: Final = str.maketrans("\u0130\u0131\u017f\u212a", "IisK")


class Number(NamedTuple):
    """The digits of a number, and the unit it is in: empty when it has none that we know."""

    value: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantities:
    """What a text counts, and when.

    `numbers` are meant as such; `vague` may be ("one", "an hour", "once"). `counted`: the stem of the word behind a
    number, with it, and the words on both sides of each quantity, with that. `dates`: weekdays,
    months, times of day, named days and periods, in our own spelling; the day and the year of a date are numbers.
    """

    numbers: frozenset[Number] = frozenset()
    vague: frozenset[Number] = frozenset()
    counted: frozenset[tuple[str, str]] = frozenset()
    dates: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Found:
    numbers: set[Number] = field(default_factory=set)
    vague: set[Number] = field(default_factory=set)
    counted: set[tuple[str, str]] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)
    latest: list[str] = field(default_factory=list)

    def number(self, number: Number) -> None:
        self.numbers.add(number)
        self.latest.append(number.value)

    def maybe(self, number: Number) -> None:
        self.vague.add(number)

    def date(self, date: str) -> None:
        self.dates.add(date)
        self.latest.append(date)


# Notes what a match says and gives the text that stands in its place for those that read later.
_Reader = Callable[[re.Match[str], _Found], str]


def quantities_of(text: str) -> tuple[Quantities, str]:
    """The quantities that a text states, and the text without them: white space is left in their place."""
    found = _Found()
    rest = text.translate(_LOOKALIKES)
    words = frozenset(_LETTERS.findall(rest.lower()))
    for pattern, read, needed in _READERS:
        # Most texts have none of these words: to look for one is much cheaper than to search for the pattern.
        if _HAS_DIGIT.search(rest) if needed is None else not needed.isdisjoint(words):
            rest = _read_all(pattern, read, rest, found)
    quantities = Quantities(
        numbers=frozenset(found.numbers),
        vague=frozenset(found.vague),
        counted=frozenset(found.counted),
        dates=frozenset(found.dates),
    )
    return quantities, rest


def other_quantities(new: Quantities, old: Quantities) -> bool:
    """True when the new text states a number, time or date that the old one does not.

    A unit that one of them leaves out makes no difference. A vague number does where the old text has another one in
    the same unit; and so do different numbers of one thing.
    """
    known = old.numbers | old.vague
    if new.dates - old.dates - {f"every {number.unit}" for number in old.vague}:
        return True
    if any(not _is_among(number, known) for number in new.numbers):
        return True
    return any(_differs(number, old.numbers) for number in new.vague - old.vague) or differ_in_place(
        new.counted, old.counted
    )


def _is_among(number: Number, known: Iterable[Number]) -> bool:
    return any(
        each.value == number.value and (each.unit == number.unit or not each.unit or not number.unit) for each in known
    )


def _differs(number: Number, known: Iterable[Number]) -> bool:
    """There are numbers in this unit, and none is this one."""
    values = {each.value for each in known if each.unit == number.unit and number.unit}
    return bool(values) and number.value not in values


def _read_all(pattern: re.Pattern[str], read: _Reader, text: str, found: _Found) -> str:
    def note(match: re.Match[str]) -> str:
        found.latest.clear()
        instead = read(match, found)
        if found.latest:
            found.counted.add((context_of(match), " ".join(found.latest)))
        return instead

    return pattern.sub(note, text)


def context_of(match: re.Match[str]) -> str:
    """The words beside a match, by which what stands between them can be compared in two long texts."""
    start, end = match.span()
    before = _WORD_BEFORE.search(match.string[max(0, start - _CONTEXT_CHARACTERS) : start])
    behind = _WORD_BEHIND.match(match.string[end : end + _CONTEXT_CHARACTERS])
    words = (word.group(1) if word is not None else "" for word in (before, behind))
    return " _ ".join(words).lower()


def differ_in_place(new: Iterable[tuple[str, str]], old: Iterable[tuple[str, str]]) -> bool:
    """True when something stands in both, by its first part, and nothing that it goes with is in both."""
    before: dict[str, set[str]] = {}
    now: dict[str, set[str]] = {}
    for pairs, values in ((old, before), (new, now)):
        for place, value in pairs:
            values.setdefault(place, set()).add(value)
    return any(place in before and before[place].isdisjoint(values) for place, values in now.items())


# --- readers ---------------------------------------------------------------------------------------------


def _words_as_digits(match: re.Match[str], _: _Found) -> str:
    """A number in words as digits; "one" alone and "a" tell too little to be one."""
    words = [word for word in re.split(r"[\s-]+", match.group().lower()) if word != "and"]
    if words in (["one"], ["a"], ["an"]):
        return match.group()
    total = part = 0
    for word in words:
        if word in _SCALES and word != "hundred":
            total += max(part, 1) * _SCALES[word]
            part = 0
        else:
            part = max(part, 1) * _SCALES[word] if word in _SCALES else part + _VALUES.get(word, 1)
    return str(total + part)


def _ordinal_as_digits(match: re.Match[str], _: _Found) -> str:
    """The number of an ordinal, unless it is a second of time."""
    start, end = match.span()
    is_unit = _BEFORE_A_SECOND.search(match.string[max(0, start - _LOOKBACK_CHARACTERS) : start]) is not None
    if is_unit and _BEHIND_AN_ORDINAL.match(match.string, end) is None:
        return match.group()
    return f"{_ORDINALS[match.group().lower()]}th"


def _fraction_as_digits(match: re.Match[str], _: _Found) -> str:
    """A part of a whole, as "a third" or "2 fifths", in hundredths."""
    many = match["many"]
    parts = _FRACTIONS[match["part"].lower()]
    return f"{100 * (int(many) if many.isdecimal() else 1) // parts}%"


def _multiple_as_digits(match: re.Match[str], _: _Found) -> str:
    return _MULTIPLES[match.group().lower()]


def _written_date(match: re.Match[str], found: _Found) -> str:
    """Year, month and perhaps day: "2024-03-05"."""
    year, month, day = match.groups()
    return _date(found, day, month, year) or match.group()


def _slashed_date(match: re.Match[str], found: _Found) -> str:
    """Month first, as in the United States, unless that is no month."""
    month, day, year = match.groups()
    return _date(found, day, month, year) or _date(found, month, day, year) or match.group()


def _dotted_date(match: re.Match[str], found: _Found) -> str:
    day, month, year = match.groups()
    return _date(found, day, month, year) or match.group()


def _date(found: _Found, day: str | None, month: str, year: str) -> str:
    """White space when this is a date, which is noted; else nothing."""
    if not 1 <= int(month) <= _MONTH_LIMIT:
        return ""
    found.date(f"month {int(month)}")
    found.number(Number(f"20{year}" if len(year) == _SHORT_YEAR else year, ""))
    if day is not None:
        found.number(Number(str(int(day)), ""))
    return " "


def _clock(match: re.Match[str], found: _Found) -> str:
    hour, minute, half = int(match["hour"]), match["minute"], match.groupdict().get("half")
    if half is not None:
        hour = hour % _HALF_DAY_HOURS + _HALF_DAY_HOURS * (half.lower() == "p")
    if hour >= _DAY_HOURS:
        return match.group()
    found.date(f"{hour:02}:{minute or '00'}")
    return " "


def _named_clock(match: re.Match[str], found: _Found) -> str:
    found.date(_CLOCK_NAMES[match.group().lower()])
    return " "


def _month(match: re.Match[str], found: _Found) -> str:
    name = match["month"].lower()
    found.date(f"month {_MONTHS.get(name) or _SHORT_MONTHS[name[:4] if name == 'sept' else name[:3]]}")
    return match.group().replace(match["month"], " ")


def _weekday(match: re.Match[str], found: _Found) -> str:
    found.date(match["day"].lower())
    return " "


def _short_weekday(match: re.Match[str], found: _Found) -> str:
    found.date(_SHORT_WEEKDAYS[match["day"]])
    return " "


def _directed(match: re.Match[str], found: _Found) -> str:
    found.date(f"{_STEPS[match['step'].lower()]} {match['unit'].lower()}")
    return " "


def _every(match: re.Match[str], found: _Found) -> str:
    found.date(f"every {_UNITS[match['unit'].lower()]}")
    if match["once"] is not None:
        found.maybe(Number("1", "times"))
    return " "


def _period(match: re.Match[str], found: _Found) -> str:
    found.date(f"every {_PERIODS[match.group().lower()]}")
    return " "


def _named_day(match: re.Match[str], found: _Found) -> str:
    name = match["name"].lower()
    found.date("night" if name == "tonight" else name)
    return " "


def _number(match: re.Match[str], found: _Found) -> str:
    value = _plain(match["digits"])
    scale = match["scale"]
    if scale is not None and value.count(".") <= 1:
        value = _plain(f"{(Decimal(value) * _SCALES[scale.lower()]).normalize():f}")
    unit = _UNITS.get((match["unit"] or match["currency"] or "").lower(), "")
    number = Number(f"-{value}" if match["sign"] else value, unit)
    found.number(number)
    _count_what_follows(match, number.value, found)
    return " "


def _vague(match: re.Match[str], found: _Found) -> str:
    """One of something, or "an hour"; an article before anything else is no number."""
    word, unit = match["word"].lower(), _UNITS.get((match["unit"] or "").lower(), "")
    if word in ("a", "an") and not unit:
        return match.group()
    unit = "times" if word == "once" else unit
    found.maybe(Number(_VAGUE[word], unit))
    _count_what_follows(match, _VAGUE[word], found)
    return " "


def _count_what_follows(match: re.Match[str], value: str, found: _Found) -> None:
    """The next word, when it tells something, is what this is the number of."""
    end = match.end()
    following = _FOLLOWING_WORD.match(match.string[end : end + _FOLLOWING_CHARACTERS])
    if following is None:
        return
    thing = stem(following.group(1).lower())
    if thing not in STOP_TERMS:
        found.counted.add((thing, value))


def _plain(digits: str) -> str:
    """ASCII digits without separators of thousands, a zero before a day or month, or a fraction of nothing."""
    plain = "".join(str(unicodedata.decimal(char, char)) for char in digits.replace(",", ""))
    if len(plain) == len("05"):
        plain = plain.removeprefix("0")
    whole, point, fraction = plain.partition(".")
    return whole if point and not fraction.strip("0") else plain


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))))


_WORD_BEFORE: Final = re.compile(r"([^\W_]+)\W*\Z")
_WORD_BEHIND: Final = re.compile(r"\W*([^\W_]+)")
_FOLLOWING_WORD: Final = re.compile(r"[\s-]*(?:of\s+(?:the\s+)?)?([^\W\d_]{2,40})")
_A_VALUE = rf"(?:{_any_of(_VALUES)}|(?:an?|one)(?=[\s-]+(?:hundred|thousand|million|billion)\b))"
_A_SCALE = "hundred|thousand|million|billion"
_WORD_NUMBER = rf"\b{_A_VALUE}(?:(?:[\s-]+(?:and\s+)?)(?:{_any_of(_VALUES)}|{_A_SCALE})\b){{0,8}}(?!\w)"
_LETTER_UNITS = _any_of(unit for unit in _UNITS if unit.isalpha())
_UNIT = rf"(?:[\s-]?(?P<unit>(?:{_LETTER_UNITS})(?!\w)|[%$\u20ac\u00a3]))?"
_SPAN_UNIT = r"(?P<unit>second|minute|hour|day|week|month|year|hr|min|sec)(?!\w)"
_MONTH_LEAD = r"(?:in|on|of|since|until|till|by|from|this|next|last|early|late|mid|before|after|through|to)"
_DAY_NUMBER = r"\d{1,4}(?:st|nd|rd|th)?"
_SHORT_MONTH = _any_of(_SHORT_MONTHS)
_BEFORE_A_SECOND: Final = re.compile(r"(?:\d|\b(?:an?|per|each|every|one))\s\Z", re.IGNORECASE)
_BEHIND_AN_ORDINAL: Final = re.compile(rf"\s(?:{_any_of(_WEEKDAY_NAMES.split())}|day|week|month|year)\b", re.IGNORECASE)
_FULL_MONTH = _any_of(set(_MONTHS) - {"march", "may"})
_SOME_MONTH = rf"{_any_of(_MONTHS)}|{_SHORT_MONTH}"
_CAPITAL_MONTH = _any_of(name.title() for name in {*_MONTHS, *_SHORT_MONTHS})

_LETTERS: Final = re.compile(r"[^\W\d_]+")
_HAS_DIGIT: Final = re.compile(r"\d")


def _with_plurals(words: str) -> frozenset[str]:
    return frozenset(words.split()) | frozenset(f"{word}s" for word in words.split())


_NUMBER_WORDS: Final = frozenset(_VALUES) - {"one"} | frozenset(_A_SCALE.split("|"))
_MONTH_WORDS: Final = frozenset(_MONTHS) | frozenset(_SHORT_MONTHS)
_WEEKDAY_WORDS: Final = _with_plurals(_WEEKDAY_NAMES)
_SHORT_WEEKDAY_WORDS: Final = frozenset(name.lower() for name in _SHORT_WEEKDAYS)
_EVERY_WORDS: Final = frozenset({"every", "each", "per", "once"})
_NAMED_DAY_WORDS: Final = _with_plurals(_NAMED_DAYS)

# Each with the words of which a text has one, or None where it has a digit, when the pattern may be in it.
_READERS: Final[tuple[tuple[re.Pattern[str], _Reader, frozenset[str] | None], ...]] = (
    (re.compile(_WORD_NUMBER, re.IGNORECASE), _words_as_digits, _NUMBER_WORDS),
    (
        re.compile(
            rf"\b(?P<many>an?|one|[0-9])[ -](?P<part>{_any_of(_FRACTIONS)})s?\b"
            r"(?=\s+(?:of|off|in|on|by|from|to|and|or|as|per|more|less|since|last|this|every)\b|\s*(?:[.,;:!?)]|$))",
            re.IGNORECASE,
        ),
        _fraction_as_digits,
        frozenset(f"{name}{end}" for name in _FRACTIONS for end in ("", "s")),
    ),
    (
        re.compile(rf"\b(?:{_any_of(set(_ORDINALS) - {'first'})})\b", re.IGNORECASE),
        _ordinal_as_digits,
        frozenset(_ORDINALS),
    ),
    (re.compile(rf"\b(?:{_any_of(_MULTIPLES)})\b", re.IGNORECASE), _multiple_as_digits, frozenset(_MULTIPLES)),
    (re.compile(r"(?<![\w.-])(\d{4})[-/](\d{1,2})(?:[-/](\d{1,2}))?(?!\d)"), _written_date, None),
    (re.compile(r"(?<![\w./-])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\w/])"), _slashed_date, None),
    (re.compile(r"(?<![\w./-])(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\w)"), _dotted_date, None),
    (
        re.compile(
            r"(?<![\d.:])(?P<hour>\d{1,2})(?:[:.](?P<minute>\d\d)(?::\d\d)?)?\s?(?P<half>[ap])(?:\.m\.|m\b)",
            re.IGNORECASE,
        ),
        _clock,
        None,
    ),
    (re.compile(r"(?<![\d.:])(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::\d\d)?(?![\d:])"), _clock, None),
    (re.compile(rf"\b(?:{_any_of(_CLOCK_NAMES)})\b", re.IGNORECASE), _named_clock, frozenset(_CLOCK_NAMES)),
    (re.compile(rf"\b(?P<month>{_FULL_MONTH})\b", re.IGNORECASE), _month, _MONTH_WORDS),
    (re.compile(rf"\b(?P<month>{_SOME_MONTH})\b\.?(?=\s{_DAY_NUMBER}\b)", re.IGNORECASE), _month, _MONTH_WORDS),
    (re.compile(rf"\b{_DAY_NUMBER}\s(?:of\s)?(?P<month>{_SOME_MONTH})\b", re.IGNORECASE), _month, _MONTH_WORDS),
    (re.compile(rf"\b{_MONTH_LEAD}\s(?P<month>{_CAPITAL_MONTH})\b"), _month, _MONTH_WORDS),
    (re.compile(rf"\b(?P<day>{_any_of(_WEEKDAY_NAMES.split())})s?\b", re.IGNORECASE), _weekday, _WEEKDAY_WORDS),
    (re.compile(rf"\b(?P<day>{_any_of(_SHORT_WEEKDAYS)})\b"), _short_weekday, _SHORT_WEEKDAY_WORDS),
    (
        re.compile(
            rf"\b(?P<step>{_any_of(_STEPS)})\s(?P<unit>week|month|quarter|year|night|spring|fall)\b", re.IGNORECASE
        ),
        _directed,
        frozenset(_STEPS),
    ),
    (re.compile(rf"\b(?:every|each|per|(?P<once>once an?))\s{_SPAN_UNIT}", re.IGNORECASE), _every, _EVERY_WORDS),
    (re.compile(rf"\b(?:{_any_of(_PERIODS)})\b", re.IGNORECASE), _period, frozenset(_PERIODS)),
    (re.compile(rf"\b(?P<name>{_any_of(_NAMED_DAYS.split())})s?\b", re.IGNORECASE), _named_day, _NAMED_DAY_WORDS),
    (
        re.compile(
            r"(?<![\w.])(?<![A-Za-z]-)(?P<sign>-)?(?P<currency>[$\u20ac\u00a3])?"
            r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)*)"
            rf"(?:\s?(?P<scale>k|bn|hundred|thousand|million|billion)(?!\w))?(?:{_UNIT}|st|nd|rd|th)(?!\w)",
            re.IGNORECASE,
        ),
        _number,
        None,
    ),
    (
        re.compile(rf"\b(?P<word>{_any_of(_VAGUE)})(?:(?:\sof)?[\s-]{_SPAN_UNIT})?(?!\w)", re.IGNORECASE),
        _vague,
        frozenset(_VAGUE),
    ),
)
