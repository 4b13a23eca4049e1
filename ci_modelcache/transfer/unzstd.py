"""The only module that unpacks zstd archives of others: any number of frames, bounded in memory, and in what a few bytes may become."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ConfigError, IntegrityError
from ci_modelcache.transfer.inlet import Inlet, Pipe
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.transfer.zstd import MAGIC, NotZstd, decompressor, explaining_zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backports.zstd import ZstdDecompressor

_PIECE = 1 << 20
"""Bytes that are unpacked at a time."""
_FREE, _RATIO = 1 << 30, 200
"""From so many bytes on, unpacked ones must not be more than so many times those that they came from. Weights never come near it."""
_HINT = "it was altered or broken off: export or copy it again"


def plain_of(source: Inlet | Pipe, *, retry: RetryPolicy) -> Inlet | Pipe:
    """*source*, or where that is packed with zstd a pipe of what is packed in it."""
    if isinstance(source, Pipe):
        return _Either(source)
    begin = b""
    for chunk in read_through(source.open, min(source.size, len(MAGIC)), retry, what=source.name):
        begin += chunk
    return _Unpacking(source, retry) if _is_zstd(begin) else source


@frozen
class _Unpacking:
    packed: Inlet
    retry: RetryPolicy

    @property
    def name(self) -> str:
        return self.packed.name

    def chunks(self) -> Iterator[bytes]:
        return _unpacked(read_through(self.packed.open, self.packed.size, self.retry, what=self.name), self.name)


@frozen
class _Either:
    """A pipe whose first bytes say whether it is packed."""

    pipe: Pipe

    @property
    def name(self) -> str:
        return self.pipe.name

    def chunks(self) -> Iterator[bytes]:
        chunks, begin = self.pipe.chunks(), b""
        for chunk in chunks:
            begin += chunk
            if len(begin) >= len(MAGIC):
                break
        whole = chain([begin], chunks)
        return _unpacked(whole, self.name) if _is_zstd(begin) else whole


def _is_zstd(begin: bytes) -> bool:
    """Whether it begins with a frame, or with one to be skipped."""
    return begin[:4] == MAGIC or (begin[1:4] == b"\x2a\x4d\x18" and begin[0] & 0xF0 == 0x50)  # noqa: PLR2004  # of its format


def _unpacked(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """
    What is packed in *chunks*, in pieces; *what* names the file in errors.

    Raises `IntegrityError` for what was altered or broken off, needs more memory than 128 MiB, or is a bomb; and `ConfigError`
    where there is no zstd.
    """
    before = after = 0
    frame, begun = _frame(), False
    try:
        for chunk in chunks:
            before += len(chunk)
            data = chunk
            while data or (begun and not frame.needs_input):
                with explaining_zstd():
                    piece = frame.decompress(data, _PIECE)
                data, begun = b"", True
                after += len(piece)
                if after > max(_FREE, before * _RATIO):
                    msg = f"{what} is no archive that can be imported: {before} bytes of it become {after} and more"
                    raise IntegrityError(msg, hint="no weights are packed so well; if you trust it, unpack it yourself")
                if piece:
                    yield piece
                if frame.eof:
                    data, frame, begun = frame.unused_data, _frame(), False
    except NotZstd as error:
        msg = f"{what} is no zstd, or altered: {error}"
        raise IntegrityError(msg, hint=_HINT) from error
    if begun:
        msg = f"{what} is broken off within a frame of zstd"
        raise IntegrityError(msg, hint=_HINT)


def _frame() -> ZstdDecompressor:
    try:
        return decompressor()
    except ConfigError as error:
        error.hint = (
            "pip install 'ci-modelcache[zstd]'; or unpack it on the way: zstd -dc FILE | ci-modelcache import -"
        )
        raise
