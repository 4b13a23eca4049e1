"""The only module that bounds how many bytes are in memory to be sent, over all writes to a store."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.transfer.deadline import Deadline


def filled(size: int, pieces: Iterator[memoryview]) -> mmap.mmap:
    """
    *size* (1 or more) bytes of *pieces*, in memory that goes back to the system when it is closed.

    Memory from malloc would not: each of its arenas, of which several threads have several, keeps up to twice the largest block
    that was ever freed.
    """
    memory = mmap.mmap(-1, size)
    for piece in pieces:
        memory.write(piece)
    memory.seek(0)
    return memory


class Stopped(Exception):
    """What waited for room, or was to be sent, is not wanted any more: something else of its upload failed."""


class PartMemory:
    """
    Room for *limit* bytes. Whoever comes first is served first, so that a large part is not passed by small ones for ever.

    A part of *limit* bytes and more has the whole room for itself: every upload goes on, however large its parts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def room(self, size: int, *, stopped: Callable[[], bool], deadline: Deadline, doing: str) -> Iterator[None]:
        """
        Room for *size* bytes within the block, once there is so much.

        Raises `Stopped` when *stopped* (asked again after each `wake`), `DeadlineExceeded` when the *deadline* passes first.
        """
        weight = min(size, self._limit)
        with self._changed:
            self._wait(weight, stopped=stopped, deadline=deadline, doing=doing)
            self._taken += weight
        try:
            yield
        finally:
            with self._changed:
                self._taken -= weight
                self._changed.notify_all()

    def _wait(self, weight: int, *, stopped: Callable[[], bool], deadline: Deadline, doing: str) -> None:
        me = object()
        self._line.append(me)
        seconds = deadline.remaining()
        try:
            fits = self._changed.wait_for(
                lambda: stopped() or (self._line[0] is me and self._taken + weight <= self._limit),
                timeout=None if seconds > threading.TIMEOUT_MAX else seconds,
            )
        finally:
            self._line.remove(me)
            self._changed.notify_all()  # the next in the line may fit too
        if not fits:
            raise deadline.exceeded(doing)
        if stopped():
            raise Stopped

    def wake(self) -> None:
        """Have everybody who waits ask again whether they are stopped."""
        with self._changed:
            self._changed.notify_all()
