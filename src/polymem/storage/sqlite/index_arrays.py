"""Arrays that grow at their end, for the in-memory indexes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 64


def with_room(array: NDArray[Any], used: int, more: int) -> NDArray[Any]:
    """An array with the first `used` rows of `array` and room for `more` rows after them.

    It is `array` itself when that has the room, else a new one: what holds the old array keeps what it sees.
    """
    needed = used + more
    if needed <= len(array):
        return array
    capacity = max(_SMALLEST, needed, used + used // 2)
    grown = np.empty((capacity, *array.shape[1:]), dtype=array.dtype)
    grown[:used] = array[:used]
    return grown
