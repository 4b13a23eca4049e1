"""The only module that writes archives: each byte of a model is proven before it is given away, and none is held for long."""

from __future__ import annotations

import os
import stat
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.errors import ModelCacheError
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprinter
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.tar import header, offsets, padding, trailer
from ci_modelcache.transfer.outlet import Keeping
from ci_modelcache.transfer.parallel import bounded, for_each, in_order
from ci_modelcache.transfer.streams import exactly_next

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.tier import Tier
    from ci_modelcache.model.tar import Member
    from ci_modelcache.transfer.outlet import Kept, Outlet, Take
    from ci_modelcache.verbs.step import Step

_AHEAD = 4
"""Stretches of blobs (`LEAF_SIZE` bytes) that are read ahead at most: they are in memory."""
_PIECE = 1024 * 1024
"""Bytes of a local file that are in memory."""

_Name = tuple[Digest, int, Digest | None]
"""What manifests say about a blob."""


class Piece(Protocol):
    """A member of an archive, and its content: bytes that are here already, a blob, or a file of this machine."""

    @property
    def member(self) -> Member: ...
    @property
    def content(self) -> bytes | FileEntry | Path: ...


@frozen
class _Stretch:
    """Up to `LEAF_SIZE` bytes of the blob of *path*: those that are proven at once."""

    blob: ProvenBlob
    number: int
    path: str

    @property
    def size(self) -> int:
        return min(LEAF_SIZE, self.blob.file.size - self.number * LEAF_SIZE)

    @property
    def digest(self) -> Digest:
        return self.blob.digest(self.number)


@frozen
class _Local:
    """A file of this machine, about which nothing is promised but its size."""

    path: Path
    size: int


_Unit = bytes | _Stretch | _Local
"""What an archive is made of, one after the other."""


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

        What the outlet has kept of an earlier try is proven as if it came from the store, and is not read there again.
        Wrong bytes of which there is no right copy raise `IntegrityError`.
        """
        return bounded(
            lambda: self._write(outlet), deadline=self._step.deadline, doing=f"{self._doing} to {outlet.name}"
        )

    def _write(self, outlet: Outlet) -> Digest:
        progress, passed = self._step.progress, _Passed(self.size)
        with self._opened(outlet, passed) as take, closing(self._contents(passed.units)) as contents:
            progress.start(self._doing, self.size)
            try:
                progress.advance(passed.seen)
                for unit, chunks in contents:
                    for chunk in chunks:
                        self._step.deadline.check(self._doing)
                        take(chunk)
                        passed.by(chunk, unit)
                        progress.advance(len(chunk))
                    passed.end(unit)
            finally:
                progress.finish()
        return passed.digest

    @contextmanager
    def _opened(self, outlet: Outlet, passed: _Passed) -> Iterator[Take]:
        """What takes all that has not *passed*, once the block begins."""
        if not isinstance(outlet, Keeping):
            with outlet.open(self.size) as take:
                yield take
            return

        def begin(kept: Kept) -> int:
            self._prove(kept, passed)
            return passed.seen

        with outlet.resume(self.size, begin) as take:
            yield take

    def _prove(self, kept: Kept, passed: _Passed) -> None:
        """Let pass what is *kept* of the archive, up to the first unit that is not whole or not right."""
        chunks, rest = kept(0), b""
        for unit in self._units():
            self._step.deadline.check(f"looking at what is left from {self._doing} before")
            if isinstance(unit, _Local):
                return
            size = len(unit) if isinstance(unit, bytes) else unit.size
            found, rest = exactly_next(chunks, rest, size)
            if sum(map(len, found)) < size or not _is(unit, found):
                return
            for chunk in found:
                passed.by(chunk, unit)
            passed.end(unit)

    def _contents(self, done: int) -> Generator[tuple[_Unit, Iterable[bytes]], None, None]:
        """The units but for the first *done*, and the bytes of each."""
        read = in_order(
            (unit for unit in islice(self._units(), done, None) if isinstance(unit, _Stretch)),
            lambda unit: unit.blob.read(unit.number),
            workers=min(_AHEAD, self._step.workers),
            deadline=self._step.deadline,
            doing="reading from the store",
        )
        with closing(read):
            for unit in islice(self._units(), done, None):
                if isinstance(unit, _Stretch):
                    yield unit, next(read)
                elif isinstance(unit, bytes):
                    yield unit, [unit]
                else:
                    yield unit, _local(unit.path, unit.size)

    def _units(self) -> Iterator[_Unit]:
        for piece in self._pieces:
            yield header(piece.member)
            content = piece.content
            if isinstance(content, FileEntry):
                blob = self._blobs[_name(content)]
                yield from (_Stretch(blob, number, piece.member.path) for number in range(blob.stretches))
            elif isinstance(content, bytes):
                yield content
            else:
                yield _Local(content, piece.member.size)
            yield padding(piece.member.size)
        yield self._trailer

    def _files(self) -> Iterator[FileEntry]:
        return (piece.content for piece in self._pieces if isinstance(piece.content, FileEntry))


class _Passed:
    """What has gone by of an archive of *size* bytes: how many *units*, how many bytes, and what they hash to."""

    def __init__(self, size: int) -> None:
        self.units = 0
        self._all = Fingerprinter(size, git=False, leaves=False)
        self._file: Fingerprinter | None = None

    @property
    def seen(self) -> int:
        """Bytes."""
        return self._all.seen

    @property
    def digest(self) -> Digest:
        """Of all. To be asked for once, at the end."""
        return self._all.finish().sha256

    def by(self, chunk: bytes, unit: _Unit) -> None:
        """Count *chunk*, a part of *unit*."""
        self._all.update(chunk)
        # One stretch is proven by the file's own digest; several by their leaves, which only say what the manifest does.
        if isinstance(unit, _Stretch) and unit.blob.stretches > 1:
            if self._file is None:
                self._file = unit.blob.file.expected.fingerprinter(leaves=False)
            self._file.update(chunk)

    def end(self, unit: _Unit) -> None:
        """Count *unit*; raises `IntegrityError` when a file that ends with it is not what its manifest says."""
        self.units += 1
        if isinstance(unit, _Stretch) and self._file is not None and unit.number == unit.blob.stretches - 1:
            unit.blob.file.expected.check(self._file.finish(), unit.path)
            self._file = None


def _is(unit: bytes | _Stretch, found: Sequence[bytes]) -> bool:
    """Whether the bytes that were *found* are those of *unit*, as many as it has."""
    if isinstance(unit, bytes):
        return b"".join(found) == unit
    hasher = Fingerprinter(unit.size, git=False, leaves=False)
    for chunk in found:
        hasher.update(chunk)
    return hasher.finish().sha256 == unit.digest


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
