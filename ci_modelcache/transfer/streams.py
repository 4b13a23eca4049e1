"""The only module that turns connections that break into a stream that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ci_modelcache.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.transfer.retry import RetryPolicy


class OpenAt(Protocol):
    """Opens a body at an offset in bytes; the iterator yields what follows, and may break with `Unavailable`."""

    def __call__(self, start: int, /) -> AbstractContextManager[Iterator[bytes]]:
        """Open at *start*."""


def read_through(open_at: OpenAt, size: int, retry: RetryPolicy, *, what: str) -> Generator[bytes, None, None]:
    """
    Yield exactly *size* bytes of *what*, reopening at the offset reached when a read breaks off.

    Failures are counted since the last byte: a slow source that makes progress never runs out of
    attempts, only of the deadline. A source that sends more than *size* is cut off there and left to the digest.
    Whatever *open_at* opened is closed before the next try, and when the reader stops early.
    """
    doing = f"reading {what}"
    offset, failures = 0, 0
    while offset < size:
        retry.deadline.check(doing)
        try:
            with open_at(offset) as chunks:
                for chunk in chunks:
                    piece = chunk[: size - offset]
                    if piece:
                        offset, failures = offset + len(piece), 0
                        yield piece
                    if offset >= size:
                        break
                    retry.deadline.check(doing)
            if offset < size:
                msg = f"{what}: the stream ended at {offset} of {size} bytes"
                raise Unavailable(msg)  # noqa: TRY301  # an early end is one more way to break off
        except Unavailable as error:
            failures += 1
            retry.pause(failures, error, doing=doing)


def exactly_next(chunks: Iterator[bytes], rest: bytes, size: int) -> tuple[list[bytes], bytes]:
    """The next *size* bytes of *rest* and *chunks*, or all when there are fewer, in pieces; and what is left of the last piece taken."""
    found: list[bytes] = []
    while size:
        if not rest:
            rest = next(chunks, b"")
            if not rest:
                break
        found.append(rest[:size])
        rest = rest[len(found[-1]) :]
        size -= len(found[-1])
    return found, rest


def spent(pieces: list[bytes]) -> Iterator[bytes]:
    """All of *pieces*, none of which is held after it: what was passed on makes room for what comes."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()
