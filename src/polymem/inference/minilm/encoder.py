"""Texts in, vectors out, on the local CPU.

What a text's vectors are depends on the text alone: the model's scales are constants, and only sequences of equal
length share a run, so there is no padding.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

MODEL_FOLDER: Final = Path(__file__).parent / "model"
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
MANIFEST_FILE: Final = "manifest.json"

UNKNOWN: Final = "[UNK]"

OVERLAP: Final = 32
"""Tokens that a chunk shares with the one before it."""
RUN_TOKENS: Final = 1024
"""Most tokens of one run of the model: bounds its memory; larger runs are no faster."""
CHARACTERS_PER_TOKEN: Final = 8
"""First guess of how far into a text the wanted chunks reach; doubled until it is enough."""

Span = tuple[int, int]
Run = tuple[NDArray[np.float32], NDArray[np.int8]]


class ModelDamaged(Exception):
    """The model's files are missing, unreadable or not the ones that the manifest names."""


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """One window of a text with its vectors."""

    start: int
    end: int
    """`text[start:end]` is the window; the windows of a text cover all of it."""
    embedding: NDArray[np.float32]
    """Shape (dimension,), unit length."""
    token_vectors: NDArray[np.int8]
    """Shape (tokens, token_dimension): unit vectors times 127, rounded; special tokens are left out."""
    tokens: tuple[Span, ...]
    """Where in the text each row of `token_vectors` stands."""
    is_known: tuple[bool, ...]
    """Whether the vocabulary has the token of each row; all that it lacks look alike to the model."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A chunk before it has vectors: model ids with both special tokens, and where the rest stand in the text."""

    start: int
    end: int
    ids: tuple[int, ...]
    tokens: tuple[Span, ...]


