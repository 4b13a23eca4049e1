"""The only module that knows from what a long stream of bytes is taken: a file, parts of one, something with offsets elsewhere, or a pipe."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from attrs import field, frozen

from ci_modelcache.errors import AccessDenied, FileNotFound, Unavailable
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ci_modelcache.transfer.retry import RetryPolicy

PIECE = 1 << 20
"""Bytes that are read at a time."""
_WORTH = 4 << 20
"""Bytes from which on it is better to open anew than to read on and look away."""


class Inlet(Protocol):
    """Bytes with offsets, which can be read from anywhere, more than once and by several at a time."""

    @property
    def name(self) -> str:
        """What its user calls it."""

    @property
    def size(self) -> int:
        """All bytes of it."""

    def open(self, start: int, /) -> AbstractContextManager[Iterator[bytes]]:
        """
        The bytes from offset *start* on; one attempt (`transfer.streams.OpenAt`).

        Raises `AccessDenied`, `FileNotFound`, and what may pass as `Unavailable`.
        """


@runtime_checkable
class Pipe(Protocol):
    """Bytes that come once."""

    @property
    def name(self) -> str:
        """What its user calls it."""

    def chunks(self) -> Iterator[bytes]:
        """All of them, in pieces; to be called once."""


@frozen
class FileInlet:
    """The file at *path*, which has *size* bytes."""

    path: Path
    size: int

    @property
    def name(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self, start: int, /) -> Iterator[Iterator[bytes]]:
        with explaining_failure(self.path):
            file = self.path.open("rb", buffering=0)
        with file:
            file.seek(start)
            yield _pieces(file, self.path)


@frozen
class PartsInlet:
    """The *parts* of one file behind each other, called *name*."""

    name: str
    parts: tuple[Inlet, ...]
    size: int = field(init=False)

    @size.default
    def _sum(self) -> int:
        return sum(part.size for part in self.parts)

    @contextmanager
    def open(self, start: int, /) -> Iterator[Iterator[bytes]]:
        yield self._from(start)

    def _from(self, start: int) -> Iterator[bytes]:
        for part in self.parts:
            if start < part.size:
                with part.open(start) as chunks:
                    yield from chunks
            start = max(0, start - part.size)


@frozen
class FilePipe:
    """Whatever the open *file*, called *name*, gives."""

    name: str
    file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        return _pieces(self.file, self.name)


@frozen
class NamedPipe:
    """Whatever is written to the pipe or comes from the device at *path*."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def chunks(self) -> Iterator[bytes]:
        with explaining_failure(self.path):
            file = self.path.open("rb", buffering=0)
        with file:
            yield from _pieces(file, self.path)


def _pieces(file: BinaryIO, what: object) -> Iterator[bytes]:
    with explaining_failure(what):
        # Of a pipe whatever is there: a buffer would wait until it is full.
        yield from iter(partial(os.read, file.fileno(), PIECE), b"")


@contextmanager
def explaining_failure(what: object) -> Iterator[None]:
    """Turn the system's refusals to read *what* into `FileNotFound`, `AccessDenied` and `Unavailable`."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f"there is no file {what}"
        raise FileNotFound(msg, hint="check the name, and that the medium is there") from error
    except PermissionError as error:
        msg = f"cannot read {what}: {error.strerror}"
        raise AccessDenied(msg, hint="run as the user who owns it, or change its permissions") from error
    except OSError as error:
        msg = f"cannot read {what}: {error.strerror}"
        raise Unavailable(msg, hint="check the disk that it is on") from error


class Reading:
    """A way through *inlet* from its begin to its end, which passes over much by opening anew; a `model.tar_reader.Stream`."""

    def __init__(self, inlet: Inlet, *, retry: RetryPolicy) -> None:
        self._inlet = inlet
        self._retry = retry
        self._open(0)

    def _open(self, start: int) -> None:
        inlet, rest = self._inlet, self._inlet.size - start
        self._begin = start
        self._chunks = _closable(
            read_through(lambda more: inlet.open(start + more), rest, self._retry, what=inlet.name)
        )
        self._ahead = Ahead(self._chunks)

    def close(self) -> None:
        """Let go of what is open."""
        self._chunks.close()

    @property
    def position(self) -> int:
        return self._begin + self._ahead.position

    def take(self, size: int) -> bytes:
        return self._ahead.take(size)

    def skip(self, size: int) -> int:
        if size < _WORTH:
            return self._ahead.skip(size)
        here = self.position
        there = min(here + size, self._inlet.size)
        self._chunks.close()
        self._open(there)
        return there - here


def _closable(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    yield from chunks


class Ahead:
    """*chunks* as a `model.tar_reader.Stream`."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")
        self.position = 0

    def take(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> int:
        return sum(len(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next *size* bytes as they come; fewer at the end alone."""
        rest = size
        while rest:
            if not self._held:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._held = memoryview(chunk)
            piece, self._held = self._held[:rest], self._held[rest:]
            rest -= len(piece)
            self.position += len(piece)
            yield bytes(piece)
