"""The only module through which a file comes to be at a final path."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, final

from ci_modelcache.errors import AccessDenied, ConfigError, NoSpace, Unavailable
from ci_modelcache.model.digest import verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.model.digest import Expected, Fingerprint

PREFIX = ".landing-"
"""Names of files that are being written; one that nobody holds locked was left by a killed process."""

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a disk says that knows no locks (some FUSE and network disks): files are written there all the same, and never swept."""

_BROKEN = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN}
"""What a disk says that fails, or that is gone."""


@final
class _Staged:
    """The files that this process is writing, so that `abandon` finds those of threads that are left behind."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names.add(name)

    def discard(self, name: str) -> None:
        with self._lock:
            self._names.discard(name)

    def take(self) -> list[str]:
        with self._lock:
            names, self._names = sorted(self._names), set()
        return names


_STAGED = _Staged()

_ALLOTTED = 1024 * 1024
"""Bytes up to which a file is so soon whole that reserving its room would only cost a call."""

_SPACE = struct.Struct("@hhqqiI4i")
_RESVSP = 0x40005828 | _SPACE.size << 16
"""linux/falloc.h: ``_IOW('X', 40, struct space_resv)``. Not `os.posix_fallocate`: where a disk cannot do that, glibc writes to each page instead."""
_NO_ALLOTTING = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
"""What a disk says that cannot reserve room: the file then grows as it is written, and has its holes until then."""

_READ = 256 * 1024
"""Bytes of a piece that is read back: it stays in the cache of the core that hashes it."""


def abandon() -> None:
    """
    Remove what this process has staged and not finished; for its very end, when threads may be left behind in the middle.

    Such a thread fails when it is done; what cannot be removed is left to `sweep`.
    """
    for name in _STAGED.take():
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108  # *name* is a string from mkstemp


@contextmanager
def replacing(
    target: Path, *, mode: int = 0o644, staging: Path | None = None, create_only: bool = False
) -> Iterator[BinaryIO]:
    """
    Yield a file that becomes *target* if the block succeeds and vanishes if it does not.

    It is staged in *staging*, a folder on the disk of *target* (default: beside it), never in /tmp: a rename
    must not become a copy. It gets *mode* whatever the umask is: a temporary file is 0600, and would be unreadable to the
    user of an image. A full disk raises `NoSpace`; data is on the disk before the name is. With *create_only*
    a *target* that exists at the end raises `FileExistsError` and stays as it is. Other `OSError` pass through.
    """
    # The folder is not synced: a power cut may take the name away again, which every reader sees as "not there", but
    # never puts a name to bytes that are not there. It would cost a second flush for each small file.
    folder = staging or target.parent
    with explaining_full_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = _stage(folder)
        _STAGED.add(name)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                _give_time(file.fileno())
                os.fsync(file.fileno())
                if create_only:
                    _link(name, target)
                else:
                    os.replace(name, target)  # noqa: PTH105  # *name* is a string from mkstemp
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  # as above
            raise
        finally:
            _STAGED.discard(name)


class Ended(Exception):
    """For a thread that goes on with a `Landing` which is over, such as one that was left behind; never for anybody else."""


class Landing:
    """
    A file of *size* bytes that is staged for *target* and written in any order; it comes to its place by `land` alone.

    Nothing in it is proven: that is for the caller. Its room is reserved where the disk can do that, so that a full one is told before the
    first byte. *mtime*: in seconds since the epoch. Methods may be called from any thread; when it is over they raise `Ended`. Raises as `land` does.
    """

    def __init__(self, target: Path, size: int, *, mode: int, staging: Path, mtime: int | None = None) -> None:
        self.target, self.size = target, size
        self._mode, self._mtime = mode, mtime
        self._lock = threading.Lock()
        self._users, self._over = 0, False
        with explaining_refusal(target), explaining_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor, self._name = _stage(staging)
            _STAGED.add(self._name)
            try:
                _allot(self._descriptor, size)
            except BaseException:
                self.discard()
                raise

    def write(self, offset: int, data: bytes) -> None:
        """Put *data* at *offset*."""
        with self._in_use():
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """What lies from *start* to *stop* now, in pieces."""
        while start < stop:
            with self._in_use():
                piece = os.pread(self._descriptor, min(_READ, stop - start), start)
            if not piece:
                msg = f"{self._name} was cut short by somebody else"
                raise Unavailable(msg, hint="nothing else may write to the folder that is restored to")
            yield piece
            start += len(piece)

    def land(self) -> None:
        """Become the target, whose bytes the caller has proven: data is on the disk before the name is."""
        with self._in_use():
            os.fchmod(self._descriptor, self._mode)
            _give_time(self._descriptor, self._mtime)
            os.fsync(self._descriptor)
            with self._lock:
                if self._over:
                    raise Ended
                os.replace(self._name, self.target)  # noqa: PTH105  # a string from mkstemp
                self._over = True
        _STAGED.discard(self._name)

    def discard(self) -> None:
        """Give it up, unless it has landed; whoever is at work on it in this moment is not disturbed. What cannot be removed is left to `sweep`."""
        with self._lock:
            if self._over:
                return
            self._over = True
            # The number of a closed descriptor is given to another file: a thread that is still writing closes it itself.
            if not self._users:
                with suppress(OSError):
                    os.close(self._descriptor)
        with suppress(OSError):
            os.unlink(self._name)  # noqa: PTH108  # as above
        _STAGED.discard(self._name)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._lock:
            if self._over:
                raise Ended
            self._users += 1
        try:
            yield
        except OSError:
            # Only now: around the block they would cost each piece, whether it fails or not.
            with explaining_refusal(self.target), explaining_full_disk(self.target):
                raise
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._over and not self._users:
                os.close(self._descriptor)


def _allot(descriptor: int, size: int) -> None:
    if size <= _ALLOTTED or sys.platform != "linux":
        return
    try:
        fcntl.ioctl(descriptor, _RESVSP, _SPACE.pack(0, os.SEEK_SET, 0, size, 0, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno not in _NO_ALLOTTING:
            raise


def _stage(folder: Path) -> tuple[int, str]:
    """A new file in *folder*, locked until it is closed, by a kill too: `sweep` leaves locked files alone."""
    while True:
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=PREFIX)
        except FileNotFoundError:  # the first file here, or whoever has just finished took the empty folder away
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                os.unlink(name)  # noqa: PTH108  # *name* is a string from mkstemp
                raise
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)  # a `sweep` of another process came between making and locking


def _give_time(descriptor: int, mtime: int | None = None) -> None:
    """Give it *mtime*, or set its own back by a millisecond, so that a later write shows in it even within one tick of the disk's clock."""
    # `transfer.receipts` relies on this: a file whose mtime is its ctime may be written again without a trace.
    times = os.fstat(descriptor)
    os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns - 1_000_000 if mtime is None else mtime * 10**9))


