"""The built-in embedding model: all-MiniLM-L6-v2 in 8-bit arithmetic, shipped with the package."""

from polymem.inference.minilm.encoder import EncodedChunk, MiniLm, ModelDamaged

__all__ = ["EncodedChunk", "MiniLm", "ModelDamaged"]
