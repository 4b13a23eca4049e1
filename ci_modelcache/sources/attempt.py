"""The only module that makes one attempt to have a range of a file from one source: watched, paced, measured, told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ci_modelcache.sources.health import FAULTS, Cause, cause_of
from ci_modelcache.transfer.events import Attempt
from ci_modelcache.transfer.watch import WINDOW, watched

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.sources.course import Course
    from ci_modelcache.sources.router import Source

_TELLING = 0.5
"""Seconds after which the rate of one attempt says something about the source."""


class Reading:
    """
    One attempt, as a block: it is measured, and what the source does wrong in it ends the block and is remembered.

    Nothing is raised then: the caller sees that bytes are missing, and asks another source. Everything else passes.
    """

    def __init__(self, course: Course, source: Source, start: int, stop: int) -> None:
        self._course = course
        self._source = source
        self._range = (start, stop)
        self._began = course.monotonic()
        self._first: float | None = None
        self._received = 0
        self._best = 0.0
        self._outages = course.trials.outages(source.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        fault = error if isinstance(error, FAULTS) else None
        self._done(fault)
        if fault is not None:
            self._course.blame(self._source, fault, outages=self._outages)
        elif error is None:
            self._course.router.succeeded(self._source)
        return fault is not None

    def pieces(self) -> Generator[bytes, None, None]:
        """The bytes as the source sends them, watched and paced."""
        start, stop = self._range
        course = self._course
        end = None if stop == course.file.size else stop
        with self._source.bytes.open(course.ref, course.ref.revision, course.file, start=start, stop=end) as sent:
            for piece in self._paced(self._counted(sent)):
                if piece:
                    course.trials.progressed(self._source.url)
                yield piece
                course.retry.deadline.check(course.doing)

    def _paced(self, sent: Iterator[bytes]) -> Iterator[bytes]:
        """*sent*, watched for being too slow, and no faster than the limits say."""
        source, course = self._source, self._course
        steady = watched(
            sent,
            what=f"{source.url}: {course.file.path}",
            floor=lambda: course.router.floor(source, avoid=course.trials.barred, own=self._best),
            window=WINDOW,
        )
        for name in (source.url, ""):
            if name in course.throttles:
                steady = course.throttles[name].pace(steady, course.retry.deadline)
        return steady

    def _counted(self, sent: Iterator[bytes]) -> Iterator[bytes]:
        for piece in sent:
            if self._first is None:
                self._first = self._course.monotonic()
            self._received += len(piece)
            elapsed = self._course.monotonic() - self._began
            if elapsed >= _TELLING:
                self._best = max(self._best, self._received / elapsed)
            yield piece

    def _done(self, error: ModelCacheError | None) -> None:
        first = None if self._first is None else self._first - self._began
        seconds = self._course.monotonic() - self._began
        router = self._course.router
        router.measured(self._source, first_byte=first, received=self._received, seconds=seconds)
        router.events.record(
            Attempt(
                source=self._source.url,
                path=self._course.file.path,
                start=self._range[0],
                stop=self._range[1],
                received=self._received,
                first_byte=first,
                seconds=seconds,
                cause=Cause.OK if error is None else cause_of(error),
                error="" if error is None else error.message,
            )
        )
