"""ChromaDB: a persistent client, one collection a space, cosine, its sentence-transformers embedding function.

Its default function runs the same weights by onnxruntime, but pads every text to 256 tokens, which is slower, and
fetches its file from a host that is no package registry.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings
from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

from bench.peers.protocol import Row, serve


class ChromaPeer:
    """Collections named after their spaces."""

    def __init__(self, store: Path, model: Path) -> None:
        self._client = chromadb.PersistentClient(str(store), settings=Settings(anonymized_telemetry=False))
        self._embed = SentenceTransformerEmbeddingFunction(model_name=str(model))
        self._collections: dict[str, Any] = {}

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """The rows are stored and can be found."""
        self._collection(space).add(
            ids=[row.id for row in rows],
            documents=[row.line for row in rows],
            metadatas=[dict(row.labels) for row in rows],
        )

    def commit(self) -> None:
        """Each call of `add` is durable by itself."""

    def finish(self) -> None:
        """There is no background work to wait for."""

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the nearest rows."""
        found = self._collection(space).query(query_texts=[text], n_results=limit, include=["distances"])
        ids: list[str] = found["ids"][0]
        return ids

    def close(self) -> None:
        """The client ends with the process."""

    def _collection(self, space: str) -> Any:
        if space not in self._collections:
            self._collections[space] = self._client.get_or_create_collection(
                f"space-{space}", embedding_function=self._embed, configuration={"hnsw": {"space": "cosine"}}
            )
        return self._collections[space]


if __name__ == "__main__":
    serve("chromadb", ChromaPeer)
