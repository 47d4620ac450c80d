"""polymem: its server as a user starts it, fed and asked over HTTP through the mem9 API, one key a space.

`turns` gives it conversations: speaker, text and time apart. `lines` gives it what the other peers get: one text
`speaker: text` a request, with id and session as metadata.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from bench.peers.protocol import Row, row_id, serve

_MEMORIES = "/v1alpha2/mem9s/memories"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.01


class PolymemPeer:
    """A server over the store, one connection to it, and the key of each space."""

    def __init__(self, store: Path, *, takes_turns: bool) -> None:
        self._takes_turns = takes_turns
        self._keys_file = store / "keys.json"
        self._keys: dict[str, str] = {}
        if self._keys_file.exists():
            self._keys = json.loads(self._keys_file.read_text(encoding="utf-8"))
        data = store / "data"
        data.mkdir(exist_ok=True)
        record = data / "server.json"
        record.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "polymem", "serve", "--port", "0", "--data-dir", str(data)]
        self._server = subprocess.Popen(arguments, stdout=sys.stderr)
        address = urlsplit(_url(record, self._server))
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600.0)

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows are stored, synced and can be found: the server says so by answering."""
        for body in _conversations(rows) if self._takes_turns else map(_note, rows):
            self._request("POST", _MEMORIES, self._key(space), body)

    def commit(self) -> None:
        """Each call of `add` is durable by itself."""

    def finish(self) -> None:
        """The server has no job left: the later parts of long texts have their vectors."""
        while _unfinished_jobs(self._text("GET", "/metrics", {}, None)):
            time.sleep(_POLL_SECONDS)

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the best rows, the cut by confidence taken away."""
        kind = "session" if self._takes_turns else "insight"
        query = urlencode({"q": text, "limit": limit, "memory_type": kind, "min_confidence": 0})
        found = self._request("GET", f"{_MEMORIES}?{query}", self._key(space))["memories"]
        if self._takes_turns:
            return [row_id(memory["session_id"], memory["metadata"]["seq"]) for memory in found]
        return [str(memory["metadata"]["row"]) for memory in found]

    def close(self) -> None:
        """The server has ended."""
        self._connection.close()
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(_STOP_SECONDS)

    def _key(self, space: str) -> str:
        if space not in self._keys:
            self._keys[space] = str(self._request("POST", "/v1alpha1/mem9s", None)["id"])
            self._keys_file.write_text(json.dumps(self._keys), encoding="utf-8")
        return self._keys[space]

    def _request(self, method: str, path: str, key: str | None, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"X-API-Key": key})
        return json.loads(self._text(method, path, headers, None if body is None else json.dumps(body).encode()))

    def _text(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> str:
        self._connection.request(method, path, body=body, headers=headers)
        response = self._connection.getresponse()
        text = response.read().decode()
        if response.status >= 400:
            sys.exit(f"{method} {path}: {response.status} {text[:500]}")
        return text


def _conversations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One request body for the rows of each session."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        time_told = {} if row.said_at is None else {"created_at": row.said_at}
        message = {"role": row.speaker, "content": row.text, "seq": row.seq, **time_told}
        sessions.setdefault(row.session, []).append(message)
    return [{"session_id": session, "messages": told, "sync": True} for session, told in sessions.items()]


def _note(row: Row) -> dict[str, Any]:
    """The request body for one text."""
    return {"content": row.line, "metadata": row.labels, "sync": True}


def _url(record: Path, server: "subprocess.Popen[bytes]") -> str:
    """The URL of the server, as it tells in its data directory once it answers."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if record.is_file() and (text := record.read_text(encoding="utf-8")).strip():
            return str(json.loads(text)["url"])
        time.sleep(_POLL_SECONDS)
    if server.poll() is None:
        os.kill(server.pid, signal.SIGTERM)
    sys.exit("the server did not start")


def _unfinished_jobs(metrics: str) -> bool:
    """True while jobs are queued or running, by the Prometheus text."""
    lines = [line for line in metrics.splitlines() if line.startswith("polymem_jobs{")]
    return any(
        float(line.rsplit(" ", 1)[1]) > 0 for line in lines if 'state="queued"' in line or 'state="running"' in line
    )


if __name__ == "__main__":
    serve("polymem", lambda store, _model: PolymemPeer(store, takes_turns=sys.argv[1] == "turns"))
