"""S3-compatible storage for tests: a server on loopback, and ways for its network to fail."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
from moto.server import ThreadedMotoServer

_READ_BYTES = 64 * 1024
_KEY = re.compile(r"<Key>([^<]+)</Key>")


@contextlib.contextmanager
def object_server() -> Iterator[str]:
    """The endpoint of a running server; it keeps what it stores in memory."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own on the server."""

    endpoint: str
    name: str = field(default_factory=lambda: f"test-{uuid4().hex}")

    def make(self) -> "Bucket":
        """The bucket is there, with nothing in it."""
        httpx.put(f"{self.endpoint}/{self.name}").raise_for_status()
        return self

    def fill(self, *keys: str) -> None:
        """Empty objects that no blob store of ours put there."""
        with httpx.Client() as client:
            for key in keys:
                client.put(f"{self.endpoint}/{self.name}/{key}").raise_for_status()

    def remains(self) -> list[str]:
        """The keys of all objects and of all unfinished uploads."""
        found: list[str] = []
        for query in ("list-type=2", "uploads"):
            found += _KEY.findall(httpx.get(f"{self.endpoint}/{self.name}?{query}").raise_for_status().text)
        return found


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Proxy:
    """Passes bytes on to a server, as long and as far as a test lets it.

    `cut_after`: so many bytes of one connection go to the server, then it breaks, `cuts` times. `held`: a connection
    whose bytes hold this waits, having set `is_holding`, until `released`.
    """

    target: str
    endpoint: str = ""
    cut_after: int | None = None
    cuts: int = 1
    held: bytes | None = None
    is_holding: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    broken: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        host, port = self.target.removeprefix("http://").split(":")
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(host, int(port))
            answers = asyncio.create_task(self._answer(there, writer))
            try:
                await self._forward(reader, back)
            finally:
                back.close()
                answers.cancel()
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        passed = 0
        while read := await reader.read(_READ_BYTES):
            passed += len(read)
            if self.cut_after is not None and passed > self.cut_after and self.broken < self.cuts:
                self.broken += 1
                return
            if self.held is not None and self.held in read:
                self.is_holding.set()
                await self.released.wait()
            back.write(read)
            await back.drain()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while read := await there.read(_READ_BYTES):
                writer.write(read)
                await writer.drain()


@dataclass
class Scripted:
    """Answers every request the same way, but the first `accepted` of them as the start of an upload."""

    status: int
    body: str
    accepted: int = 0
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: the head and body of each request are read, then it is answered."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"(?im)^content-length: (\d+)", head)
                await reader.readexactly(int(length.group(1)) if length else 0)
                self.requests.append(head.splitlines()[0].rsplit(" ", 1)[0])
                writer.write(self._answer(has_body=not head.startswith("HEAD ")))
                await writer.drain()
        writer.close()

    def _answer(self, *, has_body: bool) -> bytes:
        status, body = self.status, self.body if has_body else ""
        if len(self.requests) <= self.accepted:
            status = 200
            body = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
        return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


class Silent:
    """Accepts connections and never answers."""

    endpoint: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Everything is read and nothing is said."""
        while await reader.read(_READ_BYTES):
            pass
        writer.close()


@contextlib.asynccontextmanager
async def listening(server: Proxy | Scripted | Silent) -> AsyncIterator[str]:
    """The endpoint on which it answers on this machine."""
    open_connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve(reader, writer)
        writer.transport.abort()
        open_connections.discard(task)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listener:
        server.endpoint = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield server.endpoint
        for task in tuple(open_connections):
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
