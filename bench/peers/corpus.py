"""What the peers are given: rows by space, and the questions with where they are asked."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.peers.protocol import Row, row_id
from bench.recall.dataset import DataSet, History, LabTurn, Question

_PIECE_CHARACTERS = 200
_SHORTEST_PIECE = 100
_LARGE_QUESTIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question and the space it is asked in; `scored` when it is known what answers it."""

    space: str
    text: str
    scored: tuple[History, Question] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Rows by space, in the order they are written, and the questions."""

    name: str
    rows: Mapping[str, Sequence[Row]]
    questions: Sequence[Asked]

    @property
    def size(self) -> int:
        """The rows of all spaces."""
        return sum(len(rows) for rows in self.rows.values())


def whole_turns(data_set: DataSet) -> Corpus:
    """Every turn of every history, and every scored question."""
    spaces = {f"h{number}": history for number, history in enumerate(data_set.histories)}
    return Corpus(
        name=data_set.name,
        rows={space: [_whole(turn) for turn in history.turns] for space, history in spaces.items()},
        questions=[
            Asked(space=space, text=question.text, scored=(history, question))
            for space, history in spaces.items()
            for question in history.scored
        ],
    )


def pieces(data_sets: Sequence[DataSet], count: int) -> Corpus:
    """At most `count` texts of about 200 characters in one space, and questions spread over all that are asked."""
    histories = [history for data_set in data_sets for history in data_set.histories]
    found = [row for number, history in enumerate(histories) for row in _cut(number, history)]
    questions = [question.text for history in histories for question in history.scored]
    step = max(1, len(questions) // _LARGE_QUESTIONS)
    chosen = questions[::step][:_LARGE_QUESTIONS]
    return Corpus(
        name=f"{min(count, len(found))} texts of about {_PIECE_CHARACTERS} characters",
        rows={"all": found[:count]},
        questions=[Asked(space="all", text=text, scored=None) for text in chosen],
    )


def ranking(history: History, ids: Sequence[str]) -> list[str]:
    """The turn ids that row ids of a history stand for."""
    turn_of = {row_id(turn.session_id, turn.seq): turn.id for turn in history.turns}
    return [turn_of[each] for each in ids]


def _row(turn: LabTurn, *, session: str, seq: int, text: str) -> Row:
    said_at = None if turn.said_at is None else turn.said_at.isoformat()
    return Row(session=session, seq=seq, speaker=turn.speaker, text=text, said_at=said_at)


def _whole(turn: LabTurn) -> Row:
    return _row(turn, session=turn.session_id, seq=turn.seq, text=turn.text)


def _cut(number: int, history: History) -> Iterator[Row]:
    """The pieces of a history's turns, counted through each session, whose names are made unique."""
    counts: dict[str, int] = {}
    for turn in history.turns:
        for piece in textwrap.wrap(turn.text, _PIECE_CHARACTERS):
            if len(piece) >= _SHORTEST_PIECE:
                session = f"{number}-{turn.session_id}"
                seq = counts.get(session, 0)
                counts[session] = seq + 1
                yield _row(turn, session=session, seq=seq, text=piece)
