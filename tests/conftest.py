"""Fixtures of every folder, and a watch over the statements that PostgreSQL gets."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest

from polymem.storage.postgres import check, daily, directory, graphs, jobs, sweep
from polymem.storage.postgres.citus import DISTRIBUTED
from postgres import PostgresServer, running_postgres
from routing import tables_without_tenant

_WATCHED = ("execute", "executemany", "stream")
_SHARDED = frozenset(DISTRIBUTED)

# What looks across tenants by its nature, and so is asked of every shard: lists for operators, counts for metrics, the
# daily sweep, which tenants have outgrown the exact scan, and the comparison of everything.
_ACROSS = frozenset().union(*(module.ACROSS_TENANTS for module in (check, daily, directory, graphs, jobs, sweep)))
# Modules whose whole purpose it is: comparing everything, copying everything.
_WHOLE = frozenset({"check", "index_check", "copy", "copy_rows"})
# Modules that pass on what others issue.
_CARRIERS = frozenset({"connection", "transaction"})
_DRIVER = Path(psycopg.__file__).parent
_STORAGE = Path(jobs.__file__).parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole run of this process."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def statements_name_their_tenant() -> Iterator[None]:
    """A test that makes polymem reach a sharded table without naming the tenant fails, at the statement."""
    with pytest.MonkeyPatch.context() as patched:
        for cursor in (psycopg.AsyncCursor, psycopg.AsyncServerCursor):
            for name in _WATCHED:
                if name in vars(cursor):
                    patched.setattr(cursor, name, _watched(getattr(cursor, name)))
        yield


def _watched(method: Any) -> Any:
    def watched(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else str(query)
        if text not in _ACROSS and _is_the_engines():
            lacking = tables_without_tenant(text, _SHARDED)
            assert not lacking, f"{', '.join(lacking)} of no tenant in: {text}"
        return method(self, query, *arguments, **options)

    return watched


def _is_the_engines() -> bool:
    """True when a module of polymem that serves tenants issues the statement, and not a test or a whole comparison."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        is_storage = file.parent == _STORAGE
        if not (file.is_relative_to(_DRIVER) or (is_storage and file.stem in _CARRIERS)):
            return is_storage and file.stem not in _WHOLE
        frame = frame.f_back
    return False
