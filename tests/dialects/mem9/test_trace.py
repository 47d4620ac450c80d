"""`trace` and `reference_at`: why a row was recalled, and for which day it was asked."""

from typing import Any

import pytest

from polymem.domain.ranking import FEATURES

Client = Any

RULES = {"newer", "repeats", "superseded"}


class AnyFloat:
    """Equal to every float: for figures of the model."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float)

    __hash__ = None  # type: ignore[assignment] # what is equal to everything has no place in a set


FLOAT = AnyFloat()


@pytest.mark.requirement("mem9.search.trace")
async def test_a_traced_row_tells_why_it_was_recalled(api: Client, remember: Any) -> None:
    made = await remember("Ferries leave from Lisbon at dawn")
    await remember("Bananas are yellow")

    page = (await api.get("/memories?q=ferry Lisbon&trace=true")).json()

    row = page["memories"][0]
    assert page == {"memories": [row], "total": 1, "limit": 10, "offset": 0}
    assert row == (await api.get(f"/memories/{made}")).json() | {
        "relative_age": "just now",
        "score": row["score"],
        "confidence": row["confidence"],
        "trace": {
            "score": row["score"],
            "relevance": pytest.approx(row["confidence"] / 100, abs=0.005),
            "arms": [{"arm": "lexical", "rank": 1, "score": FLOAT}, {"arm": "dense", "rank": 1, "score": FLOAT}],
            "fused": pytest.approx(2 / 61),
            "similarity": FLOAT,
            "late_interaction": {"narrow": FLOAT, "wide": FLOAT},
            "coverage": pytest.approx(1.0),
            "bm25": FLOAT,
            "words": [
                {"word": "Lisbon", "weight": FLOAT, "met": "Lisbon", "cosine": FLOAT},
                {"word": "ferry", "weight": FLOAT, "met": "Ferries", "cosine": FLOAT},
            ],
            "parts": [{"part": each["part"], "value": FLOAT} for each in row["trace"]["parts"]],
        },
    }


@pytest.mark.requirement("mem9.search.trace")
async def test_the_parts_add_up_to_the_score_largest_first(api: Client) -> None:
    turns = [
        {"role": "Mara", "content": "When does the ferry leave?", "created_at": "2023-05-10T09:00:00Z"},
        {"role": "Joe", "content": "At six, from pier four.", "created_at": "2023-05-10T09:01:00Z"},
        {"role": "Mara", "content": "Good, then I take the ferry.", "created_at": "2023-05-10T09:02:00Z"},
    ]
    await api.post("/memories", json={"messages": turns, "session_id": "s1"})

    rows = (await api.get("/memories?q=When does Mara take the ferry&min_confidence=0&trace=true")).json()["memories"]

    assert len(rows) == 3
    for row in rows:
        parts = [(each["part"], each["value"]) for each in row["trace"]["parts"]]
        values = [value for _, value in parts]
        assert sum(values) == pytest.approx(row["score"])
        assert values == sorted(values, reverse=True)
        assert {name for name, _ in parts} <= {*FEATURES, *RULES}
    assert all(row["trace"]["words"] for row in rows)


@pytest.mark.requirement("mem9.search.trace")
async def test_a_row_found_by_its_words_alone_has_no_figures_of_vectors(api: Client, remember: Any) -> None:
    await remember("港口六点开门")

    trace = (await api.get("/memories?q=港口几点开门&trace=true")).json()["memories"][0]["trace"]

    assert trace == {
        "score": FLOAT,
        "relevance": FLOAT,
        "arms": [{"arm": "lexical", "rank": 1, "score": FLOAT}],
        "fused": pytest.approx(1 / 61),
        "coverage": FLOAT,
        "bm25": FLOAT,
        "words": [],
        "parts": [{"part": each["part"], "value": FLOAT} for each in trace["parts"]],
    }


@pytest.mark.requirement("mem9.search.trace")
async def test_only_a_question_that_asks_for_it_is_traced(api: Client, remember: Any) -> None:
    await remember("Ferries leave from Lisbon at dawn")
    plain = (await api.get("/memories?q=ferry Lisbon")).json()

    assert "trace" not in plain["memories"][0]
    for value in ("", "false"):
        assert (await api.get(f"/memories?q=ferry Lisbon&trace={value}")).json() == plain
    traced = (await api.get("/memories?q=ferry Lisbon&trace=true")).json()
    assert [{**row, "trace": None} for row in traced["memories"]] == [
        {**row, "trace": None} for row in plain["memories"]
    ]
    assert (await api.get("/memories?trace=true")).json() == (await api.get("/memories")).json()


@pytest.mark.requirement("mem9.search.trace")
@pytest.mark.parametrize("value", ["1", "yes", "True", "true ", "null"])
async def test_trace_is_true_or_false(api: Client, value: str) -> None:
    answer = await api.get(f"/memories?q=ferry&trace={value}")
    assert (answer.status_code, answer.json()) == (400, {"error": "trace: must be true or false"})


@pytest.mark.requirement("mem9.search.trace")
async def test_a_trace_of_a_long_text_names_what_stands_near_its_beginning(api: Client) -> None:
    filling = "The weather stayed calm all week. " * 1200
    turns = [
        {"role": "user", "content": f"Ferries leave from Lisbon. {filling}"},
        {"role": "user", "content": f"{filling} Ferries leave from Lisbon."},
    ]
    await api.post("/memories", json={"messages": turns, "session_id": "s1"})

    rows = (await api.get("/memories?q=Ferries Lisbon&min_confidence=0&trace=true")).json()["memories"]

    met = {row["metadata"]["seq"]: {word["word"]: word["met"] for word in row["trace"]["words"]} for row in rows}
    assert met[0] == {"Ferries": "Ferries", "Lisbon": "Lisbon"}
    assert set(met[1]) == {"Ferries", "Lisbon"}


@pytest.mark.requirement("mem9.search.reference_at")
async def test_time_words_are_read_against_the_time_of_the_question(api: Client) -> None:
    for session, said_at in (("may", "2023-05-10T12:00:00Z"), ("june", "2023-06-14T12:00:00Z")):
        turns = [{"role": "user", "content": "The ferry was late.", "created_at": said_at}]
        await api.post("/memories", json={"messages": turns, "session_id": session})

    async def first(reference_at: str) -> str:
        asked = {"q": "was the ferry late last week", "reference_at": reference_at}
        found: str = (await api.get("/memories", params=asked)).json()["memories"][0]["session_id"]
        return found

    assert await first("2023-05-17") == "may"
    assert await first("2023-06-21T08:00:00+02:00") == "june"


@pytest.mark.requirement("mem9.search.reference_at")
@pytest.mark.parametrize("reference_at", ["0002-01-01", "9998-12-31T23:59:59-12:00"])
@pytest.mark.parametrize("question", ["last year", "300 years ago", "10000 months from now", "29 February", "in 9999"])
async def test_a_question_at_the_ends_of_the_calendar_is_answered(
    api: Client, remember: Any, reference_at: str, question: str
) -> None:
    await remember("The harbour was closed last year")
    answer = await api.get("/memories", params={"q": f"harbour {question}", "reference_at": reference_at})
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("mem9.search.reference_at")
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("yesterday", "must be an ISO-8601 time"),
        ("2026-02-30", "must be an ISO-8601 time"),
        ("0001-01-01", "must be a year from 2 to 9998"),
    ],
)
async def test_a_reference_time_is_iso_8601(api: Client, value: str, told: str) -> None:
    answer = await api.get("/memories", params={"q": "ferry", "reference_at": value})
    assert (answer.status_code, answer.json()) == (400, {"error": f"reference_at: {told}"})
    assert (await api.get("/memories?q=ferry&reference_at=")).status_code == 200
