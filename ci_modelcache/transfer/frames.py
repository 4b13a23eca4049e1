"""The only module that writes zstd: independent frames of 64 MiB and a table that says where each begins (zstd's seekable format)."""

from __future__ import annotations

import hashlib
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.transfer.lane import Lane
from ci_modelcache.transfer.outlet import Keeping, Lasting
from ci_modelcache.transfer.zstd import MAGIC, NotZstd, compressor, decompressor, explaining_zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.transfer.outlet import Begin, Kept, Outlet, Take, Written

FRAME = 64 * 1024 * 1024
"""Bytes that a frame holds, but the last one."""

_PIECE = 1024 * 1024
"""Bytes that are unpacked at once."""
_SKIPPED, _TABLE = 0x184D2A5E, 0x8F92EAB1
"""What the table begins with, so that every reader of zstd passes over it, and what it ends with."""


@frozen
class _Size:
    packed: int
    plain: int


class Compressed(Keeping):
    """
    *outlet*, which is given frames of *frame* bytes. The same bytes in make the same bytes out with one build of libzstd alone.

    What the outlet keeps is unpacked for whoever proves it; frames that are whole and right stay as they are.
    """

    def __init__(self, outlet: Outlet, *, frame: int = FRAME) -> None:
        self._outlet = outlet
        self._frame = frame
        self._sha256 = ""

    @property
    def name(self) -> str:
        return self._outlet.name

    @property
    def goes_on(self) -> bool:
        return isinstance(self._outlet, Lasting) and self._outlet.goes_on

    def written(self, sha256: str) -> tuple[Written, ...]:
        del sha256  # of what was packed
        return self._outlet.written(self._sha256) if isinstance(self._outlet, Lasting) else ()

    @contextmanager
    def resume(self, size: int, begin: Begin) -> Iterator[Take]:
        compressor(0)  # where there is none, that is to be said before anything is touched
        hasher = hashlib.sha256()
        lane = Lane(hasher.update)
        going = _Going(size, self._frame)

        def resumed(kept: Kept) -> int:
            start = going.resume(kept, begin)
            for piece in _first(kept, start):
                lane.give(piece)
            return start

        most = bound(size, self._frame)
        if isinstance(self._outlet, Keeping):
            opened = self._outlet.resume(most, resumed)
        else:
            resumed(lambda _offset: iter(()))
            opened = self._outlet.open(most)
        with opened as take:

            def give(data: bytes) -> None:
                lane.give(data)
                take(data)

            going.give = give
            going.take(going.pending)
            going.pending = b""
            yield going.take
            give(going.table())
            lane.wait()
        self._sha256 = hasher.hexdigest()


def bound(size: int, frame: int = FRAME) -> int:
    """The most bytes that *size* bytes become: what cannot be packed, and more, grows by less than a hundredth."""
    return size + size // 128 + 128 * (size // frame + 2)


class _Going:
    """Frames that are made: *size* bytes in all."""

    def __init__(self, size: int, frame: int) -> None:
        self._size = size
        self._frame = frame
        self._sizes: list[_Size] = []
        self._compressor = compressor(min(frame, size))
        self._packed = self._plain = 0
        self.pending = b""
        """What is proven of a frame that is to be made again."""
        self.give: Callable[[bytes], object] = _nowhere

    def resume(self, kept: Kept, begin: Begin) -> int:
        """How many bytes of what is *kept* stay, after *begin* has said how many of those in it do."""
        found: list[_Size] = []
        good = begin(lambda _start: self._unpacked(kept, 0, found))
        whole = good // self._frame
        del found[whole:]
        start = sum(each.packed for each in found)
        rest = good - len(found) * self._frame
        if rest:
            self.pending = b"".join(_first(lambda _start: self._unpacked(kept, start, []), rest))
        self._sizes = found
        self._begin_frame()
        return start

    def _unpacked(self, kept: Kept, offset: int, found: list[_Size]) -> Iterator[bytes]:
        """What is in the frames of *kept*, of which each whole one is told to *found*; it ends where they cannot be ours."""
        found.clear()
        frame, data = _Frame(), b""
        for chunk in kept(offset):
            data += chunk
            while len(data) >= len(MAGIC) or (data and frame.packed):
                for piece in frame.unpack(data):
                    yield piece
                    if frame.plain > self._frame:
                        return
                data = frame.rest
                if frame.broken or (frame.ended and frame.plain != self._frame):
                    return
                if frame.ended:
                    found.append(_Size(frame.packed, frame.plain))
                    frame = _Frame()

    def take(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            piece = rest[: self._left() - self._plain]
            rest = rest[len(piece) :]
            self._plain += len(piece)
            self._pass_on(self._compressor.compress(piece))
            if self._plain == self._left():
                self._pass_on(self._compressor.flush(self._compressor.FLUSH_FRAME))
                self._sizes.append(_Size(self._packed, self._plain))
                self._begin_frame()

    def _begin_frame(self) -> None:
        self._packed = self._plain = 0
        if self._left() > 0:
            self._compressor = compressor(self._left())

    def _left(self) -> int:
        """Bytes that the frame at hand shall hold."""
        return min(self._frame, self._size - len(self._sizes) * self._frame)

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._packed += len(data)
            self.give(data)

    def table(self) -> bytes:
        """What stands after the last frame."""
        entries = b"".join(struct.pack("<II", each.packed, each.plain) for each in self._sizes)
        body = entries + struct.pack("<IBI", len(self._sizes), 0, _TABLE)
        return struct.pack("<II", _SKIPPED, len(body)) + body


class _Frame:
    """One frame that is unpacked as far as it is there: how many bytes it had, and has become."""

    def __init__(self) -> None:
        self.packed = self.plain = 0
        self.ended = self.broken = False
        self.rest = b""
        """Of what was given to `unpack` last: what comes after the frame."""
        self._decompressor = decompressor()

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What *data*, the next bytes of the frame and more, becomes."""
        self.rest = b""
        if not self.packed and not data.startswith(MAGIC):
            self.broken = True
            return
        self.packed += len(data)
        try:
            with explaining_zstd():
                while not self._decompressor.eof and (data or not self._decompressor.needs_input):
                    piece = self._decompressor.decompress(data, _PIECE)
                    data = b""
                    self.plain += len(piece)
                    yield piece
        except NotZstd:
            self.broken = True
            return
        if self._decompressor.eof:
            self.ended = True
            self.rest = self._decompressor.unused_data
            self.packed -= len(self.rest)


def _first(kept: Kept, size: int) -> Iterator[bytes]:
    """The first *size* bytes of what is *kept*."""
    for piece in kept(0) if size else ():
        yield piece[:size]
        size -= min(size, len(piece))
        if not size:
            return


def _nowhere(data: bytes) -> None:
    raise AssertionError(len(data))
