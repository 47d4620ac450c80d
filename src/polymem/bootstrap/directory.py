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
from polymem.storage.blobs.files import remove_file, storage_error, write_file

KEY_FILE = "key"
SERVER_FILE = "server.json"


@dataclass(frozen=True, slots=True)
class FirstKey:
    """Where the first key can be read; `secret` is set when it was made just now."""

    file: Path | None
    secret: str | None


async def first_key(engine: Engine, settings: Settings) -> FirstKey:
    """A key exists that opens this server, and unless its file was removed since, the file tells it.

    The file is on disk before the account is in the database: dying in between leaves a file whose secret the
    next start takes up, never a server that nobody can enter.
    """
    file = settings.data_dir / KEY_FILE
    told = await asyncio.to_thread(read_key, settings.data_dir)
    if await engine.accounts.list_tenants():
        return FirstKey(file if told is not None else None, None)
    secret = settings.key or told or SECRET_PREFIX + Uuid7Ids().new_secret()
    await asyncio.to_thread(_write, file, secret + "\n")
    made = await engine.keys.first_start(secret=secret)
    if made is None:
        await asyncio.to_thread(_remove, file)
        return FirstKey(None, None)
    return FirstKey(file, made.secret)


def read_key(data_dir: Path) -> str | None:
    """The secret in the key file, or None when there is no such file or no secret in it."""
    text = _read(data_dir / KEY_FILE)
    secret = "" if text is None else text.strip()
    return secret if is_plausible_secret(secret) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """What server.json tells other programs about the running server; `apis` holds each dialect's base URL."""

    url: str
    pid: int
    version: str
    started_at: str
    apis: Mapping[str, str]


def write_server(data_dir: Path, record: ServerRecord) -> None:
    """Other programs find the server."""
    _write(data_dir / SERVER_FILE, json.dumps(asdict(record), indent=2) + "\n")


def remove_server(data_dir: Path) -> None:
    """No program looks for a server here any more."""
    _remove(data_dir / SERVER_FILE)


def read_server(data_dir: Path) -> ServerRecord | None:
    """The record of a server whose process is alive, or None; a killed server leaves a record behind."""
    text = _read(data_dir / SERVER_FILE)
    try:
        found = json.loads(text or "null")
        record = ServerRecord(
            url=str(found["url"]),
            pid=int(found["pid"]),
            version=str(found["version"]),
            started_at=str(found["started_at"]),
            apis={str(name): str(url) for name, url in found["apis"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if _is_alive(record.pid) else None


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
