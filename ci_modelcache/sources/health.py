"""What is known of one source of bytes: how fast it is, how it fails, and for how long it is better left alone."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    ConfigError,
    DigestMismatch,
    IntegrityError,
    Misanswer,
    NotFound,
    RateLimited,
    SizeMismatch,
    Stalled,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAULTS = (Unavailable, NotFound, AccessDenied, IntegrityError, ConfigError)
"""What a source may do wrong; everything else (a full disk, the deadline, a bug) is none of its faults, and passes."""


class Cause(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    RATE_LIMITED = "rate-limited"
    STALLED = "stalled"
    BROKEN_OFF = "broken-off"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"
    MISSING = "missing"
    WRONG_BYTES = "wrong-bytes"
    WRONG_LENGTH = "wrong-length"
    WRONG_ANSWER = "wrong-answer"
    OTHER = "other"


_CAUSES: tuple[tuple[type[BaseException], Cause], ...] = (
    (RateLimited, Cause.RATE_LIMITED),
    (Stalled, Cause.STALLED),
    (BrokenOff, Cause.BROKEN_OFF),
    (AccessDenied, Cause.DENIED),
    (NotFound, Cause.MISSING),
    (DigestMismatch, Cause.WRONG_BYTES),
    (SizeMismatch, Cause.WRONG_LENGTH),
    (Misanswer, Cause.WRONG_ANSWER),
    (IntegrityError, Cause.WRONG_ANSWER),
    (Unavailable, Cause.UNAVAILABLE),
)
"""The first that fits counts."""


def cause_of(error: BaseException) -> Cause:
    """The word for *error*."""
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.OTHER)


_BLAME: Mapping[Cause, float] = {
    Cause.STALLED: 1.0,
    Cause.BROKEN_OFF: 1.0,
    Cause.UNAVAILABLE: 1.5,
    Cause.WRONG_LENGTH: 3.0,
    Cause.WRONG_ANSWER: 3.0,
    Cause.WRONG_BYTES: 6.0,
    Cause.OTHER: 3.0,
}
"""
A source that lies costs more than one that is slow. Not here: being asked to slow down, which is honest and has a time of
its own; saying no or having nothing, which is about a file.
"""
_TOO_MUCH = 6.0
_FORGIVEN = 0.5
"""What an attempt that went well leaves of the blame."""
_BARRED = 30.0
BARRED_MOST = 900.0
LIMITED_MOST = 3600.0
"""Seconds; what a source asks for, or a note of another run says, is not believed for longer."""
_DOUBLED = 5
"""Times after which the most is reached."""
_WEIGHT = 0.3
"""Of the newest figure in an average that forgets (EWMA)."""
_KEPT = 64
"""Newest figures that are kept for percentiles."""
_TELLING = 1024 * 1024
"""Bytes from which on a speed says something about the source rather than about the way there and the buffers on it."""
LASTING = 4.0
"""Seconds after which it does so, too, however few bytes came: otherwise nobody would ever know that a link is slow."""


@frozen
class Spread:
    """Median and 95th percentile, None where nothing was measured."""

    p50: float | None = None
    p95: float | None = None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Those of *figures*."""
        if len(figures) < 2:  # noqa: PLR2004  # quantiles need two
            return cls(*(list(figures) * 2))
        cuts = statistics.quantiles(figures, n=20, method="inclusive")
        return cls(cuts[9], cuts[18])


@define
class Health:
    """
    The figures of one source, in bytes and seconds; times are seconds since the epoch. Whoever shares it guards it.

    *first_byte* and *speed* (of one connection) are averages that forget, None before the first measurement.
    """

    first_byte: float | None = None
    speed: float | None = None
    first_bytes: deque[float] = field(factory=lambda: deque(maxlen=_KEPT))
    speeds: deque[float] = field(factory=lambda: deque(maxlen=_KEPT))
    attempts: int = 0
    received: int = 0
    proven: int = 0
    """Bytes that turned out to be right."""
    failures: Counter[str] = field(factory=Counter)
    last_limited: float | None = None
    limited_until: float = 0.0
    blame: float = 0.0
    barred_until: float = 0.0
    barred: int = 0
    """How often in a row."""
    seen: float = 0.0
    """When it was last asked for something."""
    decided: str = ""
    """What the router decided about it last, in words."""

    def measured(self, *, first_byte: float | None, received: int, seconds: float, now: float) -> None:
        """An attempt brought *received* bytes in *seconds*, the first of them after *first_byte* seconds."""
        self.attempts += 1
        self.received += received
        self.seen = now
        if first_byte is not None:
            self.first_bytes.append(first_byte)
            self.first_byte = _mixed(self.first_byte, first_byte)
        lasted = seconds - (first_byte or 0.0)
        if received and seconds > 0 and (received >= _TELLING or lasted >= LASTING):
            self.speeds.append(received / seconds)
            self.speed = _mixed(self.speed, received / seconds)

    def succeeded(self) -> None:
        """An attempt brought all that was asked for."""
        self.blame *= _FORGIVEN
        self.barred = 0

    def failed(self, cause: Cause, *, now: float, retry_after: float | None = None) -> bool:
        """An attempt ended by *cause*; returns whether the source is barred from now on."""
        self.failures[cause] += 1
        if cause is Cause.RATE_LIMITED:
            self.last_limited = now
            asked = min(retry_after or 1.0, LIMITED_MOST)
            self.limited_until = max(self.limited_until, now + asked)
        if now < self.barred_until and cause is not Cause.WRONG_BYTES:
            # One outage ends many connections at once, and is to bar the source once.
            return False
        self.blame += _BLAME.get(cause, 0.0)
        if self.blame < _TOO_MUCH:
            return False
        self.barred_until = now + min(BARRED_MOST, _BARRED * 2 ** min(self.barred, _DOUBLED))
        self.barred += 1
        # Half of it is left: when it may be asked again, one lie or a few failures bar it at once.
        self.blame = _TOO_MUCH / 2
        return True

    def corrected(self, now: float) -> None:
        """Take back what can only come of a clock that was wrong: times that are too far in the future count as none."""
        self.limited_until = self.limited_until if self.limited_until <= now + LIMITED_MOST else 0.0
        self.barred_until = self.barred_until if self.barred_until <= now + BARRED_MOST else 0.0
        self.seen = min(self.seen, now)

    def found_right(self, size: int) -> None:
        """*size* bytes that it sent were proven."""
        self.proven += size

    def state(self, now: float) -> str:
        """One word for people: ``barred``, ``limited``, ``unknown`` or ``ready``."""
        if now < self.barred_until:
            return "barred"
        if now < self.limited_until:
            return "limited"
        return "ready" if self.attempts else "unknown"


def _mixed(average: float | None, newest: float) -> float:
    return newest if average is None else average + _WEIGHT * (newest - average)
