"""The only module that sleeps and that counts attempts."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from attrs import evolve, field, frozen

from ci_modelcache.errors import DeadlineExceeded, IntegrityError, RateLimited, Stalled, Unavailable
from ci_modelcache.transfer.deadline import Deadline, format_duration
from ci_modelcache.transfer.events import Events, Unrecorded, Waited
from ci_modelcache.transfer.parallel import bounded

T = TypeVar("T")

_log = logging.getLogger(__name__)

asleep: Callable[[float], None] = time.sleep
"""Sleep for so many seconds; for those few that pause for another reason than a failure."""

LONGEST_PAUSE = 600.0
"""Seconds; whoever asks for a longer one is not waited for: a job that sleeps that long is a job that hangs."""


def _asked_for(error: Unavailable) -> float:
    """Seconds that the other side asked us to wait; 0 when it did not, or asked for no number."""
    asked = error.retry_after if isinstance(error, RateLimited) else None
    return 0.0 if asked is None or math.isnan(asked) else asked


_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def _reason(error: Unavailable) -> str:
    """The word for *error* as `sources.health.Cause` has it: ``rate-limited``, ``stalled``, ``unavailable``."""
    return _CAPITAL.sub("-", type(error).__name__).lower()


@frozen
class RetryPolicy:
    """
    How often and how patiently something `Unavailable` is tried again.

    At most *attempts* tries; between them full jitter around a doubling pause of *base* to *cap* seconds,
    but never less than a `RateLimited` asked for, *cap* or not, and up to a tenth (at most a second) more, so that of many who were
    asked not all come back at once. A pause that would end after *deadline* is not begun:
    the step ends with `DeadlineExceeded` at once, naming the failure, as waiting could not help. One longer than
    `LONGEST_PAUSE` is not begun either: the failure is raised. *jitter* picks a number between two, as `random.uniform`.
    Every pause is told to *events* before it begins, as one for *source*.
    """

    attempts: int = 6
    base: float = 0.5
    cap: float = 20.0
    deadline: Deadline = field(factory=Deadline)
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[float, float], float] = random.uniform
    events: Events = field(factory=Unrecorded)
    source: str = ""
    """Who is tried, as its user writes it, without credentials; only for *events*."""

    def call(self, operation: Callable[[], T], *, doing: str) -> T:
        """The result of *operation*, which may be called several times and must not mind that."""
        failures = 0
        while True:
            self.deadline.check(doing)
            try:
                return bounded(operation, deadline=self.deadline, doing=doing)
            except Unavailable as error:
                failures += 1
                self.pause(failures, error, doing=doing)

    @contextmanager
    def briefly(self, *, seconds: float, doing: str) -> Iterator[RetryPolicy]:
        """
        For who has another way: a policy of two attempts and *seconds* in all, or a quarter of what is left to the step when that is less.

        When that time is not enough it is `Unavailable`, the last failure if there was one; `DeadlineExceeded` is raised only
        when the whole step has no time left.
        """
        seconds = min(seconds, self.deadline.remaining() / 4)
        try:
            yield evolve(self, attempts=min(2, self.attempts), deadline=self.deadline.sooner(seconds))
        except DeadlineExceeded as error:
            if self.deadline.remaining() <= 0:
                raise
            if isinstance(error.__cause__, Unavailable):
                raise error.__cause__ from None
            msg = f"{doing}: no answer within {format_duration(seconds)}"
            raise Stalled(msg) from error

    def pause(self, failures: int, error: Unavailable, *, doing: str) -> None:
        """Sleep before the next try after so many *failures* in a row, or raise when there is to be none."""
        if failures >= self.attempts:
            error.add_note(f"gave up {doing} after {failures} attempts")
            raise error
        delay = self.delay(failures, error)
        self.wait(delay, error, doing=doing, told=f"{failures} of {self.attempts}")

    def wait(self, delay: float, error: Unavailable, *, doing: str, told: str, source: str = "") -> None:
        """
        Sleep for *delay* seconds because of *error*, or raise when that would outlast the deadline or anybody's patience.

        The pause is told as one for *source*, if given in place of the policy's own.
        """
        left = self.deadline.remaining()
        if delay >= left and math.isfinite(left):
            raise self.deadline.too_far(delay, doing, because=error) from error
        if delay > LONGEST_PAUSE:
            error.add_note(f"gave up {doing}: asked to wait {delay:g} s, which is longer than {LONGEST_PAUSE:g} s")
            raise error
        _log.warning("%s; trying again in %.1f s (%s)", error, delay, told)
        self.events.record(Waited(source or self.source, delay, _reason(error)))
        self.sleep(delay)

    def idle(self, seconds: float, *, doing: str, told: str, source: str = "") -> None:
        """
        Sleep for about *seconds*, half as long up to half as long again, because somebody else is at work.

        The pause is *told* as one for *source*, if given in place of the policy's own.
        When the deadline passes meanwhile, `DeadlineExceeded` says what was being done.
        """
        delay = min(self.jitter(0.5 * seconds, 1.5 * seconds), self.deadline.remaining())
        self.events.record(Waited(source or self.source, delay, told))
        self.sleep(delay)
        self.deadline.check(doing)

    def delay(self, failures: int, error: Unavailable) -> float:
        """Seconds to wait after so many *failures* in a row, the last of which was *error*."""
        import tenacity  # noqa: PLC0415  # 15 ms that only a second attempt needs

        window = tenacity.wait_exponential(multiplier=self.base, max=self.cap)
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = failures
        asked = _asked_for(error)
        return max(self.jitter(0.0, window(state)), asked + self._spread(asked))

    def _spread(self, asked: float) -> float:
        """Seconds on top of what was *asked* for; never so many that the pause would be too long for that reason."""
        room = min(LONGEST_PAUSE, self.deadline.remaining()) - asked
        most = min(1.0, asked / 10, room / 2)
        return self.jitter(0.0, most) if most > 0 else 0.0


def once_more(operation: Callable[[], T], *, doing: str) -> T:
    """
    The result of *operation*, tried again once, from the start, when it met wrong bytes.

    A flipped bit on the way is rare and gone the second time; bytes that are wrong twice are wrong at
    their source, and the second `IntegrityError` says so.
    """
    try:
        return operation()
    except IntegrityError as error:
        _log.warning("%s; %s once more from the start", error, doing)
    return operation()
