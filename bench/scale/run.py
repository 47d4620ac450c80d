"""A whole run: each shape filled, tended, asked, written to, weighed and told."""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bench.recall.lab_engine import LabClock
from bench.scale import tables, weighing
from bench.scale.asking import (
    Question,
    asked_of,
    compare_arms,
    embed,
    recall_pairs,
    recall_together,
    time_stages,
    vocabulary_of,
)
from bench.scale.filling import Fill, fill
from bench.scale.server import LabServer, lab_server
from bench.scale.sides import POSTGRES, SQLITE, Side, ask, side, timed
from bench.scale.writing import write_pairs
from bench.speed.texts import data_files, new_texts, pieces, queries
from bench.speed.texts import questions as known_questions
from bench.speed.vectors import Pieces, embedded
from polymem.inference.embedder import LocalEmbedder

_PIECES = 8_000
_WARM_UP = 20
_STAGED = 60
_ROUNDS = 3
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOrder:
    """What to measure, and where."""

    memories: int
    tenants: int
    shapes: tuple[str, ...]
    questions: int
    writes: int
    database_url: str | None
    data: Path | None
    cache: Path | None
    keep: Path | None
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """One shape: how many tenants, and where each storage stands."""

    name: str
    tenants: int
    directory: Path
    url: str
    server: LabServer


async def run(order: ScaleOrder) -> None:
    """The report of every shape is printed."""
    files = data_files(order.data)
    embedder = LocalEmbedder.open(threads=order.threads)
    try:
        source = await embedded(embedder, pieces(files, most=_PIECES), order.cache)
        with lab_server(order.database_url) as server:
            print(tables.title(server.settings, server.rows("SHOW server_version")[0][0]), end="\n\n")
            for name in order.shapes:
                with _shape(order, name, server) as shape:
                    await _measure(order, shape, source, embedder, known_questions(files))
    finally:
        await embedder.close()


@contextmanager
def _shape(order: ScaleOrder, name: str, server: LabServer) -> Iterator[_Shape]:
    tenants = 1 if name == "one" else order.tenants
    whole = f"{name}_{order.memories}_{tenants}"
    # What a server of our own holds goes with it, so what SQLite holds is only kept beside a given one.
    root = order.keep or Path(tempfile.mkdtemp(prefix="polymem-scale-"))
    directory = root / whole
    stays = order.keep is not None and not server.is_own
    try:
        with server.database(whole, stays=stays) as url:
            yield _Shape(name=whole, tenants=tenants, directory=directory, url=url, server=server)
    finally:
        if order.keep is None:
            shutil.rmtree(root, ignore_errors=True)


async def _measure(
    order: ScaleOrder, shape: _Shape, source: Pieces, embedder: LocalEmbedder, known: Sequence[str]
) -> None:
    texts = list(islice(queries(known, source.texts, seed=_SEED), order.questions + _WARM_UP))
    wanted = Fill(
        name=shape.name, memories=order.memories, tenants=shape.tenants, source=source, model=embedder.identity
    )
    parts = [tables.heading(shape.name, order.memories, shape.tenants)]
    cpu = shape.server.cpu_seconds
    async with AsyncExitStack() as open_storages:
        timed_embedder, port = timed(embedder)
        sides: list[Side] = []
        for name, place in ((SQLITE, shape.directory), (POSTGRES, shape.url)):
            storage = await weighing.open_storage(place)
            open_storages.push_async_callback(storage.close)
            sides.append(side(name, storage, port))
        filled = await fill(sides, wanted, vocabulary=vocabulary_of(texts), server_cpu=cpu, seed=_SEED)
        parts.append(tables.filling(filled, order.memories))
        parts.append(await _made_ready(shape, sides, asked_of(filled.accounts, filled.exact, iter(texts), 1)[0]))
        every = asked_of(filled.accounts, filled.exact, iter(texts), len(texts))
        warm, asked = every[:_WARM_UP], every[_WARM_UP:]
        await embed(every, embedder)
        await recall_pairs(sides, warm, server_cpu=cpu, seed=_SEED)
        _tell(shape, "asking")
        pages = await recall_pairs(sides, asked, server_cpu=cpu, seed=_SEED)
        shares = await compare_arms(sides, asked, embedder)
        parts += [tables.quality(shares, pages), tables.recall(pages)]
        together = await recall_together(sides, asked, server_cpu=cpu, rounds=_ROUNDS, seed=_SEED)
        parts.append(tables.together(together))
        parts.append(tables.stages(await time_stages(sides, asked[:_STAGED], port, LabClock(), seed=_SEED)))
        _tell(shape, "writing")
        fresh = list(islice(new_texts(source.texts, seed=_SEED), order.writes))
        parts.append(tables.writing(await write_pairs(sides, filled.accounts, fresh, timed_embedder, seed=_SEED)))
    _tell(shape, "weighing")
    parts.append(_weighed(shape, order.memories))
    parts.append(_footprints(shape, every))
    print("\n\n".join(parts), end="\n\n", flush=True)


async def _made_ready(shape: _Shape, sides: Sequence[Side], question: Question) -> str:
    """What stands between a fill and quick answers was done, and told with its time."""
    _tell(shape, "tending")
    started, cpu = time.perf_counter(), shape.server.cpu_seconds()
    await asyncio.to_thread(shape.server.rows, "VACUUM (ANALYZE)", url=shape.url)
    steps = [("VACUUM (ANALYZE)", POSTGRES, time.perf_counter() - started, shape.server.cpu_seconds() - cpu)]
    for each in sides:
        started, cpu = time.perf_counter(), shape.server.cpu_seconds()
        await each.storage.tend()
        steps.append(("tend", each.name, time.perf_counter() - started, shape.server.cpu_seconds() - cpu))
    for each in sides:
        started, cpu = time.perf_counter(), shape.server.cpu_seconds()
        await ask(each.recall, question.account, question.text)
        steps.append(("first recall", each.name, time.perf_counter() - started, shape.server.cpu_seconds() - cpu))
    return tables.readiness(steps)


def _weighed(shape: _Shape, memories: int) -> str:
    files = weighing.directory_files(shape.directory)
    parts = weighing.tables(shape.server, shape.url)
    return tables.disk(files, parts, weighing.indexes(shape.server, shape.url), memories)


def _footprints(shape: _Shape, every: Sequence[Question]) -> str:
    asked = [(question.account, question.text) for question in every]
    alone = weighing.footprint(shape.directory, None, asked)
    return tables.memory({SQLITE: alone, POSTGRES: weighing.footprint(shape.url, shape.server, asked)})


def _tell(shape: _Shape, doing: str) -> None:
    print(f"{shape.name}: {doing}", file=sys.stderr, flush=True)
