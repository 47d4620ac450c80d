"""Processes on one PostgreSQL, killed at random: nothing acknowledged is lost, done twice, or shown to others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("cluster_driver.py")


@pytest.mark.timeout(420)
def test_a_cluster_survives_half_a_minute_of_kills() -> None:
    command = [sys.executable, str(DRIVER), "--seconds", "30", "--pause-seconds", "3", "--seed", "20260701"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)

    assert report["problems"] == []
    assert report["kills"] >= 3
    assert report["memories"] >= 100
    assert report["imports"] >= 1
    assert report["doctor"]["ok"] is True
