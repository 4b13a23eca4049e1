"""The only module that decides how many connections a store is asked over, and for how much at a time, by what was measured."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ci_modelcache.model.digest import LEAF_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

START = 8
"""Connections to begin with."""
MOST = 32
"""Connections that there are at most, unless somebody asks for another number."""
WINDOW = 0.4
"""Seconds in which throughput is measured; also the least time between two steps down, for many are refused at once."""
_WORTH = 1.05
"""More connections are kept when they bring so much more."""
_PATIENCE = 8
"""Windows until more are tried again, where more did not help or were refused."""
_WIDEST = 64 * 1024 * 1024


class Adapting:
    """
    How many connections there may be now: `START` of *most* at first, more as long as more bring more, and half when a store refuses.

    *fixed*: *most* from the beginning, for somebody who has said how many. Methods may be called from any thread.
    """

    def __init__(self, most: int = MOST, *, fixed: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self.limit = most if fixed else min(START, most)
        """Connections that there may be."""
        self.span = LEAF_SIZE
        """Bytes to ask for at a time: more when requests are what a store refuses."""
        self._moved = 0
        self._since = clock()
        self._before = 0.0
        self._narrower = 0
        self._patience = 0
        self._refused = float("-inf")

    def moved(self, count: int) -> None:
        """*count* bytes have come."""
        with self._lock:
            self._moved += count

    def refused(self) -> None:
        """A store asked us to slow down."""
        with self._lock:
            now = self._clock()
            if now - self._refused < WINDOW:
                return
            self._refused = now
            self.limit = max(1, self.limit // 2)
            self.span = min(_WIDEST, 2 * self.span)
            self._patience, self._narrower = _PATIENCE, 0
            self._begin(now)

    def look(self) -> None:
        """To be called now and then: at the end of a window it is judged whether more connections have brought more."""
        with self._lock:
            now = self._clock()
            seconds = now - self._since
            if seconds < WINDOW:
                return
            rate, before = self._moved / seconds, self._before
            self._begin(now)
            self._before = rate
            if self._patience:
                self._patience -= 1
            elif self._narrower and rate < _WORTH * before:
                self.limit, self._narrower, self._patience = self._narrower, 0, _PATIENCE
            else:
                wider = min(self._most, self.limit + max(1, self.limit // 2))
                self._narrower = self.limit if wider > self.limit else 0
                self.limit = wider

    def _begin(self, now: float) -> None:
        self._since, self._moved = now, 0
