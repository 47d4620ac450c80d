"""The composition root: settings become adapters, adapters an engine; nothing else chooses one.

`open_engine` is also the in-process API:

    async with open_engine(Settings(data_dir=path)) as engine:
        first = await first_key(engine, settings)
        principal = await engine.keys.authenticate(secret)
"""

from polymem.bootstrap.adapters import database_place, distribute_tables, open_blobs
from polymem.bootstrap.composition import (
    Administration,
    SystemClock,
    Uuid7Ids,
    begin_loading_model,
    open_administration,
    open_embedder,
    open_engine,
)
from polymem.bootstrap.directory import FirstKey, ServerRecord, first_key, read_key, read_server
from polymem.bootstrap.working import Working, bring_up_schema, check_work, work

__all__ = [
    "Administration",
    "FirstKey",
    "ServerRecord",
    "SystemClock",
    "Uuid7Ids",
    "Working",
    "begin_loading_model",
    "bring_up_schema",
    "check_work",
    "database_place",
    "distribute_tables",
    "first_key",
    "open_administration",
    "open_blobs",
    "open_embedder",
    "open_engine",
    "read_key",
    "read_server",
    "work",
]
