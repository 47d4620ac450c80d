"""The embedder over a model that tests can hold still, and over the real one."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymem.domain.model import ModelIdentity
from polymem.errors import InferenceUnavailable
from polymem.inference import embedder as module
from polymem.inference.embedder import SEGMENT_CHARACTERS, LocalEmbedder, segments
from polymem.inference.lane import Lane, LaneLimits
from polymem.inference.minilm import EncodedChunk

CHUNK = 1_000


class SlowModel:
    """Encodes each thousand characters as one chunk, when the gate is open; remembers what it was asked."""

    name, revision, dimension, token_dimension = "slow", "1", 4, 2

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.calls: list[list[str]] = []
        self.failure: Exception | None = None

    def encode(self, texts: Sequence[str], *, max_chunks: int | None = None) -> list[list[EncodedChunk]]:
        self.calls.append(list(texts))
        self.started.release()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        return [[self._chunk(text, at) for at in self._starts(text)[:max_chunks]] for text in texts]

    def _starts(self, text: str) -> list[int]:
        return list(range(0, max(1, len(text)), CHUNK))

    def _chunk(self, text: str, at: int) -> EncodedChunk:
        end = min(len(text), at + CHUNK)
        vector = np.array([1, 0, 0, 0], dtype=np.float32)
        tokens = ((at, end),) if end > at else ()
        rows = np.full((len(tokens), 2), 90, dtype=np.int8)
        return EncodedChunk(at, end, vector, rows, tokens, (True,) * len(tokens))


async def _begun(model: SlowModel) -> None:
    assert await asyncio.to_thread(model.started.acquire, timeout=30)


def _opened(model: Any, threads: int = 1) -> LocalEmbedder:
    return LocalEmbedder(model, threads=threads)


def _spans(embedded: Any) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.end) for chunk in embedded.chunks]


async def test_a_query_has_unit_token_vectors_with_spans_and_is_remembered() -> None:
    model = SlowModel()
    embedder = _opened(model)
    found = await embedder.embed_query("where is it")
    assert found.tokens == ((0, 11),)
    assert np.linalg.norm(found.token_vectors, axis=1) == pytest.approx([1.0])
    assert await embedder.embed_query("where is it") is found
    assert model.calls == [["where is it"]]
    await embedder.close()


async def test_a_query_without_tokens_has_no_token_vectors() -> None:
    embedder = _opened(SlowModel())
    found = await embedder.embed_query("")
    assert found.token_vectors.shape == (0, 2)
    await embedder.close()


async def test_the_least_recent_query_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_CACHE_SIZE", 2)
    model = SlowModel()
    embedder = _opened(model)
    for text in ("a", "b", "a", "c", "a", "b"):
        await embedder.embed_query(text)
    assert model.calls == [["a"], ["b"], ["c"], ["b"]]
    await embedder.close()


async def test_a_query_is_answered_while_documents_are_encoded() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    documents = asyncio.create_task(embedder.embed_texts(["a document"]))
    await _begun(model)
    query = asyncio.create_task(embedder.embed_query("a query"))
    await _begun(model)
    assert model.calls == [["a document"], ["a query"]]
    model.gate.set()
    assert (await query).tokens == ((0, 7),)
    assert (await documents)[0].is_complete
    await embedder.close()


async def test_requests_that_wait_share_a_batch() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    first = asyncio.create_task(embedder.embed_texts(["first"]))
    await _begun(model)
    rest = [asyncio.create_task(embedder.embed_texts([f"text {number}"])) for number in range(3)]
    await asyncio.sleep(0)
    model.gate.set()
    assert [_spans((await task)[0]) for task in (first, *rest)] == [[(0, 5)], [(0, 6)], [(0, 6)], [(0, 6)]]
    assert model.calls == [["first"], ["text 0", "text 1", "text 2"]]
    await embedder.close()


async def test_a_large_request_lets_a_small_one_pass() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    large = asyncio.create_task(embedder.embed_texts([f"{number:02d}" for number in range(60)]))
    await _begun(model)
    small = asyncio.create_task(embedder.embed_texts(["small"]))
    await asyncio.sleep(0)
    model.gate.set()
    await small
    await large
    assert "small" in model.calls[2]
    assert sum(map(len, model.calls)) == 61
    await embedder.close()


async def test_requests_of_different_depth_do_not_share_a_batch() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    first = asyncio.create_task(embedder.embed_texts(["first"], max_chunks=1))
    await _begun(model)
    deep = asyncio.create_task(embedder.embed_texts(["deep"], max_chunks=2))
    part = asyncio.create_task(embedder.embed_texts(["part"], max_chunks=1))
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(first, deep, part)
    assert model.calls == [["first"], ["deep"], ["part"]]
    await embedder.close()


async def test_the_beginning_of_a_document_does_not_wait_for_whole_ones() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    whole = [asyncio.create_task(embedder.embed_texts([f"whole {number}"])) for number in range(20)]
    await _begun(model)
    part = asyncio.create_task(embedder.embed_texts(["part"], max_chunks=1))
    await _begun(model)
    assert model.calls[1] == ["part"]
    model.gate.set()
    await asyncio.gather(part, *whole)
    await embedder.close()


async def test_a_batch_is_bounded_in_characters() -> None:
    model = SlowModel()
    embedder = _opened(model)
    await embedder.embed_texts(["x" * 1_500, "y" * 1_500, "z" * 100])
    assert [[text[0] for text in call] for call in model.calls] == [["x"], ["y", "z"]]
    await embedder.close()


async def test_two_threads_encode_two_batches_at_once() -> None:
    model = SlowModel()
    embedder = _opened(model, threads=2)
    model.gate.clear()
    one = asyncio.create_task(embedder.embed_texts(["one"], max_chunks=1))
    await _begun(model)
    two = asyncio.create_task(embedder.embed_texts(["two"], max_chunks=1))
    await _begun(model)
    assert model.calls == [["one"], ["two"]]
    model.gate.set()
    await asyncio.gather(one, two)
    await embedder.close()


async def test_a_long_text_is_encoded_in_segments_and_comes_back_whole() -> None:
    embedder = _opened(SlowModel())
    text = "word " * 2_000
    (found,) = await embedder.embed_texts([text])
    assert found.is_complete
    assert _spans(found)[0][0] == 0
    assert all(left[1] == right[0] for left, right in zip(_spans(found), _spans(found)[1:], strict=False))
    assert _spans(found)[-1][1] == len(text)
    await embedder.close()


@pytest.mark.parametrize(
    ("length", "max_chunks", "spans", "rest"),
    [
        (0, 1, [(0, 0)], "no rest"),
        (900, 1, [(0, 900)], "no rest"),
        (1_000, 1, [(0, 1_000)], "no rest"),
        (1_500, 1, [(0, 1_000)], "a rest"),
        (4_000, 4, [(0, 1_000), (1_000, 2_000), (2_000, 3_000), (3_000, 4_000)], "no rest"),
        (4_001, 4, [(0, 1_000), (1_000, 2_000), (2_000, 3_000), (3_000, 4_000)], "a rest"),
        (4_500, 5, [(0, 1_000), (1_000, 2_000), (2_000, 3_000), (3_000, 4_000), (4_000, 4_500)], "no rest"),
        (6_500, 6, [*((at, at + 1_000) for at in range(0, 6_000, 1_000))], "a rest"),
    ],
)
async def test_a_bounded_text_has_its_first_chunks_and_says_whether_that_is_all(
    length: int, max_chunks: int, spans: list[tuple[int, int]], rest: str
) -> None:
    embedder = _opened(SlowModel())
    (found,) = await embedder.embed_texts(["x" * length], max_chunks=max_chunks)
    assert (_spans(found), found.is_complete) == (spans, rest == "no rest")
    await embedder.close()


async def test_no_texts_need_no_model() -> None:
    model = SlowModel()
    embedder = _opened(model)
    assert await embedder.embed_texts([]) == ()
    assert model.calls == []
    await embedder.close()


async def test_a_model_that_fails_is_unavailable_to_all_who_shared_the_batch_and_lives_on() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.failure = RuntimeError("out of memory")
    with pytest.raises(InferenceUnavailable, match="failed to encode"):
        await embedder.embed_texts(["a", "b"])
    model.failure = None
    assert (await embedder.embed_texts(["a"]))[0].is_complete
    await embedder.close()


async def test_a_cancelled_request_is_not_encoded() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    first = asyncio.create_task(embedder.embed_texts(["first"]))
    await _begun(model)
    cancelled = asyncio.create_task(embedder.embed_texts(["cancelled"]))
    last = asyncio.create_task(embedder.embed_texts(["last"]))
    await asyncio.sleep(0)
    cancelled.cancel()
    first.cancel()
    await asyncio.sleep(0)
    model.gate.set()
    await last
    assert model.calls == [["first"], ["last"]]
    await embedder.close()


async def test_a_full_lane_refuses_and_an_empty_one_takes_even_what_is_too_large() -> None:
    model = SlowModel()
    encoder: Any = model
    lane = Lane(encoder, "lane", LaneLimits(threads=1, batch_texts=1, batch_characters=10, queued_characters=10))
    model.gate.clear()
    tasks = [asyncio.create_task(lane.encode(["x" * 20], max_chunks=None))]
    await _begun(model)
    tasks.append(asyncio.create_task(lane.encode(["y" * 8], max_chunks=None)))
    await asyncio.sleep(0)
    with pytest.raises(InferenceUnavailable, match="too many texts wait"):
        await lane.encode(["z" * 5], max_chunks=None)
    model.gate.set()
    await asyncio.gather(*tasks)
    await lane.close()


async def test_closing_lets_a_running_batch_end_and_refuses_the_rest() -> None:
    model = SlowModel()
    embedder = _opened(model)
    model.gate.clear()
    running = asyncio.create_task(embedder.embed_texts(["running"]))
    await _begun(model)
    waiting = asyncio.create_task(embedder.embed_texts(["waiting"]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(embedder.close())
    await asyncio.sleep(0)
    model.gate.set()
    await closing
    assert (await running)[0].is_complete
    with pytest.raises(InferenceUnavailable, match="shutting down"):
        await waiting
    with pytest.raises(InferenceUnavailable, match="shutting down"):
        await embedder.embed_query("late")
    await embedder.close()


async def test_without_its_files_the_model_is_unavailable_and_says_why(tmp_path: Path) -> None:
    embedder = LocalEmbedder.open(tmp_path)
    assert embedder.problem is not None
    assert embedder.identity.revision == "unavailable"
    for call in (embedder.embed_query("q"), embedder.embed_texts(["t"])):
        with pytest.raises(InferenceUnavailable, match="cannot answer"):
            await call
    await embedder.close()


async def test_the_shipped_model_puts_a_question_near_its_answer() -> None:
    embedder = LocalEmbedder.open()
    assert embedder.problem is None
    assert embedder.identity == ModelIdentity(
        name="all-MiniLM-L6-v2", revision=embedder.identity.revision, dimension=384, token_dimension=64
    )
    query = await embedder.embed_query("which database do we use?")
    near, far = await embedder.embed_texts(["Project uses PostgreSQL 15", "The cat sleeps on the sofa"], max_chunks=4)
    assert query.embedding @ near.chunks[0].embedding > query.embedding @ far.chunks[0].embedding + 0.1
    assert query.token_vectors.shape == (len(query.tokens), 64)
    await embedder.close()


async def test_what_the_model_does_not_know_takes_no_part_in_a_query() -> None:
    embedder = LocalEmbedder.open()
    mixed = await embedder.embed_query("\U0001f389 boat")
    unknown = await embedder.embed_query("\U0001f389")
    assert mixed.tokens == ((2, 6),)
    assert mixed.token_vectors.shape == (1, embedder.identity.token_dimension)
    assert unknown.tokens == ()
    assert unknown.token_vectors.shape == (0, embedder.identity.token_dimension)
    await embedder.close()


async def test_the_spans_of_tokens_stand_where_their_vectors_do() -> None:
    embedder = LocalEmbedder.open()
    text = "The harbour opens at six. " * 400
    (embedded,) = await embedder.embed_texts([text])
    spans = embedder.token_spans(text)
    assert [len(chunk) for chunk in spans] == [len(chunk.token_vectors) for chunk in embedded.chunks]
    assert [text[start:end] for start, end in spans[0][:3]] == ["The", "harbour", "opens"]
    assert text[slice(*spans[-1][-1])] == "."
    await embedder.close()


def test_without_a_model_there_are_no_spans() -> None:
    assert LocalEmbedder(None, threads=1, problem="gone").token_spans("words") == ()


@pytest.mark.parametrize("text", ["", "short", "x" * 4_000, "x" * 9_000, "a b " * 3_000, "a\n" * 5_000])
def test_segments_together_are_the_text(text: str) -> None:
    pieces = segments(text)
    assert "".join(piece for _, piece in pieces) == text
    assert [at for at, _ in pieces] == [sum(len(piece) for _, piece in pieces[:n]) for n in range(len(pieces))]
    assert all(len(piece) <= SEGMENT_CHARACTERS for _, piece in pieces)
    assert all(piece[-1].isspace() for _, piece in pieces[:-1] if " " in text)
