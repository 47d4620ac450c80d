"""Time words read against the moment they were said: "last spring", "two weeks ago", "in March 2023".

English only, by rules. What cannot be told ("a while ago", "two weeks before the wedding") is left out: readers of a
question use what is found as a boost and never as a filter.
"""

import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

# A text may hold any number of dates; so many say when something happened, more are a calendar.
MAX_SPANS: Final = 4

# Longer texts are read to here.
_READ_CHARACTERS = 8_192

_DAY = timedelta(days=1)
_WEEK_DAYS = 7
_MONTH_DAYS = 30
_YEAR_DAYS = 365
_ROLLING = frozenset({"past", "the last"})
_ROLLING_DAYS = {"week": 7, "month": 31, "year": 365}
_FEW = 3
_FEWEST_FUZZY_DAYS = 5
_SEASON_MONTHS = 3
_CENTURY = 100
# Two digits from here on are years of the last century, as POSIX reads them.
_LAST_CENTURY_FROM = 69
_MONTH_LIMIT = 12
# A leap day is at most so many years away, but around 1900 and 2100.
_YEARS_AROUND = 4

_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split(), start=1)}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}
# Words of everyday speech that are months only in company; the first two even beside a number ("step 3 may fail").
_VERBS = frozenset({"march", "may"})
_DOUBTFUL_MONTHS = _VERBS | frozenset({"mar", "jan", "jun", "dec", "sep", "oct", "apr"})
_WEEKDAY_NAMES = "monday tuesday wednesday thursday friday saturday sunday"
_WEEKDAYS = {name: number for number, name in enumerate(_WEEKDAY_NAMES.split())}
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_NUMBER_NAMES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_NUMBERS = {name: number for number, name in enumerate(_NUMBER_NAMES.split(), start=1)} | {"thirty": 30}
_NUMBERS |= dict.fromkeys(("a", "an"), 1) | dict.fromkeys(("couple", "a couple", "couple of", "a couple of"), 2)
_FEW_WORDS = frozenset({"few", "a few", "several"})
_HOLIDAYS = {
    "new year's day": (1, 1),
    "valentine's day": (2, 14),
    "independence day": (7, 4),
    "fourth of july": (7, 4),
    "halloween": (10, 31),
    "christmas eve": (12, 24),
    "christmas": (12, 25),
    "new year's eve": (12, 31),
}
_NEAR_DAYS = {
    "day before yesterday": -2,
    "yesterday": -1,
    "last night": -1,
    "the other day": -3,
    "today": 0,
    "tonight": 0,
    "this morning": 0,
    "this afternoon": 0,
    "this evening": 0,
    "tomorrow": 1,
    "day after tomorrow": 2,
}
_STEPS = {
    "the last": -1,
    "last": -1,
    "past": -1,
    "previous": -1,
    "this": 0,
    "current": 0,
    "next": 1,
    "coming": 1,
    "upcoming": 1,
}
_THIRDS = {"early": 0, "beginning of": 0, "start of": 0, "mid": 1, "middle of": 1, "late": 2, "end of": 2}


@dataclass(frozen=True, slots=True, order=True)
class DaySpan:
    """The days from `first` to `last`, both included; never empty."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many days there are."""
        return (self.last - self.first).days + 1

    def distance(self, other: "DaySpan") -> int:
        """How many days the one is from the other; 0 when they share a day, 1 when they touch."""
        return max((other.first - self.last).days, (self.first - other.last).days, 0)


@dataclass(frozen=True, slots=True)
class _Said:
    """The day something was said, and whether it asks about what was rather than tells."""

    day: date
    is_question: bool


_Reader = Callable[[re.Match[str], _Said], DaySpan | None]
_SpanIn = Callable[[int], DaySpan]


def read_times(text: str, said_on: date, *, is_question: bool = False) -> tuple[DaySpan, ...]:
    """The spans of days that a text names, in the order of the text, at most `MAX_SPANS`.

    In a question a month or a day without a year is the last one that has begun; in a statement the nearest.
    """
    said = _Said(said_on, is_question)
    rest = text[:_READ_CHARACTERS].lower().replace("\u2019", "'")
    found: list[tuple[int, DaySpan]] = []
    for pattern, read in _READERS:
        for match in list(pattern.finditer(rest)):
            try:
                span = read(match, said)
            except (ValueError, OverflowError):
                continue
            if span is not None:
                found.append((match.start(), span))
                rest = f"{rest[: match.start()]}{'#' * len(match.group())}{rest[match.end() :]}"
    spans = dict.fromkeys(span for _, span in sorted(found, key=lambda item: item[0]))
    return tuple(spans)[:MAX_SPANS]


