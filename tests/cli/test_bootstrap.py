"""The in-process API: what is opened together, is refused, and is closed again."""

import threading
from pathlib import Path

import pytest

from polymem.bootstrap import SystemClock, first_key, open_administration, open_engine, read_key
from polymem.config import Settings
from polymem.domain.model import Call
from polymem.domain.query import MemoryFilter, RecallRequest
from polymem.engine.engine import Engine
from polymem.engine.requests import NewMemory
from polymem.errors import DataDirectoryLocked, SettingsInvalid, StorageUnavailable


async def call_of(engine: Engine, settings: Settings) -> Call:
    await first_key(engine, settings)
    secret = read_key(settings.data_dir)
    assert secret is not None
    return Call(principal=await engine.keys.authenticate(secret), request_id="r1")


async def test_a_program_writes_recalls_and_finds_it_again_after_closing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    before = set(threading.enumerate())
    async with open_engine(settings) as engine:
        call = await call_of(engine, settings)
        written = await engine.write.memory(call, NewMemory(content="The ferry leaves at seven"))

    async with open_engine(settings) as engine:
        call = await call_of(engine, settings)
        where = MemoryFilter(spaces=frozenset({call.principal.personal_space_id}))
        page = await engine.recall.search(call, RecallRequest(text="when does the ferry leave", where=where, limit=3))

    assert [hit.memory for hit in page.hits] == [written.memory]
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in left if name.startswith(("polymem", "embed"))} == set()


async def test_one_directory_has_one_engine_at_a_time(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with open_engine(settings):
        with pytest.raises(DataDirectoryLocked):
            async with open_engine(settings):
                pass
    async with open_engine(settings) as engine:
        assert (await engine.health()).degraded == ()


async def test_an_engine_that_fails_while_open_frees_its_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(ZeroDivisionError):
        async with open_engine(settings):
            raise ZeroDivisionError
    async with open_engine(settings) as engine:
        assert (await engine.health()).is_serving


async def test_the_first_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with open_engine(settings) as engine:
        first = await first_key(engine, settings)
        second = await first_key(engine, settings)
        (tmp_path / "key").unlink()
        third = await first_key(engine, settings)

    assert first.secret is not None
    assert (first.file, second.file, third.file) == (tmp_path / "key", tmp_path / "key", None)
    assert (second.secret, third.secret) == (None, None)


async def test_a_key_file_with_nonsense_in_it_is_replaced_by_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe not a key")
    settings = Settings(data_dir=tmp_path)
    async with open_engine(settings) as engine:
        made = await first_key(engine, settings)

        assert made.secret == read_key(tmp_path)
        assert made.secret is not None
        await engine.keys.authenticate(made.secret)


async def test_a_key_file_that_cannot_be_read_or_written_is_an_error_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    settings = Settings(data_dir=tmp_path)
    async with open_engine(settings) as engine:
        with pytest.raises(StorageUnavailable):
            await first_key(engine, settings)
        assert await engine.accounts.list_tenants() == ()


async def test_administration_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no database in"):
        async with open_administration(Settings(data_dir=tmp_path)):
            pass


def test_the_clock_tells_utc_and_never_goes_back() -> None:
    clock = SystemClock()
    first, then = clock.now(), clock.monotonic()

    assert first.utcoffset() is not None
    assert not first.utcoffset()
    assert clock.now() >= first
    assert clock.monotonic() >= then