class MiniLm:
    """The built-in model; any number of threads may encode at once."""

    def __init__(self, session: ort.InferenceSession, tokenizer: Tokenizer, manifest: Mapping[str, Any]) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._first, self._last = tokenizer.encode("").ids
        self._unknown = tokenizer.token_to_id(UNKNOWN)

    @classmethod
    def load(cls, directory: Path | None = None, *, threads: int = 1) -> "MiniLm":
        """Returns the model from `directory` (default: the package's own), its files compared with the manifest.

        Args:
            directory: Folder with manifest, model and tokenizer.
            threads: CPU threads that one run may use.

        Raises:
            ModelDamaged: A file is missing, unreadable or differs from its sha256.
        """
        folder = directory or MODEL_FOLDER
        manifest = _read_manifest(folder)
        model, vocabulary = (_checked(folder / name, manifest) for name in (MODEL_FILE, TOKENIZER_FILE))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores from the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # By path: a session made of bytes keeps them, 23 MB, for as long as it lives.
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(vocabulary))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(session, tokenizer, manifest)

    @property
    def name(self) -> str:
        """The model's published name."""
        return str(self._manifest["name"])

    @property
    def revision(self) -> str:
        """Moves whenever the vectors of a text would: it ends with the start of the model file's sha256."""
        return f"{self._manifest['revision']}-{self._manifest['sha256'][MODEL_FILE][:12]}"

    @property
    def dimension(self) -> int:
        """Length of a chunk's embedding."""
        return int(self._manifest["dimension"])

    @property
    def token_dimension(self) -> int:
        """Length of a token vector."""
        return int(self._manifest["token_dimension"])

    @property
    def max_tokens(self) -> int:
        """Most model tokens of one chunk, the two special ones among them."""
        return int(self._manifest["max_tokens"])

    def encode(self, texts: Sequence[str], *, max_chunks: int | None = None) -> list[list[EncodedChunk]]:
        """Returns the chunks of each text in order, at least one for any text.

        Args:
            texts: Any strings, the empty one too.
            max_chunks: Most chunks for each text; what lies behind them is left out. None means no limit.
        """
        if max_chunks is not None and max_chunks < 1:
            raise ValueError("max_chunks must be at least 1")
        windows = [self._windows(text, max_chunks) for text in texts]
        flat = [window for of_text in windows for window in of_text]
        chunks = iter(self._encode_windows(flat))
        return [[next(chunks) for _ in of_text] for of_text in windows]

    def token_spans(self, text: str) -> list[tuple[Span, ...]]:
        """Returns where in the text each token vector of each chunk stands, without running the model."""
        return [window.tokens for window in self._windows(text, None)]

    def _windows(self, text: str, max_chunks: int | None) -> list[_Window]:
        room = self.max_tokens - 2
        ids, spans = self._tokenize(text, None if max_chunks is None else max_chunks * room)
        starts = [0, *range(room - OVERLAP, len(ids) - OVERLAP, room - OVERLAP)]
        windows = []
        for at in starts[:max_chunks]:
            kept = spans[at : at + room]
            start = 0 if at == 0 else kept[0][0]
            end = len(text) if at == starts[-1] else kept[-1][1]
            windows.append(_Window(start, end, (self._first, *ids[at : at + room], self._last), tuple(kept)))
        return windows

    def _tokenize(self, text: str, wanted: int | None) -> tuple[list[int], list[Span]]:
        """Returns ids and character spans of the text's tokens: of all, or of more than `wanted` from the start.

        Words are separated at white space before anything else is done, so a start cut there has the tokens it would
        have in the whole text.
        """
        reach = len(text) if wanted is None else wanted * CHARACTERS_PER_TOKEN
        while True:
            cut = len(text) if reach >= len(text) else text.rfind(" ", 0, reach)
            encoding = self._tokenizer.encode(text[: max(cut, 0)], add_special_tokens=False)
            if cut == len(text) or (wanted is not None and len(encoding) > wanted):
                return encoding.ids, encoding.offsets
            reach *= 2

    def _encode_windows(self, windows: Sequence[_Window]) -> list[EncodedChunk]:
        encoded: dict[int, EncodedChunk] = {}
        for run in _runs_of_equal_length([len(window.ids) for window in windows]):
            embeddings, tokens = self._run([windows[i].ids for i in run])
            for row, i in enumerate(run):
                window = windows[i]
                encoded[i] = EncodedChunk(
                    window.start,
                    window.end,
                    embeddings[row].copy(),
                    tokens[row].copy(),
                    window.tokens,
                    tuple(token != self._unknown for token in window.ids[1:-1]),
                )
        return [encoded[i] for i in range(len(windows))]

    def _run(self, sequences: Sequence[tuple[int, ...]]) -> Run:
        ids = np.array(sequences, np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        embeddings, tokens = self._session.run(["sentence_embedding", "token_vectors"], feed)
        return embeddings, np.rint(tokens[:, 1:-1] * 127).astype(np.int8)


def _runs_of_equal_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields the positions of all lengths in groups of one length and at most RUN_TOKENS tokens."""
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    for length, positions in sorted(by_length.items()):
        size = max(1, RUN_TOKENS // length)
        for at in range(0, len(positions), size):
            yield positions[at : at + size]


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"the model's {MANIFEST_FILE} is missing or unreadable") from error
    expected = {"name", "revision", "dimension", "token_dimension", "max_tokens", "sha256"}
    if not isinstance(manifest, dict) or not expected <= manifest.keys() or not isinstance(manifest["sha256"], dict):
        raise ModelDamaged(f"the model's {MANIFEST_FILE} lacks a field")
    return manifest


def _checked(file: Path, manifest: Mapping[str, Any]) -> Path:
    """The file, whose content is what the manifest says."""
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256")
    except OSError as error:
        raise ModelDamaged(f"the model's {file.name} is missing or unreadable") from error
    if digest.hexdigest() != manifest["sha256"].get(file.name):
        raise ModelDamaged(f"the model's {file.name} is not the one that its manifest names")
    return file
