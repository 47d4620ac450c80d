"""Histories of dated conversations with questions whose answering turns are known.

Reads the JSON format of the development sets: a list of histories, each with `sessions` of `turns` and
`questions` with the ids of the turns and sessions that answer them. The files stay where they are.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TIME_FORMATS = ("%Y/%m/%d %H:%M", "%I:%M %p on %d %B, %Y")
_WEEKDAY = re.compile(r"\s*\([A-Za-z]{3}\)\s*")


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
    """One question; it is scored when some turn answers it and it is no abstention."""

    id: str
    text: str
    kind: str
    turns: frozenset[str]
    sessions: frozenset[str]
    is_abstention: bool
    newer: frozenset[str]
    older: frozenset[str]

    @property
    def is_scored(self) -> bool:
        """True when recall of this question can be measured."""
        return bool(self.turns) and not self.is_abstention


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that one user said, and what is asked of it."""

    id: str
    turns: tuple[LabTurn, ...]
    questions: tuple[Question, ...]

    @property
    def scored(self) -> tuple[Question, ...]:
        """The questions that count."""
        return tuple(question for question in self.questions if question.is_scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One file of histories."""

    name: str
    histories: tuple[History, ...]


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
    return History(id=item["id"], turns=turns, questions=tuple(_question(entry) for entry in item["questions"]))


def _question(item: dict[str, Any]) -> Question:
    meta = item.get("meta") or {}
    return Question(
        id=item["id"],
        text=item["text"],
        kind=item["type"],
        turns=frozenset(item["turns"]),
        sessions=frozenset(item["sessions"]),
        is_abstention=bool(item["abstention"]),
        newer=frozenset(meta.get("new") or ()),
        older=frozenset(meta.get("old") or ()),
    )
