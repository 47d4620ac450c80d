"""A running peer: requests with their times, the memory of its processes, and an end in any case."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_CLOSE_SECONDS = 60.0


class PeerEnded(Exception):
    """The peer gave no answer; the message says why."""


class PeerProcess:
    """A peer's program; `started` is when it was, on the clock of `time.perf_counter`."""

    def __init__(self, process: "subprocess.Popen[str]", started: float, log: Path) -> None:
        self.started = started
        self._process = process
        self._log = log
        self._is_late = False

    def ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """The answer and the seconds it took; raises `PeerEnded` when there is none."""
        line = json.dumps(request) + "\n"
        sent = time.perf_counter()
        try:
            _pipe(self._process.stdin).write(line)
            _pipe(self._process.stdin).flush()
        except BrokenPipeError as problem:
            raise self._ended() from problem
        answer = _pipe(self._process.stdout).readline()
        seconds = time.perf_counter() - sent
        if not answer:
            raise self._ended()
        decoded: dict[str, Any] = json.loads(answer)
        return decoded, seconds

    def memory_bytes(self, field: str) -> int:
        """The sum of a field of /proc/PID/status (VmRSS: resident now, VmHWM: the most so far) over its processes."""
        return sum(_status_bytes(pid, field) for pid in _tree(self._process.pid))

    def stop(self) -> None:
        """The peer and what it started have ended; one that is still running is killed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def release(self) -> None:
        """The pipes are closed; what a peer that has ended did not read is lost."""
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()

    def stop_late(self) -> None:
        """The peer is stopped because its time is over."""
        self._is_late = True
        self.stop()

    def _ended(self) -> PeerEnded:
        code = self._process.wait()
        if self._is_late:
            return PeerEnded("out of time")
        said = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return PeerEnded(f"ended with {code}: {said[-1][:200] if said else 'no word'}")


@contextmanager
def running(
    command: Sequence[str], variables: Mapping[str, str], *, log: Path, deadline: float
) -> Iterator[PeerProcess]:
    """The peer runs; it is stopped at the end, or at `deadline` (on the clock of `time.perf_counter`)."""
    started = time.perf_counter()
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(variables),
            cwd=log.parent,
            text=True,
            start_new_session=True,  # so that its group is its own, and ends with it
        )
    peer = PeerProcess(process, started, log)
    timer = threading.Timer(max(0.0, deadline - started), peer.stop_late)
    timer.start()
    try:
        yield peer
        if not timer.is_alive():
            raise PeerEnded("out of time")
        process.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired as problem:
        raise PeerEnded(f"still running {_CLOSE_SECONDS:.0f} s after close") from problem
    finally:
        timer.cancel()
        peer.stop()
        peer.release()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - both pipes were asked for
    return stream


def _tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(children).split():
            yield from _tree(int(child))


def _status_bytes(pid: int, field: str) -> int:
    status = _read(Path(f"/proc/{pid}/status"))
    values = (line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(next(values, "0"))


def _read(path: Path) -> str:
    """The text of a file of /proc, empty when its process has just ended."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
