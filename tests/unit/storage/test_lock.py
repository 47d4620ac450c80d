"""One server owns a data directory; a dead one owns nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polymem.errors import DataDirectoryLocked, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.storage.sqlite.lock import LOCK_FILE, DirectoryLock, directory_error

_HOLDER = """
import sys
from pathlib import Path
from polymem.storage.sqlite.lock import DirectoryLock
lock = DirectoryLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_owner_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    with pytest.raises(DataDirectoryLocked, match=rf"in use by another server \(process {os.getpid()}\)"):
        DirectoryLock.acquire(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock.acquire(tmp_path).release()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirectoryLocked, match=rf"process {holder.pid}"):
            DirectoryLock.acquire(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    DirectoryLock.acquire(tmp_path).release()


def test_a_lock_file_without_a_process_id_is_still_a_lock(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    (tmp_path / LOCK_FILE).write_text("")
    with pytest.raises(DataDirectoryLocked, match=r"in use by another server$"):
        DirectoryLock.acquire(tmp_path)
    lock.release()


def test_a_directory_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        DirectoryLock.acquire(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(30, StorageReadOnly), (13, StorageReadOnly), (28, StorageFull), (122, StorageFull), (5, StorageUnavailable)],
)
def test_errors_of_the_file_system_keep_their_meaning(number: int, kind: type[StorageUnavailable]) -> None:
    assert type(directory_error(OSError(number, os.strerror(number)), Path("data"))) is kind
