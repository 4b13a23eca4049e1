"""
The only module that packs the bytes of a file into frames, on disk until all of them are proven and it is known whether that pays.

Only files of tensors are packed: in the others nothing says of how many bytes a number is, and those that are large are packed already.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import IO, TYPE_CHECKING

from attrs import frozen

from ci_modelcache.model.safetensors import PREFIX, Items, NotSafetensors, header_size, spans_of
from ci_modelcache.transfer.bytegroup import FRAME, pack, require_packing, unpack
from ci_modelcache.transfer.disk import Room, format_bytes
from ci_modelcache.transfer.encoded import MOST, Index, frames_of, index_size
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal
from ci_modelcache.transfer.streams import exactly_next

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)

_SMALLEST = FRAME
"""Bytes of the smallest file that is packed: of less nothing is gained that is worth two more requests."""
_WORTH = 0.95
"""Packed bytes must be at most so much of the plain ones."""


@frozen
class Kept:
    """What is to be stored: *size* bytes, which *chunks* yields once, *packed* or not."""

    chunks: Iterable[bytes]
    size: int
    packed: bool


class Packer:
    """Packs files of tensors; what is packed lies in *folder* until it is stored. May be used from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._room = Room(folder)

    def require(self) -> None:
        """Raise `StoreUnsupported` unless there is what it takes."""
        require_packing()

    def may_pack(self, size: int) -> bool:
        """Whether a file of *size* bytes is large enough, and not too large."""
        return _SMALLEST <= size <= MOST

    @contextmanager
    def kept(self, chunks: Iterable[bytes], size: int) -> Iterator[Kept]:
        """
        The *size* bytes of *chunks* as they should be stored; plain where packing does not pay, or has no room.

        Where they are packed, *chunks* has been consumed to its end by then: one that verifies itself has proven them.
        """
        source = iter(chunks)
        if not self.may_pack(size):
            yield Kept(source, size, packed=False)
            return
        begin, items = _begun(source, size)
        source = chain(begin, source)
        with self._room.promised(size) as fits:
            if not items or not fits:
                if items:
                    _log.warning("not packed: %s has no room for %s", self._folder, format_bytes(size))
                yield Kept(source, size, packed=False)
                return
            with explaining_refusal(self._folder), explaining_full_disk(self._folder), self._spool() as spool:
                index = _pack(source, size, items[0], spool)
                end = index.offsets[-1]
                pays = end <= _WORTH * size
                yield Kept(_read(spool) if pays else _unpacked(spool, index), end if pays else size, packed=pays)

    def _spool(self) -> IO[bytes]:
        """A file without a name, so that nothing stays behind of whoever is killed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder)


def _begun(source: Iterator[bytes], size: int) -> tuple[list[bytes], Sequence[Items]]:
    """What was read of *source*, and where its numbers lie, if it is a file of tensors."""
    begin, rest = exactly_next(source, b"", PREFIX + 1)
    try:
        length = header_size(b"".join(begin), size)
        more, rest = exactly_next(source, rest, length - PREFIX - 1)
        begin += more
        return [*begin, rest], [Items(spans_of(b"".join(begin), size))]
    except NotSafetensors:
        return [*begin, rest], []


def _pack(source: Iterator[bytes], size: int, items: Items, spool: IO[bytes]) -> Index:
    """Write all of *source* into *spool*, as an encoded object lies."""
    spool.seek(index_size(size))
    frames: list[tuple[int, int]] = []
    rest = b""
    for start in range(0, size, FRAME):
        stop = min(start + FRAME, size)
        pieces, rest = exactly_next(source, rest, stop - start)
        way, kept = pack(b"".join(pieces), items.between(start, stop))
        spool.write(kept)
        frames.append((way, len(kept)))
    for _ in source:  # its end is what proves it
        pass
    index = Index(size, tuple(frames))
    spool.seek(0)
    spool.write(index.to_bytes())
    return index


def _read(spool: IO[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    return iter(partial(spool.read, FRAME), b"")


def _unpacked(spool: IO[bytes], index: Index) -> Iterator[bytes]:
    spool.seek(index.offsets[0])
    for number in range(frames_of(index.size)):
        way, length = index.frames[number]
        yield unpack(way, [spool.read(length)], index.plain(number))
