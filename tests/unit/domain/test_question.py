"""Questions: whom they are about, and what they ask for beside their words."""

from dataclasses import asdict
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.question import read_question
from polymem.domain.timewords import DaySpan

ASKED_ON = date(2023, 5, 8)


def _asks(text: str) -> set[str]:
    return {name for name, value in asdict(read_question(text, ASKED_ON)).items() if value and name != "spans"}


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("", set()),
        ("postgres version", set()),
        ("\u6211\u559c\u6b22\u4ec0\u4e48\uff1f", set()),
        ("What bread was baked by us?", {"of_the_asker"}),
        ("What car do I drive?", {"of_the_asker", "of_the_present"}),
        ("I\u2019ve eaten what?", {"of_the_asker"}),
        ("What bread did you recommend?", {"of_the_assistant"}),
        ("What was said in our conversation on bread?", {"of_the_asker", "of_the_assistant"}),
        ("Remind me of the chat", {"of_the_asker", "of_the_assistant"}),
        ("The chatter of birds", set()),
        ("When did Ada move?", {"for_a_time", "of_the_past"}),
        ("Which year was it?", {"for_a_time"}),
        ("How long did it take?", {"for_a_time"}),
        ("How many days did it take?", {"for_a_time", "for_a_number"}),
        ("How much did it cost in total?", {"for_a_number"}),
        ("Whose dog barked?", {"for_a_name"}),
        ("Where did Ada go?", {"for_a_name"}),
        ("And where did Ada go?", {"for_a_name"}),
        ("Did Ada say where it was?", set()),
        ("Where does Ada live?", {"for_a_name", "of_the_present"}),
        ("Where does Ada live now?", {"for_a_name", "of_the_present"}),
        ("Where did Ada live before?", {"for_a_name", "of_the_past"}),
        ("Where is the old car?", {"for_a_name", "of_the_past"}),
        ("What did Ada most recently read, now?", {"of_the_present"}),
        ("What did Ada read recently?", set()),
    ],
)
def test_what_a_question_asks_for(text: str, asks: set[str]) -> None:
    assert _asks(text) == asks


def test_the_days_a_question_names_are_the_last_that_have_begun() -> None:
    assert read_question("in June?", ASKED_ON).spans == (DaySpan(date(2022, 6, 1), date(2022, 6, 30)),)
    assert read_question("in June?", date(2023, 6, 1)).spans == (DaySpan(date(2023, 6, 1), date(2023, 6, 30)),)


@given(text=st.text())
def test_no_question_is_of_the_present_and_of_the_past(text: str) -> None:
    asked = read_question(text, ASKED_ON)
    assert not (asked.of_the_present and asked.of_the_past)
