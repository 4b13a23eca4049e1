"""The only module that calls a connection too slow: by the bytes of a sliding window, as a trickle is a stall, too."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import Stalled
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 8.0
"""Seconds."""

_SLOTS = 64
"""A window is counted in so many parts, and looked at once in each."""


@frozen
class Floor:
    """Fewer bytes a second than *rate* are too few now, *because* of what others do (a sentence, or nothing)."""

    rate: float = 0.0
    because: str = ""


ANY = Floor()
"""Nothing is too slow but silence."""


def watched(
    pieces: Iterator[bytes],
    *,
    what: str,
    floor: Callable[[], Floor] = lambda: ANY,
    window: float = WINDOW,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """
    Pass *pieces* on, and raise `Stalled` about *what* (``https://host: model.bin``) when a window had too few bytes.

    Only the seconds in which *pieces* is waited for make up the *window*: a consumer that writes, hashes, or is slowed down
    on purpose never makes its source look slow. *floor* is asked some times in a window, from the first full one on. Bytes that
    came are passed on before the verdict, so that none is fetched twice. An empty piece says that something came which nobody
    wants: the window begins anew. A wait within *pieces* cannot be cut short here:
    it needs a time limit of its own, best that of the window.
    """
    window_of = _Window(window)
    while True:
        begun = clock()
        piece = next(pieces, None)
        if piece is None:
            return
        silence = clock() - begun
        full = window_of.add(silence, len(piece))
        if piece:
            yield piece
        else:
            window_of, full = _Window(window), False
        if silence >= window:
            msg = f"{what}: nothing came for {silence:.0f} s"
            raise Stalled(msg)
        if full:
            _judge(window_of.count, window, floor(), what)


def _judge(count: int, window: float, floor: Floor, what: str) -> None:
    if count > 0 and count >= floor.rate * window:
        return
    because = f"; {floor.because}" if floor.because else ""
    asked = f", where {format_bytes(floor.rate)} a second are the least" if floor.rate else ""
    msg = f"{what}: {format_bytes(count)} in the last {window:g} s{asked}{because}"
    raise Stalled(msg)


class _Window:
    """The bytes that came in the last *seconds* of waiting, in at most `_SLOTS` and two parts, however many pieces."""

    def __init__(self, seconds: float) -> None:
        self.count = 0
        self._seconds = seconds
        self._now = 0.0
        self._slots: deque[tuple[float, int]] = deque()
        self._slot_end = seconds / _SLOTS
        self._in_slot = 0

    def add(self, seconds: float, count: int) -> bool:
        """Count *count* bytes that came after *seconds* of waiting; whether it is time to look at a window, which is full."""
        self._now += seconds
        self._in_slot += count
        self.count += count
        if self._now < self._slot_end:
            return False
        self._slots.append((self._now, self._in_slot))
        self._in_slot = 0
        self._slot_end = self._now + self._seconds / _SLOTS
        while self._slots[0][0] <= self._now - self._seconds:
            self.count -= self._slots.popleft()[1]
        return self._now >= self._seconds
