"""Both ends of a copy as an operator names them, opened, and the copy run between them."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from polymem.bootstrap.adapters import missing_packages, open_blobs
from polymem.bootstrap.composition import Uuid7Ids
from polymem.config import Settings, without_secrets
from polymem.engine.copy import Copying, CopyResult, Progress
from polymem.errors import InvalidInput, SettingsInvalid
from polymem.ports.blobs import BlobStore
from polymem.ports.copy import CopySource, CopyTarget
from polymem.storage.sqlite.copy import SqliteCopySource, SqliteCopyTarget

SQLITE: Final = "sqlite:"
POSTGRESQL: Final = "postgresql:"

_SERVER = ("postgresql://", "postgres://")
_BUCKET = "s3://"
_OF_THE_SETTING = "setting database_url: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One end of a copy: the data directory of an embedded database, or the URL of a PostgreSQL database.

    `files` is the settings that name the store of its uploaded files.
    """

    database: Path | str
    files: Settings

    @property
    def shown(self) -> str:
        """Where it is, without secrets."""
        if isinstance(self.database, Path):
            return f"{SQLITE}{self.database}"
        return without_secrets(self.database)


def place_of(option: str, text: str, files: str | None, settings: Settings) -> Place:
    """The end that an option names: `sqlite:` and a directory, a PostgreSQL URL, or `postgresql:` for the setting's.

    `files`: a bucket (`s3://...`) or the data directory in which the files stand; by default the embedded database's
    own, else what the settings say. Raises `InvalidInput`, which never repeats a URL.
    """
    if text.startswith(_SERVER):
        return Place(database=text, files=_files(files, settings))
    if text == POSTGRESQL:
        if settings.database_url is None:
            raise InvalidInput(option, f"{option}: the setting database_url names no database")
        return Place(database=settings.database_url, files=_files(files, settings))
    if text.startswith(SQLITE) and text != SQLITE:
        directory = Path(text.removeprefix(SQLITE)).expanduser()
        own = replace(settings, data_dir=directory, blob_url=None)
        return Place(database=directory, files=_files(files, own))
    raise InvalidInput(option, f"{option}: neither sqlite:DIRECTORY nor postgresql://USER@HOST/DATABASE")


async def copy_all(source: Place, destination: Place, report: Callable[[Progress], None]) -> CopyResult:
    """All that the source holds is at the destination. Raises `Conflict`, `SettingsInvalid`, and the storage errors.

    Raises `DataDirectoryLocked` while a server owns an embedded database that takes part.
    """
    if _is_same(source.database, destination.database):
        raise InvalidInput("to", "the source and the destination are the same")
    async with AsyncExitStack() as stack:
        read = await _source(source.database)
        stack.push_async_callback(read.close)
        written = await _target(destination.database)
        stack.push_async_callback(written.close)
        copying = Copying(
            read,
            written,
            source_blobs=await open_blobs(source.files, owns_directory=False),
            target_blobs=await _target_blobs(destination),
            ids=Uuid7Ids(),
            report=report,
        )
        return await copying.run()


async def _source(database: Path | str) -> CopySource:
    if isinstance(database, Path):
        return await SqliteCopySource.open(database)
    try:
        from polymem.storage.postgres.copy import PostgresCopySource  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        raise missing_packages("from", "postgres", error) from error
    try:
        return await PostgresCopySource.open(database)
    except SettingsInvalid as error:
        raise _of_option("from", error) from error


async def _target(database: Path | str) -> CopyTarget:
    if isinstance(database, Path):
        return await SqliteCopyTarget.open(database)
    try:
        from polymem.storage.postgres.copy import PostgresCopyTarget  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        raise missing_packages("to", "postgres", error) from error
    try:
        return await PostgresCopyTarget.open(database)
    except SettingsInvalid as error:
        raise _of_option("to", error) from error


async def _target_blobs(destination: Place) -> BlobStore:
    """The store of the destination's files. In its own directory, which is locked, nobody else puts any."""
    files = destination.files
    return await open_blobs(files, owns_directory=files.blob_url is None and files.data_dir == destination.database)


def _of_option(option: str, error: SettingsInvalid) -> SettingsInvalid:
    """The error of an option, which was raised as one of the setting."""
    return SettingsInvalid(f"{option}: {error.message.removeprefix(_OF_THE_SETTING)}")


def _files(place: str | None, settings: Settings) -> Settings:
    if place is None:
        return settings
    if place.startswith(_BUCKET):
        return replace(settings, blob_url=place)
    return replace(settings, data_dir=Path(place).expanduser(), blob_url=None)


def _is_same(source: Path | str, destination: Path | str) -> bool:
    if isinstance(source, Path) and isinstance(destination, Path):
        return source.resolve() == destination.resolve()
    return source == destination
