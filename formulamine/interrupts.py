"""Ctrl-C and SIGTERM at a moment of our choosing.

By default both raise wherever the main thread happens to be, as in the midst of closing a database. Here belongs
holding them back meanwhile; what a cancel ends is the matter of whoever looks at the event.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back(seen: threading.Event | None = None, *, hand_on: bool = True) -> Iterator[None]:
    """Hold interrupts back until the end of a block, then hand the first one on to whoever handled them before.

    Args:
        seen: set as soon as one arrives.
        hand_on: False where nothing is left that an interrupt could end.
    """
    if threading.current_thread() is not threading.main_thread():  # it gets no signal, and may not ask for any
        yield
        return
    arrived: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)
        if seen is not None:
            seen.set()

    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if arrived and hand_on:
            signal.raise_signal(arrived[0])
