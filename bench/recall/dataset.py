"""Histories of dated conversations with questions whose answering turns are known.

Reads the JSON format of the development sets: a list of histories, each with `sessions` of `turns` and
`questions` with the ids of the turns and sessions that answer them. The files stay where they are.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

_TIME_FORMATS = ("%Y/%m/%d %H:%M", "%I:%M %p on %d %B, %Y")
_WEEKDAY = re.compile(r"\s*\([A-Za-z]{3}\)\s*")
_PAST_WORDS = re.compile(r"\b(?:before|previous|previously|used to|first|initially|originally)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabTurn:
    """One message; `seq` is its place in its session."""

    id: str
    session_id: str
    seq: int
    speaker: str
    text: str
    said_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question; it is scored when some turn answers it and it is no abstention.

    `asked_at`: when it was asked, None where the data do not say. `newer`, `older`: the turns of a fact that
    replaced another, and of the one it replaced. `past`: of a question about an earlier state, the answering turns
    that tell that state; else empty.
    """

    id: str
    text: str
    kind: str
    turns: frozenset[str]
    sessions: frozenset[str]
    is_abstention: bool
    asked_at: datetime | None = None
    newer: frozenset[str] = frozenset()
    older: frozenset[str] = frozenset()
    past: frozenset[str] = frozenset()

    @property
    def is_scored(self) -> bool:
        """True when recall of this question can be measured."""
        return bool(self.turns) and not self.is_abstention


@dataclass(frozen=True, kw_only=True)
class History:
    """All that one user said, and what is asked of it."""

    id: str
    turns: tuple[LabTurn, ...]
    questions: tuple[Question, ...]

    @cached_property
    def session_of(self) -> Mapping[str, str]:
        """The session of each turn."""
        return {turn.id: turn.session_id for turn in self.turns}

    @cached_property
    def scored(self) -> tuple[Question, ...]:
        """The questions that count."""
        return tuple(question for question in self.questions if question.is_scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One file of histories."""

    name: str
    histories: tuple[History, ...]

    @property
    def turn_count(self) -> int:
        """The turns of all histories."""
        return sum(len(history.turns) for history in self.histories)

    @property
    def scored(self) -> tuple[Question, ...]:
        """The questions that count, history by history."""
        return tuple(question for history in self.histories for question in history.scored)


def load(path: Path) -> DataSet:
    """The data set of a file; raises when the file is not of the format."""
    histories = json.loads(path.read_text(encoding="utf-8"))
    return DataSet(name=path.name.removesuffix(".json"), histories=tuple(_history(item) for item in histories))


def read_time(text: str) -> datetime | None:
    """The moment a time stamp of the data names, taken as UTC, or None when there is none."""
    plain = _WEEKDAY.sub(" ", text).strip()
    for known in _TIME_FORMATS:
        try:
            return datetime.strptime(plain, known).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _history(item: dict[str, Any]) -> History:
    turns = tuple(
        LabTurn(
            id=turn["id"],
            session_id=session["id"],
            seq=seq,
            speaker=turn["speaker"],
            text=turn["text"],
            said_at=read_time(turn["time"]),
        )
        for session in item["sessions"]
        for seq, turn in enumerate(session["turns"])
    )
    said_at = {turn.id: turn.said_at for turn in turns}
    questions = tuple(_question(entry, said_at) for entry in item["questions"])
    return History(id=item["id"], turns=turns, questions=questions)


def _question(item: dict[str, Any], said_at: Mapping[str, datetime | None]) -> Question:
    meta = item.get("meta") or {}
    turns, older = frozenset(item["turns"]), frozenset(meta.get("old") or ())
    return Question(
        id=item["id"],
        text=item["text"],
        kind=item["type"],
        turns=turns,
        sessions=frozenset(item["sessions"]),
        is_abstention=bool(item["abstention"]),
        asked_at=read_time(item.get("date") or ""),
        newer=frozenset(meta.get("new") or ()),
        older=older,
        past=_past(item["text"], turns, older, said_at),
    )


def _past(
    text: str, turns: frozenset[str], older: frozenset[str], said_at: Mapping[str, datetime | None]
) -> frozenset[str]:
    """The turns that tell an earlier state, for a question whose words ask for one.

    They are the replaced ones among those that answer, else the oldest where the answers are of several times.
    """
    if not _PAST_WORDS.search(text):
        return frozenset()
    if turns & older:
        return turns & older
    times = {turn: moment for turn in turns if (moment := said_at.get(turn)) is not None}
    if len(set(times.values())) < 2:
        return frozenset()
    return frozenset(turn for turn, moment in times.items() if moment == min(times.values()))
