"""The engine on PostgreSQL against a data set, fed as the one on SQLite is."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.recall.dataset import DataSet
from bench.recall.lab_engine import LabEngine, feed
from bench.scale.server import LabServer
from polymem.inference.embedder import LocalEmbedder
from polymem.storage.postgres.storage import PostgresStorage


@asynccontextmanager
async def fed_on_postgres(server: LabServer, data_set: DataSet, like: LabEngine) -> AsyncIterator[LabEngine]:
    """The engine with every history stored in a database of its own on the server, dropped at the end.

    The turns are indexed by the indexer of `like`; questions are embedded by a model of its own, so that neither engine
    answers from what the other one asked. Statistics are fresh, as autovacuum would have left them.
    """
    with server.database(data_set.name.replace("-", "_").replace(".", "_"), stays=False) as url:
        storage = await PostgresStorage.open(url)
        embedder = LocalEmbedder.open()
        try:
            engine = LabEngine(storage, embedder, like.indexer)
            seconds = await feed(engine, data_set)
            print(f"{data_set.name}: fed PostgreSQL in {seconds:.1f} s", file=sys.stderr)
            await asyncio.to_thread(server.rows, "VACUUM (ANALYZE)", url=url)
            await storage.tend()
            yield engine
        finally:
            await embedder.close()
            await storage.close()
