"""A server of our own, started as a user starts it, fed and asked through the mem9 API."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.recall.dataset import History, LabTurn

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_BACKLOG_SECONDS = 900.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class LabServer:
    """A running server; `client` knows its address."""

    client: httpx.Client
    data_dir: Path


@contextmanager
def running_server(data_dir: Path) -> Iterator[LabServer]:
    """A server over an empty data directory, stopped by SIGTERM at the end."""
    command = [sys.executable, "-m", "polymem", "serve", "--port", "0", "--data-dir", str(data_dir)]
    with (data_dir.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = _wait_until_ready(process, data_dir)
        with httpx.Client(base_url=url, timeout=httpx.Timeout(600.0)) as client:
            yield LabServer(client, data_dir)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)


def feed(server: LabServer, history: History) -> tuple[str, float]:
    """A key of its own for the history, all whose turns are stored, session by session; the seconds it took."""
    key = str(_checked(server.client.post("/v1alpha1/mem9s"))["id"])
    sessions: dict[str, list[LabTurn]] = {}
    for turn in history.turns:
        sessions.setdefault(turn.session_id, []).append(turn)
    started = time.perf_counter()
    for session_id, turns in sessions.items():
        body = {"session_id": session_id, "messages": [_message(turn) for turn in turns], "sync": True}
        _checked(server.client.post("/v1alpha2/mem9s/memories", json=body, headers={"X-API-Key": key}))
    return key, time.perf_counter() - started


def ask(
    server: LabServer, key: str, text: str, *, asked_at: datetime | None, limit: int
) -> tuple[list[tuple[str, int]], float]:
    """Session id and seq of each recalled turn, best first, without a cut; the seconds it took."""
    query: dict[str, str | int] = {"q": text, "limit": limit, "memory_type": "session", "min_confidence": 0}
    if asked_at is not None:
        query["reference_at"] = asked_at.isoformat()
    started = time.perf_counter()
    response = server.client.get("/v1alpha2/mem9s/memories", params=query, headers={"X-API-Key": key})
    seconds = time.perf_counter() - started
    rows = _checked(response)["memories"]
    return [(str(row["session_id"]), int(row["metadata"]["seq"])) for row in rows], seconds


def wait_for_jobs(server: LabServer) -> float:
    """Every embed job is done; the seconds it took. Ends the program when that takes too long."""
    started = time.perf_counter()
    while _unfinished_jobs(server.client.get("/metrics").text) > 0:
        if time.perf_counter() - started > _BACKLOG_SECONDS:
            sys.exit("embed jobs are not done after 15 minutes")
        time.sleep(_POLL_SECONDS)
    return time.perf_counter() - started


def size_of(directory: Path) -> int:
    """The bytes of all files of a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _message(turn: LabTurn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.speaker, "content": turn.text, "seq": turn.seq}
    if turn.said_at is not None:
        message["created_at"] = turn.said_at.isoformat()
    return message


def _checked(response: httpx.Response) -> dict[str, Any]:
    """The JSON body of a good answer; ends the program with the body of a bad one."""
    if response.is_error:
        sys.exit(f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:500]}")
    body: dict[str, Any] = response.json()
    return body


def _wait_until_ready(process: subprocess.Popen[bytes], data_dir: Path) -> str:
    """The URL of the server, as it tells in its data directory once it answers."""
    record = data_dir / "server.json"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}; see {data_dir.parent / 'server.log'}")
        if record.is_file() and (text := record.read_text(encoding="utf-8")).strip():
            return str(json.loads(text)["url"])
        time.sleep(_POLL_SECONDS)
    os.kill(process.pid, signal.SIGTERM)
    sys.exit(f"the server did not answer within {_START_SECONDS:.0f} s")


def _unfinished_jobs(metrics: str) -> float:
    """How many jobs are queued or running, read from the Prometheus text."""
    lines = (line for line in metrics.splitlines() if line.startswith("polymem_jobs{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'state="queued"' in line or 'state="running"' in line)
