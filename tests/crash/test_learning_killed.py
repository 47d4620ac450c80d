"""What was learned survives kills: no outcome is lost or counted twice, no sleep loses a source."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("learning_driver.py")


@pytest.mark.timeout(300)
def test_atoms_that_are_judged_and_merged_survive_kills(tmp_path: Path) -> None:
    figures = {"--atoms": 150, "--kills": 6, "--seed": 20_261_121}
    options = [text for name, value in figures.items() for text in (name, str(value))]
    command = [sys.executable, str(DRIVER), "--directory", str(tmp_path / "data"), *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["problems"] == []
    assert (report["kills"], report["memories"]) == (6, 300)
    assert report["calls_cut"] > 0, "no kill hit a call in flight: the test proved nothing"
