"""Server and worker processes of a test's own, and commands beside them."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

START_SECONDS = 30
STOP_SECONDS = 30
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    data_dir: Path
    greeting: str

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "server.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.record["url"])

    @property
    def api(self) -> str:
        return str(self.record["apis"]["mem9"])

    @property
    def key(self) -> str:
        return (self.data_dir / "key").read_text().strip()

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.api, headers={"X-API-Key": key or self.key}, timeout=30, trust_env=False)

    def write(self, content: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/memories", json={"content": content, "sync": True})

    def found(self, query: str, **more: str) -> list[str]:
        with self.client() as client:
            answer = client.get("/memories", params={"q": query, **more})
        assert answer.status_code == 200, answer.text
        return [row["content"] for row in answer.json()["memories"]]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        return stop(self.process, number)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "polymem", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYMEM_")}
    return {**kept, **more}


def run(*arguments: str, variables: Mapping[str, str] = NO_VARIABLES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment(**variables)
    )


def read_greeting(descriptor: int, end: bytes = b"/memories?q=") -> str:
    """What a process says until it has said everything; bounded in time."""
    text = b""
    deadline = time.monotonic() + START_SECONDS
    while end not in text:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(descriptor, 65536) if ready else b""
        if not piece:
            break
        text += piece
    return text.decode()


@contextmanager
def serving(data_dir: Path, *flags: str, variables: Mapping[str, str] = NO_VARIABLES) -> Iterator[Server]:
    arguments = command("serve", "--port", "0", "--data-dir", str(data_dir), *flags)
    with started(arguments, variables) as process:
        assert process.stdout is not None
        greeting = read_greeting(process.stdout.fileno())
        assert "answers at" in greeting, f"the server did not start: {greeting!r}"
        yield Server(process, data_dir, greeting)


@contextmanager
def working(data_dir: Path, *flags: str, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that runs jobs."""
    with started(command("work", "--data-dir", str(data_dir), *flags), variables) as process:
        assert process.stdout is not None
        greeting = read_greeting(process.stdout.fileno(), b"at a time\n")
        assert "works for" in greeting, f"the worker did not start: {greeting!r}"
        yield process


@contextmanager
def started(arguments: list[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed afterwards if it still runs."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment(**variables))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """The exit status of a process that was asked to stop."""
    process.send_signal(number)
    return process.wait(STOP_SECONDS)


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


class SlowWrite:
    """A write whose headers the server has read and whose body it still waits for."""

    BODY = b'{"content":"Said while the server was stopping","sync":true}'

    def __init__(self, server: Server) -> None:
        url = httpx.URL(server.api)
        assert url.host is not None
        assert url.port is not None
        self._socket = socket.create_connection((url.host, url.port), timeout=STOP_SECONDS)
        head = (
            f"POST {url.path}/memories HTTP/1.1\r\nHost: {url.host}\r\nX-API-Key: {server.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self.BODY)}\r\nExpect: 100-continue\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        assert self._socket.recv(65536).startswith(b"HTTP/1.1 100")

    def finish(self) -> bytes:
        self._socket.sendall(self.BODY)
        answer = b""
        while piece := self._socket.recv(65536):
            answer += piece
        return answer

    def close(self) -> None:
        self._socket.close()


class IdleConnection:
    """A kept-alive connection on which nothing is asked any more."""

    def __init__(self, server: Server) -> None:
        url = httpx.URL(server.url)
        self._connection = HTTPConnection(url.host, url.port, timeout=STOP_SECONDS)
        self._connection.request("GET", "/livez")
        self._connection.getresponse().read()

    def wait_until_stopping(self) -> None:
        """Returns when the server has closed the connection, as it does when it is asked to stop."""
        assert self._connection.sock.recv(1) == b""

    def close(self) -> None:
        self._connection.close()
