"""The only module that puts one file together from ranges which several connections bring at the same time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.partial import Partial

SPLIT = 4 * 1024 * 1024
"""
Bytes: a file that is no larger comes in one, and a larger one in parts of so much or more.

Smaller ones are the first of a source on trial, what is taken over from another connection, and what is left between others.
"""
_SHARED = 256 * 1024
"""Bytes that are left to each, at least, when one connection takes over half of what another is bringing."""
_WORTH = 0.25
"""Seconds that this has to save: a new connection costs time, and what was on the way to the old one comes again."""

_NEWS = 256 * 1024
"""Bytes after which the reader is told: waking it for each packet would cost more than hashing what came."""
_LOOK = 0.2
"""Seconds between two looks at whether another connection would help."""


class Claim:
    """A range that one connection is bringing: it begins at `start`, and ends at `stop` unless another takes over its end."""

    def __init__(self, start: int, stop: int, *, began: float) -> None:
        self.start = start
        self.stop = stop
        self.offset = start
        """How far it has come."""
        self.told = start
        self.began = began

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return max(0, self.stop - self.offset)

    def is_worth_sharing(self, now: float) -> bool:
        """Whether another connection would bring half of the rest so much sooner that it is worth to open it."""
        if self.left < 2 * _SHARED:
            return False
        if self.left >= 2 * SPLIT:
            return True
        # Of one that has only just begun nobody knows how fast it is.
        seconds = now - self.began
        return seconds >= _WORTH and self.left / 2 >= _WORTH * (self.offset - self.start) / seconds


class Claims:
    """Who brings what: no byte of *partial* is claimed twice at a time. Methods may be called from any thread."""

    def __init__(self, partial: Partial, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.partial = partial
        self._clock = clock
        self.turn = partial.turn
        """That of the reader for whom the claims are: whoever comes back when it is over does nothing more."""
        self.changed = threading.Condition()
        """Told when bytes arrive and when claims end."""
        self._claims: list[Claim] = []

    def take(self, span: int, *, sharers: int = 1) -> Claim | None:
        """
        The first range that nobody brings, at most *span* bytes of it; when there is none, the second half of the
        longest that somebody is bringing; None when that is not worth a connection.

        Less is given as less is left for *sharers* connections: a range that is taken over by another was asked for in vain.
        """
        with self.changed:
            free = self._free()
            least = max(min(span, SPLIT), _SHARED)
            if sharers > 1:
                span = max(least, min(span, sum(stop - start for start, stop in free) // (2 * sharers)))
            if free:
                start, stop = free[0]
                # A rest that is too small for a connection of its own comes with this one.
                return self._claim(start, stop if stop - start < span + least else start + span)
            longest = max(self._claims, key=lambda claim: claim.left, default=None)
            if longest is None or not longest.is_worth_sharing(self._clock()):
                return None
            middle = longest.offset + longest.left // 2
            taken = self._claim(middle, longest.stop)
            longest.stop = middle
            return taken

    def extend(self, claim: Claim) -> bool:
        """*claim* has come to its end and could go on: give it what is free behind it; returns whether there was something."""
        with self.changed:
            free = next((stop for start, stop in self._free() if start == claim.stop), None)
            if free is not None:
                claim.stop = free
            return free is not None

    def worth_more(self) -> bool:
        """Whether `take` would give another connection something to do."""
        with self.changed:
            return bool(self._free()) or any(claim.is_worth_sharing(self._clock()) for claim in self._claims)

    def arrived(self, claim: Claim, offset: int) -> bool:
        """*claim* has come as far as *offset*; returns whether it is to go on."""
        with self.changed:
            claim.offset = offset
            if offset - claim.told >= _NEWS or offset >= claim.stop:
                claim.told = offset
                self.changed.notify_all()
            return offset < claim.stop

    def release(self, claim: Claim) -> None:
        """*claim* has ended; what it did not bring is free again."""
        with self.changed:
            self._claims.remove(claim)
            self.changed.notify_all()

    def _claim(self, start: int, stop: int) -> Claim:
        claim = Claim(start, stop, began=self._clock())
        self._claims.append(claim)
        return claim

    def _free(self) -> list[tuple[int, int]]:
        found = []
        for start, stop in self.partial.gaps():
            for claim in sorted(self._claims, key=lambda each: each.start):
                if claim.start <= start < claim.stop:
                    start = claim.stop  # noqa: PLW2901  # the rest of the gap
                elif start < claim.start < stop:
                    found.append((start, claim.start))
                    start = claim.stop  # noqa: PLW2901  # as above
            if start < stop:
                found.append((start, stop))
        return found


class Lanes(Protocol):
    """Who brings the ranges of one file."""

    def bring(self, claims: Claims, *, alone: Callable[[], bool], stopping: threading.Event) -> None:
        """
        Take claims and bring them until there is none, *stopping* is set, or no source has room for another connection.

        Only one that is *alone* waits when no source can be asked now. Raises what ends the file: an error of all sources.
        """

    def room(self) -> bool:
        """Whether another connection could be opened now, and would help."""


def assemble(partial: Partial, lanes: Lanes, *, deadline: Deadline, doing: str) -> Generator[bytes, None, None]:
    """
    Yield the bytes of *partial* in order, while *lanes* bring what is missing of it.

    The first failure is raised when what arrived before it has been yielded as far as it is in one piece; the connections end
    when the reader does. Raises `Rewritten` when bytes that were yielded have been forgotten as wrong.
    """
    partial.begin()
    claims = Claims(partial)
    if partial.size <= SPLIT:
        yield from _in_one(partial, claims, lanes)
        return
    offset = 0
    crew = Crew(
        lambda: lanes.bring(claims, alone=lambda: crew.size <= 1, stopping=crew.stopping),
        deadline=deadline,
        changed=claims.changed,
    )
    with crew:
        while offset < partial.size:
            deadline.check(doing)
            partial.require_unchanged(offset)
            frontier = partial.frontier
            if frontier > offset:
                for piece in partial.read(offset, frontier):
                    yield piece
                    _grow(crew, claims, lanes)
                offset = frontier
                continue
            if crew.failures:
                raise crew.failures[0]
            _grow(crew, claims, lanes)
            with claims.changed:
                if partial.frontier == offset and not crew.failures:
                    claims.changed.wait(deadline.at_most(_LOOK))
    partial.seal()
    partial.require_unchanged(offset)


def _in_one(partial: Partial, claims: Claims, lanes: Lanes) -> Iterator[bytes]:
    """A small file, without a thread of its own."""
    if partial.frontier < partial.size:
        lanes.bring(claims, alone=lambda: True, stopping=threading.Event())
    yield from partial.read(0, partial.size)


def _grow(crew: Crew, claims: Claims, lanes: Lanes) -> None:
    if crew.failures or not claims.worth_more():
        return
    if crew.size == 0 or lanes.room():
        crew.grow()
