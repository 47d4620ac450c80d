"""Stopping on SIGINT or SIGTERM."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Makes of the first SIGINT or SIGTERM a clean stop and of the second the end of the process."""

    def __init__(self) -> None:
        self._act: Callable[[], None] | None = None
        self._is_asked = False
        self.before_the_end: Callable[[], None] | None = None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Both signals come here, from any state of the start or stop."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def then(self, act: Callable[[], None]) -> None:
        """A stop, also one asked for before, acts so; `act` returns at once."""
        self._act = act
        if self._is_asked:
            act()

    def _on_signal(self, number: int) -> None:
        if self._is_asked:
            if self.before_the_end is not None:
                self.before_the_end()
            os._exit(128 + number)
        self._is_asked = True
        if self._act is not None:
            self._act()
