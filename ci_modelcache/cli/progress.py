"""The only module that shows progress: a bar on a terminal, a line every few seconds in a CI log."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import TYPE_CHECKING, TextIO

from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

EVERY = 5.0
"""Seconds between two lines."""
_WINDOW = 15.0
"""Seconds over which the speed is measured: long enough to be calm, short enough to show a stall."""
_EXACT = 10.0
"""Seconds below which a tenth is worth showing."""
_MINUTE, _HOUR = 60, 3600
_COMMIT = re.compile(r"(@[0-9a-f]{12})[0-9a-f]{28}\b")
"""A commit, of which a bar has room for the digits that other output shows."""
_BAR = 10
"""Columns; with 80 of them the name keeps half a line."""


def format_seconds(seconds: float) -> str:
    """*seconds* for people: ``58 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


class Lines:
    """
    Writes ``restoring org/name: 1.2 GB of 13.4 GB, 210 MB/s, 58 s left`` to *stream*, at most every `EVERY` seconds,
    and one line at the end of each piece of work, which tells a finished one from one that was broken off.
    """

    def __init__(self, stream: Callable[[], TextIO], *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._running = False
        self._begin("", 0)

    def _begin(self, doing: str, total: int) -> None:
        self._doing, self._total, self._done = doing, total, 0
        self._started = self._told = self._clock()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)])

    def start(self, doing: str, total: int) -> None:
        with self._lock:
            self._begin(doing, total)
            self._running = True

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = self._clock()
            if self._running and now - self._told >= EVERY:
                self._told = now
                self._write(self._line(now))

    def finish(self) -> None:
        with self._lock:
            if self._running:
                self._running = False
                self._write(self._last_line(self._clock()))

    def _shown(self) -> int:
        return min(max(self._done, 0), self._total)

    def _line(self, now: float) -> str:
        self._recent.append((now, self._done))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _WINDOW:  # noqa: PLR2004  # a speed has two ends
            self._recent.popleft()
        then, before = self._recent[0]
        speed = max(0.0, (self._done - before) / (now - then))
        amount = f"{format_bytes(self._shown())} of {format_bytes(self._total)}, {format_bytes(speed)}/s"
        left = f", {format_seconds((self._total - self._shown()) / speed)} left" if speed else ""
        return f"{self._doing}: {amount}{left}"

    def _last_line(self, now: float) -> str:
        took = now - self._started
        if self._done < self._total:
            return f"{self._doing}: stopped at {format_bytes(self._shown())} of {format_bytes(self._total)}"
        speed = f", {format_bytes(self._total / took)}/s" if self._total and took > 0 else ""
        exactly = f"{took:.1f} s" if took < _EXACT else format_seconds(took)
        return f"{self._doing}: done, {format_bytes(self._total)} in {exactly}{speed}"

    def _write(self, line: str) -> None:
        print(line, file=self._stream(), flush=True)


class Bar:
    """One bar of *bars* (a `rich.progress.Progress`), which is gone when the work is."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._lock = threading.Lock()
        self._tasks: list[TaskID] = []
        self._done, self._total = 0, 0

    def start(self, doing: str, total: int) -> None:
        with self._lock:
            self._clear()
            self._done, self._total = 0, total
            self._bars.start()
            self._tasks.append(self._bars.add_task(_COMMIT.sub(r"\1", doing), total=total))

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            for task in self._tasks:
                self._bars.update(task, completed=min(max(self._done, 0), self._total))

    def finish(self) -> None:
        with self._lock:
            self._clear()

    def refresh(self) -> None:
        """Draw now; it is done several times a second anyway."""
        self._bars.refresh()

    def _clear(self) -> None:
        self._bars.stop()
        while self._tasks:
            self._bars.remove_task(self._tasks.pop())


def terminal_bar(stream: TextIO, *, color: bool, clock: Callable[[], float]) -> Bar:
    """A bar with bytes, speed and time left on the terminal *stream*."""
    from rich import progress  # noqa: PLC0415  # 100 ms that logs of CI jobs do not need
    from rich.console import Console  # noqa: PLC0415  # as above
    from rich.table import Column  # noqa: PLC0415  # as above

    return Bar(
        progress.Progress(
            # What is cut when the terminal is narrow is the name: numbers of two lines are no numbers.
            progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            progress.BarColumn(bar_width=_BAR),
            progress.DownloadColumn(table_column=Column(no_wrap=True)),
            progress.TransferSpeedColumn(table_column=Column(no_wrap=True)),
            progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=Console(file=stream, no_color=not color, force_terminal=True),
            transient=True,
            get_time=clock,
            expand=True,
        )
    )
