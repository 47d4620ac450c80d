"""Time words: which days a text names, read against the day it was said."""

import time
from datetime import date, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polymem.domain.timewords import MAX_SPANS, DaySpan, read_times

# A Monday in spring; 2024 is a leap year, 2023 is not.
SAID = date(2023, 5, 8)


def _span(written: str) -> DaySpan:
    """`2023-05-01..2023-05-08`, a day, a month or a year."""
    first, _, last = written.partition("..")
    return DaySpan(_edge(first, 0), _edge(last or first, -1))


def _edge(written: str, at: int) -> date:
    year, month, day = ([int(part) for part in written.split("-")] + [0, 0])[:3]
    if day:
        return date(year, month, day)
    months = [month] if month else [1, 12]
    first = date(year, months[at], 1)
    following = first.replace(day=28) + timedelta(days=4)
    return first if at == 0 else following.replace(day=1) - timedelta(days=1)


def _read(text: str, said: date = SAID, *, is_question: bool = False) -> list[DaySpan]:
    return list(read_times(text, said, is_question=is_question))


TOLD = [
    # Near days.
    ("I saw her today", "2023-05-08"),
    ("yesterday's run was short", "2023-05-07"),
    ("we left the day before yesterday", "2023-05-06"),
    ("day before yesterday", "2023-05-06"),
    ("Last night I slept badly", "2023-05-07"),
    ("this morning and this evening", "2023-05-08"),
    ("tonight", "2023-05-08"),
    ("See you tomorrow!", "2023-05-09"),
    ("the day after tomorrow", "2023-05-10"),
    ("The other day we met", "2023-05-03..2023-05-07"),
    ("yesterday and tomorrow", "2023-05-07", "2023-05-09"),
    ("tomorrow, not yesterday", "2023-05-09", "2023-05-07"),
    # So long ago.
    ("0 days ago", "2023-05-08"),
    ("two days ago", "2023-05-06"),
    ("a couple of days ago", "2023-05-06"),
    ("couple days ago", "2023-05-06"),
    ("a few days ago", "2023-05-05"),
    ("ten days ago", "2023-04-27..2023-04-29"),
    ("a week ago", "2023-04-28..2023-05-04"),
    ("3 weeks back", "2023-04-14..2023-04-20"),
    ("two weekends ago", "2023-04-21..2023-04-27"),
    ("several weeks ago", "2023-04-11..2023-04-23"),
    ("a month ago", "2023-03-24..2023-04-23"),
    ("a year ago", "2022"),
    ("three years ago", "2020"),
    ("fifteen years earlier", "2008"),
    # Since so long.
    ("in the last two weeks", "2023-04-24..2023-05-08"),
    ("the past few days", "2023-05-05..2023-05-08"),
    ("over the previous 3 months", "2023-02-04..2023-05-08"),
    ("my last couple of weekends", "2023-04-24..2023-05-08"),
    ("the last two years", "2021-05-08..2023-05-08"),
    ("these past 10 days", "2023-04-28..2023-05-08"),
    # Last, this, next.
    ("last week", "2023-05-01..2023-05-07"),
    ("this week", "2023-05-08..2023-05-14"),
    ("next week", "2023-05-15..2023-05-21"),
    ("the past week", "2023-05-01..2023-05-08"),
    ("the last month", "2023-04-07..2023-05-08"),
    ("this past year", "2022-05-08..2023-05-08"),
    ("last weekend", "2023-05-05..2023-05-07"),
    ("the last weekend", "2023-05-05..2023-05-07"),
    ("this weekend", "2023-05-12..2023-05-14"),
    ("the coming weekend", "2023-05-19..2023-05-21"),
    ("last month", "2023-04"),
    ("the current month", "2023-05"),
    ("the previous year", "2022"),
    ("next year", "2024"),
    ("last spring", "2022-03..2022-05"),
    ("this spring", "2023-03..2023-05"),
    ("next spring", "2024-03..2024-05"),
    ("last winter", "2022-12-01..2023-02-28"),
    ("last fall", "2022-09..2022-11"),
    ("this summer", "2023-06..2023-08"),
    ("last Monday", "2023-05-01"),
    ("this Monday", "2023-05-08"),
    ("next Monday", "2023-05-15"),
    ("last Sunday", "2023-05-07"),
    ("this Saturday", "2023-05-06"),
    ("this Thursday", "2023-05-11"),
    ("next Friday", "2023-05-12"),
    ("last May I went", "2022-05"),
    ("last March", "2023-03"),
    ("this June", "2023-06"),
    ("we marry this May.", "2023-05"),
    ("next March", "2024-03"),
    ("last Christmas", "2022-12-25"),
    ("this Halloween", "2023-10-31"),
    ("next Valentine\u2019s Day", "2024-02-14"),
    # Written dates.
    ("on 2023-03-04", "2023-03-04"),
    ("2022/7/1 it was", "2022-07-01"),
    ("stamp 2023-03-04T10:20:00Z", "2023-03-04"),
    ("month 2022-11", "2022-11"),
    ("12/25/2022", "2022-12-25"),
    ("25/12/2022", "2022-12-25"),
    ("3/4/23", "2023-03-04"),
    ("7/20/69", "1969-07-20"),
    ("due 5/20", "2023-05-20"),
    ("on 12/30", "2022-12-30"),
    # A month and a day.
    ("May 5, 2021", "2021-05-05"),
    ("Sept. 3rd 2021", "2021-09-03"),
    ("5 May 2021", "2021-05-05"),
    ("8 May, 2021", "2021-05-08"),
    ("the 1st of March", "2023-03-01"),
    ("on 5 may", "2023-05-05"),
    ("25th december", "2022-12-25"),
    ("Dec 25", "2022-12-25"),
    ("June 1", "2023-06-01"),
    ("the Fourth of July", "2023-07-04"),
    # Months, seasons, holidays, years.
    ("in March", "2023-03"),
    ("In June", "2023-06"),
    ("December was cold", "2022-12"),
    ("in May of 2020", "2020-05"),
    ("May, 2020", "2020-05"),
    ("early June", "2023-06-01..2023-06-11"),
    ("in mid-June", "2023-06-11..2023-06-20"),
    ("late May", "2023-05-21..2023-05-31"),
    ("at the end of February 2024", "2024-02-20..2024-02-29"),
    ("the start of march", "2023-03-01..2023-03-11"),
    ("summer 2021", "2021-06..2021-08"),
    ("the fall of 2021", "2021-09..2021-11"),
    ("winter, 2023", "2023-12-01..2024-02-29"),
    ("Christmas Eve", "2022-12-24"),
    ("Christmas of 2019", "2019-12-25"),
    ("New Year's Eve", "2022-12-31"),
    ("born in 1987", "1987"),
    ("the 2020 elections", "2020"),
    ("(2021)", "2021"),
    # Leap days.
    ("Feb 29, 2024", "2024-02-29"),
    ("February 29", "2024-02-29"),
]

