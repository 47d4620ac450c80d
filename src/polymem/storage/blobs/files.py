"""Files that survive a power cut: written whole or not at all, readable by their owner only."""

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polymem.errors import StorageFull, StorageReadOnly, StorageUnavailable

PART_SUFFIX = ".part"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def storage_error(error: OSError) -> StorageUnavailable:
    """The operating system's error as one of the closed family, naming the file when it is known."""
    reason = error.strerror or "input/output error"
    place = f" {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return StorageFull(f"no room to write{place}: {reason}")
    if error.errno in _READ_ONLY:
        return StorageReadOnly(f"cannot write{place}: {reason}")
    return StorageUnavailable(f"cannot reach{place}: {reason}")


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is being written: open under a temporary name beside the name it will get."""

    file: BinaryIO
    path: Path
    place: Path

    @classmethod
    def create(cls, place: Path) -> "Part":
        """An empty part beside the place; the directories above it are there and durable."""
        make_directories(place.parent)
        descriptor, name = tempfile.mkstemp(prefix=f"{place.name}.", suffix=PART_SUFFIX, dir=place.parent)
        return cls(os.fdopen(descriptor, "wb"), Path(name), place)

    def publish(self) -> None:
        """The file stands under its name, whole and on disk; after a failure nothing does."""
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.path.replace(self.place)
        try:
            sync_directory(self.place.parent)
        except OSError:
            self.place.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Nothing stands under the temporary name; what was published stays."""
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)


def write_file(place: Path, text: str) -> None:
    """The file holds the text, for its owner only; a crash leaves what was there before, or the text."""
    part = Part.create(place)
    try:
        part.file.write(text.encode())
        part.publish()
    finally:
        part.close()


def remove_file(place: Path) -> None:
    """There is no such file, also after a power cut."""
    try:
        place.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync_directory(place.parent)


def make_directories(folder: Path) -> None:
    """The directory and all above it are there and durable; the new ones are for their owner only."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """What was renamed, made or removed in the directory is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
