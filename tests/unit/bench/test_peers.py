"""The side-by-side takes its figures from a peer's answers, and says why a peer has none."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from bench.peers import report
from bench.peers.corpus import Asked, Corpus, pieces, ranking, whole_turns
from bench.peers.measure import Measured, Setting, _require_time, measure
from bench.peers.process import PeerEnded
from bench.peers.protocol import Row
from bench.recall.dataset import DataSet, History, LabTurn, Question

ROOT = Path(__file__).resolve().parents[3]

# A peer that keeps a file of ids and finds the rows that share a word with the question, the oldest first.
WORD_PEER = """
    import json
    from bench.peers.protocol import serve

    class WordPeer:
        def __init__(self, store, model):
            self.file = store / "rows.json"
            self.rows = json.loads(self.file.read_text()) if self.file.exists() else []

        def add(self, space, rows):
            self.rows += [(space, row.id, row.line) for row in rows]

        def commit(self):
            self.file.write_text(json.dumps(self.rows))

        def finish(self):
            print("a library that prints")

        def search(self, space, text, limit):
            words = set(text.split())
            return [id for where, id, line in self.rows if where == space and words & set(line.split())][:limit]

        def close(self):
            pass

    serve("pytest", WordPeer)
"""
TURNS = (
    LabTurn(id="t1", session_id="s1", seq=0, speaker="Ann", text="the red kite", said_at=None),
    LabTurn(id="t2", session_id="s1", seq=1, speaker="Bob", text="the blue boat", said_at=None),
    LabTurn(id="t3", session_id="s2", seq=0, speaker="Ann", text="my blue kite", said_at=None),
)
QUESTION = Question(
    id="q1",
    text="which kite",
    kind="plain",
    turns=frozenset({"t3"}),
    sessions=frozenset({"s2"}),
    is_abstention=False,
)
HISTORY = History(id="h", turns=TURNS, questions=(QUESTION,))
DATA_SET = DataSet(name="small", histories=(HISTORY, HISTORY))


def setting(tmp_path: Path, program: str, minutes: float = 1.0) -> Setting:
    script = tmp_path / "peer.py"
    script.write_text(dedent(program), encoding="utf-8")
    return Setting(
        command=[sys.executable, str(script)],
        variables={"PYTHONPATH": str(ROOT)},
        weights=tmp_path,
        scratch=tmp_path / "scratch",
        log=tmp_path / "log",
        minutes=minutes,
    )


def test_a_peer_is_judged_by_what_it_finds_after_a_restart(tmp_path: Path) -> None:
    measured = measure(setting(tmp_path, WORD_PEER), whole_turns(DATA_SET))

    assert [outcome.values["turn mrr"] for outcome in measured.answered.outcomes] == [0.5, 0.5]
    assert [outcome.values["session all@1"] for outcome in measured.answered.outcomes] == [0.0, 0.0]
    assert len(measured.answered.search_seconds) == 1
    assert len(measured.written.single_seconds) == 3
    assert measured.disk_bytes_per_text > 20
    assert measured.highest_bytes >= measured.answered.resident_bytes > 1_000_000


def test_nothing_of_a_peer_is_left_after_its_run(tmp_path: Path) -> None:
    measure(setting(tmp_path, WORD_PEER), whole_turns(DATA_SET))

    assert not (tmp_path / "scratch").exists()


def test_a_peer_that_takes_too_long_is_stopped_and_said_so(tmp_path: Path) -> None:
    with pytest.raises(PeerEnded, match="out of time"):
        measure(setting(tmp_path, "import sys; sys.stdin.read()", minutes=0.02), whole_turns(DATA_SET))


def test_a_peer_that_writes_too_slowly_ends_early_with_its_rate() -> None:
    late = time.perf_counter() + 60

    with pytest.raises(PeerEnded, match="at 20 texts/s, writing takes 10 minutes"):
        _require_time(seconds=40.0, done=800, count=12_000, deadline=late)
    _require_time(seconds=40.0, done=800, count=1000, deadline=late)
    _require_time(seconds=4.0, done=80, count=12_000, deadline=late)


def test_a_peer_that_ends_early_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(PeerEnded, match="ended with 1: no such model"):
        measure(setting(tmp_path, "import sys; sys.exit('no such model')"), whole_turns(DATA_SET))


def test_the_table_has_a_row_for_a_peer_without_figures(tmp_path: Path) -> None:
    corpus = whole_turns(DATA_SET)
    results: dict[str, Measured | str] = {
        "words": measure(setting(tmp_path, WORD_PEER), corpus),
        "gone": "not installed: no such package",
    }

    heading, _, head, _, words, gone = report.table(corpus, results).splitlines()

    assert heading == "### small, 6 texts, 2 questions"
    assert words.startswith("| words | 0.000 | 1.000 | 1.000 | 1.000 | 0.500 | 1.000 |")
    assert gone.startswith("| gone | not installed: no such package |")
    assert head.count("|") == words.count("|") == gone.count("|")


def test_the_first_peer_is_compared_with_each_other_that_has_figures(tmp_path: Path) -> None:
    measured = measure(setting(tmp_path, WORD_PEER), whole_turns(DATA_SET))

    assert report.comparisons({"ours": measured, "gone": "stopped", "theirs": measured}) == (
        "- ours minus theirs (paired bootstrap, 95 %): turn any@5 +0.000 [+0.000, +0.000]; "
        "turn all@10 +0.000 [+0.000, +0.000]"
    )
    assert report.comparisons({"gone": "stopped"}) == ""


def test_row_ids_stand_for_the_turns_they_were_made_of() -> None:
    rows = whole_turns(DATA_SET).rows["h1"]

    assert ranking(HISTORY, [row.id for row in rows]) == ["t1", "t2", "t3"]
    assert rows[0].line == "Ann: the red kite"


def long_turn(name: str, session: str, words: int) -> LabTurn:
    return LabTurn(id=name, session_id=session, seq=0, speaker="Ann", text="word " * words, said_at=None)


def lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row.text) for row in rows]


def test_pieces_have_ids_of_their_own_and_about_one_length() -> None:
    history = History(id="h", turns=(long_turn("a", "s", 90), long_turn("b", "s", 41)), questions=(QUESTION,))

    corpus = pieces([DataSet(name="long", histories=(history, history))], 100)

    rows = corpus.rows["all"]
    assert lengths(rows) == [199, 199, 199] * 2
    assert len({row.id for row in rows}) == 6
    assert corpus.questions == [Asked(space="all", text="which kite", scored=None)] * 2


def test_no_more_pieces_are_made_than_asked_for() -> None:
    history = History(id="h", turns=(long_turn("a", "s", 900),), questions=(QUESTION,))

    corpus: Corpus = pieces([DataSet(name="long", histories=(history,))], 5)

    assert corpus.size == 5