def _link(name: str, target: Path) -> None:
    try:
        os.link(name, target)  # the one call that creates a name with content, or fails because it is taken
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # A disk without hard links (FAT, some FUSE and network disks): two writers in this moment may both win.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(name, target)  # noqa: PTH105  # *name* is a string from mkstemp
    else:
        os.unlink(name)  # noqa: PTH108  # as above


def land(
    chunks: Iterable[bytes],
    target: Path,
    expected: Expected,
    *,
    mode: int = 0o644,
    staging: Path | None = None,
    leaves: bool = True,
) -> Fingerprint:
    """
    Write *chunks* so that *target* only ever holds verified bytes.

    Raises `SizeMismatch` or `DigestMismatch`, `NoSpace`, `AccessDenied`, `Unavailable` for a disk that fails or, when something stands in the way,
    `ConfigError`; then *target* is as it was. Without *leaves* the result has no leaf list, and hashing is twice as fast.
    """
    hasher = expected.fingerprinter(leaves=leaves)
    with explaining_refusal(target), replacing(target, mode=mode, staging=staging) as file:
        for chunk in verified(chunks, expected, str(target), into=hasher):
            file.write(chunk)
    return hasher.finish()


@contextmanager
def explaining_full_disk(path: Path) -> Iterator[None]:
    """Turn the system's "no space" and "over quota" into `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        msg = f"no space left while writing {path}: {error.strerror}"
        raise NoSpace(msg, hint="free space there, or restore to another disk") from error


@contextmanager
def explaining_refusal(target: Path) -> Iterator[None]:
    """Turn the system's refusals to write *target* into `AccessDenied` and `ConfigError`, and a broken disk into `Unavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            msg = f"cannot write {target}: {error}"
            raise AccessDenied(msg, hint="run as the user who owns the folder, or choose another one") from error
        if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY}:
            msg = f"cannot write {target}, something else is in its place: {error}"
            raise ConfigError(msg, hint="move that away, or choose another folder") from error
        if error.errno in _BROKEN:
            msg = f"cannot write {target}: {error.strerror}"
            raise Unavailable(msg, hint="check the disk, and if it is a network disk the connection to it") from error
        raise


def sweep(folder: Path) -> int:
    """
    Remove from *folder* what killed processes were still writing; returns how many files.

    Spared is what a live process holds, what belongs to another user, and everything on a disk that knows no locks.
    """
    removed = 0
    for leftover in sorted(folder.glob(f"{PREFIX}*")):
        # One that is gone by now was finished by its writer, or swept by somebody else. One that would block is a link
        # that `transfer.place` is just making, under a lease against writers.
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            removed += _sweep_one(leftover)
    return removed


def _sweep_one(leftover: Path) -> bool:
    # Neither a link nor a FIFO that somebody laid there may lead us elsewhere, or make us wait.
    mode = leftover.lstat().st_mode
    if not stat.S_ISREG(mode):
        return False
    # NFS gives this lock to those only who may write; a file that is to be read-only is no longer writable.
    access = os.O_RDWR if mode & stat.S_IWUSR else os.O_RDONLY
    descriptor = os.open(leftover, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink()
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EBADF, *_NO_LOCKS}:
            raise
        return False
    finally:
        os.close(descriptor)
    return True
