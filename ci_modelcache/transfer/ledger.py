"""The only module that says where a step's time went."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.events import Attempt, FileDone, TokenAsked, Unrecorded, Waited

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.transfer.events import Event, Events

_TOLD = 3
"""So many waits, and so many sources that failed; the others are too small to matter."""
_LEAST = 0.5


class Ledger:
    """
    `Events` that are added up and passed on to *behind*; `sentence` says the sum.

    Of what several threads do at one time each second counts once. Pauses are to be told as they begin, attempts when they end.
    """

    def __init__(self, behind: Events | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._behind = behind or Unrecorded()
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: dict[tuple[str, str], _Seconds] = defaultdict(_Seconds)
        self._failed: dict[tuple[str, str], _Seconds] = defaultdict(_Seconds)
        self._receiving = _Seconds()
        self._tries: Counter[tuple[str, str]] = Counter()
        self._received: Counter[str] = Counter()
        self._proven: Counter[str] = Counter()

    def record(self, event: Event, /) -> None:
        with self._lock:
            self._add(event, self._clock())
        self._behind.record(event)

    def _add(self, event: Event, now: float) -> None:
        match event:
            case Waited(source=source, seconds=seconds, reason=reason):
                self._waits[source, reason].add(now, now + seconds)
            case TokenAsked(host=host, seconds=seconds):
                self._waits[host, "token"].add(now - seconds, now)
            case Attempt(source=source, cause=cause, seconds=seconds, received=received):
                self._received[source] += received
                if received:
                    self._receiving.add(now - seconds, now)
                if cause != "ok":
                    self._tries[source, cause] += 1
                    self._failed[source, cause].add(now - seconds, now)
            case FileDone(sources=sources):
                self._proven.update(sources)
            case _:
                return

    def sentence(self) -> str:
        """
        ``waited 41 s for https://a (rate-limited), 12 s in 5 tries of https://b (unavailable); received 412.0 MB in 95 s``.

        Empty when nothing happened that takes time.
        """
        with self._lock:
            now = self._clock()
            lost = [*self._waited(now), *self._failing(now)]
            return "; ".join(part for part in (", ".join(lost), self._receipts(now, lost=bool(lost))) if part)

    def _waited(self, now: float) -> list[str]:
        told = _largest(self._waits, now, least=_LEAST)
        words = [f"{_seconds(spent)}{_for(source)} ({reason})" for spent, (source, reason) in told]
        return [f"waited {words[0]}", *words[1:]] if words else []

    def _failing(self, now: float) -> list[str]:
        return [
            f"{_seconds(spent)} in {_counted(self._tries[each])}{_of(each[0])} ({each[1]})"
            for spent, each in _largest(self._failed, now, least=0.0)
        ]

    def _receipts(self, now: float, *, lost: bool) -> str:
        # A store tells no attempts, only what was proven of it.
        stores = {source: size for source, size in self._proven.items() if source not in self._received}
        sources = +(self._received + Counter(stores))
        if not sources:
            return "received nothing" if lost else ""
        seconds = self._receiving.total(now)
        during = f" in {_seconds(seconds)}" if seconds >= _LEAST else ""
        said = [f"{format_bytes(size)} from {source}" for source, size in sources.most_common(_TOLD)]
        if len(said) == 1:
            return f"received {said[0]}{during}"
        return f"received {format_bytes(sources.total())}{during} ({', '.join(said)})"


def _largest(
    spent: dict[tuple[str, str], _Seconds], now: float, *, least: float
) -> list[tuple[float, tuple[str, str]]]:
    totals = [(seconds.total(now), each) for each, seconds in spent.items()]
    return sorted((each for each in totals if each[0] >= least), reverse=True)[:_TOLD]


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def _counted(tries: int) -> str:
    return "1 try" if tries == 1 else f"{tries} tries"


def _for(source: str) -> str:
    return f" for {source}" if source else ""


def _of(source: str) -> str:
    return f" of {source}" if source else ""


class _Seconds:
    """Stretches of time; where they overlap, they count once."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def add(self, start: float, end: float) -> None:
        first, after = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < after:
            start, end = min(start, self._starts[first]), max(end, self._ends[after - 1])
        self._starts[first:after] = [start]
        self._ends[first:after] = [end]

    def total(self, now: float) -> float:
        """Seconds until *now*: a pause that was cut short did not last as long as it was to."""
        return sum(max(0.0, min(end, now) - start) for start, end in zip(self._starts, self._ends, strict=True))