ASKED = [
    ("What happened in June?", "2022-06"),
    ("What did I do in May?", "2023-05"),
    ("Where was I on May 20?", "2022-05-20"),
    ("Where was I on 5/8?", "2023-05-08"),
    ("What did we do on Christmas?", "2022-12-25"),
    ("What did I plant in late May?", "2022-05-21..2022-05-31"),
    ("Whom did I meet on Monday?", "2023-05-01"),
    ("What have I eaten since Sunday?", "2023-05-07"),
    ("What did I do on 29 February?", "2020-02-29"),
    ("What will I do in June 2024?", "2024-06"),
    ("What was written a week ago?", "2023-04-28..2023-05-04"),
]

# Told as statements and asked as questions alike.
NOTHING = [
    "",
    "no time at all",
    "a while ago, long ago, two weeks before the wedding",
    "May I come in? It may rain.",
    "march on, soldiers; the march was long",
    "we sang during the march",
    "This may take time",
    "step 3 may fail, and 300 march home",
    "the sun sat on mon ami's dec",
    "half a year ago",
    "it will last a week",
    "it should last two weeks",
    "it does not last 3 days",
    "a past a week",
    "every last Tuesdayish",
    "last week ago",
    "on Mondays, and on Friday evenings",
    "1/2 cup, 24/7, on 24/7, 3/4 of it, 2/3",
    "call 555-2000, $2000, 2,000, 20.2000",
    "I walked 2000 steps and 1900 miles",
    "the 1990s",
    "99999999 years ago",
    "1000 years ago",
    "in 9999",
    "in the year 3000",
    "3/4/3000",
    "0023-05-08",
    "30/30/30",
    "31/31/2020x",
    "May 32",
    "may 0",
]

# What cannot be is left out; what is left of it still tells something.
IMPOSSIBLE = [
    ("2023-02-30", "2023"),
    ("2023-13-01", "2023"),
    ("2023-00", "2023"),
    ("Feb 30, 2023", "2023-02", "2023"),
    ("June 0", "2023-06"),
    ("Feb 29, 2023", "2023-02", "2023"),
]


@pytest.mark.parametrize(("text", "spans"), [(row[0], row[1:]) for row in TOLD + IMPOSSIBLE])
def test_a_statement_names_these_days(text: str, spans: tuple[str, ...]) -> None:
    assert _read(text) == [_span(span) for span in spans]


@pytest.mark.parametrize(("text", "span"), ASKED)
def test_a_question_asks_for_these_days(text: str, span: str) -> None:
    assert _read(text, is_question=True) == [_span(span)]


