"""The in-process API: what is opened together, is refused, and is closed again."""

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from packages import cannot_be_imported
from polymem.bootstrap import (
    FirstKey,
    ServerRecord,
    SystemClock,
    check_work,
    first_key,
    open_administration,
    open_blobs,
    open_engine,
    read_key,
    read_server,
    work,
)
from polymem.bootstrap.adapters import warn_of_traps
from polymem.bootstrap.composition import open_running
from polymem.bootstrap.directory import remove_server, write_server
from polymem.config import Settings
from polymem.domain.model import Call
from polymem.domain.query import MemoryFilter, RecallRequest
from polymem.engine.engine import Engine
from polymem.engine.requests import NewMemory
from polymem.errors import DataDirectoryLocked, SettingsInvalid, StorageReadOnly, StorageUnavailable
from polymem.storage.blobs.s3 import S3Blobs


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


async def test_of_processes_that_start_at_once_one_makes_the_account_and_the_others_leave_no_key(
    tmp_path: Path,
) -> None:
    async with open_engine(Settings(data_dir=tmp_path / "database")) as engine:
        places = [Settings(data_dir=tmp_path / f"host{number}") for number in range(3)]
        for place in places:
            place.data_dir.mkdir()
        found = await asyncio.gather(*(first_key(engine, place) for place in places))

        (winner,) = [place for place, key in zip(places, found, strict=True) if key.secret is not None]
        assert [place for place in places if (place.data_dir / "key").exists()] == [winner]
        assert {key.file for key in found} == {winner.data_dir / "key", None}
        await call_of(engine, winner)


def names_in(folder: Path, prefix: str) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(prefix)]


async def test_processes_that_share_a_directory_share_its_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with open_engine(settings) as engine:
        found = await asyncio.gather(*(first_key(engine, settings) for _ in range(3)))

        assert [key.file for key in found] == [tmp_path / "key"] * 3
        assert sum(key.secret is not None for key in found) == 1
        await call_of(engine, settings)
    assert names_in(tmp_path, "key") == ["key"]


async def test_a_process_that_came_too_late_does_not_claim_that_its_own_key_opens_the_server(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, key="the-key-of-the-first-start")
    late = Settings(data_dir=tmp_path / "late", key="the-key-of-a-late-start")
    late.data_dir.mkdir()
    async with open_engine(settings) as engine:
        both = await asyncio.gather(first_key(engine, settings), first_key(engine, late))
        again = await first_key(engine, settings), await first_key(engine, late)

    made, refused = sorted(both, key=lambda key: key.is_preset_refused)
    assert (made.is_preset_refused, refused) == (False, FirstKey(None, None, is_preset_refused=True))
    assert sorted(key.is_preset_refused for key in again) == [False, True]


async def test_a_key_file_of_another_server_is_not_told_and_not_touched(tmp_path: Path) -> None:
    async with open_engine(Settings(data_dir=tmp_path / "database")) as engine:
        await first_key(engine, Settings(data_dir=tmp_path / "database"))
        (tmp_path / "key").write_text("pm_key-of-another-server")
        found = await first_key(engine, Settings(data_dir=tmp_path))

    assert found == FirstKey(None, None)
    assert read_key(tmp_path) == "pm_key-of-another-server"


@pytest.mark.parametrize("key", [None, "the-key-of-the-settings"])
async def test_a_first_start_needs_a_directory_it_can_write_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    def refuse(file: Path, _text: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    async with open_engine(Settings(data_dir=tmp_path / "database")) as engine:
        monkeypatch.setattr("polymem.bootstrap.directory.write_file", refuse)
        elsewhere = Settings(data_dir=tmp_path / "readonly", key=key, database_url="postgresql://db/memories")
        if key is None:
            with pytest.raises(SettingsInvalid, match=r"readonly/key; make the directory writable, or set POLYMEM_KEY"):
                await first_key(engine, elsewhere)
            assert await engine.accounts.list_tenants() == ()
        else:
            assert await first_key(engine, elsewhere) == FirstKey(None, key)
            await engine.keys.authenticate(key)
        embedded = Settings(data_dir=tmp_path / "readonly", key=key)
        if key is None:
            with pytest.raises(StorageReadOnly):
                await first_key(engine, embedded)


def test_the_record_of_another_server_in_the_directory_stays(tmp_path: Path) -> None:
    first, second = (
        ServerRecord(url=f"http://127.0.0.1:{port}", pid=os.getpid(), version="1", started_at="2026-01-01", apis={})
        for port in (1, 2)
    )
    write_server(tmp_path, first)
    write_server(tmp_path, second)
    remove_server(tmp_path, first)
    assert read_server(tmp_path) == second
    remove_server(tmp_path, second)
    assert read_server(tmp_path) is None


async def test_an_engine_runs_no_jobs_when_the_settings_or_the_caller_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data_dir=tmp_path, worker_concurrency=0)
    warn_of_traps(settings)
    assert "no other process can run the jobs" in caplog.text
    async with open_running(settings) as running:
        assert running.worker._tasks == []
    async with open_running(Settings(data_dir=tmp_path), runs_jobs=False) as running:
        assert running.worker._tasks == []


@pytest.mark.parametrize(
    ("settings", "module", "told"),
    [
        (Settings(database_url="postgresql://db/x"), "psycopg", r"database_url: .* pip install 'polymem\[postgres\]'"),
        (Settings(blob_url="s3://bucket"), "obstore", r"blob_url: .* pip install 'polymem\[s3\]'"),
    ],
)
async def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, settings: Settings, module: str, told: str
) -> None:
    with cannot_be_imported(module), pytest.raises(SettingsInvalid, match=told):
        async with open_engine(replace(settings, data_dir=tmp_path)):
            pass


async def test_a_part_of_ours_that_cannot_be_imported_is_no_missing_package() -> None:
    part = "polymem.storage.postgres.connection"
    with cannot_be_imported(part), pytest.raises(ModuleNotFoundError, match=r"polymem\.storage"):
        async with open_engine(Settings(database_url="postgresql://db/x")):
            pass


def test_files_in_the_data_directory_of_one_of_several_processes_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = Settings(data_dir=tmp_path, database_url="postgresql://db/x")
    for settings in (Settings(data_dir=tmp_path), replace(shared, blob_url="s3://bucket")):
        warn_of_traps(settings)
    assert caplog.text == ""
    warn_of_traps(shared)
    assert f"uploaded files stand in {tmp_path / 'blobs'}" in caplog.text


async def test_files_are_kept_in_the_bucket_that_the_settings_name(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        blob_url="s3://bucket/folder",
        s3_endpoint="http://127.0.0.1:9",
        s3_access_key_id="reader",
        s3_secret_access_key="secret",
    )
    assert isinstance(await open_blobs(settings, owns_directory=True), S3Blobs)
    with pytest.raises(SettingsInvalid, match="secret access key"):
        await open_blobs(replace(settings, s3_secret_access_key=None), owns_directory=True)


async def test_a_worker_of_its_own_needs_a_database_to_share_and_something_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="database_url: a worker of its own needs PostgreSQL"):
        await check_work(Settings(data_dir=tmp_path))
    with pytest.raises(SettingsInvalid, match="worker_concurrency: a worker needs at least 1"):
        await work(Settings(data_dir=tmp_path, database_url="postgresql://db/x", worker_concurrency=0), print)


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
