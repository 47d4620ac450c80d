"""What the laboratory reads from a file of histories."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.recall.dataset import load, read_time

JUNE = "2023/06/01 (Thu) 09:30"
JULY = "1:56 pm on 8 July, 2023"


def _session(name: str, time: str, turns: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "turns": [{"id": turn, "speaker": "Ann", "text": f"text {turn}", "time": time} for turn in turns],
    }


def _question(name: str, text: str, turns: list[str], **more: Any) -> dict[str, Any]:
    return {"id": name, "text": text, "type": "k", "turns": turns, "sessions": ["s1"], "abstention": False} | more


def _loaded(path: Path, questions: list[dict[str, Any]]) -> dict[str, Any]:
    sessions = [_session("s1", JUNE, ["a", "b"]), _session("s2", JULY, ["c"])]
    file = path / "small.dev.json"
    file.write_text(json.dumps([{"id": "h", "sessions": sessions, "questions": questions}]), encoding="utf-8")
    found = load(file)
    assert (found.name, found.turn_count) == ("small.dev", 3)
    return {question.id: question for question in found.histories[0].questions}


def test_turns_keep_their_place_time_and_session(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    sessions = [_session("s1", JUNE, ["a", "b"]), _session("s2", JULY, ["c"])]
    file.write_text(json.dumps([{"id": "h", "sessions": sessions, "questions": []}]), encoding="utf-8")
    history = load(file).histories[0]
    june, july = datetime(2023, 6, 1, 9, 30, tzinfo=UTC), datetime(2023, 7, 8, 13, 56, tzinfo=UTC)
    assert [(turn.id, turn.session_id, turn.seq, turn.said_at) for turn in history.turns] == [
        ("a", "s1", 0, june),
        ("b", "s1", 1, june),
        ("c", "s2", 0, july),
    ]
    assert history.session_of == {"a": "s1", "b": "s1", "c": "s2"}


def test_a_question_is_asked_at_its_own_time_or_at_none(tmp_path: Path) -> None:
    dated = _question("q1", "Where?", ["a"], date=JUNE)
    found = _loaded(tmp_path, [dated, _question("q2", "Where?", ["a"], date=""), _question("q3", "Where?", ["a"])])
    assert [found[name].asked_at for name in ("q1", "q2", "q3")] == [read_time(JUNE), None, None]


@pytest.mark.parametrize(
    ("text", "turns", "meta", "past"),
    [
        ("Where did I live before?", ["a", "c"], {}, {"a"}),
        ("Where did I live?", ["a", "c"], {}, set()),
        ("What did I do first?", ["a", "b"], {}, set()),
        ("Which did I previously own?", ["b"], {"new": ["c"], "old": ["b"]}, {"b"}),
        ("Which did I own initially?", ["a", "b", "c"], {"new": ["c"], "old": ["b"]}, {"b"}),
        ("What did it use to be, beforehand?", ["a", "c"], {}, set()),
    ],
)
def test_a_question_of_the_past_names_the_turns_that_tell_the_earlier_state(
    tmp_path: Path, text: str, turns: list[str], meta: dict[str, list[str]], past: set[str]
) -> None:
    assert _loaded(tmp_path, [_question("q", text, turns, meta=meta)])["q"].past == past


def test_only_questions_with_an_answer_are_scored(tmp_path: Path) -> None:
    found = _loaded(
        tmp_path,
        [_question("yes", "?", ["a"]), _question("none", "?", []), _question("abstain", "?", ["a"], abstention=True)],
    )
    assert [name for name, question in found.items() if question.is_scored] == ["yes"]
