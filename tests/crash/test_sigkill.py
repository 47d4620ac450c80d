"""A server killed without warning loses nothing that it acknowledged, does nothing twice, and finds everything."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("crash_driver.py")


def drive(run: str, directory: Path, *, memories: int, kills: int, seed: int) -> dict[str, Any]:
    figures = {"--memories": memories, "--kills": kills, "--seed": seed}
    options = [text for name, value in figures.items() for text in (name, str(value))]
    command = [sys.executable, str(DRIVER), run, "--directory", str(directory), *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


@pytest.mark.timeout(300)
def test_a_thousand_memories_survive_twenty_kills(tmp_path: Path) -> None:
    report = drive("writes", tmp_path / "data", memories=1000, kills=20, seed=20_260_701)

    assert report["problems"] == []
    assert report["kills"] == 20
    assert report["memories"] >= 1000
    assert report["calls_cut"] > 0, "no kill hit a call in flight: the test proved nothing"
    assert report["doctor"]["ok"] is True


@pytest.mark.timeout(300)
def test_an_import_that_is_killed_again_and_again_ends_with_exactly_its_rows(tmp_path: Path) -> None:
    report = drive("import", tmp_path / "data", memories=5000, kills=5, seed=20_260_701)

    assert report["problems"] == []
    assert report["kills"] == 5
    assert report["memories"] == 5000
    assert report["doctor"]["ok"] is True
