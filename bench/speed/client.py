"""A light HTTP client: prepared requests over some kept connections, one in flight on each; runs in its own process."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import uvloop

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a drive measured: seconds of each call in order of their ends, of all together, and of the client's CPU."""

    latencies: list[float]
    seconds: float
    client_cpu_seconds: float
    bad: list[str]
    bytes_read: int


def request(method: str, target: str, key: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def drive(port: int, requests: list[bytes], connections: int) -> Outcome:
    """All requests are answered, over this many connections."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(port, requests, connections))


async def _drive(port: int, requests: list[bytes], connections: int) -> Outcome:
    loop = asyncio.get_running_loop()
    feed, latencies, bad = iter(requests), list[float](), list[str]()
    made = [
        await loop.create_connection(lambda: _Connection(feed, latencies, bad), "127.0.0.1", port)
        for _ in range(connections)
    ]
    cpu, started = time.process_time(), time.perf_counter()
    for _, connection in made:
        connection.begin()
    await asyncio.gather(*(connection.done for _, connection in made))
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    for transport, _ in made:
        transport.close()
    return Outcome(latencies, seconds, used, bad[:5], sum(connection.bytes_read for _, connection in made))


class _Connection(asyncio.Protocol):
    """Sends the next request when the last one was answered."""

    def __init__(self, feed: Iterator[bytes], latencies: list[float], bad: list[str]) -> None:
        self._feed = feed
        self._latencies = latencies
        self._bad = bad
        self._received = bytearray()
        self._missing = -1
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.bytes_read = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """The next request is on its way, or the connection is done."""
        following = next(self._feed, None)
        if following is None or self._transport is None:
            self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer came in."""
        self._received += data
        if self._missing < 0:
            end = self._received.find(_HEAD_END)
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            at = head.index(_LENGTH) + len(_LENGTH)
            self._missing = end + len(_HEAD_END) + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._received) < self._missing:
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        if self._received[9:10] != b"2":
            self._bad.append(self._received[:600].decode("utf-8", "replace"))
        self.bytes_read += len(self._received)
        self._received.clear()
        self._missing = -1
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has gone away."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))
