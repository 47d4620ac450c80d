"""What every blob store holds of names and sizes."""

import re
from typing import Final

from polymem.errors import InvalidInput

PIECE_BYTES: Final = 256 * 1024
_NAME = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_-]{1,127}")


def is_name(text: str) -> bool:
    """True for one plain path component; ids of ours always are."""
    return _NAME.fullmatch(text) is not None


def checked(field: str, name: str) -> str:
    """The name, which cannot leave its place in any path. Raises `InvalidInput` naming the field."""
    if not is_name(name):
        raise InvalidInput(field, "not an id")
    return name
