"""The lock of a data directory: at most one server owns it, and a dead one owns nothing."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from polymem.errors import DataDirectoryLocked, StorageFull, StorageReadOnly, StorageUnavailable

LOCK_FILE: Final = "polymem.lock"
_MODE: Final = 0o600
_PID_BYTES: Final = 32


class DirectoryLock:
    """Held from `acquire` to `release`. The kernel releases it when the process dies, however it dies.

    The file stays behind: taking it away would let two processes lock two files of one name.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, data_dir: Path) -> "DirectoryLock":
        """This process owns the directory. Raises `DataDirectoryLocked`, naming the process that owns it."""
        path = data_dir / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise directory_error(error, data_dir) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise DataDirectoryLocked(f"{data_dir} is in use by another server{holder}") from error
        except OSError as error:
            os.close(descriptor)
            raise directory_error(error, data_dir) from error
        return cls(descriptor)

    def release(self) -> None:
        """The directory is free; releasing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def directory_error(error: OSError, data_dir: Path) -> StorageUnavailable:
    """What an error of the file system says about the data directory."""
    match error.errno:
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return StorageReadOnly(f"the data directory {data_dir} cannot be written")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull(f"there is no room left in the data directory {data_dir}")
        case _:
            return StorageUnavailable(f"the data directory {data_dir} cannot be used: {error.strerror}")


def _read_holder(descriptor: int) -> str:
    """The words that name the holder, when its process id can be read."""
    with suppress(OSError, ValueError):
        return f" (process {int(os.pread(descriptor, _PID_BYTES, 0))})"
    return ""
