"""What long work tells about itself while it runs; how that is shown is the CLI's affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


def counted(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    """Pass *chunks* on and tell *progress*; bytes of a stream that breaks off for good are taken back."""
    done = 0
    try:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            progress.advance(len(chunk))
    except BaseException:
        progress.advance(-done)
        raise
