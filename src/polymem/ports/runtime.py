"""What the engine takes from the running process: time and new ids."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The time of day and a steady count of seconds."""

    def now(self) -> datetime:
        """The present moment, UTC, with a microsecond resolution."""
        ...

    def monotonic(self) -> float:
        """Seconds from some fixed moment; never goes back."""
        ...


class Ids(Protocol):
    """New identifiers and secrets."""

    def new_id(self) -> str:
        """A canonical UUIDv7; ids made one after another by one process sort in that order."""
        ...

    def new_secret(self) -> str:
        """32 random bytes as URL-safe text."""
        ...

    def new_uuid4(self) -> str:
        """A canonical random UUID."""
        ...
