"""Whatever is asked is answered: texts that are no questions, other scripts, filters that match nothing."""

from typing import Any
from urllib.parse import quote

import pytest

Client = Any

EMPTY = {"memories": [], "total": 0, "limit": 10, "offset": 0}
ENGLISH = "The harbour opens at six in the morning"
CHINESE = "港口早上六点开门"
JAPANESE = "水族館は朝九時に開きます"
ARABIC = "الميناء يفتح في السادسة صباحا"
PARTY = "🎉 cake for Ada"

LONG_QUESTION = ("when does the harbour open " * 200)[:5000]
# Each with what it finds first; nothing is above the cut where nothing is asked.
ANSWERED = {
    "5,000 characters": (LONG_QUESTION, [ENGLISH]),
    "5,000 characters of no word": ("*" * 5000, []),
    "1,500 marks on one letter": ("e" + "\u0301" * 1500, []),
    "one emoji": ("🎉", []),
    "only stop words": ("the of and to is", []),
    "white space around a word": ("\n\r\t harbour \t", [ENGLISH]),
    "invisible characters": ("\u200d\u200b\ufeff", []),
    "no characters": ("\uffff\U0010ffff", []),
    "control characters": ("\x01\x07\x1b\x7f", []),
    "one quote": ('"', []),
    "an open quote": ('"harbour opens', [ENGLISH]),
    "a column filter": ("content:harbour opens", [ENGLISH]),
    "a prefix search": ("harbour opens*", [ENGLISH]),
    "open brackets": ("((((", []),
    "a group": ("(harbour opens)", [ENGLISH]),
    "a column set": ("{content tags}: harbour opens six morning", [ENGLISH]),
    "a start mark": ("^harbour opens", [ENGLISH]),
    "a distance": ("NEAR(harbour opens, 2) six morning", [ENGLISH]),
    "only operators": ("AND OR NOT", []),
    "words and operators": ("harbour AND opens OR six NOT -morning", [ENGLISH]),
    "only signs": ('"*():^-{}+', []),
    "a statement": ("'; DROP TABLE memories; --", []),
    "Chinese": ("港口几点开门", [CHINESE]),
    "Japanese": ("水族館は何時に開きますか", [JAPANESE]),
    "Arabic": ("متى يفتح الميناء", [ARABIC]),
    "Chinese in the middle of English": ("when does the 港口 open 开门", [CHINESE]),
    "no percent code": ("%zz", []),
}
REFUSED = {
    "NUL": ("%00", "query: must not contain NUL characters"),
    "NUL in a word": ("harb%00our", "query: must not contain NUL characters"),
    "a lone surrogate": ("%ED%A0%80", "query: must be UTF-8"),
    "a pair of surrogates": ("%ED%A0%BD%ED%B8%80", "query: must be UTF-8"),
    "half a character": ("%E6%B8", "query: must be UTF-8"),
    "no byte of UTF-8": ("%FF", "query: must be UTF-8"),
    "beyond Unicode": ("%F4%90%80%80", "query: must be UTF-8"),
}


async def _fill(remember: Any) -> None:
    for content in (ENGLISH, CHINESE, JAPANESE, ARABIC, PARTY):
        await remember(content)


@pytest.mark.requirement("mem9.search.any_text")
@pytest.mark.parametrize(("text", "found"), ANSWERED.values(), ids=ANSWERED)
async def test_any_text_is_answered(api: Client, remember: Any, text: str, found: list[str]) -> None:
    await _fill(remember)
    for more in ("", "&trace=true"):
        answer = await api.get(f"/memories?q={quote(text)}{more}")
        page = answer.json()
        assert (answer.status_code, [row["content"] for row in page["memories"][:1]]) == (200, found)
        assert page == EMPTY | {"memories": page["memories"], "total": len(page["memories"])}


@pytest.mark.requirement("mem9.search.any_text")
async def test_a_word_of_5000_letters_is_answered(api: Client, remember: Any) -> None:
    await remember(ENGLISH)
    answer = await api.get(f"/memories?q={'x' * 5000}")
    assert (answer.status_code, answer.json()) == (200, EMPTY)


@pytest.mark.requirement("mem9.search.any_text")
@pytest.mark.parametrize(("coded", "told"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_text_is_refused(api: Client, remember: Any, coded: str, told: str) -> None:
    await remember(ENGLISH)
    answer = await api.get(f"/memories?q={coded}")
    assert (answer.status_code, answer.json()) == (400, {"error": told})


@pytest.mark.requirement("mem9.filter.nothing")
@pytest.mark.parametrize("query", ["", "q=when does the harbour open&", "q=harbour&min_confidence=0&trace=true&"])
@pytest.mark.parametrize(
    "condition",
    [
        "tags=nobody",
        "tags=sea,nobody",
        "session_id=none",
        "agent_id=none",
        "source=none",
        "state=archived",
        "state=deleted",
        "memory_type=session",
        "updated_from=2031-01-01",
        "updated_to=2001-01-01",
        "updated_from=2027-01-01&updated_to=2026-01-01",
    ],
)
async def test_filters_that_match_nothing_give_an_empty_page(
    api: Client, remember: Any, query: str, condition: str
) -> None:
    await remember(ENGLISH, tags=["sea"], agent_id="ada", session_id="s1")
    answer = await api.get(f"/memories?{query}{condition}")
    assert (answer.status_code, answer.json()) == (200, EMPTY)