@pytest.mark.parametrize("text", NOTHING)
@pytest.mark.parametrize("is_question", [True, False])
def test_words_that_name_no_day_are_left_alone(text: str, *, is_question: bool) -> None:
    assert _read(text, is_question=is_question) == []


def test_a_statement_speaks_of_no_bare_weekday() -> None:
    assert _read("I swim on Monday") == []


@pytest.mark.parametrize(
    ("said", "told", "asked"), [("2023-01-03", "2022-12", "2022-12"), ("2023-11-30", "2023-12", "2022-12")]
)
def test_a_month_without_a_year_is_the_nearest_told_and_the_last_asked(said: str, told: str, asked: str) -> None:
    day = date.fromisoformat(said)
    assert _read("in December", day) == [_span(told)]
    assert _read("in December", day, is_question=True) == [_span(asked)]


@pytest.mark.parametrize(
    ("text", "said", "span"),
    [
        ("last summer", "2023-07-01", "2022-06..2022-08"),
        ("last summer", "2023-11-01", "2023-06..2023-08"),
        ("last May", "2023-05-31", "2022-05"),
        ("last Christmas", "2023-12-25", "2022-12-25"),
        ("next Christmas", "2023-12-25", "2024-12-25"),
        ("this summer", "2023-09-20", "2023-06..2023-08"),
        ("this winter", "2024-01-15", "2023-12-01..2024-02-29"),
        ("last month", "2023-01-31", "2022-12"),
        ("next month", "2023-12-31", "2024-01"),
        ("last week", "2023-01-01", "2022-12-19..2022-12-25"),
        ("last Friday", "2023-05-12", "2023-05-05"),
        ("this Friday", "2023-05-12", "2023-05-12"),
        ("next Friday", "2023-05-12", "2023-05-19"),
        ("yesterday", "2024-03-01", "2024-02-29"),
        ("a year ago", "2024-02-29", "2023"),
        ("on Christmas", "2023-12-27", "2023-12-25"),
    ],
)
def test_the_day_it_was_said_decides(text: str, said: str, span: str) -> None:
    assert _read(text, date.fromisoformat(said)) == [_span(span)]


def test_the_same_days_are_named_once_and_only_the_first_few() -> None:
    assert _read("today, tonight, 2023-05-08") == [_span("2023-05-08")]
    years = [str(year) for year in range(2000, 2000 + MAX_SPANS + 2)]
    assert _read("; ".join(years)) == [_span(year) for year in years[:MAX_SPANS]]


@pytest.mark.parametrize("said", [date.min, date.max, date(1, 12, 31), date(9999, 1, 1)])
@pytest.mark.parametrize("is_question", [True, False])
def test_at_the_ends_of_time_what_cannot_be_is_left_out(said: date, *, is_question: bool) -> None:
    texts = [row[0] for row in (*TOLD, *ASKED)]
    for text in texts:
        for span in _read(text, said, is_question=is_question):
            assert span.first <= span.last
    assert _read("yesterday", date.min) == []
    assert _read("tomorrow", date.max) == []
    assert _read("999 years ago", date(500, 1, 1)) == []


@pytest.mark.parametrize(
    "unit", ["2023 ", "last ", "1/", "the 1 ", "a couple of ", "on ", "9", "early ", "may ", "feb 30 ", "\u0130", " "]
)
def test_a_very_long_text_is_read_to_a_bound(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    before = time.thread_time()
    assert len(_read(text)) <= MAX_SPANS
    assert time.thread_time() - before < 0.5
    assert _read(" " * 100_000 + "yesterday") == []


def test_the_days_between_two_spans_are_counted_from_edge_to_edge() -> None:
    march, april, day = _span("2023-03"), _span("2023-04"), _span("2023-03-30")
    assert (march.days, day.days) == (31, 1)
    assert march.distance(april) == april.distance(march) == 1
    assert march.distance(day) == day.distance(march) == 0
    assert day.distance(_span("2023-06")) == _span("2023-06").distance(day) == 63


WORDS = (*" ".join(row[0] for row in (*TOLD, *ASKED)).split(), "29", "30", "0", "may", "2100", "of", "the", "/", "-")


@given(
    text=st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)),
    said=st.dates(),
    is_question=st.booleans(),
)
@example(text="\ud800 yesterday \x00", said=SAID, is_question=False)
@example(text="\u0663 days ago, \u0662\u0660\u0662\u0663", said=SAID, is_question=False)
def test_any_text_names_a_few_spans_of_days_none_empty(text: str, said: date, *, is_question: bool) -> None:
    spans = _read(text, said, is_question=is_question)
    assert len(spans) == len(set(spans)) <= MAX_SPANS
    assert all(span.first <= span.last for span in spans)
    assert spans == _read(text, said, is_question=is_question)
