"""txtai: a hybrid index (its BM25 and dense vectors), one index a space, saved at every commit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from txtai import Embeddings

from bench.peers.protocol import Row, serve


class TxtaiPeer:
    """Indexes in folders named after their spaces; they share one model."""

    def __init__(self, store: Path, model: Path) -> None:
        self._store = store
        self._model = str(model)
        self._models: dict[str, Any] = {}
        self._grown: set[str] = set()
        self._indexes: dict[str, Any] = {}
        for folder in store.iterdir():
            self._indexes[folder.name] = self._empty()
            self._indexes[folder.name].load(str(folder))

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows are in the index; the files wait for the commit."""
        if space not in self._indexes:
            self._indexes[space] = self._empty()
        self._indexes[space].upsert([(row.id, row.line, None) for row in rows])
        self._grown.add(space)

    def commit(self) -> None:
        """The indexes that grew are saved whole."""
        for space in self._grown:
            self._indexes[space].save(str(self._store / space))
        self._grown.clear()

    def finish(self) -> None:
        """There is no background work."""

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the best rows."""
        return [str(row_id) for row_id, _ in self._indexes[space].search(text, limit)]

    def close(self) -> None:
        """The indexes are closed."""
        for index in self._indexes.values():
            index.close()

    def _empty(self) -> Any:
        return Embeddings(path=self._model, hybrid=True, models=self._models)


if __name__ == "__main__":
    serve("txtai", TxtaiPeer)