def _near_day(match: re.Match[str], said: _Said) -> DaySpan:
    day = said.day + _NEAR_DAYS[match.group(1)] * _DAY
    return DaySpan(day - 2 * _DAY, day + 2 * _DAY) if match.group(1) == "the other day" else DaySpan(day, day)


def _count(word: str) -> int:
    """The number a word stands for; a few are three."""
    return int(word) if word.isdigit() else _FEW if word in _FEW_WORDS else _NUMBERS[word]


def _ago(match: re.Match[str], said: _Said) -> DaySpan:
    """The day, week, month or year so long ago, as exactly as people mean it."""
    count, unit = _count(match.group(1)), match.group(2)
    loose = 2 if match.group(1) in _FEW_WORDS else 1
    if unit == "year":
        year = said.day.year - count
        return DaySpan(date(year, 1, 1), date(year, 12, 31))
    per_unit, slack = {"day": (1, int(count >= _FEWEST_FUZZY_DAYS)), "week": (7, 3), "month": (_MONTH_DAYS, 15)}[
        "week" if unit == "weekend" else unit
    ]
    middle = said.day - count * per_unit * _DAY
    return DaySpan(middle - loose * slack * _DAY, middle + loose * slack * _DAY)


def _within(match: re.Match[str], said: _Said) -> DaySpan | None:
    """All since so long ago; nothing where "last" says how long something takes."""
    if match.group(1) is not None:
        return None
    per_unit = {"day": 1, "week": _WEEK_DAYS, "weekend": _WEEK_DAYS, "month": _MONTH_DAYS + 1, "year": _YEAR_DAYS}
    days = _count(match.group(2)) * per_unit[match.group(3)]
    return DaySpan(said.day - days * _DAY, said.day)


def _directed(match: re.Match[str], said: _Said) -> DaySpan:
    """Last, this or next week, weekend, month, year, season, weekday, named month or holiday."""
    direction, word = match.groups()
    if direction in _ROLLING and word in _ROLLING_DAYS:
        return DaySpan(said.day - _ROLLING_DAYS[word] * _DAY, said.day)
    step = _STEPS[direction]
    if word in _WEEKDAYS:
        return _directed_weekday(_WEEKDAYS[word], said.day, step)
    span_in = _yearly(word)
    return _directed_unit(word, said.day, step) if span_in is None else _directed_yearly(span_in, said.day, step)


def _yearly(word: str) -> _SpanIn | None:
    """What a word that comes once a year stands for in each."""
    if word in _SEASONS:
        return lambda year: _months(year, _SEASONS[word], _SEASON_MONTHS)
    if word in _MONTHS:
        return lambda year: _month(year, _MONTHS[word])
    if word in _HOLIDAYS:
        return _on_day(*_HOLIDAYS[word])
    return None


def _on_day(month: int, day: int) -> _SpanIn:
    return lambda year: DaySpan(date(year, month, day), date(year, month, day))


def _directed_unit(word: str, day: date, step: int) -> DaySpan:
    monday = day - day.weekday() * _DAY
    if word == "week":
        return DaySpan(monday + 7 * step * _DAY, monday + (7 * step + 6) * _DAY)
    if word == "weekend":
        weekend = monday + (7 * step + 4) * _DAY
        return DaySpan(weekend, weekend + 2 * _DAY)
    if word == "month":
        return _month(day.year, day.month + step)
    return DaySpan(date(day.year + step, 1, 1), date(day.year + step, 12, 31))


def _directed_weekday(weekday: int, day: date, step: int) -> DaySpan:
    """The last such day before, or the next one after; `this` is the nearest."""
    back = (day.weekday() - weekday) % _WEEK_DAYS
    ahead = -back % _WEEK_DAYS
    if step < 0:
        days = -(back or _WEEK_DAYS)
    elif step > 0:
        days = ahead or _WEEK_DAYS
    else:
        days = min(-back, ahead, key=abs)
    found = day + days * _DAY
    return DaySpan(found, found)


