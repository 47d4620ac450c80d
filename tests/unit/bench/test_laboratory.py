"""The laboratory with the real storage and model, on a history small enough to know by heart."""

from pathlib import Path

import pytest

from bench.recall import ablation, calibrate, crossval, engine_run
from bench.recall.baseline_rows import BM25_RECIPE, BM25_TERMS, DENSE, FUSION, PLAIN
from bench.recall.configurations import DEFAULTS, Configuration, default_weights, stages_left_out
from bench.recall.dataset import DataSet, History, LabTurn, Question, read_time
from bench.recall.lab_engine import fed_engine, stored_bytes
from bench.recall.metrics import means
from bench.recall.sweep import sweep

SAID = (
    ("s1", "Ann", "My sister keeps bees on the roof of her house."),
    ("s1", "Bob", "That sounds like a lot of honey."),
    ("s2", "Ann", "I bought a second-hand cello in Vienna."),
    ("s2", "Bob", "Do you take lessons?"),
    ("s3", "Ann", "We painted the kitchen green last week."),
)
ASKED = {"0": "Who has beehives?", "2": "Which instrument did Ann buy?", "4": "What colour is the kitchen now?"}


def _data_set() -> DataSet:
    said_at = read_time("1:56 pm on 8 May, 2023")
    turns = tuple(
        LabTurn(id=str(place), session_id=session, seq=place, speaker=speaker, text=text, said_at=said_at)
        for place, (session, speaker, text) in enumerate(SAID)
    )
    questions = tuple(
        Question(
            id=f"q{turn}",
            text=text,
            kind="plain" if turn == "2" else "other",
            turns=frozenset({turn}),
            sessions=frozenset({turns[int(turn)].session_id}),
            is_abstention=False,
        )
        for turn, text in ASKED.items()
    )
    return DataSet(name="small", histories=(History(id="h", turns=turns, questions=questions),))


async def test_a_sweep_asks_every_configuration_every_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = next(name for name, value in default_weights().items() if isinstance(value, float) and value)
    chosen = [Configuration(DEFAULTS, {}), Configuration("other", {weight: 0.0}), *stages_left_out()]
    found = await sweep(tmp_path, _data_set(), chosen, threads=1)
    assert list(found.rows) == [each.name for each in chosen]
    assert [row.name for row in found.baselines] == [BM25_TERMS, BM25_RECIPE, DENSE, FUSION, PLAIN]
    assert {len(row.outcomes) for row in [*found.rows.values(), *found.baselines]} == {3}
    figures = means(found.rows[DEFAULTS].outcomes)
    assert (figures["turn any@1"], figures["session all@1"]) == (1.0, 1.0)
    # "beehives" and "instrument" are no words of the turns: without the model, or by words alone, nobody finds bees.
    assert means(found.rows["without model"].outcomes)["turn any@1"] < 1.0
    assert default_weights()[weight] != 0.0
    ablation.print_report(found)
    ablation.print_objective([found, found])
    assert crossval.print_report([found], 2) in {True, False}
    printed = capsys.readouterr().out
    assert "### small: 1 histories, 5 turns, 3 questions (0 of updates, 0 of the past)" in printed
    assert "| without model |" in printed
    assert "2 splits" in printed


async def test_a_kept_history_is_fed_once_and_a_broken_off_feeding_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        async with fed_engine(tmp_path, _data_set(), threads=1):
            pass
    assert capsys.readouterr().err.count("fed 5 turns") == 1
    assert stored_bytes(tmp_path, _data_set()) > 0
    _break_off_feeding(tmp_path)
    async with fed_engine(tmp_path, _data_set(), threads=1):
        pass
    assert capsys.readouterr().err.count("fed 5 turns") == 1


def _break_off_feeding(root: Path) -> None:
    (directory,) = root.iterdir()
    (directory / "fed.txt").unlink()


async def test_a_run_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Three questions cannot be clearly better than BM25.
    assert not await engine_run.measure(tmp_path, _data_set(), threads=1)
    printed = capsys.readouterr().out
    for line in ("| polymem | 1.000 | 1.000 |", "| polymem minus |", "| other (2) |", "| polymem | 3 |", "| 5 |"):
        assert line in printed
    await calibrate.measure(tmp_path, [_data_set()], threads=1)
    printed = capsys.readouterr().out
    for line in ("logistic: slope", "off-topic with <= 1 hit", "| small | plain | 1 |", "Updates beside the past"):
        assert line in printed
