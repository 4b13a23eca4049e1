"""
The only module that decides which source is asked next: by what was measured, and it says why.

Of the sources that may be asked now, those within a quarter of the best are equally good, and the least busy of them is
taken; a few requests go to others, so that a mirror that has recovered is found. One that lied, broke off or stalled too often is
barred for a while, one that asked for less is left alone until then: unless nobody else is left.
"""

from __future__ import annotations

import logging
import random as _random
import threading
import time
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from ci_modelcache.sources.health import Cause, Health, cause_of
from ci_modelcache.transfer.assemble import SPLIT
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.events import Decision, Events, Unrecorded
from ci_modelcache.transfer.watch import Floor

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from ci_modelcache.sources.protocol import ByteSource

_log = logging.getLogger(__name__)

_BAND = 0.75
"""Of the best speed: what is faster than this is as good as the best."""
_EXPLORED = 0.05
"""The share of requests that go to a source which is not the best."""
_OLD = 300.0
"""Seconds after which a measurement is worth another look."""
_HOPED = 1_000_000.0
"""Bytes a second that are expected of a source which nobody has measured."""
_TOO_SLOW = 0.125
"""Of what another source does: who is slower than this is left."""
_FIRST_WINDOW = 8
_WIDEST = 16
"""Connections to one source at a time: at first, and at most."""
_GROWTH = 1.1
"""How much more all connections together must bring for another one to have been worth it."""
_SPAN_SECONDS = 1.0
"""What one request asks for, in seconds of its source: enough that the way there is small beside it, and no more, as whoever
reads in order waits for the first of all that are at work."""
_LONGEST = 64 * 1024 * 1024


@define(eq=False)
class Source:
    """One source of bytes with its place in the order, its health, and the connections that it has now."""

    bytes: ByteSource
    priority: int
    health: Health = field(factory=Health)
    busy: int = 0
    window: float = _FIRST_WINDOW
    full_rate: float = 0.0
    """Bytes a second that all its connections together brought when the window was last widened."""

    @property
    def url(self) -> str:
        """Its address."""
        return self.bytes.url

    @property
    def expected(self) -> float:
        """Bytes a second that one connection is expected to bring."""
        return self.health.speed or _HOPED

    @property
    def span(self) -> int:
        """Bytes to ask for at a time: what one connection brings in a second, but at least `SPLIT`, and 64 MiB at most."""
        if self.health.speed is None:
            return SPLIT
        return min(_LONGEST, max(SPLIT, int(self.health.speed * _SPAN_SECONDS)))


@frozen
class Choice:
    """The *source* to ask, with a connection that is counted until `Router.give_back`, and *why*."""

    source: Source
    why: str


@frozen
class Later:
    """Nobody can be asked for *seconds*; *busy*: somebody could, but for the connections that it has already."""

    seconds: float
    busy: bool
    url: str = ""
    """Who is waited for."""


