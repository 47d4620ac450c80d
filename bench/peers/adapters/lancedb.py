"""LanceDB: one table a space with a full text index; `text` searches it alone, `hybrid` with vectors beside it.

The vectors come from its sentence-transformers function; both rankings are joined by its reciprocal rank fusion.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
from lancedb.embeddings import get_registry
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector
from lancedb.rerankers import RRFReranker

from bench.peers.protocol import Row, serve


class PlainRow(LanceModel):  # type: ignore[misc] # its types are there only where LanceDB is installed
    """A row without a vector."""

    row: str
    session: str
    said_at: str
    line: str


class LancePeer:
    """Tables named after their spaces."""

    def __init__(self, store: Path, model: Path, *, hybrid: bool) -> None:
        self._database = lancedb.connect(str(store))
        self._hybrid = hybrid
        self._schema: type = _hybrid_schema(model) if hybrid else PlainRow
        self._tables: dict[str, Any] = {}
        self._fresh: set[str] = set()
        self._grown: set[str] = set()

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows are in the table; the index takes them at the commit."""
        entries = [{"said_at": "", **row.labels, "line": row.line} for row in rows]
        self._table(space).add(entries)
        self._grown.add(space)

    def commit(self) -> None:
        """The full text index has every row."""
        for space in self._grown:
            table = self._table(space)
            if space in self._fresh:
                table.create_index("line", config=FTS(stem=True, remove_stop_words=True))
                self._fresh.remove(space)
            else:
                table.optimize()
        self._grown.clear()

    def finish(self) -> None:
        """There is no background work."""

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the best rows."""
        query = self._table(space).search(text, query_type="hybrid" if self._hybrid else "fts")
        if self._hybrid:
            query = query.rerank(RRFReranker())
        return [str(found["row"]) for found in query.limit(limit).select(["row"]).to_list()]

    def close(self) -> None:
        """Tables need no closing."""

    def _table(self, space: str) -> Any:
        if space not in self._tables:
            if space in self._database.table_names(limit=1000):
                self._tables[space] = self._database.open_table(space)
            else:
                self._tables[space] = self._database.create_table(space, schema=self._schema)
                self._fresh.add(space)
        return self._tables[space]


def _hybrid_schema(model: Path) -> type:
    """The schema whose vector is computed from the line; the model is loaded once."""
    embed = get_registry().get("sentence-transformers").create(name=str(model))

    class VectorRow(PlainRow):
        """A row and its vector."""

        line: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()  # type: ignore[valid-type] # made at run time

    return VectorRow


if __name__ == "__main__":
    serve("lancedb", lambda store, model: LancePeer(store, model, hybrid=sys.argv[1] == "hybrid"))
