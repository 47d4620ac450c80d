"""Files beside the database with the filter columns and posting lists of large tenants, so that a start is quick.

A file is only ever a copy: it is as its tenant was at one change, and what came since is read from the rows. The
database holds its digest; any other file - damaged, older, or of another database put in this one's place - is not
read. Files are written at a clean stop, and removed when what was deleted has to leave the disk.
"""

import hashlib
import sqlite3
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from polymem.domain.model import TenantId
from polymem.storage.sqlite.index_documents import Documents

# Smaller tenants are read from their rows: 0.1 s.
FEWEST_MEMORIES: Final = 10_000

_FOLDER: Final = "index"
_PRIVATE: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class Snapshots:
    """The files of one database. All methods block."""

    def __init__(self, database: Path) -> None:
        self._folder = database.parent / _FOLDER

    def read(self, connection: sqlite3.Connection, tenant_id: TenantId) -> Documents | None:
        """The columns as they were at the change they name, or None where no file can be trusted."""
        row = connection.execute("SELECT stamp FROM index_snapshots WHERE tenant_id = ?", (tenant_id,)).fetchone()
        if row is None:
            return None
        try:
            with self._file(tenant_id).open("rb") as file:
                if hashlib.file_digest(file, "blake2b").hexdigest() != row[0]:
                    return None
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return Documents.unpack(dict(arrays))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, tenant_id: TenantId, documents: Documents) -> str | None:
        """A file holds the columns; the digest by which it is known, or None when it could not be written."""
        file = self._file(tenant_id)
        part = file.with_suffix(".part")
        try:
            self._folder.mkdir(mode=_PRIVATE, exist_ok=True)
            part.touch(mode=_PRIVATE_FILE)
            with part.open("r+b") as opened:
                np.savez(opened, **documents.pack())  # type: ignore[arg-type]  # every name is an array's
                opened.seek(0)
                stamp = hashlib.file_digest(opened, "blake2b").hexdigest()
            part.replace(file)
        except OSError:
            # A full disk costs the next start a second, and nothing else.
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return None
        return stamp

    def remove_all(self) -> None:
        """There is no file."""
        with suppress(OSError):
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)

    def _file(self, tenant_id: TenantId) -> Path:
        # Ids may hold any character; a digest is a name for every one of them.
        return self._folder / f"{hashlib.blake2b(tenant_id.encode(), digest_size=16).hexdigest()}.npz"


def known_stamp(connection: sqlite3.Connection, tenant_id: TenantId, stamp: str) -> None:
    """The file of this digest is the tenant's; runs inside a write unit."""
    connection.execute(
        "INSERT INTO index_snapshots (tenant_id, stamp) VALUES (?, ?)"
        " ON CONFLICT (tenant_id) DO UPDATE SET stamp = excluded.stamp",
        (tenant_id, stamp),
    )
