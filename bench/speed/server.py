"""A server process of our own, and what the kernel says of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0
_STOP_SECONDS = 120.0
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server; `started` is the `perf_counter` at its start, `listening_after` when it took a connection."""

    pid: int
    port: int
    started: float
    listening_after: float

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> dict[str, float]:
        """Resident memory: all of it, anonymous, and mapped from files, in MB of 10^6 bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return {name: int(values[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "RssFile")}


@contextmanager
def running(data_dir: Path) -> Iterator[ServerProcess]:
    """A server over the directory, started as a user starts it, stopped by SIGTERM at the end."""
    port = _free_port()
    command = [sys.executable, "-m", "polymem", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with (data_dir.parent / f"{data_dir.name}.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(process, port, log.name)
            yield ServerProcess(process.pid, port, started, time.perf_counter() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes], port: int, log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}; see {log}")
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return
    sys.exit(f"the server did not listen within {_START_SECONDS:.0f} s; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
