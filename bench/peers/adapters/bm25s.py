"""bm25s: BM25 over sparse matrices, with its longer list of English stop words and an English stemmer.

With the short list of its first example it finds less. It has no way to add to an index, so every commit builds and
saves the index of each space that grew.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import Stemmer

from bench.peers.protocol import Row, serve


class Bm25sPeer:
    """An index and the ids and lines of its rows for each space, in a folder of its own."""

    def __init__(self, store: Path, _model: Path) -> None:
        self._store = store
        self._stemmer = Stemmer.Stemmer("english")
        self._rows: dict[str, list[tuple[str, str]]] = {}
        self._grown: set[str] = set()
        self._indexes: dict[str, Any] = {}
        for folder in store.iterdir():
            self._rows[folder.name] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
            self._indexes[folder.name] = bm25s.BM25.load(folder)

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows wait for the commit."""
        self._rows.setdefault(space, []).extend((row.id, row.line) for row in rows)
        self._grown.add(space)

    def commit(self) -> None:
        """The indexes of the spaces that grew are built anew and saved."""
        for space in self._grown:
            index = bm25s.BM25()
            index.index(self._tokens([line for _, line in self._rows[space]]), show_progress=False)
            folder = self._store / space
            folder.mkdir(exist_ok=True)
            index.save(folder)
            (folder / "rows.json").write_text(json.dumps(self._rows[space]), encoding="utf-8")
            self._indexes[space] = index
        self._grown.clear()

    def finish(self) -> None:
        """There is no background work."""

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the best rows; rows that share no word with the question stand last."""
        rows = self._rows[space]
        places, _ = self._indexes[space].retrieve(self._tokens([text]), k=min(limit, len(rows)), show_progress=False)
        return [rows[place][0] for place in places[0]]

    def close(self) -> None:
        """All is saved already."""

    def _tokens(self, texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="english_plus", stemmer=self._stemmer, show_progress=False)


if __name__ == "__main__":
    serve("bm25s", Bm25sPeer)
