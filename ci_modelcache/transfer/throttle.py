"""The only module that slows transfers down on purpose."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.retry import asleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci_modelcache.transfer.deadline import Deadline

_BURST = 0.1
"""Seconds' worth of bytes that may be made up for after a pause; sleeping is no more exact on a busy machine."""
_SHARE = 0.02
_LEAST, _MOST = 4 * 1024, 1024 * 1024


class Throttle:
    """
    *rate* bytes a second for all streams together that are paced by it, from any thread; infinite: no limit.

    Every stream pays for the same number of bytes in turn, whatever the size of its pieces, so each gets its share. The average is kept
    from the first byte on; a stream that was late, or nobody's turn, leaves a tenth of a second's worth of bytes to the next, no more.
    Throttles nest: ``mirror.pace(all.pace(pieces, deadline), deadline)`` keeps to both. What is to be watched for being too
    slow is watched inside: ``pace(watched(pieces))``.
    """

    def __init__(
        self,
        rate: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = asleep,
    ) -> None:
        if not rate > 0:
            msg = f"rate: expected more than 0 bytes a second, got {rate}"
            raise ValueError(msg)
        self.rate = rate
        self._clock = clock
        self._nap = sleep
        self._lock = threading.Lock()
        self._paid_until = clock()
        self._share = _MOST if math.isinf(rate) else int(min(max(rate * _SHARE, _LEAST), _MOST))

    def pace(self, pieces: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
        """
        Yield the bytes of *pieces* no faster than the rate; a piece of more than a share comes in several.

        Never sleeps beyond *deadline*, but raises its `DeadlineExceeded`.
        """
        if math.isinf(self.rate):
            yield from pieces
            return
        owed = 0
        try:
            for piece in pieces:
                for start in range(0, len(piece), self._share):
                    part = piece[start : start + self._share]
                    owed += len(part)
                    if owed >= self._share:
                        pause, owed = self._pay(owed), 0
                        self._sleep(pause, deadline)
                    yield part
        finally:
            # Whoever comes next waits for what this stream owes.
            self._pay(owed)

    def _pay(self, count: int) -> float:
        """Book *count* bytes; the seconds until they are paid for."""
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - _BURST) + count / self.rate
            return self._paid_until - now

    def _sleep(self, seconds: float, deadline: Deadline) -> None:
        if seconds <= 0:
            return
        self._nap(min(seconds, deadline.remaining()))
        deadline.check(f"keeping to {format_bytes(self.rate)} a second, as the limit says")
