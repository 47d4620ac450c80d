"""A proxy between a program and a server that can cut the wire at a chosen word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class Wire:
    """Forwards every connection made to `folder` to the server's socket."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self._server = server
        self._cut_before: bytes | None = None
        self._cut_after: bytes | None = None
        self.cuts = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The connection is served from now on."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    async def end_all(self) -> None:
        """Every connection has ended."""
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*self._open)

    def cut_before(self, word: bytes) -> None:
        """The next time the program sends the word, the server never gets it and the connection ends."""
        self._cut_before = word

    def cut_after(self, word: bytes) -> None:
        """The next time the program sends the word, the server gets it, but the answer is lost."""
        self._cut_after = word

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both directions of one connection, until either side ends or the wire is cut."""
        from_server, to_server = await asyncio.open_unix_connection(self._server)
        answers = asyncio.create_task(_pump(from_server, writer))
        try:
            while sent := await _received(reader):
                if self._cut_before is not None and self._cut_before in sent:
                    self._cut_before = None
                    self.cuts += 1
                    break
                is_last = self._cut_after is not None and self._cut_after in sent
                if is_last:
                    self._cut_after = None
                    self.cuts += 1
                    answers.cancel()
                    await asyncio.wait((answers,))  # it reads no more
                to_server.write(sent)
                await to_server.drain()
                if is_last:
                    await from_server.read(1)  # the server has done it
                    break
        finally:
            answers.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await answers
            for end in (to_server, writer):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()


async def _received(reader: asyncio.StreamReader) -> bytes:
    """What came next; nothing when the connection ended, in whatever way."""
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while received := await _received(reader):
            writer.write(received)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def wire_to(server: Path, folder: Path) -> AsyncIterator[Wire]:
    """A wire to the PostgreSQL whose sockets are in `server`; programs connect to `folder` instead."""
    name = ".s.PGSQL.5432"
    wire = Wire(folder, server / name)
    listener = await asyncio.start_unix_server(wire.accept, folder / name)
    async with listener:
        yield wire
        listener.close()
        await wire.end_all()
