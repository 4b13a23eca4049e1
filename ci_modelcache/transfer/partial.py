"""The only module that keeps half-received files, so that a killed run is gone on with instead of begun again."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from ci_modelcache.errors import Rewritten
from ci_modelcache.transfer.holding import acquired, is_at
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal
from ci_modelcache.transfer.stretches import GONE, Stretch, over, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = ".partial-"
"""Names of half-received files: ``.partial-<name>`` has the bytes, ``.partial-<name>.log`` says which ones and from whom."""

_LOGGED = 256 * 1024
"""Bytes of one stretch after which the log is told; what a kill can cost for each connection."""
_READ = 1024 * 1024
_SPARED = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EAGAIN,
    errno.ELOOP,
    errno.ENXIO,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
}
"""What a disk says of a file that is gone, another's, in use or none, and one that knows no locks: not ours to sweep."""


class Revoked(Exception):
    """For a writer whose turn is over, such as a thread that was left behind; never for anybody else."""


class Partial:
    """
    A file of *size* bytes on its way: which stretches have arrived, and who sent them.

    Nothing in it is proven. It belongs to one process at a time; methods may be called from any thread. What the log says
    survives a kill of the process; after a power cut it may say more than the disk has, which a digest finds out.
    """

    def __init__(self, path: Path, size: int, descriptor: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._log = os.open(_log_of(path), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Condition()
        self._turn = 0
        self._working = 0
        self._left = False
        self._disowned: Counter[str] = Counter()
        self._stretches: list[Stretch] = []
        self._recall()
        self._rewritten = size

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, name: str, size: int) -> Iterator[Self]:
        """
        Yield the partial file called *name* (letters and digits, such as a digest) in *folder*: what an earlier run left, or nothing.

        One that another process is filling stays with it: then this one begins from nothing, under another name, and keeps
        nothing. Leaving the block keeps it, unless it was discarded. Raises `NoSpace`, `AccessDenied` and `ConfigError`.
        """
        path = folder / f"{PREFIX}{name}"
        with explaining_refusal(path), explaining_full_disk(path):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, path, shared = acquired(path)
            partial = cls(path, size, descriptor)
        try:
            yield partial
        finally:
            partial.seal()
            if not shared or not partial.stretches:
                partial.discard()
            os.close(partial._log)
            os.close(descriptor)

    # --- what has arrived

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What has arrived, in order, neighbours of one source joined."""
        with self._lock:
            return tuple(self._stretches)

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        return sum(each.stop - each.start for each in self.stretches)

    @property
    def frontier(self) -> int:
        """The offset up to which nothing is missing."""
        offset = 0
        for each in self.stretches:
            if each.start > offset:
                break
            offset = max(offset, each.stop)
        return offset

    def gaps(self) -> list[tuple[int, int]]:
        """What is missing: pairs of start and stop, in order."""
        found: list[tuple[int, int]] = []
        offset = 0
        for each in self.stretches:
            if each.start > offset:
                found.append((offset, each.start))
            offset = max(offset, each.stop)
        if offset < self.size:
            found.append((offset, self.size))
        return found

    # --- whose turn it is

    @property
    def turn(self) -> int:
        """What tells those who may write now from those who were left behind."""
        with self._lock:
            return self._turn

    @contextmanager
    def in_turn(self, turn: int) -> Iterator[None]:
        """What is done to this file by whoever began in *turn*; `Revoked` when that is over."""
        # A thread that hangs in a read may come back any time: after the descriptor was closed and its number was given
        # to another file, or after what it brings was found wrong and replaced.
        with self._lock:
            if turn != self._turn:
                raise Revoked
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                self._lock.notify_all()

    # --- bytes

    @contextmanager
    def writing(self, start: int, source: str, *, turn: int | None = None) -> Iterator[Pen]:
        """Yield a `Pen` that writes what *source* sends, from offset *start* on, in *turn* (None: the present one)."""
        pen = Pen(self, start, source, self.turn if turn is None else turn)
        try:
            yield pen
        finally:
            pen.flush()

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from *start* to *stop*, which have arrived, in pieces."""
        while start < stop:
            piece = os.pread(self._descriptor, min(_READ, stop - start), start)
            if not piece:
                # Shorter than its log says: a power cut. Zeros in place of the bytes are what the digest is for.
                piece = bytes(min(_READ, stop - start))
            yield piece
            start += len(piece)

    def forget(self, start: int, stop: int) -> None:
        """Take the bytes from *start* to *stop* as not received; who has read them learns it from `require_unchanged`."""
        if start < stop:
            gone = Stretch(start, stop, GONE)
            with self._lock:
                self._rewritten = min(self._rewritten, start)
                self._stretches = over(self._stretches, gone)
            self._note(gone)

    def disown(self, source: str) -> None:
        """Forget all that *source* has sent; what it is sending now is not taken any more (`Revoked`)."""
        with self._lock:
            self._disowned[source] += 1
            found = [each for each in self._stretches if each.source == source]
        for each in found:
            self.forget(each.start, each.stop)

    def begin(self) -> None:
        """Somebody begins to read from the first byte; whoever was writing until now writes no more."""
        self.seal()
        self._rewritten = self.size

    def seal(self) -> None:
        """Whoever was writing until now writes no more: to be called before bytes are proven, moved or given up."""
        with self._lock:
            self._turn += 1
            self._lock.wait_for(lambda: self._working == 0)

    def require_unchanged(self, stop: int) -> None:
        """Raise `Rewritten` when anything before *stop* was forgotten, or written once more, since `begin`."""
        if self._rewritten < stop:
            msg = f"bytes from {self._rewritten} on were wrong, and are replaced"
            raise Rewritten(msg)

    def land(self, target: Path, *, mode: int) -> None:
        """Become *target*, with *mode*; only for bytes that were proven. The caller has made the folder of *target*."""
        self.seal()
        os.truncate(self._descriptor, self.size)
        os.fchmod(self._descriptor, mode)
        times = os.fstat(self._descriptor)
        # As `transfer.land` does, for the receipts: a later write is to show within one tick of the disk's clock.
        os.utime(self._descriptor, ns=(times.st_atime_ns, times.st_mtime_ns - 1_000_000))
        os.fsync(self._descriptor)
        # First the log: as soon as the name is free, both may be another's.
        with suppress(FileNotFoundError):
            _log_of(self.path).unlink()
        self.path.replace(target)
        self._left = True

    def discard(self) -> None:
        """Remove what was received: it is somewhere else by now, or no good."""
        if self._left:
            return  # somebody else may have begun one of this name
        self._left = True
        for path in (_log_of(self.path), self.path):
            with suppress(FileNotFoundError):
                path.unlink()

    # --- inside

    def _put(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    @contextmanager
    def _by(self, pen: Pen) -> Iterator[None]:
        """A write of *pen*; `Revoked` when its turn is over, or its source was disowned since."""
        with self.in_turn(pen.turn), explaining_full_disk(self.path):
            if pen.trust != self._disowned[pen.source]:
                raise Revoked
            yield

    def _arrived(self, pen: Pen, stretch: Stretch) -> None:
        with self._lock:
            if pen.trust != self._disowned[pen.source]:
                raise Revoked
            known = [each for each in self._stretches if each.stop > stretch.start and each.start < stretch.stop]
            # Whoever has read these bytes, and hashed them, has read others.
            self._rewritten = min([self._rewritten, *(max(each.start, stretch.start) for each in known)])
            self._stretches = over(self._stretches, stretch)

    def _note(self, stretch: Stretch) -> None:
        with explaining_full_disk(self.path):
            # One write, at the end of the file: whole or, when it is killed just there, torn and then ignored.
            os.write(self._log, stretch.line.encode())

    def _recall(self) -> None:
        """Read the log of an earlier run; what it says beyond the file's end has not arrived."""
        have = os.fstat(self._descriptor).st_size
        with open(self._log, "rb", closefd=False) as log:
            lines = log.read().decode("ascii", "replace").splitlines(keepends=True)
        for line in lines:
            found = parse_line(line)
            if found is None:
                continue
            if found.source != GONE and found.stop > min(have, self.size):
                # Said for good: when the file has grown again, this line would be believed, and its source blamed for a hole.
                found = Stretch(found.start, found.stop, GONE)
                self._note(found)
            self._stretches = over(self._stretches, found)


class Pen:
    """Writes one stretch of a `Partial`, at `offset`."""

    def __init__(self, partial: Partial, start: int, source: str, turn: int) -> None:
        self.offset = start
        self.source = source
        self.turn = turn
        self.trust = partial._disowned[source]  # noqa: SLF001  # its pen
        self._partial = partial
        self._logged = start

    def write(self, data: bytes) -> None:
        """Write *data* at the offset, and move on."""
        with self._partial._by(self):  # noqa: SLF001  # as above
            self._partial._put(self.offset, data)  # noqa: SLF001  # as above
            start, self.offset = self.offset, self.offset + len(data)
            self._partial._arrived(self, Stretch(start, self.offset, self.source))  # noqa: SLF001  # as above
        if self.offset - self._logged >= _LOGGED:
            self.flush()

    def flush(self) -> None:
        """Tell the log what was written."""
        if self.offset > self._logged:
            with suppress(Revoked), self._partial._by(self):  # noqa: SLF001  # as above
                self._partial._note(Stretch(self._logged, self.offset, self.source))  # noqa: SLF001  # as above
            self._logged = self.offset


def sweep_partials(folder: Path, *, older_than: float = 0.0, now: float | None = None) -> int:
    """Remove from *folder* what nobody is receiving and nobody has touched for *older_than* seconds; returns how many files."""
    removed = 0
    for path in sorted(folder.glob(f"{PREFIX}*")):
        if path.suffix == ".log" and path.with_suffix("").exists():
            continue
        try:
            if (time.time() if now is None else now) - path.lstat().st_mtime >= older_than:
                removed += _sweep_one(path)
        except OSError as error:
            if error.errno not in _SPARED:
                raise
    return removed


def _sweep_one(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(descriptor, path):
            return False
        with suppress(FileNotFoundError):
            _log_of(path).unlink()
        path.unlink()
    finally:
        os.close(descriptor)
    return True


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")
