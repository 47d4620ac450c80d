"""Numbered steps of a schema, forward only: what both storages ask of them before one is applied."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from polymem.errors import StorageDamaged

_ONLINE: Final = "-- online"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `name` starts with its four-digit number."""

    name: str
    sql: str

    @property
    def number(self) -> int:
        """Its place in the order, from 1."""
        return int(self.name.partition("_")[0])

    @property
    def sha256(self) -> str:
        """What it must still say wherever it was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def is_online(self) -> bool:
        """True when it is run outside of a transaction, where the storage knows such a thing."""
        return self.sql.startswith(_ONLINE)


def migrations_in(package: str) -> tuple[Migration, ...]:
    """The migrations that a package brings, in order."""
    folder = resources.files(package)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return tuple(Migration(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")) for file in files)


def lacking(applied: Sequence[tuple[int, str, str]], known: Sequence[Migration]) -> tuple[Migration, ...]:
    """Those of the known migrations that a database still lacks; `applied` has number, name and hash of each it has.

    Raises `StorageDamaged` when it is one of a newer polymem, or its migrations are not those that we know.
    """
    for place, (number, name, sha256) in enumerate(applied):
        if place >= len(known):
            raise StorageDamaged(f"the database was written by a newer polymem (migration {name}); upgrade polymem")
        expected = known[place]
        if (number, name) != (expected.number, expected.name):
            raise StorageDamaged(f"the database has migration {name} where this polymem has {expected.name}")
        if sha256 != expected.sha256:
            raise StorageDamaged(f"migration {name} was changed after the database was made")
    return tuple(known[len(applied) :])
