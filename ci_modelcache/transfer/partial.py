"""The only module that keeps half-received files, so that a killed run is gone on with instead of begun again."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote

from attrs import frozen

from ci_modelcache.errors import Rewritten
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = ".partial-"
"""Names of half-received files: ``.partial-<name>`` has the bytes, ``.partial-<name>.log`` says which ones and from whom."""

_LOGGED = 1024 * 1024
"""Bytes of one stretch after which the log is told; what a kill can cost for each connection."""
_LINE = re.compile(r"(\d{1,19}) (\d{1,19}) (\S+)\n")
_GONE = "-"
_READ = 1024 * 1024


@frozen
class Stretch:
    """Bytes *start* to *stop* (exclusive), which *source* sent."""

    start: int
    stop: int
    source: str


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
        self._writing = 0
        self._landed = False
        self._stretches: list[Stretch] = []
        self._recall()
        self._rewritten = size
        self.resumed = self.received
        """Bytes that an earlier run received."""

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
            descriptor, path, shared = _acquire(path)
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

    # --- bytes

    @contextmanager
    def writing(self, start: int, source: str) -> Iterator[Pen]:
        """Yield a `Pen` that writes what *source* sends, from offset *start* on."""
        pen = Pen(self, start, source)
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
            self._rewritten = min(self._rewritten, start)
            self._note(Stretch(start, stop, _GONE))

    def begin(self) -> None:
        """Somebody begins to read from the first byte; whoever was writing until now writes no more."""
        self.seal()
        self._rewritten = self.size

    def seal(self) -> None:
        """Whoever was writing until now writes no more: to be called before bytes are proven, moved or given up."""
        with self._lock:
            self._turn += 1
            self._lock.wait_for(lambda: self._writing == 0)

    def require_unchanged(self, stop: int) -> None:
        """Raise `Rewritten` when anything before *stop* was forgotten since `begin`."""
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
        self.path.replace(target)
        self._landed = True
        with suppress(FileNotFoundError):
            _log_of(self.path).unlink()

    def discard(self) -> None:
        """Remove what was received: it is somewhere else by now, or no good."""
        if self._landed:
            return  # another process may have begun one of this name
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
    def _in_turn(self, turn: int) -> Iterator[None]:
        """A write of whoever began in *turn*; `Revoked` when that is over."""
        # A thread that hangs in a read may come back any time: after the descriptor was closed and its number was given
        # to another file, or after what it brings was found wrong and replaced.
        with self._lock:
            if turn != self._turn:
                raise Revoked
            self._writing += 1
        try:
            with explaining_full_disk(self.path):
                yield
        finally:
            with self._lock:
                self._writing -= 1
                self._lock.notify_all()

    def _arrived(self, start: int, stop: int, source: str) -> None:
        with self._lock:
            self._stretches = _over(self._stretches, Stretch(start, stop, source))

    def _note(self, stretch: Stretch) -> None:
        with self._lock:
            self._stretches = _over(self._stretches, stretch)
        with explaining_full_disk(self.path):
            # One write, at the end of the file: whole or, when it is killed just there, torn and then ignored.
            line = f"{stretch.start} {stretch.stop} {quote(stretch.source, safe='/:')}\n"
            os.write(self._log, line.encode())

    def _recall(self) -> None:
        """Read the log of an earlier run; what it says beyond the file's end has not arrived."""
        have = os.fstat(self._descriptor).st_size
        with open(self._log, "rb", closefd=False) as log:
            lines = log.read().decode("ascii", "replace").splitlines(keepends=True)
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is not None and int(found[1]) < int(found[2]) <= min(have, self.size):
                self._stretches = _over(self._stretches, Stretch(int(found[1]), int(found[2]), unquote(found[3])))


class Pen:
    """Writes one stretch of a `Partial`, at `offset`."""

    def __init__(self, partial: Partial, start: int, source: str) -> None:
        self.offset = start
        self._partial = partial
        self._source = source
        self._logged = start
        self._turn = partial._turn  # noqa: SLF001  # its pen

    def write(self, data: bytes) -> None:
        """Write *data* at the offset, and move on."""
        with self._partial._in_turn(self._turn):  # noqa: SLF001  # as above
            self._partial._put(self.offset, data)  # noqa: SLF001  # as above
            start, self.offset = self.offset, self.offset + len(data)
            self._partial._arrived(start, self.offset, self._source)  # noqa: SLF001  # as above
        if self.offset - self._logged >= _LOGGED:
            self.flush()

    def flush(self) -> None:
        """Tell the log what was written."""
        if self.offset > self._logged:
            with suppress(Revoked), self._partial._in_turn(self._turn):  # noqa: SLF001  # as above
                self._partial._note(Stretch(self._logged, self.offset, self._source))  # noqa: SLF001  # as above
            self._logged = self.offset


def sweep_partials(folder: Path, *, older_than: float = 0.0, now: float | None = None) -> int:
    """Remove from *folder* what nobody is receiving and nobody has touched for *older_than* seconds; returns how many files."""
    removed = 0
    for path in sorted(folder.glob(f"{PREFIX}*")):
        if path.suffix == ".log" and path.with_suffix("").exists():
            continue
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            if (time.time() if now is None else now) - path.lstat().st_mtime >= older_than:
                removed += _sweep_one(path)
    return removed


def _sweep_one(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        with suppress(FileNotFoundError):
            _log_of(path).unlink()
    finally:
        os.close(descriptor)
    return True


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")


def _acquire(path: Path) -> tuple[int, Path, bool]:
    """A locked descriptor of *path*, or of a name of our own when somebody else holds that; and whether it may be kept."""
    for candidate, shared in ((path, True), (path.with_name(f"{path.name}-{secrets.token_hex(8)}"), False)):
        while True:
            descriptor = os.open(candidate, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                break
            except OSError:
                # A disk that knows no locks: nothing tells two processes apart, so nothing is shared there.
                os.close(descriptor)
                if not shared:
                    return os.open(candidate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), candidate, False
                break
            if os.fstat(descriptor).st_nlink:
                return descriptor, candidate, shared
            os.close(descriptor)  # swept, or landed, between opening and locking
    msg = f"the new name {path} is locked"
    raise AssertionError(msg)


def _over(known: list[Stretch], new: Stretch) -> list[Stretch]:
    """*known* with *new* in the place of whatever it overlaps; neighbours of one source become one."""
    before = [each for each in known if each.stop <= new.start]
    after = [each for each in known if each.start >= new.stop]
    cut = [
        piece
        for each in known[len(before) : len(known) - len(after)]
        for piece in (
            Stretch(each.start, new.start, each.source),
            Stretch(new.stop, each.stop, each.source),
        )
        if piece.start < piece.stop
    ]
    middle = sorted([*cut, new] if new.source != _GONE else cut, key=lambda each: each.start)
    joined: list[Stretch] = []
    for each in (*before[-1:], *middle, *after[:1]):
        if joined and joined[-1].stop == each.start and joined[-1].source == each.source:
            joined[-1] = Stretch(joined[-1].start, each.stop, each.source)
        else:
            joined.append(each)
    return [*before[:-1], *joined, *after[1:]]