class Router:
    """
    The sources of one step, shared by all its threads.

    *connections* bounds all of them together. *clock* is in seconds since the epoch, as what mirrors ask for outlives a process.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        connections: int,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = _random.random,
        events: Events | None = None,
    ) -> None:
        self.sources: Sequence[Source] = tuple(sources)
        self.clock = clock
        self.events = events or Unrecorded()
        self.connections = connections
        self.random = random
        self._lock = threading.Condition()
        self._last: dict[str, str] = {}

    # --- choosing

    def choose(
        self, *, avoid: Container[str], waiting: Callable[[str], float], path: str, waited: float = 0.0
    ) -> Choice | Later:
        """
        The source to ask for a range of *path* now.

        *avoid* are URLs that are of no use for it, *waiting* tells until when (on `clock`) one is not to be asked again for it.
        *waited*: seconds that have been waited for, and that `clock` does not show.
        """
        with self._lock:
            now = self.clock() + waited
            useful = [source for source in self.sources if source.url not in avoid]
            if not useful or sum(source.busy for source in self.sources) >= self.connections:
                return Later(0.0, busy=True)
            open_ = [source for source in useful if self._opens(source, waiting, barred=True) <= now]
            ready = [source for source in open_ if source.busy < int(source.window)]
            if ready:
                return self._taken(*self._best(ready, now), path)
            if open_:
                return Later(0.0, busy=True)
            return self._last_resort(useful, waiting, now, path)

    def _opens(self, source: Source, waiting: Callable[[str], float], *, barred: bool) -> float:
        until = max(source.health.limited_until, waiting(source.url))
        return max(until, source.health.barred_until) if barred else until

    def _last_resort(
        self, useful: list[Source], waiting: Callable[[str], float], now: float, path: str
    ) -> Choice | Later:
        opens = {source.url: self._opens(source, waiting, barred=False) for source in useful}
        willing = [source for source in useful if opens[source.url] <= now]
        free = [source for source in willing if source.busy < int(source.window)]
        if free:
            return self._taken(
                min(free, key=lambda each: each.health.barred_until), "barred, but nobody else is left", path
            )
        soonest, url = min(((until, url) for url, until in opens.items()), default=(now, ""))
        return Later(max(0.0, soonest - now), busy=bool(willing), url=url)

    def _best(self, ready: list[Source], now: float) -> tuple[Source, str]:
        if len(ready) == 1:
            return ready[0], "the only one that can be asked now"
        unknown = [source for source in ready if source.health.speed is None and source.busy == 0]
        if unknown and (len(unknown) == len(ready) or any(source.busy for source in self.sources)):
            return min(unknown, key=lambda each: each.priority), "not measured yet"
        old = [source for source in ready if source.busy == 0 and now - source.health.seen > _OLD]
        if old and self.random() < _EXPLORED:
            return min(old, key=lambda each: each.health.seen), "not measured for minutes"
        best = max(source.expected for source in ready)
        good = [source for source in ready if source.expected >= _BAND * best]
        chosen = min(good, key=lambda each: (each.busy / each.window, each.priority))
        speed = f"{format_bytes(chosen.expected)}/s"
        if len(good) == 1:
            return chosen, f"the fastest: {speed}"
        return chosen, f"the least busy of {len(good)} that are about as fast: {speed}"

    def _taken(self, source: Source, why: str, path: str) -> Choice:
        source.busy += 1
        if self._last.get(path) != source.url:
            self._last[path] = source.url
            self.decided(source, f"asked: {why}", path)
        return Choice(source, why)

    def has_room(self, *, avoid: Container[str], waiting: Callable[[str], float]) -> bool:
        """Whether another connection could be opened now to a source that is no worse than what is at work."""
        with self._lock:
            now = self.clock()
            if sum(source.busy for source in self.sources) >= self.connections:
                return False
            ready = [
                source
                for source in self.sources
                if source.url not in avoid
                and self._opens(source, waiting, barred=True) <= now
                and source.busy < int(source.window)
            ]
            # Nobody is helped by a connection to a source that takes longer for a part than the others for all of it.
            best = max((source.expected for source in self.sources if source.busy), default=0.0)
            return any(source.expected >= _TOO_SLOW * best for source in ready)

    # --- learning

    def give_back(self, source: Source) -> None:
        """The connection of a `Choice` has ended."""
        with self._lock:
            source.busy -= 1
            self._lock.notify()

    def wait_for_room(self, seconds: float) -> None:
        """Wait until a connection is given back, *seconds* at most."""
        with self._lock:
            self._lock.wait(seconds)

    def measured(self, source: Source, *, first_byte: float | None, received: int, seconds: float) -> None:
        """An attempt brought *received* bytes in *seconds*, the first of them after *first_byte* seconds."""
        with self._lock:
            source.health.measured(first_byte=first_byte, received=received, seconds=seconds, now=self.clock())

    def succeeded(self, source: Source) -> None:
        """An attempt brought all that was asked for; another connection is tried as long as that brings more."""
        with self._lock:
            source.health.succeeded()
            rate = source.busy * source.expected
            if source.busy >= int(source.window) and rate >= _GROWTH * source.full_rate:
                source.window = min(_WIDEST, source.window + 1)
                source.full_rate = rate

    def failed(self, source: Source, error: BaseException, path: str, *, retry_after: float | None = None) -> None:
        """An attempt ended with *error*; says so when that bars the source."""
        cause = cause_of(error)
        with self._lock:
            now = self.clock()
            if source.health.failed(cause, now=now, retry_after=retry_after):
                seconds = source.health.barred_until - now
                self.decided(source, f"left alone for {seconds:.0f} s, the last reason: {error}", path)
            if cause in {Cause.RATE_LIMITED, Cause.UNAVAILABLE}:
                source.window = max(1.0, source.window / 2)
                source.full_rate = 0.0

    def found_right(self, url: str, size: int) -> None:
        """*size* bytes that the source at *url* sent were proven."""
        with self._lock:
            for source in self.sources:
                if source.url == url:
                    source.health.found_right(size)

    def proven(self, url: str) -> int:
        """Bytes of the source at *url* that were ever proven."""
        with self._lock:
            return next((source.health.proven for source in self.sources if source.url == url), 0)

    def floor(self, source: Source, *, avoid: Container[str], own: float = 0.0) -> Floor:
        """
        What a connection to *source* has to bring at least, given what could be had instead; *own* is its best until now.

        Nothing when nothing better is to be had: who is slow everywhere has a slow link, which no other mirror mends.
        """
        with self._lock:
            now = self.clock()
            others = [
                other
                for other in self.sources
                if other is not source and other.url not in avoid and other.health.state(now) in {"ready", "unknown"}
            ]
            could = max(source.health.speed or 0.0, own)
            best = max(others, key=lambda each: each.expected, default=source)
            if best.expected > could and best is not source:
                could = best.expected
            else:
                best = source
            # Many connections share one link: then each of them is slower than one alone was.
            sharing = max(1.0, sum(each.busy for each in self.sources) / 2)
            if best is source:
                because = f"it has brought {format_bytes(could)} a second"
            elif best.health.speed:
                because = f"{best.url} has brought {format_bytes(could)} a second"
            else:
                because = f"{best.url} has not been tried"
            return Floor(_TOO_SLOW * could / sharing, because)

    def decided(self, source: Source, reason: str, path: str) -> None:
        """Tell a decision about *source*, in words."""
        _log.info("%s: %s (%s)", source.url, reason, path)
        source.health.decided = f"{reason} ({path})" if path else reason
        self.events.record(Decision(source.url, reason, path))
