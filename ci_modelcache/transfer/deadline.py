"""The only module that knows how much time a step has left."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_LONGEST = 999_999_999
_PLAIN = re.compile(_NUMBER)
_PARTS = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS))

KEPT = "what was received is kept"
"""What the next run begins with, nearly always."""


def parse_duration(text: str) -> float:
    """
    Seconds in ``90``, ``90s``, ``15m``, ``1.5h``, ``1h30m`` or ``1d``; raises `ConfigError`.

    Units stand in this order (d, h, m, s), each at most once; ``1h30`` is refused, as it may mean two things. Zero is a duration.
    """
    if _PLAIN.fullmatch(text):
        return float(text)
    match = _PARTS.fullmatch(text)
    if match is None or not text:
        msg = f"not a duration: {text!r:.100}"
        raise ConfigError(msg, hint="write it as 90s, 15m, 1h30m or 1d")
    return sum(float(number) * seconds for number, seconds in zip(match.groups("0"), _UNITS.values(), strict=True))


def format_duration(seconds: float) -> str:
    """*seconds* as `parse_duration` reads it: ``1h30m``, ``90s`` up to two minutes, ``0.5s``; beyond that ``years``."""
    if seconds > _LONGEST:
        return "years"
    if seconds < 2 * _UNITS["m"]:
        return f"{seconds:.3g}s"
    rest, parts = round(seconds), []
    for unit, length in _UNITS.items():
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


class Deadline:
    """
    The end of a step's time budget, on the monotonic clock; *seconds* None means that there is none.

    Everything that waits asks `remaining` first, and calls `check` between two pieces of work. *account* says where the time
    went, in words (`transfer.ledger`), or nothing; its errors repeat it. *named*: what its errors call it, such as ``the window ...``;
    *kept*: what they say that the next run begins with.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        late: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        account: Callable[[], str] = str,
        named: str = "",
        kept: str = KEPT,
    ) -> None:
        self.seconds = seconds
        self._named = named
        self._kept = kept
        self._account = account
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds + late

    def remaining(self) -> float:
        """Seconds left, never negative; infinite when there is no deadline."""
        return max(0.0, self._end - self._clock())

    def at_most(self, seconds: float) -> float:
        """*seconds*, or what is left when that is less (but never 0, which HTTP libraries read as "for ever")."""
        return max(0.05, min(seconds, self.remaining()))

    def watched(self, late: float) -> Deadline:
        """What is left and *late* seconds more, for who watches others that keep to this one and tell more than it can."""
        left = self.remaining()
        late = left + late - (self.seconds or 0)
        return Deadline(
            self.seconds, late=late, clock=self._clock, account=self._account, named=self._named, kept=self._kept
        )

    def sooner(self, seconds: float) -> Deadline:
        """The end of a part of this step that may take *seconds*, or what is left when that is less."""
        return self.ending(min(seconds, self.remaining()), self._named)

    def ending(self, seconds: float, named: str) -> Deadline:
        """This one, or one that ends in *seconds* and is *named* so when that is sooner."""
        if self.remaining() < seconds:
            return self
        return Deadline(seconds, clock=self._clock, account=self._account, named=named, kept=self._kept)

    def check(self, doing: str) -> None:
        """Raise `DeadlineExceeded`, saying what was being done, when nothing is left."""
        if self.remaining() <= 0:
            raise self.exceeded(doing)

    def exceeded(self, doing: str, *, because: BaseException | None = None) -> DeadlineExceeded:
        """The error to raise when the budget ended while *doing*; *because* is the last failure seen."""
        why = "" if because is None else f"; last failure: {because}"
        told = f"{doing}{why}{self._told()}"
        if self._named:
            return DeadlineExceeded(f"{self._named} passed while {told}", hint=f"run again: {self._kept}")
        return DeadlineExceeded(
            f"the deadline of {format_duration(self.seconds or 0)} passed while {told}",
            hint=f"raise --deadline, or run again: {self._kept}",
        )

    def too_far(self, delay: float, doing: str, *, because: BaseException) -> DeadlineExceeded:
        """The error to raise when a pause of *delay* seconds before going on with *doing* would outlast the budget."""
        if self.remaining() <= 0:
            return self.exceeded(doing, because=because)
        told = f"in {format_duration(delay)}; last failure: {because}{self._told()}"
        left = format_duration(self.remaining())
        if self._named:
            msg = f"{self._named} leaves {left}, and {doing} would be tried again {told}"
            return DeadlineExceeded(msg, hint=f"run again: {self._kept}")
        return DeadlineExceeded(
            f"the deadline of {format_duration(self.seconds or 0)} leaves {left}, and {doing} would be tried again {told}",
            hint=f"raise --deadline, or run again: {self._kept}",
        )

    def _told(self) -> str:
        account = self._account()
        return f"; where the time went: {account}" if account else ""
