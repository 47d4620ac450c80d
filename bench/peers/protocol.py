"""How the runner and a peer speak: one JSON object a line, over the peer's standard input and output.

Only the standard library is imported here, because every peer's own environment runs this module.

| request | answer once it is so |
|---|---|
| `{"op": "open", "store": DIR, "model": DIR}` | `{"version": TEXT}`: the store, new or of an earlier run, can be used |
| `{"op": "add", "space": NAME, "rows": [ROW, ...]}` | `{}`: the peer has taken the rows |
| `{"op": "commit"}` | `{}`: all that was added can be found, and is there after a restart |
| `{"op": "finish"}` | `{}`: no background work is left |
| `{"op": "search", "space": NAME, "text": TEXT, "limit": N}` | `{"ids": [ID, ...]}`, best first |
| `{"op": "close"}` | `{}`, and the process ends |

A peer that cannot answer ends, with its reason on standard error.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One text to remember: said by `speaker` as number `seq` of its session, at `said_at` (ISO 8601) if known."""

    session: str
    seq: int
    speaker: str
    text: str
    said_at: str | None

    @property
    def id(self) -> str:
        """The name that searches answer with; unique in a space."""
        return row_id(self.session, self.seq)

    @property
    def line(self) -> str:
        """The text as a store that knows no speakers is given it."""
        return f"{self.speaker}: {self.text}"

    @property
    def labels(self) -> dict[str, str]:
        """What is stored beside the line: id (as `row`: mem0 keeps the name `id` to itself), session and time."""
        labels = {"row": self.id, "session": self.session}
        return labels if self.said_at is None else labels | {"said_at": self.said_at}


def row_id(session: str, seq: int) -> str:
    """The id of the row at a place of a session."""
    return f"{session}#{seq}"


class Peer(Protocol):
    """A store under test; see the table above for what each call promises."""

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows are taken; they may wait for `commit` to be found."""
        ...

    def commit(self) -> None:
        """All rows can be found, and are there after a restart; nothing to do is a no-op."""
        ...

    def finish(self) -> None:
        """No background work is left; a store that has none does nothing."""
        ...

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """At most `limit` ids of a space, best first, without a cut by relevance."""
        ...

    def close(self) -> None:
        """The store is closed."""
        ...


def serve(package: str, open_peer: Callable[[Path, Path], Peer]) -> None:
    """Requests are answered until `close`; `package` is the distribution whose version is told."""
    answers = _claim_stdout()
    peer: Peer | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if request["op"] == "open":
            peer = open_peer(Path(request["store"]), Path(request["model"]))
            answer: dict[str, Any] = {"version": metadata.version(package)}
        elif peer is None:
            sys.exit("the first request must be open")
        else:
            answer = _answer(peer, request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if request["op"] == "close":
            return
    if peer is not None:
        peer.close()  # the runner has ended; what the peer started must end too


def encode_add(space: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The request that adds rows."""
    return {"op": "add", "space": space, "rows": [asdict(row) for row in rows]}


def _answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    match request["op"]:
        case "add":
            peer.add(request["space"], [Row(**row) for row in request["rows"]])
        case "commit":
            peer.commit()
        case "finish":
            peer.finish()
        case "search":
            return {"ids": peer.search(request["space"], request["text"], request["limit"])}
        case "close":
            peer.close()
        case unknown:
            sys.exit(f"unknown request: {unknown}")
    return {}


def _claim_stdout() -> TextIO:
    """The stream the runner reads; whatever a library prints goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers
