"""What stands in the data directory beside the database: the first key, and where the server answers."""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from polymem.bootstrap.composition import Uuid7Ids
from polymem.config import Settings
from polymem.engine.engine import Engine
from polymem.engine.keys import SECRET_PREFIX, is_plausible_secret
from polymem.errors import Forbidden, SettingsInvalid, StorageReadOnly, Unauthenticated
from polymem.storage.blobs.files import remove_file, storage_error, write_file

KEY_FILE = "key"
SERVER_FILE = "server.json"
_UNWRITABLE = "first start: a first key cannot be written to {}; make the directory writable, or set POLYMEM_KEY"


@dataclass(frozen=True, slots=True)
class FirstKey:
    """Where a key that opens this server can be read; `secret` is set when it was made just now, by this process.

    `is_preset_refused`: the settings give a key, and it opens nothing here.
    """

    file: Path | None
    secret: str | None
    is_preset_refused: bool = False


async def first_key(engine: Engine, settings: Settings) -> FirstKey:
    """A key exists that opens this server, and unless its file was removed since, the file tells it.

    The file is on disk before the account is in the database: dying in between leaves a file whose secret the
    next start takes up, never a server that nobody can enter. Of several processes that start at once on one database
    one makes the account. The others tell no key but one that opens it, and leave no file with another; those that
    share a data directory share its file. Raises `SettingsInvalid` when a key has to be made and cannot be written.
    """
    if await engine.accounts.list_tenants():
        return await _later_key(engine, settings)
    told = await asyncio.to_thread(read_key, settings.data_dir)
    is_written = False
    if told is None or settings.key not in {None, told}:
        is_written = await asyncio.to_thread(_write_first, settings)
        told = await asyncio.to_thread(read_key, settings.data_dir)
    secret = settings.key or told
    if secret is None:
        raise SettingsInvalid(_UNWRITABLE.format(settings.data_dir / KEY_FILE))
    made = await engine.keys.first_start(secret=secret)
    if made is not None:
        return FirstKey(settings.data_dir / KEY_FILE if told == secret else None, made.secret)
    if is_written and not await _opens(engine, secret):
        await asyncio.to_thread(_remove, settings.data_dir / KEY_FILE)
    return await _later_key(engine, settings)


async def _later_key(engine: Engine, settings: Settings) -> FirstKey:
    """The key of an account that was made before, or by another process just now."""
    told = await asyncio.to_thread(read_key, settings.data_dir)
    return FirstKey(
        settings.data_dir / KEY_FILE if told is not None and await _opens(engine, told) else None,
        None,
        is_preset_refused=settings.key is not None and not await _opens(engine, settings.key),
    )


async def _opens(engine: Engine, secret: str) -> bool:
    try:
        await engine.keys.authenticate(secret)
    except (Unauthenticated, Forbidden):
        return False
    return True


def _write_first(settings: Settings) -> bool:
    """The key file holds the first key, given or random; False when another process wrote one just now.

    False too where a directory that only the key file would need cannot be written.
    """
    file = settings.data_dir / KEY_FILE
    text = (settings.key or SECRET_PREFIX + Uuid7Ids().new_secret()) + "\n"
    holds_no_secret = file.exists() and read_key(settings.data_dir) is None
    try:
        if settings.key is None and not holds_no_secret:
            return _create(file, text)
        write_file(file, text)
    except OSError as error:
        known = storage_error(error)
        if isinstance(known, StorageReadOnly) and settings.database_url is not None:
            return False
        raise known from error
    return True


def _create(file: Path, text: str) -> bool:
    """The file holds the text, whole from the first moment on; False when there was one already."""
    draft = file.with_name(f"{file.name}.{Uuid7Ids().new_id()}")
    write_file(draft, text)
    try:
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        remove_file(draft)
    return True


def read_key(data_dir: Path) -> str | None:
    """The secret in the key file, or None when there is no such file or no secret in it."""
    text = _read(data_dir / KEY_FILE)
    secret = "" if text is None else text.strip()
    return secret if is_plausible_secret(secret) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """What server.json tells other programs about the running server; `apis` holds each dialect's base URL.

    `database`: where its PostgreSQL is, without secrets; empty for the embedded one.
    """

    url: str
    pid: int
    version: str
    started_at: str
    apis: Mapping[str, str]
    database: str = ""


def write_server(data_dir: Path, record: ServerRecord) -> None:
    """Other programs find the server."""
    _write(data_dir / SERVER_FILE, json.dumps(asdict(record), indent=2) + "\n")


def remove_server(data_dir: Path, record: ServerRecord) -> None:
    """No program looks for this server here any more; the record of another one stays."""
    if _read_record(data_dir) == record:
        _remove(data_dir / SERVER_FILE)


def read_server(data_dir: Path) -> ServerRecord | None:
    """The record of a server whose process is alive, or None; a killed server leaves a record behind."""
    record = _read_record(data_dir)
    return record if record is not None and _is_alive(record.pid) else None


def _read_record(data_dir: Path) -> ServerRecord | None:
    text = _read(data_dir / SERVER_FILE)
    try:
        found = json.loads(text or "null")
        return ServerRecord(
            url=str(found["url"]),
            pid=int(found["pid"]),
            version=str(found["version"]),
            started_at=str(found["started_at"]),
            apis={str(name): str(url) for name, url in found["apis"].items()},
            database=str(found.get("database", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid > 0


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise storage_error(error) from error


def _write(file: Path, text: str) -> None:
    try:
        write_file(file, text)
    except OSError as error:
        raise storage_error(error) from error


def _remove(file: Path) -> None:
    try:
        remove_file(file)
    except OSError as error:
        raise storage_error(error) from error
