"""A lane: some threads that encode, fed in turns from the requests that wait.

All scheduling happens on the event loop and needs no lock; a thread only encodes what it is handed. Requests
take turns, a few texts each, so that a large one delays a small one by two batches at most.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from polymem.errors import InferenceUnavailable
from polymem.inference.minilm import EncodedChunk


class Encoder(Protocol):
    """A model that encodes on the calling thread and may be called from several at once."""

    def encode(self, texts: Sequence[str], *, max_chunks: int | None = None) -> list[list[EncodedChunk]]:
        """The chunks of each text, at least one each, at most `max_chunks`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """How many threads a lane has, what it encodes at once, and how many characters may wait."""

    threads: int
    batch_texts: int
    batch_characters: int
    queued_characters: int


@dataclass(slots=True, eq=False)
class _Work:
    """One request: the texts not yet taken, and the results that have come in."""

    waiting: deque[tuple[int, str]]
    max_chunks: int | None
    results: list[list[EncodedChunk]]
    missing: int
    done: asyncio.Future[list[list[EncodedChunk]]]


_Batch = list[tuple[_Work, int, str]]


class Lane:
    """Encodes for many callers at once; `close` lets running batches end and refuses what waits."""

    def __init__(self, encoder: Encoder, name: str, limits: LaneLimits) -> None:
        self._encoder = encoder
        self._limits = limits
        self._threads = ThreadPoolExecutor(max_workers=limits.threads, thread_name_prefix=name)
        self._pending: deque[_Work] = deque()
        self._queued_characters = 0
        self._running: set[asyncio.Future[list[list[EncodedChunk]]]] = set()
        self._is_closed = False

    async def encode(self, texts: Sequence[str], *, max_chunks: int | None) -> list[list[EncodedChunk]]:
        """The chunks of each text. Raises `InferenceUnavailable` when too much waits, or the model fails."""
        if self._is_closed:
            raise InferenceUnavailable("the model is shutting down")
        if not texts:
            return []
        size = sum(len(text) for text in texts)
        if self._pending and self._queued_characters + size > self._limits.queued_characters:
            raise InferenceUnavailable("too many texts wait for the model")
        work = _Work(
            waiting=deque(enumerate(texts)),
            max_chunks=max_chunks,
            results=[[] for _ in texts],
            missing=len(texts),
            done=asyncio.get_running_loop().create_future(),
        )
        self._pending.append(work)
        self._queued_characters += size
        self._start()
        return await work.done

    async def close(self) -> None:
        """The threads have ended; callers that still waited got `InferenceUnavailable`."""
        self._is_closed = True
        for work in self._pending:
            _fail(work, InferenceUnavailable("the model is shutting down"))
        self._pending.clear()
        if self._running:
            await asyncio.wait(self._running)
        self._threads.shutdown()

    def _start(self) -> None:
        """Every thread has a batch, as long as something waits."""
        loop = asyncio.get_running_loop()
        while len(self._running) < self._limits.threads and (batch := self._take()):
            encode = partial(self._encoder.encode, [text for _, _, text in batch], max_chunks=batch[0][0].max_chunks)
            call = loop.run_in_executor(self._threads, encode)
            self._running.add(call)
            call.add_done_callback(partial(self._end, batch))

    def _end(self, batch: _Batch, call: asyncio.Future[list[list[EncodedChunk]]]) -> None:
        """Who waited for the batch has its results, or why there are none; its thread goes on with the next."""
        self._running.discard(call)
        problem = call.exception()
        if problem is None:
            _deliver(batch, call.result())
        else:
            failure = InferenceUnavailable("the model failed to encode a text")
            failure.__cause__ = problem
            for work, _, _ in batch:
                _fail(work, failure)
        self._start()

    def _take(self) -> _Batch:
        """The next batch: texts of the requests in turn, alike in `max_chunks`, within the limits of a batch.

        A request that gave some of its texts and has more goes to the end of the queue.
        """
        batch: _Batch = []
        characters = 0
        passed_by: list[_Work] = []
        served: list[_Work] = []
        while self._pending and len(batch) < self._limits.batch_texts:
            work = self._pending.popleft()
            if work.done.done():
                self._queued_characters -= sum(len(text) for _, text in work.waiting)
                continue
            before = len(batch)
            if not batch or work.max_chunks == batch[0][0].max_chunks:
                characters = self._take_from(work, batch, characters)
            if work.waiting:
                (served if len(batch) > before else passed_by).append(work)
        self._pending.extendleft(reversed(passed_by))
        self._pending.extend(served)
        return batch

    def _take_from(self, work: _Work, batch: _Batch, characters: int) -> int:
        """Moves texts of one request into the batch while it has room; the characters it then holds."""
        while work.waiting and len(batch) < self._limits.batch_texts:
            number, text = work.waiting[0]
            if batch and characters + len(text) > self._limits.batch_characters:
                break
            work.waiting.popleft()
            batch.append((work, number, text))
            characters += len(text)
            self._queued_characters -= len(text)
        return characters


def _deliver(batch: _Batch, encoded: list[list[EncodedChunk]]) -> None:
    """Hands each result to its request; a request that has all of them is done."""
    for (work, number, _), chunks in zip(batch, encoded, strict=True):
        work.results[number] = chunks
        work.missing -= 1
        if work.missing == 0 and not work.done.done():
            work.done.set_result(work.results)


def _fail(work: _Work, failure: InferenceUnavailable) -> None:
    """The request is over; what was encoded of it is dropped."""
    if not work.done.done():
        work.done.set_exception(failure)
