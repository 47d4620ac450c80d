"""What a text counts, and when, in one spelling."""

import pytest

from polymem.domain.quantities import Number, other_quantities, quantities_of


def numbers(text: str) -> set[str]:
    return {f"{number.value} {number.unit}".strip() for number in quantities_of(text)[0].numbers}


def dates(text: str) -> set[str]:
    return set(quantities_of(text)[0].dates)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,200 rows", {"1200"}),
        ("twenty-five rows", {"25"}),
        ("two thousand five hundred and six rows", {"2506"}),
        ("a hundred rows, one million rows", {"100", "1000000"}),
        ("10k rows and 2.5k columns", {"10000", "2500"}),
        ("$1.5 million or \u20ac5 or 7\u00a3", {"1500000 usd", "5 eur", "7 gbp"}),
        ("30s, 30 seconds, thirty secs", {"30 s"}),
        ("a 30-minute walk of 5 km at -5 or 3-4 degrees", {"30 min", "5 km", "-5", "3", "4"}),
        ("50% or fifty percent", {"50 %"}),
        ("a third of it, one third, two thirds.", {"33 %", "66 %"}),
        ("it rose by a quarter", {"25 %"}),
        ("a third party and the third quarter", {"3"}),
        ("doubled, tripled and halved", {"2 times", "3 times", "0.5"}),
        ("on the 2nd, the third and the twelfth", {"2", "3", "12"}),
        ("wait a second, two per second, 1 second", {"2", "1 s"}),
        ("twice, thrice, a dozen, half", {"2 times", "3 times", "12", "0.5"}),
        ("version 3.10 of 05.00", {"3.10", "05"}),
        ("version 1.2.3 million", {"1.2.3"}),
        ("GPT-4, v2, us-east-1, x1 and 4B", set()),
        ("\u0663 \u0664 rows", {"3", "4"}),
        ("5 m\u0131ll\u0131on and 7 \u212ag", {"5000000", "7 kg"}),
        ("one row, a row, the first row, a couple of rows, once", set()),
    ],
)
def test_numbers_have_one_spelling(text: str, expected: set[str]) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3pm, 3 p.m., 15:00 and 15:00:30", {"15:00"}),
        ("12am and midnight", {"00:00"}),
        ("noon or midday, 12 PM", {"12:00"}),
        ("9:30", {"09:30"}),
        ("25:00", set()),
        ("Mondays, on mon, Mon", {"monday"}),
        ("in May, in march, may 5, 5 Sept, sept 5, Dec. 3", {"month 5", "month 9", "month 12"}),
        ("it may march on", set()),
        ("January", {"month 1"}),
        ("\u017feptember \u017funday", {"month 9", "sunday"}),
        ("every week, weekly, per week, each week", {"every week"}),
        ("annually", {"every year"}),
        ("next month, last week, the past year, this night", {"next month", "last week", "last year", "this night"}),
        ("tonight, at night, tomorrow, on weekends", {"night", "tomorrow", "weekend"}),
    ],
)
def test_times_have_one_spelling(text: str, expected: set[str]) -> None:
    assert dates(text) == expected


@pytest.mark.parametrize(
    "text",
    ["2024-03-05", "3/5/2024", "3/5/24", "5.3.2024", "March 5, 2024", "5 March 2024", "the 5th of March 2024"],
)
def test_a_date_is_its_month_and_two_numbers(text: str) -> None:
    assert dates(text) == {"month 3"}
    assert numbers(text) == {"5", "2024"}


def test_the_day_comes_first_where_the_month_would_be_none() -> None:
    assert dates("25/12/2024") == {"month 12"}
    assert dates("25/13/2024") == set()
    assert dates("5.13.2024") == set()
    assert dates("2024-13-05") == set()
    assert dates("2024-05") == {"month 5"}


def test_what_is_taken_out_leaves_white_space() -> None:
    assert quantities_of("at 3pm sharp")[1].split() == ["at", "sharp"]


def test_what_is_counted_is_noted_with_its_number() -> None:
    found = quantities_of("three cats, 2 of the dogs, one meeting, 7 and 8")[0]
    assert found.counted >= {("cat", "3"), ("dog", "2"), ("meet", "1")}
    assert found.counted >= {(" _ cats", "3"), ("cats _ of", "2"), ("and _ ", "8")}
    assert found.vague == {Number("1", "")}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("30 rows", "30 s", False),
        ("30 min", "30 s", True),
        ("it takes an hour", "it takes one hour", False),
        ("it takes two hours", "it takes an hour", True),
        ("an hour, or two hours", "an hour, or two hours", False),
        ("one meeting", "three meetings", True),
        ("three meetings", "one meeting", True),
        ("a month", "monthly", False),
        ("on Monday", "on Monday at 9am", True),
        ("on Monday at 9am", "on Monday", False),
    ],
)
def test_other_quantities_are_told(old: str, new: str, *, expected: bool) -> None:
    assert other_quantities(quantities_of(new)[0], quantities_of(old)[0]) is expected
