"""mem0: raw adds (`infer=False`), local Qdrant on disk, the Hugging Face embedder; one user a space.

Its keyword arm needs files that fastembed fetches from a hub, and its entities a spaCy model that no registry has;
without them mem0 itself falls back to the vectors alone, and that is what is measured. No language model is called.
"""

from collections.abc import Sequence
from pathlib import Path

from mem0 import Memory

from bench.peers.protocol import Row, serve


class Mem0Peer:
    """One memory whose users are the spaces."""

    def __init__(self, store: Path, model: Path) -> None:
        self._memory = Memory.from_config(
            {
                "vector_store": {
                    "provider": "qdrant",
                    "config": {"path": str(store / "qdrant"), "on_disk": True, "embedding_model_dims": 384},
                },
                "embedder": {"provider": "huggingface", "config": {"model": str(model), "embedding_dims": 384}},
                # mem0 asks for a language model even when none is used; nothing listens on this address
                "llm": {"provider": "openai", "config": {"api_key": "none", "openai_base_url": "http://127.0.0.1:9"}},
                "history_db_path": str(store / "history.db"),
            }
        )

    def add(self, space: str, rows: Sequence[Row]) -> None:
        """Each row is a memory of its own: mem0 takes one set of metadata a call."""
        for row in rows:
            message = {"role": "user", "name": row.speaker, "content": row.line}
            self._memory.add([message], user_id=space, metadata=dict(row.labels), infer=False)

    def commit(self) -> None:
        """Each call of `add` is durable by itself."""

    def finish(self) -> None:
        """There is no background work."""

    def search(self, space: str, text: str, limit: int) -> list[str]:
        """The ids of the best rows, the default cut of .1 taken away."""
        found = self._memory.search(text, top_k=limit, filters={"user_id": space}, threshold=0.0)
        return [str(item["metadata"]["row"]) for item in found["results"]]

    def close(self) -> None:
        """The memory's files are closed."""
        self._memory.close()


if __name__ == "__main__":
    serve("mem0ai", Mem0Peer)