def _directed_yearly(span_in: _SpanIn, day: date, step: int) -> DaySpan:
    """The last of its kind that has ended, the nearest, or the next to begin."""
    spans = [span_in(year) for year in range(day.year - 2, day.year + 3)]
    if step < 0:
        return max(span for span in spans if span.last < day)
    if step > 0:
        return min(span for span in spans if span.first > day)
    return _nearest(spans, day)


def _nearest(spans: Sequence[DaySpan], day: date) -> DaySpan:
    return min(spans, key=lambda span: span.distance(DaySpan(day, day)))


def _months(year: int, month: int, length: int) -> DaySpan:
    return DaySpan(_month(year, month).first, _month(year, month + length - 1).last)


def _month(year: int, month: int) -> DaySpan:
    """A month; months below 1 and above 12 are those of other years."""
    year, month = year + (month - 1) // _MONTH_LIMIT, (month - 1) % _MONTH_LIMIT + 1
    return DaySpan(date(year, month, 1), date(year, month, monthrange(year, month)[1]))


def _year(word: str | None) -> int | None:
    """The year a word of two or four digits stands for."""
    if word is None:
        return None
    year = int(word)
    if year >= _CENTURY:
        return year
    return year + (1900 if year >= _LAST_CENTURY_FROM else 2000)


def _of_years(said: _Said, year: int | None, span_in: _SpanIn) -> DaySpan:
    """The span of that year; without one the last that has begun, or for a statement the nearest."""
    if year is not None:
        return span_in(year)
    spans = []
    for each in range(said.day.year - _YEARS_AROUND, said.day.year + _YEARS_AROUND + 1):
        # Most years have no 29 February.
        with suppress(ValueError):
            spans.append(span_in(each))
    return max(span for span in spans if span.first <= said.day) if said.is_question else _nearest(spans, said.day)


def _month_day(match: re.Match[str], said: _Said) -> DaySpan:
    month, day = _MONTHS[match.group("month")], int(match.group("day"))
    return _of_years(said, _year(match.group("year")), _on_day(month, day))


def _day_month(match: re.Match[str], said: _Said) -> DaySpan | None:
    is_alone = all(match.group(name) is None for name in ("lead", "ordinal", "year"))
    return None if is_alone and match.group("month") in _VERBS else _month_day(match, said)


def _named_month(match: re.Match[str], said: _Said) -> DaySpan | None:
    name, part, year = match.group("month"), match.group("part"), _year(match.group("year"))
    if name in _DOUBTFUL_MONTHS and year is None and part is None and match.group("lead") is None:
        return None
    return _of_years(said, year, lambda each: _part(_month(each, _MONTHS[name]), part))


def _part(span: DaySpan, part: str | None) -> DaySpan:
    """The first, middle or last third of a span, or all of it."""
    if part is None:
        return span
    third = span.days // 3 * _DAY
    return (
        DaySpan(span.first, span.first + third),
        DaySpan(span.first + third, span.last - third),
        DaySpan(span.last - third, span.last),
    )[_THIRDS[part]]


def _season_of_year(match: re.Match[str], _: _Said) -> DaySpan:
    return _months(int(match.group(2)), _SEASONS[match.group(1)], _SEASON_MONTHS)


def _written_date(match: re.Match[str], _: _Said) -> DaySpan | None:
    year, month, day = int(match.group(1)), int(match.group(2)), match.group(3)
    if not 1 <= month <= _MONTH_LIMIT:
        return None
    return _month(year, month) if day is None else _on_day(month, int(day))(year)


def _slashed_date(match: re.Match[str], said: _Said) -> DaySpan | None:
    """Month first, as in the United States, unless that is no month; without a year or a lead it is a fraction."""
    month, day, year = int(match.group("month")), int(match.group("day")), _year(match.group("year"))
    if year is None and match.group("lead") is None:
        return None
    return _of_years(said, year, _on_day(day, month) if month > _MONTH_LIMIT else _on_day(month, day))


def _whole_year(match: re.Match[str], _: _Said) -> DaySpan:
    year = int(match.group(1))
    return DaySpan(date(year, 1, 1), date(year, 12, 31))


