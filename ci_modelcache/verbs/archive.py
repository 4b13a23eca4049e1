"""The only module that writes archives: each byte of a model is proven before it is given away, and none is held for long."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.errors import IntegrityError, ModelCacheError, Unavailable
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprinter
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.tar import header, offsets, padding, trailer
from ci_modelcache.transfer.lane import Lane
from ci_modelcache.transfer.outlet import Keeping, Lasting
from ci_modelcache.transfer.parallel import bounded, for_each, in_order
from ci_modelcache.transfer.streams import exactly_next, spent

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.tier import Tier
    from ci_modelcache.model.tar import Member
    from ci_modelcache.transfer.outlet import Kept, Outlet, Take
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

_AHEAD = 4
"""Stretches of blobs (`LEAF_SIZE` bytes) that are read ahead at most: they are in memory."""
_PIECE = 1024 * 1024
"""Bytes of a local file that are in memory."""
_GATHERED = 256 * 1024
"""Bytes; smaller pieces go on together, as headers and small files would cost more to pass on than to write."""

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


class _Doubtful(Unavailable):
    """A large file is not what its manifest says; what an outlet has of it is kept, as its leaf list tells which bytes are right."""


class Archive:
    """
    The archive of *pieces*, in their order, whose blobs are in *tiers* or in *cache*.

    *pinned* are files of manifests that nobody can have altered, such as those of a lock: their leaf lists alone prove them.
    """

    def __init__(
        self,
        pieces: Iterable[Piece],
        *,
        cache: ModelCache,
        step: Step,
        doing: str,
        tiers: Sequence[Tier] = (),
        pinned: Iterable[FileEntry] = (),
    ) -> None:
        self._pieces = tuple(pieces)
        self._step = step
        self._doing = doing
        self._pinned = frozenset(map(_name, pinned))
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

        An outlet that shows nothing before its end, and keeps what it has, is given a large file first and its proof after that: what
        is wrong then is written again. What the outlet has kept of an earlier try is proven as if it came from the store, and is not
        read there again. Wrong bytes of which there is no right copy raise `IntegrityError`.
        """
        return bounded(
            lambda: self._written(outlet), deadline=self._step.deadline, doing=f"{self._doing} to {outlet.name}"
        )

    def _written(self, outlet: Outlet) -> Digest:
        if isinstance(outlet, Lasting) and outlet.goes_on:
            try:
                return self._write(outlet, by_leaves=False)
            except _Doubtful as doubt:
                _log.warning("%s; looking which bytes of it are right", doubt)
        return self._write(outlet, by_leaves=True)

    def _write(self, outlet: Outlet, *, by_leaves: bool) -> Digest:
        progress, passed = self._step.progress, _Passed(self.size, self._pinned)
        with (
            self._opened(outlet, passed),
            closing(self._contents(passed.units, by_leaves=by_leaves)) as contents,
        ):
            progress.start(self._doing, self.size)
            try:
                progress.advance(passed.seen)
                for unit, chunks in contents:
                    for chunk in chunks:
                        self._step.deadline.check(self._doing)
                        passed.by(chunk, unit)
                        progress.advance(len(chunk))
                    self._end(unit, passed, by_leaves=by_leaves)
                digest = passed.finish()
            except ModelCacheError:
                passed.flush()
                raise
            finally:
                progress.finish()
        return digest

    @staticmethod
    def _end(unit: _Unit, passed: _Passed, *, by_leaves: bool) -> None:
        try:
            passed.end(unit)
        except IntegrityError as error:
            if by_leaves:
                raise
            raise _Doubtful(error.message) from error

    @contextmanager
    def _opened(self, outlet: Outlet, passed: _Passed) -> Iterator[None]:
        """Have *outlet* take all that has not *passed* once the block begins."""
        if not isinstance(outlet, Keeping):
            with outlet.open(self.size) as take:
                passed.on(take)
                yield
            return

        def begin(kept: Kept) -> int:
            self._prove(kept, passed)
            return passed.seen

        with outlet.resume(self.size, begin) as take:
            passed.on(take)
            yield

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

    def _contents(self, done: int, *, by_leaves: bool) -> Generator[tuple[_Unit, Iterable[bytes]], None, None]:
        """The units but for the first *done*, and the bytes of each, proven *by_leaves* or, in a large file that is not pinned, not yet."""
        read = in_order(
            (unit for unit in islice(self._units(), done, None) if isinstance(unit, _Stretch)),
            lambda unit: unit.blob.read(unit.number, proven=by_leaves or _name(unit.blob.file) in self._pinned),
            workers=min(_AHEAD, self._step.workers),
            deadline=self._step.deadline,
            doing="reading from the store",
        )
        with closing(read):
            for unit in islice(self._units(), done, None):
                if isinstance(unit, _Stretch):
                    yield unit, spent(next(read))
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
    """
    What has gone by of an archive of *size* bytes: how many *units*, how many bytes, and what they hash to.

    All of it is hashed, and in a lane of its own each large file that is not *pinned*.
    """

    def __init__(self, size: int, pinned: frozenset[_Name]) -> None:
        self.units = 0
        self.seen = 0
        """Bytes."""
        self._all = Fingerprinter(size, git=False, leaves=False)
        self._lane = Lane(self._all.update)
        self._pinned = pinned
        self._file: tuple[Fingerprinter, Lane] | None = None
        self._take: Take | None = None
        self._gathered: list[bytes] = []
        self._waiting = 0

    def on(self, take: Take) -> None:
        """From now on *take* is given what goes by."""
        self.flush()
        self._take = take

    def by(self, chunk: bytes, unit: _Unit) -> None:
        """Pass on *chunk*, a part of *unit*."""
        self.seen += len(chunk)
        self._gathered.append(chunk)
        self._waiting += len(chunk)
        if self._waiting >= _GATHERED:
            self.flush()
        # One stretch is proven by the file's own digest; several by their leaves, which only say what the manifest does.
        if isinstance(unit, _Stretch) and unit.blob.stretches > 1 and _name(unit.blob.file) not in self._pinned:
            if self._file is None:
                hasher = unit.blob.file.expected.fingerprinter(leaves=False)
                self._file = hasher, Lane(hasher.update)
            self._file[1].give(chunk)

    def flush(self) -> None:
        """Give away what was gathered."""
        large = self._gathered.pop() if self._gathered and len(self._gathered[-1]) >= _GATHERED else b""
        small = b"".join(self._gathered)
        self._gathered.clear()
        self._waiting = 0
        for data in filter(None, (small, large)):
            self._lane.give(data)
            if self._take is not None:
                self._take(data)

    def end(self, unit: _Unit) -> None:
        """Count *unit*; raises `IntegrityError` when a file that ends with it is not what its manifest says."""
        self.units += 1
        if isinstance(unit, _Stretch) and self._file is not None and unit.number == unit.blob.stretches - 1:
            self.flush()
            hasher, lane = self._file
            lane.wait()
            unit.blob.file.expected.check(hasher.finish(), unit.path)
            self._file = None

    def finish(self) -> Digest:
        """What all of it hashes to, when all has been passed on. To be called once, at the end."""
        self.flush()
        self._lane.wait()
        return self._all.finish().sha256


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
