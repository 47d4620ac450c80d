"""Packages that are there and, for a while, cannot be imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Modules of ours that import what is an extra; they are imported anew while it is gone.
_OF_EXTRAS = ("polymem.storage.postgres", "polymem.storage.blobs.s3")


@contextmanager
def cannot_be_imported(missing: str) -> Iterator[None]:
    """Importing the module fails, as if it were not there; afterwards every module is the one it was before."""
    affected = (missing, *_OF_EXTRAS)
    before = {name: module for name, module in sys.modules.items() if name.startswith(affected)}
    for name in before:
        del sys.modules[name]
    sys.modules[missing] = None  # type: ignore[assignment]  # what Python takes for "do not look for it"
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.startswith(affected)]:
            del sys.modules[name]
        sys.modules.update(before)
        # A module is also an attribute of its package, which an import while it was gone may have set to another.
        for name, module in before.items():
            package, _, own_name = name.rpartition(".")
            if package in sys.modules:
                setattr(sys.modules[package], own_name, module)