def _holiday(match: re.Match[str], said: _Said) -> DaySpan:
    return _of_years(said, _year(match.group(2)), _on_day(*_HOLIDAYS[match.group(1)]))


def _weekday_asked(match: re.Match[str], said: _Said) -> DaySpan | None:
    """The last such day; only a question speaks of one."""
    return _directed_weekday(_WEEKDAYS[match.group(1)], said.day, -1) if said.is_question else None


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))))


_TIMES = rf"\d{{1,3}}|{_any_of(_NUMBERS.keys() - {'a', 'an'} | _FEW_WORDS)}"
_UNIT = r"(day|week|weekend|month|year)s?"
_MONTH = rf"(?P<month>{_any_of(_MONTHS)})\b\.?"
_AROUND = "in|during|since|until|till|by|before|after|from|of|between|through|around|throughout"
_ON = "on|since|until|till|before|after|dated|due"
_PART = r"(?:\b(?P<part>early|mid|late|(?:beginning|start|middle|end) of)[ -])?"
_A_YEAR = r"(?:19|20|21)\d\d"
_YEAR_AFTER = rf"(?:,? (?:of )?(?P<year>{_A_YEAR}))?"
_SLASHED = rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})(?:/(?P<year>{_A_YEAR}|\d\d))?"
_DAY_OF = r"(?P<day>\d{1,2})(?P<ordinal>(?:st|nd|rd|th)(?: of)?| of)?"
_TAKES = "to|will|would|can|could|should|might|must|not|doesn't|didn't|don't|won't|only|usually|typically"
# "This may take time" names no month; "this may." does.
_NO_VERB = r"(?!(?<=this )may\b(?!\s*(?:[.?!]|$)))"
_WEEKDAY = _any_of(_WEEKDAYS)
_PERIOD = rf"week|weekend|month|year|{_WEEKDAY}|{_any_of(_SEASONS)}|{_any_of(_MONTHS)}|{_any_of(_HOLIDAYS)}"
_COUNTED = (
    "steps|words|calories|kcal|people|miles|meters|metres|feet|km|kg|mg|ml|grams|pounds|dollars|euros|years|hours"
    "|minutes|points|pages|times|characters|copies|followers|units|items|users|rows|files|lines"
)

_READERS: Final[tuple[tuple[re.Pattern[str], _Reader], ...]] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        (rf"\b({_any_of(_NEAR_DAYS)})\b", _near_day),
        (rf"(?<!half )\b({_TIMES}|an?) {_UNIT} (?:ago|back|earlier)\b", _ago),
        (rf"(?:\b({_TAKES}) )?\b(?:last|past|previous|recent) ({_TIMES}) {_UNIT}\b", _within),
        (rf"\b({_A_YEAR})[-/](\d{{1,2}})(?:[-/](\d{{1,2}}))?(?!\d)", _written_date),
        (rf"(?:\b(?P<lead>{_ON}) )?(?<![\d/])(?!24/7\b){_SLASHED}(?![\d/])", _slashed_date),
        (rf"\b{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)(?:,? (?P<year>{_A_YEAR}))?\b", _month_day),
        (rf"(?:\b(?P<lead>{_ON}|from|between|the) )?\b{_DAY_OF} {_MONTH}{_YEAR_AFTER}(?!\w)", _day_month),
        (rf"\b({_any_of(_STEPS)}) {_NO_VERB}({_PERIOD})\b(?! (?:ago|before|of)\b)", _directed),
        (rf"\b({_any_of(_SEASONS)}),? (?:of )?({_A_YEAR})\b", _season_of_year),
        (rf"\b({_any_of(_HOLIDAYS)})\b(?:,? (?:of |in )?({_A_YEAR})\b)?", _holiday),
        (rf"(?:\b(?P<lead>{_AROUND}) )?{_PART}\b{_MONTH}{_YEAR_AFTER}(?!\w)", _named_month),
        (rf"(?<![\d$.,-])\b((?:19|20)\d\d)\b(?![\d%.,]*\d)(?! (?:{_COUNTED})\b)", _whole_year),
        (rf"\b(?:on|since) ({_WEEKDAY})\b(?! (?:mornings|afternoons|evenings|nights))", _weekday_asked),
    )
)
