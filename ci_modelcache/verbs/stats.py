"""Count what reports tell: how fast each source was, how often it failed, what was retried, and what the store saved."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from attrs import define, field

from ci_modelcache.transfer.events import Attempt, Decision, FileDone, SnapshotDone, TokenAsked, Waited
from ci_modelcache.transfer.report import RunStarted, Skipped, read
from ci_modelcache.verbs.figures import SnapshotStats, SourceStats, StatsReport, TokenStats
from ci_modelcache.verbs.measures import Sample, TimelineBuilder, share

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci_modelcache.transfer.events import Event
    from ci_modelcache.transfer.report import Recorded

SLOW_BELOW = 1_000_000
"""Bytes a second: below, a download of a gigabyte takes longer than a quarter of an hour."""

TELLING_BYTES = 1_000_000
TELLING_SECONDS = 1.0
"""A download of fewer bytes in less time tells how long a request takes, and nothing about speed."""

_OK, _CACHED = "ok", "cached"
_SHOWN = 20
_MOST_NAMES = 500
_OTHERS = "(others)"
"""What further sources, causes and the like count as: a file that names a million of them must not fill the memory."""


def stats(paths: Iterable[Path], *, slow_below: int = SLOW_BELOW) -> StatsReport:
    """
    The figures of the reports *paths* together, read once and line by line; *slow_below* is in bytes a second.

    Raises `ConfigError` for a file that is no report.
    """
    tally = _Tally(slow_below)
    names = []
    for path in paths:
        names.append(str(path))
        tally.next_file()
        for line in read(path):
            if isinstance(line, Skipped):
                tally.skip(line)
            else:
                tally.take(line)
    return tally.report(tuple(names))


def _count(names: Counter[str], name: str) -> None:
    names[name if name in names or len(names) < _MOST_NAMES else _OTHERS] += 1


@define
class _Source:
    """What is known of one source so far."""

    attempts: int = 0
    causes: Counter[str] = field(factory=Counter)
    received: int = 0
    used: int = 0
    seconds: float = 0.0
    speeds: Sample = field(factory=Sample)
    slow: int = 0
    ttfb: Sample = field(factory=Sample)
    waits: int = 0
    waited: float = 0.0
    decisions: int = 0

    def attempt(self, event: Attempt, slow_below: int) -> None:
        self.attempts += 1
        if event.cause != _OK:
            _count(self.causes, event.cause)
        if not event.path:
            return
        self.received += event.received
        self.seconds += event.seconds
        if event.first_byte is None:
            return
        self.ttfb.add(event.first_byte)
        if event.seconds > 0 and (event.received >= TELLING_BYTES or event.seconds >= TELLING_SECONDS):
            speed = event.received / event.seconds
            self.speeds.add(speed)
            self.slow += speed < slow_below

    def stats(self, source: str) -> SourceStats:
        failures = self.causes.total()
        return SourceStats(
            source=source,
            attempts=self.attempts,
            failures=failures,
            error_rate=share(failures, self.attempts),
            causes=dict(self.causes.most_common()),
            cause_rates={cause: number / self.attempts for cause, number in self.causes.most_common()},
            received=self.received,
            used=self.used,
            seconds=self.seconds,
            speed=share(self.received, self.seconds),
            speeds=self.speeds.spread(),
            slow=self.slow,
            slow_share=share(self.slow, self.speeds.seen),
            ttfb=self.ttfb.spread(),
            waits=self.waits,
            waited=self.waited,
            decisions=self.decisions,
        )


class _Files:
    """Which files were asked for, and which attempts came again for bytes that an earlier one had failed to bring."""

    def __init__(self) -> None:
        self.proven = 0
        self.retries = 0
        self._open: dict[tuple[str, str], list[tuple[int, float]]] = {}
        """By run and path, of files that are not proven yet: the ranges that failed, and that nobody has asked for again."""

    @property
    def asked(self) -> int:
        return self.proven + len(self._open)

    def attempt(self, run: str, event: Attempt) -> None:
        failed = self._open.setdefault((run, event.path), [])
        for number, (start, stop) in enumerate(failed):
            if start <= event.start < stop:
                self.retries += 1
                del failed[number]
                break
        if event.cause != _OK:
            stop = math.inf if event.stop is None else event.stop
            failed.append((event.start, max(stop, event.start + 1)))

    def done(self, run: str, event: FileDone) -> None:
        # A file that came from the store alone was nobody's to send.
        if self._open.pop((run, event.path), None) is not None:
            self.proven += 1


class _Snapshots:
    """What became of whole snapshots."""

    def __init__(self) -> None:
        self._number: Counter[str] = Counter()
        self._size: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._received = 0
        self._seconds = 0.0

    def done(self, event: SnapshotDone) -> None:
        if event.result in {"local", "hit", "miss"}:
            self._number[event.result] += 1
            self._size[event.result] += event.size
        else:
            _count(self._failed, event.result)
        if event.received:
            self._received += event.received
            self._seconds += event.seconds

    def stats(self) -> SnapshotStats:
        number, size = self._number, self._size
        return SnapshotStats(
            local=number["local"],
            hit=number["hit"],
            miss=number["miss"],
            failed=dict(self._failed.most_common()),
            local_size=size["local"],
            hit_size=size["hit"],
            miss_size=size["miss"],
            hit_ratio=share(number["local"] + number["hit"], number.total()),
            hit_ratio_bytes=share(size["local"] + size["hit"], size.total()),
            received=self._received,
            seconds=self._seconds,
            speed=share(self._received, self._seconds),
        )


class _Tokens:
    """What was asked of providers of tokens."""

    def __init__(self) -> None:
        self._requests = 0
        self._cached = 0
        self._causes: Counter[str] = Counter()
        self._seconds = 0.0

    def asked(self, event: TokenAsked) -> None:
        if event.cause == _CACHED:
            self._cached += 1
            return
        self._requests += 1
        self._seconds += event.seconds
        if event.cause != _OK:
            _count(self._causes, event.cause)

    def stats(self) -> TokenStats:
        failures = self._causes.total()
        return TokenStats(
            requests=self._requests,
            failures=failures,
            failure_rate=share(failures, self._requests),
            causes=dict(self._causes.most_common()),
            cached=self._cached,
            seconds=self._seconds,
        )


class _Tally:
    """All that was read so far."""

    def __init__(self, slow_below: int) -> None:
        self._slow_below = slow_below
        self._file = 0
        self._events = 0
        self._times: list[float] = []
        self._runs: Counter[str] = Counter()
        self._total = _Source()
        self._sources: dict[str, _Source] = {}
        self._files = _Files()
        self._snapshots = _Snapshots()
        self._tokens = _Tokens()
        self._timeline = TimelineBuilder()
        self._torn: list[str] = []
        self._torn_count = 0
        self._skipped: Counter[str] = Counter()

    def next_file(self) -> None:
        """The lines that follow are of another file: their runs are others, whatever they are called."""
        self._file += 1

    def skip(self, line: Skipped) -> None:
        """A line that was not understood."""
        if line.what:
            _count(self._skipped, line.what)
            return
        self._torn_count += 1
        if self._torn_count <= _SHOWN:
            self._torn.append(line.where)

    def take(self, line: Recorded) -> None:
        """A line that was understood."""
        self._events += 1
        self._times = [min([*self._times, line.at]), max([*self._times, line.at])]
        for name in line.unknown:
            _count(self._skipped, name)
        if isinstance(line.event, RunStarted):
            _count(self._runs, line.event.command)
        else:
            self._event(line.event, line.at, f"{self._file}/{line.run}")

    def _event(self, event: Event, at: float, run: str) -> None:
        match event:
            case Attempt():
                self._attempt(event, at, run)
            case Decision():
                self._source(event.source).decisions += 1
                self._total.decisions += 1
            case Waited():
                for each in (self._source(event.source), self._total):
                    each.waits += 1
                    each.waited += event.seconds
            case TokenAsked():
                self._tokens.asked(event)
            case FileDone():
                self._files.done(run, event)
                for source, size in event.sources.items():
                    self._source(source).used += size
                    self._total.used += size
            case SnapshotDone():
                self._snapshots.done(event)

    def _attempt(self, event: Attempt, at: float, run: str) -> None:
        self._source(event.source).attempt(event, self._slow_below)
        self._total.attempt(event, self._slow_below)
        if event.path:
            self._files.attempt(run, event)
            self._timeline.add(self._name(event.source), event.received, begin=at - event.seconds, end=at)

    def _name(self, source: str) -> str:
        return source if source in self._sources or len(self._sources) < _MOST_NAMES else _OTHERS

    def _source(self, source: str) -> _Source:
        return self._sources.setdefault(self._name(source), _Source())

    def report(self, names: tuple[str, ...]) -> StatsReport:
        """The figures of all that was read."""
        sources = (source.stats(name) for name, source in self._sources.items())
        return StatsReport(
            reports=names,
            runs=dict(self._runs.most_common()),
            since=self._times[0] if self._times else None,
            until=self._times[1] if self._times else None,
            events=self._events,
            slow_below=self._slow_below,
            total=self._total.stats("all"),
            sources=tuple(sorted(sources, key=lambda one: (-one.received, -one.used, one.source))),
            files=self._files.asked,
            proven=self._files.proven,
            retries=self._files.retries,
            retry_rate=None if not self._files.asked else 100 * self._files.retries / self._files.asked,
            snapshots=self._snapshots.stats(),
            tokens=self._tokens.stats(),
            timeline=self._timeline.timeline(),
            torn=tuple(self._torn),
            torn_count=self._torn_count,
            skipped=dict(self._skipped.most_common()),
        )
