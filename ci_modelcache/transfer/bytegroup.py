"""
The only module that imports blosc2: it packs frames of at most 1 MiB, and unpacks them, also without it, within the memory that they need.

A packed frame is the bytes of its numbers grouped by their place (the first byte of each, then the second of each), as one frame of zstd. What blosc2
writes before it follows from three numbers, so that it is not kept, and never believed.
"""

from __future__ import annotations

import struct
import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ci_modelcache.errors import StoreUnsupported
from ci_modelcache.transfer.zstd import NotZstd, decompressor, explaining_zstd

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME = 1 << 20
"""Bytes that a frame holds, but the last one of a file."""
PLAIN = 0
"""The way of a frame that is kept as it is; with a length of 0 it is one of zeros."""
WAYS = frozenset({PLAIN, 1, 2, 4, 8})
"""How a frame may be kept: plain, or packed by numbers of so many bytes."""

_NAME, _ZSTD_NAME = "blosc2", "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_WINDOW_LOG = 20
"""No packed frame takes more memory than `FRAME`."""
_LEVEL = 1
"""Weights are hardly smaller at any higher one."""
_CHUNK = struct.Struct("<4B3I7B9x2I")
"""The head of a chunk of blosc2 that is one block, unsplit, packed with zstd."""
_VERSION, _ZSTD_VERSION, _FLAGS, _ZSTD = 5, 1, 0x95, 5
_SHUFFLE, _NO_FILTER = 1, 0
_BLOCK = 36
"""Where the only block begins: after the head, and the list of blocks."""


class NotPacked(Exception):
    """Bytes that are no packed frame, or were altered; never for a user."""


def require_packing() -> None:
    """Raise `StoreUnsupported`, which says how to get it, unless what packs is installed; nothing is imported yet."""
    if not _installed(_NAME):
        raise _absent()


def require_unpacking() -> None:
    """As `require_packing`, for what unpacks: either library does."""
    if not _installed(_ZSTD_NAME) and not _installed(_NAME):
        msg = "the encoding bytegroup-zstd needs zstd, of the extra zstd, which is not installed"
        raise StoreUnsupported(msg, hint="pip install 'ci-modelcache[zstd]'")


def pack(data: bytes, item: int) -> tuple[int, bytes]:
    """
    In which way *data*, of at most `FRAME` bytes, is kept, and the bytes that are kept; *item* is the size of its numbers in bytes.

    What was packed has been unpacked again, and was *data*.
    """
    if data == bytes(len(data)):
        return PLAIN, b""
    # Whole numbers only: blosc2 writes what it cannot read when some are left over.
    item = item if len(data) % item == 0 else 1
    blosc2 = _library()
    filters = [blosc2.Filter.NOFILTER if item == 1 else blosc2.Filter.SHUFFLE]
    never = blosc2.SplitMode.NEVER_SPLIT
    chunk = blosc2.compress2(
        data,
        codec=blosc2.Codec.ZSTD,
        clevel=_LEVEL,
        typesize=item,
        blocksize=len(data),
        splitmode=never,
        filters=filters,
        nthreads=1,
        use_dict=False,
    )
    payload = chunk[_CHUNK.size :]
    if len(payload) >= len(data) or chunk[: _CHUNK.size] != _head(item, len(payload), len(data)):
        return PLAIN, data
    try:
        right = _by_blosc2(item, payload, len(data)) == data
    except NotPacked:
        right = False
    return (item, payload) if right else (PLAIN, data)


def unpack(way: int, pieces: Sequence[bytes], size: int) -> bytes:
    """The frame of *size* bytes that *pieces* are, kept in that *way*; raises `NotPacked`. *size* is a multiple of *way*."""
    if way == PLAIN:
        kept = b"".join(pieces) or bytes(size)
        if len(kept) != size:
            msg = f"{len(kept)} bytes are no frame of {size}"
            raise NotPacked(msg)
        return kept
    # Twice as fast, once it is imported. In the midst of the transfer that would take seconds, as every thread wants the interpreter then.
    return (_by_blosc2 if _installed(_NAME) else _by_zstd)(way, b"".join(pieces), size)


def _by_zstd(way: int, payload: bytes, size: int) -> bytes:
    frame = decompressor(_WINDOW_LOG)
    try:
        with explaining_zstd():
            grouped = frame.decompress(payload, size + 1)
    except NotZstd as error:
        raise NotPacked(str(error)) from error
    if len(grouped) != size or not frame.eof or frame.unused_data:
        msg = f"expected one frame of {size} bytes, got {len(grouped)}{'' if frame.eof else ' and no end'}"
        raise NotPacked(msg)
    if way == 1:
        return grouped
    numbers, data, view = size // way, bytearray(size), memoryview(grouped)
    for place in range(way):
        data[place::way] = view[place * numbers : (place + 1) * numbers]
    return bytes(data)


def _by_blosc2(way: int, payload: bytes, size: int) -> bytes:
    try:
        # The head is ours, so that no more than *size* bytes are written.
        return bytes(_library().decompress2(_head(way, len(payload), size) + payload, nthreads=1))
    except (ValueError, RuntimeError) as error:
        raise NotPacked(str(error)) from error


def _head(item: int, packed: int, size: int) -> bytes:
    first = _NO_FILTER if item == 1 else _SHUFFLE
    kinds = (_VERSION, _ZSTD_VERSION, _FLAGS, item)
    return _CHUNK.pack(*kinds, size, size, _CHUNK.size + packed, first, 0, 0, 0, 0, 0, _ZSTD, _BLOCK, packed)


@cache
def _installed(name: str) -> bool:
    # Of a module whose package is missing it raises.
    return find_spec(name.partition(".")[0]) is not None and find_spec(name) is not None


@cache
def _library() -> Any:  # noqa: ANN401  # a module, and it has no types
    try:
        import blosc2  # noqa: PLC0415  # an extra, and half a second
    except ImportError as error:
        raise _absent() from error
    blosc2.set_releasegil(True)  # several frames at a time
    return blosc2


def _absent() -> StoreUnsupported:
    msg = f"packing as bytegroup-zstd needs {_NAME}, of the extra encoding, which is not installed"
    return StoreUnsupported(msg, hint="pip install 'ci-modelcache[encoding]'")
