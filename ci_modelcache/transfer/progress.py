"""What long work tells about itself while it runs; how that is shown is the CLI's affair."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """Told about bytes as they move; every method may be called from any thread."""

    def start(self, doing: str, total: int) -> None:
        """*doing* (a word such as "restoring") begins; it is *total* bytes long."""

    def advance(self, count: int) -> None:
        """*count* more bytes are done; negative when bytes proved wrong and are done again."""

    def finish(self) -> None:
        """The work that was started has ended, well or badly."""


class Silent:
    """Progress that nobody wants to see."""

    def start(self, doing: str, total: int) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


class Later:
    """What is told of work that has begun beside an earlier one: *progress* learns it when `start` says that the earlier one has ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._held = 0
        self._begun = False

    def start(self, doing: str, total: int) -> None:
        """The earlier work has ended; go on as if this had just begun, with what is done of it."""
        with self._lock:
            self._progress.finish()
            self._progress.start(doing, total)
            self._progress.advance(self._held)
            self._begun = True

    def advance(self, count: int) -> None:
        """As `Progress.advance`."""
        with self._lock:
            if not self._begun:
                self._held += count
                return
        self._progress.advance(count)

    def finish(self) -> None:
        """As `Progress.finish`, of the one that is shown."""
        self._progress.finish()
