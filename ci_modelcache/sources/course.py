"""The only module that goes from source to source for the bytes of one file, until it has them or nobody is left to ask."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import define, field

from ci_modelcache.errors import BrokenOff, RateLimited, Unavailable
from ci_modelcache.sources.attempt import Reading
from ci_modelcache.sources.lies import audit
from ci_modelcache.sources.router import Later, Router, Source
from ci_modelcache.sources.trials import Trials
from ci_modelcache.transfer.assemble import SPLIT
from ci_modelcache.transfer.partial import Revoked

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from ci_modelcache.errors import IntegrityError, ModelCacheError
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.transfer.assemble import Claim, Claims
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.transfer.stretches import Stretch
    from ci_modelcache.transfer.throttle import Throttle

_log = logging.getLogger(__name__)

_TURN = 0.05
"""Seconds until a connection that others have is asked for again."""
_FIRST = 1024 * 1024
"""Bytes that a source sends before it is compared with another: what one of another file can cost."""
_LARGE = 4 * SPLIT
"""Bytes from which on a source is compared with another before it gets more than a first part."""


@define(eq=False, slots=False)
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
    _audited: set[str] = field(factory=set)
    _on_trial: set[str] = field(factory=set)
    """Sources that have a connection for this file and get no second one: not compared yet, or not known to send ranges."""
    sent: Counter[str] = field(factory=Counter)
    """Bytes by URL that `stream` yielded."""
    senders: set[str] = field(factory=set)
    """URLs of who sent what proved wrong, or the same."""
    convicted: list[str] = field(factory=list)
    """What is known about lies by now, in sentences that name the liar."""

    @property
    def doing(self) -> str:
        """What goes on, for messages."""
        return f"fetching {self.file.path} of {self.ref}"

    @cached_property
    def trials(self) -> Trials:
        """What is held against each source."""
        return Trials(tuple(self.router.sources), f"{self.file.path} of {self.ref}", self.retry.attempts)

    # --- as lanes

    def bring(self, claims: Claims, *, alone: Callable[[], bool], stopping: threading.Event) -> None:
        """As `Lanes` says."""
        # Work first: at the end of a file nobody is to wait for a source that has nothing to do.
        while not stopping.is_set() and claims.worth_more():
            source = self._next(alone, stopping)
            if source is None:
                return
            try:
                claim = claims.take(self._span(source), sharers=self.router.connections)
                if claim is None:
                    return
                try:
                    # `Revoked`: it lies, as was found out meanwhile, or the reader is gone.
                    with suppress(Revoked):
                        self._bring(source, claim, claims, stopping)
                        self._audit(source, claim, claims)
                finally:
                    claims.release(claim)
            finally:
                self._on_trial.discard(source.url)
                self.router.give_back(source)

    def room(self) -> bool:
        """As `Lanes` says."""
        return self.router.has_room(avoid=self.trials.barred | self._on_trial, waiting=self.trials.waits_until)

    def _span(self, source: Source) -> int:
        """Little of a large file, until the source was compared with another; then as much as it brings in seconds."""
        if self._is_to_be_audited(source):
            return _FIRST
        # Where there is one connection in all nobody could take a part of it over, and each request would cost for nothing.
        return source.span if self.router.connections > 1 else self.file.size

    def _is_to_be_audited(self, source: Source) -> bool:
        return self.file.size > _LARGE and source.url not in self._audited and bool(self.others(source.url))

    def _audit(self, source: Source, claim: Claim, claims: Claims) -> None:
        if self._is_to_be_audited(source) and claim.offset > claim.start:
            self._audited.add(source.url)
            audit(source, claim, claims, self)

    def _bring(self, source: Source, claim: Claim, claims: Claims, stopping: threading.Event) -> None:
        partial = claims.partial
        with (
            self.attempting(source, claim.start, claim.stop) as reading,
            partial.writing(claim.start, source.url, turn=claims.turn) as pen,
            closing(reading.pieces()) as pieces,
        ):
            for piece in pieces:
                if source.bytes.sends_ranges and not self._is_to_be_audited(source):
                    self._on_trial.discard(source.url)
                rest = piece
                while rest:
                    part, rest = rest[: claim.stop - pen.offset], rest[claim.stop - pen.offset :]
                    pen.write(part)
                    if stopping.is_set() or not (claims.arrived(claim, pen.offset) or _goes_on(source, claim, claims)):
                        return
            msg = f"{source.url} ended {self.file.path} at {pen.offset}, expected bytes up to {claim.stop}"
            raise BrokenOff(msg)

    # --- without a place to keep anything

    def stream(self) -> Generator[bytes, None, None]:
        """The bytes in order, over one connection at a time, from source after source; `sent` counts who sent them."""
        offset, running = 0, threading.Event()
        self.sent.clear()
        while offset < self.file.size:
            source = self._next(lambda: True, running)
            assert source is not None  # noqa: S101  # nobody stops this, and it is alone
            try:
                with (
                    self.attempting(source, offset, self.file.size) as reading,
                    closing(reading.pieces()) as pieces,
                ):
                    for piece in pieces:
                        part = piece[: self.file.size - offset]
                        offset += len(part)
                        self.sent[source.url] += len(part)
                        yield part
                        if offset == self.file.size:
                            return
                    msg = f"{source.url} ended {self.file.path} at {offset} of {self.file.size} bytes"
                    raise BrokenOff(msg)
            finally:
                self._on_trial.discard(source.url)
                self.router.give_back(source)

    # --- one source after another

    def _next(self, alone: Callable[[], bool], stopping: threading.Event) -> Source | None:
        """The source to ask now, with a connection; None when none is free and others are at work already."""
        waited = 0.0
        while not stopping.is_set():
            barred = self.trials.barred
            if all(source.url in barred for source in self.router.sources):
                if self.trials.relent():
                    continue
                raise self.trials.verdict()
            choice = self.router.choose(
                avoid=barred | self._on_trial, waiting=self.trials.waits_until, path=self.file.path, waited=waited
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
        """Wait as long as *later* says; returns the seconds of it that the clock has not seen, none for a turn."""
        if later.busy:
            self.retry.deadline.check(self.doing)
            self.router.wait_for_room(_TURN)
            return 0.0
        because, began = self.trials.last_outage, self.router.clock()
        self.retry.wait(later.seconds, because, doing=self.doing, told="nobody else can be asked now", source=later.url)
        return max(0.0, later.seconds - (self.router.clock() - began))

    def attempting(self, source: Source, start: int, stop: int) -> Reading:
        """One attempt to have bytes *start* to *stop* from *source*."""
        return Reading(self, source, start, stop)

    def blame(self, source: Source, error: ModelCacheError, *, outages: int) -> None:
        """*source* did wrong: it waits, or is not asked for this file any more; *outages* as for `Trials.failed`."""
        asked = error.retry_after if isinstance(error, RateLimited) else None
        self.router.failed(source, error, self.file.path, retry_after=asked)
        failures = self.trials.failed(source.url, error, outages=outages)
        if failures and isinstance(error, Unavailable):
            self.trials.waits(source.url, self.router.clock() + self.retry.delay(failures, error))

    # --- lies

    def source(self, url: str) -> Source:
        """The source at *url*."""
        return next(source for source in self.router.sources if source.url == url)

    def others(self, url: str) -> list[Source]:
        """The sources that may be compared with the one at *url*, the most trustworthy first."""
        barred = self.trials.barred
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
        raise self.trials.last(source.url)

    def set_aside(self, url: str, why: str) -> None:
        """The source at *url* probably lies: it is not asked for this file any more."""
        self.router.decided(self.source(url), f"not asked for this file any more: {why}", self.file.path)
        self.trials.set_aside(url, why)

    def convict(self, url: str, error: IntegrityError, how: str) -> None:
        """The source at *url* lied, which is proven: for a while it is asked for no other file either."""
        self.convicted.append(f"{url} sent wrong bytes: {how}")
        _log.warning("%s; they were taken from others", self.convicted[-1])
        self.router.failed(self.source(url), error, self.file.path)
        self.trials.convict(url, error)

    def proven(self, stretches: Iterable[Stretch]) -> None:
        """The file is right, and came in these *stretches*: who was set aside lied."""
        for stretch in stretches:
            self.router.found_right(stretch.source, stretch.stop - stretch.start)
        for url, why in self.trials.suspects().items():
            self.convict(url, self.trials.lie(url, why), f"{self.file.path}: {why}")


def _goes_on(source: Source, claim: Claim, claims: Claims) -> bool:
    """Whether *source* is sending the whole file anyway, as it knows no ranges, and more of it is wanted."""
    return source.bytes.sends_ranges is False and claims.extend(claim)
