"""What long work tells about itself while it runs; how that is shown is the CLI's affair."""

from __future__ import annotations

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
