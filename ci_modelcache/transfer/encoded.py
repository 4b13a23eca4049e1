"""
The only module that knows how packed frames lie one after the other: an index of all, then the frames (docs/encoding.md).

Whatever the index says, no more is unpacked than was asked for, and never more than one frame is in memory.
"""

from __future__ import annotations

import struct
import threading
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, Self

from attrs import field, frozen

from ci_modelcache.errors import IntegrityError, Unavailable
from ci_modelcache.transfer.bytegroup import FRAME, PLAIN, WAYS, NotPacked, unpack
from ci_modelcache.transfer.streams import exactly_next

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

MAGIC = b"CIMCBGZ1"
"""What an encoded object begins with."""

MOST = 1 << 40
"""Bytes of the largest file that is packed: its index, which is held in memory, tells of a million frames."""

_HEAD = struct.Struct("<8sQ")
_LENGTH_BITS = 24
_HINT = "somebody altered it: ci-modelcache verify --repair puts it right"


class OpenPart(Protocol):
    """Opens the bytes of an object from one offset to another (None: the end); one attempt."""

    def __call__(self, start: int, stop: int | None = None, /) -> AbstractContextManager[Iterator[bytes]]:
        """Open at *start*."""


def frames_of(size: int) -> int:
    """How many frames *size* bytes have."""
    return -(-size // FRAME)


def index_size(size: int) -> int:
    """The bytes that the index of *size* bytes takes."""
    return _HEAD.size + 4 * frames_of(size)


@frozen
class Index:
    """How each frame of *size* bytes is kept: its way, and how many bytes it takes."""

    size: int
    frames: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...] = field(init=False, repr=False)
    """Where each frame begins, and where the last one ends."""

    def __attrs_post_init__(self) -> None:
        starts = accumulate((length for _, length in self.frames), initial=index_size(self.size))
        object.__setattr__(self, "offsets", tuple(starts))

    def plain(self, number: int) -> int:
        """The bytes that frame *number* holds."""
        return min(FRAME, self.size - number * FRAME)

    def to_bytes(self) -> bytes:
        """As it lies at the beginning of the object."""
        entries = [way << _LENGTH_BITS | length for way, length in self.frames]
        return _HEAD.pack(MAGIC, self.size) + struct.pack(f"<{len(entries)}I", *entries)

    @classmethod
    def from_bytes(cls, data: bytes, *, size: int, stored: int, what: str) -> Self:
        """Read the index of *what*, an object of *stored* bytes that should hold *size*; raises `IntegrityError`."""
        magic, actual = _HEAD.unpack_from(data)
        if magic != MAGIC or actual != size:
            raise altered(
                what, f"expected an index of {size} bytes, got one that begins with {data[: _HEAD.size].hex()}"
            )
        entries = struct.unpack_from(f"<{frames_of(size)}I", data, _HEAD.size)
        index = cls(size, tuple((entry >> _LENGTH_BITS, entry & ((1 << _LENGTH_BITS) - 1)) for entry in entries))
        for number, (way, length) in enumerate(index.frames):
            plain = index.plain(number)
            right = length in {0, plain} if way == PLAIN else way in WAYS and 0 < length < plain and plain % way == 0
            if not right:
                raise altered(what, f"frame {number} cannot have {length} bytes in the way {way}")
        if index.offsets[-1] != stored:
            raise altered(what, f"its index tells of {index.offsets[-1]} bytes, and it has {stored}")
        return index


def altered(what: str, why: str) -> IntegrityError:
    """The error that *what* is no encoded object as it should be."""
    return IntegrityError(f"{what} is no copy in the encoding that its name says, or altered: {why}", hint=_HINT)


class Unpacking:
    """
    The bytes that the object *what* holds in packed frames: *size* of them, in *stored*, read by *open_part*.

    Only the frames are read that have something of what is asked for, and the index once. May be used from any thread. What is no such object
    raises `IntegrityError`, and is read anew the next time.
    """

    def __init__(self, open_part: OpenPart, *, size: int, stored: int, what: str) -> None:
        self._open_part = open_part
        self._size, self._stored, self._what = size, stored, what
        self._index: Index | None = None
        self._lock = threading.Lock()

    @contextmanager
    def open(self, start: int, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        """The bytes from offset *start* to *stop* (exclusive; None: the end), as a store reads them: it may end early, and a reader counts."""
        end = self._size if stop is None else min(stop, self._size)
        if start >= end:
            yield iter(())
            return
        if self._size > MOST:
            raise altered(self._what, f"nobody packs {self._size} bytes, which are more than {MOST}")
        if self._stored < index_size(self._size):
            raise altered(self._what, f"{self._stored} bytes are too few for an index of {self._size} bytes")
        if self._index is None and (start, end) == (0, self._size):
            with self._open_part(0) as chunks:
                index, rest = self._begun(chunks)
                yield self._pieces(index, chunks, rest, start, end)
            return
        index = self._known()
        first, last = start // FRAME, frames_of(end)
        begin, until = index.offsets[first], index.offsets[last]
        with nullcontext(iter(())) if begin == until else self._open_part(begin, until) as chunks:
            yield self._pieces(index, chunks, b"", start, end)

    def _known(self) -> Index:
        with self._lock:
            if self._index is None:
                with self._open_part(0, index_size(self._size)) as chunks:
                    self._begun(chunks)
            assert self._index is not None  # noqa: S101  # narrows the type: `_begun` has set it or raised
            return self._index

    def _begun(self, chunks: Iterator[bytes]) -> tuple[Index, bytes]:
        """The index, which *chunks* begin with, and what of them is read already besides."""
        length = index_size(self._size)
        pieces, rest = exactly_next(chunks, b"", length)
        data = b"".join(pieces)
        if len(data) < length:
            msg = f"{self._what}: the stream ended at {len(data)} of {self._stored} bytes"
            raise Unavailable(msg)
        self._index = Index.from_bytes(data, size=self._size, stored=self._stored, what=self._what)
        return self._index, rest

    def _pieces(self, index: Index, chunks: Iterator[bytes], rest: bytes, start: int, end: int) -> Iterator[bytes]:
        for number in range(start // FRAME, frames_of(end)):
            way, length = index.frames[number]
            kept, rest = exactly_next(chunks, rest, length)
            if sum(map(len, kept)) < length:
                return
            begin = number * FRAME
            piece = self._frame(index, number, way, kept)
            if start > begin or end < begin + len(piece):
                piece = piece[max(0, start - begin) : end - begin]
            yield piece

    def _frame(self, index: Index, number: int, way: int, kept: Sequence[bytes]) -> bytes:
        try:
            return unpack(way, kept, index.plain(number))
        except NotPacked as error:
            self._index = None  # it may be what is wrong
            raise altered(self._what, f"frame {number}: {error}") from error
