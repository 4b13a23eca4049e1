"""The only module that goes from source to source for the bytes of one file, until it has them or nobody is left to ask."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Self

from attrs import define, field

from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    ConfigError,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    NotFound,
    RateLimited,
    Unavailable,
)
from ci_modelcache.sources.health import Cause, cause_of
from ci_modelcache.sources.lies import audit
from ci_modelcache.sources.router import Later, Router, Source
from ci_modelcache.transfer.assemble import SPLIT
from ci_modelcache.transfer.events import Attempt
from ci_modelcache.transfer.watch import WINDOW, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.transfer.assemble import Claim, Claims
    from ci_modelcache.transfer.partial import Partial, Stretch
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.transfer.throttle import Throttle

_TURN = 0.05
"""Seconds until a connection that others have is asked for again."""
_LARGE = 4 * SPLIT
"""Bytes from which on a source is compared with another before it gets more than a first part."""
FAULTS = (Unavailable, NotFound, AccessDenied, IntegrityError, ConfigError)
"""What a source may do wrong; everything else (a full disk, the deadline, a bug) is none of its faults, and passes."""
_WORST_FIRST: tuple[type[ModelCacheError], ...] = (IntegrityError, Unavailable, AccessDenied, ConfigError, NotFound)


@define
class _Trial:
    """How one source did with this file."""

    failures: int = 0
    """In a row, since the last byte."""
    lies: int = 0
    waits_until: float = 0.0
    last: ModelCacheError | None = None
    verdict: ModelCacheError | None = None
    """Why it is not asked any more."""


@define(eq=False)
class Course:
    """
    One *file* of *ref*, which is pinned to a commit, on its way from the sources of *router*; implements `transfer.assemble.Lanes`.

    A source that fails is asked again after a pause, others meanwhile; failures are counted since its last byte, up to the attempts
    of *retry*. One that has not the file, refuses it or answers wrongly is not asked for it again. When none is left, the error
    tells of each: wrong answers before outages, outages before refusals, and "not found" only if all say so.
    """

    ref: ModelRef
    file: ListedFile
    router: Router
    retry: RetryPolicy
    throttles: Mapping[str, Throttle] = field(factory=dict)
    """By URL of the source; that of all transfers together under ``""``."""
    monotonic: Callable[[], float] = time.monotonic
    _trials: dict[str, _Trial] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)
    _audited: set[str] = field(factory=set)
    _on_trial: set[str] = field(factory=set)
    """Sources that have a connection for this file and get no second one: not compared yet, or not known to send ranges."""
    _aside: dict[str, str] = field(factory=dict)
    """Sources that are not asked for this file because they probably lie, and why."""
    _begun_again: bool = False
    convicted: list[str] = field(factory=list)
    """What is known about lies by now, in sentences that name the liar."""

    @property
    def doing(self) -> str:
        """What goes on, for messages."""
        return f"fetching {self.file.path} of {self.ref}"

    @property
    def barred(self) -> frozenset[str]:
        """URLs of the sources that are not asked for this file any more."""
        with self._lock:
            return frozenset(url for url, trial in self._trials.items() if trial.verdict is not None)

    # --- as lanes

    def bring(self, claims: Claims, *, alone: Callable[[], bool], stopping: threading.Event) -> None:
        """As `Lanes` says."""
        while not stopping.is_set():
            source = self._next(alone, stopping)
            if source is None:
                return
            try:
                claim = claims.take(self._span(source), sharers=self.router.connections)
                if claim is None:
                    return
                try:
                    self._bring(source, claim, claims, stopping)
                    self._audit(source, claim, claims.partial)
                finally:
                    claims.release(claim)
            finally:
                self._on_trial.discard(source.url)
                self.router.give_back(source)

    def room(self) -> bool:
        """As `Lanes` says."""
        return self.router.has_room(avoid=self.barred | self._on_trial, waiting=self._waits_until)

    def _span(self, source: Source) -> int:
        """Little of a large file, until the source was compared with another; then as much as it brings in seconds."""
        return SPLIT if self._is_to_be_audited(source) else source.span

    def _is_to_be_audited(self, source: Source) -> bool:
        return self.file.size > _LARGE and source.url not in self._audited and bool(self.others(source.url))

    def _audit(self, source: Source, claim: Claim, partial: Partial) -> None:
        if self._is_to_be_audited(source) and claim.offset > claim.start:
            self._audited.add(source.url)
            audit(source, claim, partial, self)

    def _bring(self, source: Source, claim: Claim, claims: Claims, stopping: threading.Event) -> None:
        partial = claims.partial
        with (
            self.attempting(source, claim.start, claim.stop) as reading,
            partial.writing(claim.start, source.url) as pen,
            closing(reading.pieces()) as pieces,
        ):
            for piece in pieces:
                rest = piece
                while rest:
                    part, rest = rest[: claim.stop - pen.offset], rest[claim.stop - pen.offset :]
                    pen.write(part)
                    if stopping.is_set() or not (claims.arrived(claim, pen.offset) or _goes_on(source, claim, claims)):
                        return
            msg = f"{source.url} ended {self.file.path} at {pen.offset}, expected bytes up to {claim.stop}"
            raise BrokenOff(msg)

    # --- one source after another

    def _next(self, alone: Callable[[], bool], stopping: threading.Event) -> Source | None:
        """The source to ask now, with a connection; None when none is free and others are at work already."""
        waited = 0.0
        while not stopping.is_set():
            barred = self.barred
            if all(source.url in barred for source in self.router.sources):
                raise self._nobody_left()
            choice = self.router.choose(
                avoid=barred | self._on_trial, waiting=self._waits_until, path=self.file.path, waited=waited
            )
            if not isinstance(choice, Later):
                if self._is_to_be_audited(choice.source) or choice.source.bytes.sends_ranges is not True:
                    self._on_trial.add(choice.source.url)
                return choice.source
            if not alone():
                return None
            waited = self._wait(choice)
        return None

    def _wait(self, later: Later) -> float:
        """Wait as long as *later* says; returns the seconds, none for a turn."""
        if later.busy:
            self.retry.deadline.check(self.doing)
            self.retry.sleep(_TURN)
            return 0.0
        with self._lock:
            reasons = [trial.last for trial in self._trials.values() if isinstance(trial.last, Unavailable)]
        because = reasons[-1] if reasons else Unavailable(f"every source of {self.file.path} asked to be left alone")
        self.retry.wait(later.seconds, because, doing=self.doing, told="nobody else can be asked now")
        return later.seconds

    def _waits_until(self, url: str) -> float:
        with self._lock:
            trial = self._trials.get(url)
            return 0.0 if trial is None else trial.waits_until

    # --- one attempt

    def attempting(self, source: Source, start: int, stop: int) -> Reading:
        """One attempt to have bytes *start* to *stop* from *source*."""
        return Reading(self, source, start, stop)

    def paced(self, source: Source, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """*pieces* of *source*, watched for being too slow, and no faster than the limits say."""
        steady = watched(
            pieces,
            what=f"{source.url}: {self.file.path}",
            floor=lambda: self.router.floor(source, avoid=self.barred),
            window=WINDOW,
        )
        for name in (source.url, ""):
            if name in self.throttles:
                steady = self.throttles[name].pace(steady, self.retry.deadline)
        return steady

    def progressed(self, source: Source) -> None:
        """*source* has sent something."""
        with self._lock:
            self._trials.setdefault(source.url, _Trial()).failures = 0

    def blame(self, source: Source, error: ModelCacheError) -> None:
        """*source* did wrong: it waits, or is not asked for this file any more."""
        asked = error.retry_after if isinstance(error, RateLimited) else None
        self.router.failed(source, error, self.file.path, retry_after=asked)
        with self._lock:
            trial = self._trials.setdefault(source.url, _Trial())
            trial.last = error
            if isinstance(error, Unavailable):
                trial.failures += 1
                if trial.failures >= self.retry.attempts:
                    error.add_note(f"gave up {self.doing} after {trial.failures} attempts")
                    trial.verdict = error
                else:
                    trial.waits_until = self.router.clock() + self.retry.delay(trial.failures, error)
                return
            trial.lies += isinstance(error, IntegrityError)
            # One of many is left at once. The only one gets another chance: a bit that flipped on the way is right next time.
            if not isinstance(error, IntegrityError) or trial.lies > 1 or len(self.router.sources) > 1:
                trial.verdict = error

    # --- lies

    def source(self, url: str) -> Source:
        """The source at *url*."""
        return next(source for source in self.router.sources if source.url == url)

    def others(self, url: str) -> list[Source]:
        """The sources that may be compared with the one at *url*, the most trustworthy first."""
        barred = self.barred
        found = [each for each in self.router.sources if each.url != url and each.url not in barred]
        return sorted(found, key=lambda each: (-self.router.proven(each.url), each.priority))

    def range_from(self, source: Source, start: int, stop: int) -> bytes:
        """Bytes *start* to *stop*, a few MB at most, of exactly this *source*; raises what it did wrong."""
        received = bytearray()
        with self.attempting(source, start, stop) as reading, closing(reading.pieces()) as pieces:
            for piece in pieces:
                received += piece[: stop - start - len(received)]
                if len(received) == stop - start:
                    return bytes(received)
            msg = f"{source.url} ended {self.file.path} at {start + len(received)}, expected bytes up to {stop}"
            raise BrokenOff(msg)
        with self._lock:
            last = self._trials[source.url].last
        assert last is not None  # noqa: S101  # the block above ends early by a fault only, and that is noted
        raise last

    def set_aside(self, url: str, why: str) -> None:
        """The source at *url* probably lies: it is not asked for this file any more."""
        error = DigestMismatch(f"{self.file.path} from {url}", expected="what others send", actual=why)
        self.router.decided(self.source(url), f"not asked for this file any more: {why}", self.file.path)
        with self._lock:
            self._aside[url] = why
            self._trials.setdefault(url, _Trial()).verdict = error

    def convict(self, url: str, error: IntegrityError, how: str) -> None:
        """The source at *url* lied, which is proven: for a while it is asked for no other file either."""
        self.convicted.append(f"{url} sent wrong bytes: {how}")
        self.router.failed(self.source(url), error, self.file.path)
        with self._lock:
            self._aside.pop(url, None)
            self._trials.setdefault(url, _Trial()).verdict = error

    def begin_again(self, wrong: IntegrityError) -> bool:
        """
        Whether it is worth to fetch all once more: from those that were set aside, or from the only source there is, once.

        Those that sent what is *wrong* now are not asked any more.
        """
        with self._lock:
            aside, self._aside = self._aside, {}
            if aside:
                for source in self.router.sources:
                    trial = self._trials.setdefault(source.url, _Trial())
                    trial.verdict = None if source.url in aside else (trial.verdict or wrong)
                return True
            again, self._begun_again = not self._begun_again, True
            return again

    def proven(self, stretches: Iterable[Stretch]) -> None:
        """The file is right, and came in these *stretches*: who was set aside lied."""
        for stretch in stretches:
            self.router.found_right(stretch.source, stretch.stop - stretch.start)
        for url, why in dict(self._aside).items():
            wrong = DigestMismatch(f"{self.file.path} from {url}", expected="what others send", actual=why)
            self.convict(url, wrong, f"{self.file.path}: {why}")

    def _nobody_left(self) -> ModelCacheError:
        with self._lock:
            verdicts = {url: trial.verdict for url, trial in self._trials.items() if trial.verdict is not None}
        if len(verdicts) == 1:
            return next(iter(verdicts.values()))
        kind = next(kind for kind in _WORST_FIRST if any(isinstance(each, kind) for each in verdicts.values()))
        worst = next(each for each in verdicts.values() if isinstance(each, kind))
        each = "; ".join(error.message for error in verdicts.values())
        general = FileNotFound if kind is NotFound else kind
        return general(
            f"none of {len(verdicts)} sources has sent {self.file.path} of {self.ref}: {each}", hint=worst.hint
        )


def _goes_on(source: Source, claim: Claim, claims: Claims) -> bool:
    """Whether *source* is sending the whole file anyway, as it knows no ranges, and more of it is wanted."""
    return source.bytes.sends_ranges is False and claims.extend(claim)


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        fault = error if isinstance(error, FAULTS) else None
        self._done(fault)
        if fault is not None:
            self._course.blame(self._source, fault)
        elif error is None:
            self._course.router.succeeded(self._source)
        return fault is not None

    def pieces(self) -> Generator[bytes, None, None]:
        """The bytes as the source sends them, watched and paced."""
        start, stop = self._range
        course = self._course
        end = None if stop == course.file.size else stop
        with self._source.bytes.open(course.ref, course.ref.revision, course.file, start=start, stop=end) as sent:
            for piece in course.paced(self._source, self._counted(sent)):
                if piece:
                    course.progressed(self._source)
                yield piece
                course.retry.deadline.check(course.doing)

    def _counted(self, sent: Iterator[bytes]) -> Iterator[bytes]:
        for piece in sent:
            if self._first is None:
                self._first = self._course.monotonic()
            self._received += len(piece)
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
