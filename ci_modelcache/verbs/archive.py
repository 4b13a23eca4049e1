"""The only module that writes archives: each byte of a model is proven before it is given away, and none is held for long."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.errors import ModelCacheError
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.digest import Fingerprinter, verified
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.tar import header, offsets, padding, trailer
from ci_modelcache.transfer.parallel import bounded, for_each, in_order

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.tier import Tier
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.tar import Member
    from ci_modelcache.transfer.outlet import Outlet
    from ci_modelcache.verbs.step import Step

_AHEAD = 4
"""Stretches of blobs (`LEAF_SIZE` bytes) that are read ahead at most: they are in memory."""
_PIECE = 1024 * 1024
"""Bytes of a local file that are in memory."""

_Name = tuple["Digest", int, "Digest | None"]
"""What manifests say about a blob."""


class Piece(Protocol):
    """A member of an archive, and its content: bytes that are here already, a blob, or a file of this machine."""

    @property
    def member(self) -> Member: ...
    @property
    def content(self) -> bytes | FileEntry | Path: ...


class Archive:
    """The archive of *pieces*, in their order, whose blobs are in *tiers* or in *cache*."""

    def __init__(
        self, pieces: Iterable[Piece], *, cache: ModelCache, step: Step, doing: str, tiers: Sequence[Tier] = ()
    ) -> None:
        self._pieces = tuple(pieces)
        self._step = step
        self._doing = doing
        self._blobs = {_name(file): ProvenBlob(file, cache, tiers=tiers) for file in self._files()}
        *_, end = offsets(piece.member for piece in self._pieces)
        self._trailer = trailer(end)
        self.size = end + len(self._trailer)
        """Bytes of the archive."""

    def find(self) -> None:
        """Look for every blob, as nobody shall wait an hour for the news that the last one is missing; raises `ObjectNotFound`."""
        for_each(
            self._blobs.values(),
            ProvenBlob.find,
            workers=self._step.workers,
            deadline=self._step.deadline,
            doing="looking at what is stored",
        )

    def write(self, outlet: Outlet) -> Digest:
        """
        Give all of it to *outlet*, and return its digest; of a blob only bytes that are proven, of a large one in stretches.

        Wrong ones of which there is no right copy raise `IntegrityError`.
        """
        return bounded(
            lambda: self._write(outlet), deadline=self._step.deadline, doing=f"{self._doing} to {outlet.name}"
        )

    def _write(self, outlet: Outlet) -> Digest:
        step, hasher = self._step, Fingerprinter(self.size, git=False, leaves=False)
        with closing(self._contents()) as contents, outlet.open(self.size) as take:
            step.progress.start(self._doing, self.size)
            try:
                for chunk in chain(contents, [self._trailer]):
                    step.deadline.check(self._doing)
                    take(chunk)
                    hasher.update(chunk)
                    step.progress.advance(len(chunk))
            finally:
                step.progress.finish()
        return hasher.finish().sha256

    def _contents(self) -> Generator[bytes, None, None]:
        """All of the archive but its trailer."""
        read = in_order(
            self._stretches(),
            lambda stretch: stretch[0].read(stretch[1]),
            workers=min(_AHEAD, self._step.workers),
            deadline=self._step.deadline,
            doing="reading from the store",
        )
        with closing(read):
            for piece in self._pieces:
                yield header(piece.member)
                if isinstance(piece.content, FileEntry):
                    count = self._blobs[_name(piece.content)].stretches
                    chunks = chain.from_iterable(islice(read, count))
                    # One stretch is proven by the file's own digest; several by their leaves, which only say what the manifest does.
                    yield from chunks if count == 1 else verified(chunks, piece.content.expected, piece.member.path)
                elif isinstance(piece.content, bytes):
                    yield piece.content
                else:
                    yield from _local(piece.content, piece.member.size)
                yield padding(piece.member.size)

    def _files(self) -> Iterator[FileEntry]:
        return (piece.content for piece in self._pieces if isinstance(piece.content, FileEntry))

    def _stretches(self) -> Iterator[tuple[ProvenBlob, int]]:
        return (
            (blob, number)
            for file in self._files()
            for blob in (self._blobs[_name(file)],)
            for number in range(blob.stretches)
        )


def _name(file: FileEntry) -> _Name:
    return file.sha256, file.size, file.leaves


def _local(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of the file at *path*; one that has no longer *size* of them raises: the header that says so has been given away."""
    with explaining_denial(path), open(path, "rb", opener=_no_link, buffering=0) as file:
        rest = size
        while rest:
            chunk = file.read(min(_PIECE, rest))
            if not chunk:
                break
            rest -= len(chunk)
            yield chunk
        if rest or file.read(1):
            now = "fewer" if rest else "more"
            msg = f"{path} was changed while it was read: it had {size} bytes, and has {now} now"
            raise ModelCacheError(msg, hint="run again when nobody writes there")


def _no_link(path: str, flags: int) -> int:
    """Opens a regular file: one that has become a link since could lead anywhere, and a pipe would never end."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"{path} was a file, and is none any more"
        raise ModelCacheError(msg, hint="run again when nobody writes there")
    return descriptor
