"""How both storages say what a check compared."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from polymem.ports.storage import Finding, FindingKind

NAMED_AT_MOST: Final = 5


def verdict(kind: FindingKind, subject: str, compared: int, differing: Iterable[str]) -> Finding:
    """A finding on `subject`, a sentence of what should hold; when something differs it names the first ones."""
    named = list(islice(differing, NAMED_AT_MOST + 1))
    if not named:
        return Finding(kind=kind, is_ok=True, compared=compared, message=subject)
    listed = ", ".join(named[:NAMED_AT_MOST]) + (" and more" if len(named) > NAMED_AT_MOST else "")
    return Finding(kind=kind, is_ok=False, compared=compared, message=f"not so: {subject}: {listed}")
