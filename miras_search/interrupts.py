"""What ends a process: Ctrl-C, at once or when what is being written is written, and its parent."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Interrupts:
    """The handler of SIGINT between `begin` and `end`, in the main thread; elsewhere nothing.

    Python drops a KeyboardInterrupt that falls into a destructor or a callback of its garbage
    collector. So that it was pressed is kept, and raised again after the next `held`.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._holding = 0
        self._before: Any = None

    def begin(self) -> None:
        """Take over from the handler that there is."""
        self._pressed = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)

    def end(self) -> None:
        """Give it back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is raised inside, and what was pressed is raised behind."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
            if self._pressed and not self._holding:
                raise KeyboardInterrupt

    def _press(self, number: int, frame: object) -> None:
        self._pressed = True
        if not self._holding:
            raise KeyboardInterrupt


CTRL_C = Interrupts()
"""There is one handler in a process."""


def end_with(gone: Callable[[], object]) -> None:
    """End this process when `gone` returns, which it does when the parent has ended, however that
    was: nobody would read what an orphan finds."""

    def follow() -> None:
        gone()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def deaf() -> Iterator[None]:
    """What is started inside never hears Ctrl-C; this process hears it behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
