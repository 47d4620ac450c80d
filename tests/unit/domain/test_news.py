"""What makes a text close to an old one news, and what makes it a restatement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.news import facts_of, tells_news

RESTATED = [
    ("We have three cats", "There are 3 cats at our place"),
    ("The meeting is at 3pm on Tuesday", "Tuesday's meeting starts at 15:00"),
    ("The budget is 1,200 dollars", "The budget is $1200"),
    ("Never deploy on Friday", "Do not deploy on Fridays"),
    ("The feature is disabled by default", "By default, the feature is not enabled"),
    ("The report is due on March 5, 2024", "The report is due 2024-03-05"),
    ("Backups run daily at midnight", "Backups run every day at 00:00"),
    ("The server has 16 GB of memory", "The server's memory is sixteen gigabytes"),
    ("Our office is in New York City", "Our office is in NYC"),
    ("The project uses PostgreSQL for storage", "For storage the project uses Postgres"),
    ("Bob dislikes meetings in the morning", "Bob doesn't like morning meetings"),
    ("Don't forget to water the plants", "Remember to water the plants"),
    ("the user prefers tabs over spaces", "THE USER PREFERS TABS OVER SPACES"),
    ("I no longer eat meat", "I don't eat meat any more"),
    ("Use tabs, not spaces", "Indent with tabs and not with spaces"),
    ("The docs are at https://docs.example.com/start", "See https://docs.example.com/start/ for the docs"),
    ("The training run used GPT-4 for labels", "Labels for the training run came from GPT 4"),
    ("Ten thousand people attended the concert", "The concert was attended by 10,000 people"),
    ("The library is not thread safe", "The library isn't thread-safe"),
    ("Always validate input at the boundary", "Never skip validating input at the boundary"),
    ("The old printer is on the second floor", "On the 2nd floor stands the old printer"),
    ("Tom and Sara got married in June", "Sara and Tom married in June"),
    ("He quit smoking three years ago", "He stopped smoking 3 years ago"),
    ("The fridge stopped working yesterday", "Yesterday the fridge broke"),
    ("The invoice number is INV-2231", "Invoice no. INV-2231"),
    ("The user is not interested in sports", "Sports do not interest the user"),
    ("The office visit is twice a month", "Two times per month is the office visit"),
    ("Planning happens every second Monday", "On every 2nd Monday planning happens"),
    ("It takes an hour", "It takes one hour"),
    ("Sent to Robert Miller and Ann Lee", "ROBERT MILLER AND ANN LEE WERE SENT IT"),
    ("The Quarterly Report Covers All Regions", "the quarterly report covers all regions"),
    ("Deploys happen on Friday", "Releases take place on Fridays"),
    ("The trip to Rome, Paris and Bonn", "The trip to Bonn, Paris and Rome"),
    ("The warehouse is closed on Sundays", "On Sunday the warehouse isn't open"),
    ("It is not only fast but cheap", "It is fast and cheap"),
    ("", "   "),
]

CORRECTED = [
    ("The staging database runs on port 5432", "The staging database runs on port 5433"),
    ("We have three cats", "We have four cats"),
    ("The meeting is at 3pm on Tuesday", "The meeting is at 4pm on Tuesday"),
    ("The meeting is at 3pm on Tuesday", "The meeting is at 3pm on Thursday"),
    ("The sprint lasts a week", "The sprint lasts two weeks"),
    ("Alice likes tea", "Bob likes tea"),
    ("Paris is the venue", "Madrid is the venue"),
    ("The budget is 1,200 dollars", "The budget is 1,200 euros"),
    ("Never deploy on Friday", "Deploy on Friday"),
    ("Deploys on Friday are fine", "Deploys on Friday are not allowed"),
    ("The feature is disabled by default", "The feature is enabled by default"),
    ("We use Redis", "We no longer use Redis"),
    ("Payment was approved", "Payment was rejected"),
    ("Use tabs, not spaces", "Use spaces, not tabs"),
    ("The user prefers tabs over spaces", "The user prefers spaces over tabs"),
    ("Ann reports to Bo", "Bo reports to Ann"),
    ("The user prefers dark mode and dislikes light mode", "The user prefers light mode and dislikes dark mode"),
    ("Kubernetes runs version 1.29", "Kubernetes runs version 1.30"),
    ("The house has two bathrooms and three bedrooms", "The house has three bathrooms and two bedrooms"),
    ("The config lives in /etc/app/config.yaml", "The config lives in /opt/app/config.yaml"),
    ("Contact support at help@example.com", "Contact support at care@example.com"),
    ("The training run used GPT-4", "The training run used GPT-5"),
    ("The service is available", "The service is unavailable"),
    ("I trust the vendor", "I distrust the vendor"),
    ("Turn notifications on", "Turn notifications off"),
    ("The temperature is 5 degrees", "The temperature is -5 degrees"),
    ("The variable is max_retries", "The variable is min_retries"),
    ("He speaks German", "He speaks French"),
    ("The flight leaves at noon", "The flight leaves at midnight"),
    ("Backups run daily", "Backups run weekly"),
    ("At least two reviewers must approve a change", "At most two reviewers must approve a change"),
    ("The contract has been signed", "The contract hasn't been signed yet"),
    ("The office visit is twice a month", "The office visit is once a month"),
    ("The mill grinds wheat", "Wheat ground by the mill is what nobody sees"),
    ("1. Add 2 eggs. 2. Bake for 10 minutes at 5 bars.", "1. Add 2 eggs. 2. Bake for 5 minutes at 10 bars."),
    (
        "Anna owns billing. Ask Peter about search, and Anna too.",
        "Peter owns billing. Ask Anna about search, and Peter too.",
    ),
    ("On Monday we plan, until Friday we build", "On Friday we plan, until Monday we build"),
    ("Gin can work. Rum can work. It never fails.", "Gin can not work. Rum can work. It never fails."),
    ("Sent by NASA last week", "ESA is who sent it last week"),
]


@pytest.mark.parametrize(("old", "new"), RESTATED)
def test_a_restatement_is_no_news_either_way(old: str, new: str) -> None:
    assert not tells_news(facts_of(new), facts_of(old))
    assert not tells_news(facts_of(old), facts_of(new))


@pytest.mark.parametrize(("old", "new"), CORRECTED)
def test_a_correction_is_news_either_way(old: str, new: str) -> None:
    assert tells_news(facts_of(new), facts_of(old))
    assert tells_news(facts_of(old), facts_of(new))


def test_what_is_left_out_is_no_news_and_what_is_added_is() -> None:
    long, short = "Maria moved to Lisbon in May 2021 with 2 dogs", "Maria moved to Lisbon"
    assert not tells_news(facts_of(short), facts_of(long))
    assert tells_news(facts_of(long), facts_of(short))


@given(st.text(max_size=400))
def test_no_text_tells_news_of_itself(text: str) -> None:
    assert not tells_news(facts_of(text), facts_of(text))


@given(st.text(alphabet="aAnot1. ,-'/@:#\n", max_size=600), st.text(alphabet="aAnot1. ,-'/@:#\n", max_size=600))
def test_any_two_texts_can_be_compared(one: str, other: str) -> None:
    assert tells_news(facts_of(one), facts_of(other)) in (True, False)


@pytest.mark.parametrize("piece", ["a ", "A ", "1,", "hundred ", "a.b", "x_", "a@", "not ", "\n", "/", "A.A"])
def test_a_text_is_read_to_a_bound(piece: str) -> None:
    assert facts_of(piece * 9_000) == facts_of((piece * 9_000)[:8_192])
