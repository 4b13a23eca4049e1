"""The only module that knows how much time a step has left."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``15m``, ``1h30m`` or ``1d``; raises `ConfigError`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        msg = f"not a duration: {text!r:.100}"
        raise ConfigError(msg, hint="write it as 90s, 15m, 1h30m or 1d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Deadline:
    """
    The end of a step's time budget, on the monotonic clock; *seconds* None means that there is none.

    Everything that waits asks `remaining` first, and calls `check` between two pieces of work.
    """

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative; infinite when there is no deadline."""
        return max(0.0, self._end - self._clock())

    def at_most(self, seconds: float) -> float:
        """*seconds*, or what is left when that is less (but never 0, which HTTP libraries read as "for ever")."""
        return max(0.05, min(seconds, self.remaining()))

    def check(self, doing: str) -> None:
        """Raise `DeadlineExceeded`, saying what was being done, when nothing is left."""
        if self.remaining() <= 0:
            raise self.exceeded(doing)

    def exceeded(self, doing: str, *, because: BaseException | None = None) -> DeadlineExceeded:
        """The error to raise when the budget ended while *doing*; *because* is the last failure seen."""
        why = "" if because is None else f"; last failure: {because}"
        return DeadlineExceeded(
            f"the deadline of {self.seconds or 0:g} s passed while {doing}{why}",
            hint="raise --deadline, or run again: what is complete is kept",
        )
