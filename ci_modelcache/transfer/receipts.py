"""
The only module that remembers which files of this disk were already proven.

A receipt says: the inode with this size, mtime and ctime holds the bytes of this SHA-256. Whoever writes into
a file, however carefully the old mtime is put back, moves its ctime; then the receipt no longer fits and the file
is hashed again. Receipts save time and decide nothing else: every one may be lost at any moment. They say
nothing about a disk that alters bytes by itself, so `verify` does not ask them.

Removing one of several hard links moves the ctime of the others, too: they are hashed once more.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import math
import os
import signal
import stat
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from ci_modelcache.errors import AccessDenied, ObjectNotFound, Unavailable
from ci_modelcache.model.digest import Digest, Fingerprint
from ci_modelcache.transfer.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from ci_modelcache.model.digest import Expected

_log = logging.getLogger(__name__)

_SETTLED = 2 * 10**9
"""Nanoseconds after which a clock has certainly ticked: FAT counts in 2 s, HFS+ and ext3 in 1 s, Linux in 1 to 10 ms."""

_CHUNK = 1024 * 1024


class Receipts:
    """
    What is remembered in the database at *path*, which is made when needed and shared by processes and threads.

    A database that is broken, locked, read-only or another user's means that nothing is remembered: that is
    logged once, as a warning, and never an error. A broken one is set aside as ``<path>.broken`` and begun anew.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._remembered = Remembered(path, clock=clock)

    def proven(self, path: Path, expected: Expected) -> bool:
        """Whether the file at *path* (or where a link there leads) has a receipt for what is *expected*."""
        try:
            seen = path.stat()
        except OSError:  # no answer is no receipt; whoever opens the file learns why
            return False
        return self.fits(seen, expected)

    def fits(self, seen: os.stat_result, expected: Expected) -> bool:
        """Whether there is a receipt for the very inode and state that were *seen*, by ``fstat`` for instance."""
        # A receipt knows the SHA-256 only: a promised git name is left to be computed.
        if expected.sha256 is None or expected.git_oid is not None or not stat.S_ISREG(seen.st_mode):
            return False
        if seen.st_size != expected.size:
            return False
        return self._remembered.receipt(_inode(seen)) == (*_state(seen), expected.sha256.hex)

    def remember(self, path: Path, sha256: Digest) -> None:
        """
        Note that the file at *path*, which the caller has just landed or otherwise proven, holds *sha256*.

        Call it at once: what somebody else changed in between, and only that, would go unnoticed.
        """
        try:
            seen = path.stat()
        except OSError as error:
            _log.debug("no receipt for %s: %s", path, error)
            return
        self.note(path, sha256, seen, began=-math.inf)

    def now(self) -> float:
        """The time to hand to `note`, in seconds since the epoch."""
        return self._clock()

    def note(self, path: Path, sha256: Digest, seen: os.stat_result, *, began: float) -> None:
        """
        As `remember`, for a proof that *began* at that time, and just after the file was *seen* in this state.

        The note is dropped when a change during the proof or after it might be invisible. A visible one needs no care:
        it has left the state that was seen, and no file comes back to a ctime.
        """
        # Case 1: mtime and ctime differ. The last change was one of metadata (a rename, a link), as after `land`. A
        #   write from now on sets both to one and the same tick of the clock, so it shows even within this tick.
        # Case 2: they are equal, so the last change was a write. Another one in the same tick leaves no trace; git
        #   calls such an entry racily clean. Only a proof that began after that tick has seen the final bytes.
        # Disks that count in whole seconds are treated as case 2: in so long a tick a tool could put the mtime back.
        # Measured on Linux 6.18 (ext4, btrfs, tmpfs): a change after a stat always gets a ctime of its own, a
        #   change without one shares a tick of 4 ms; older kernels have the tick only.
        racy = seen.st_mtime_ns == seen.st_ctime_ns or seen.st_ctime_ns % 10**9 == 0
        if racy and began * 10**9 - seen.st_ctime_ns < _SETTLED:
            return
        if stat.S_ISREG(seen.st_mode):
            self._remembered.keep_receipt(_inode(seen), (*_state(seen), sha256.hex), path)

    @contextmanager
    def carrying(self, path: Path, expected: Expected) -> Iterator[None]:
        """
        Keep the receipt of *path* over a change of its metadata (a new link, other mode or times) made in the block.

        Changing metadata moves the ctime, behind which a write could hide. So the receipt is renewed only if a
        read lease, under which the kernel lets nobody open the file for writing, was held throughout and the old
        receipt fitted while it was. Without leases (NFS, macOS), or with a writer about, the receipt is
        simply outdated and the file is hashed when it is needed next.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            _log.debug("the receipt of %s is not carried over: %s", path, error)
            yield
            return
        try:
            carried = _take_lease(descriptor) and self.fits(os.fstat(descriptor), expected)
            yield
            if carried and expected.sha256 is not None:
                after = os.fstat(descriptor)
                if _holds_lease(descriptor):
                    self.note(path, expected.sha256, after, began=-math.inf)
        finally:
            os.close(descriptor)

    def note_snapshot(self, destination: str, snapshot: str, manifest: bytes) -> None:
        """Note the canonical *manifest* of the *snapshot* that was published at *destination*, both opaque keys."""
        self._remembered.keep_manifest(destination, snapshot, manifest, Digest.of(manifest).hex)

    def snapshot_at(self, destination: str, snapshot: str) -> bytes:
        """
        The canonical manifest of the *snapshot* last published at *destination*; raises `ObjectNotFound`.

        It says what was there, not what is there now: every file is still to be checked.
        """
        for manifest, sha256 in self._remembered.manifests(destination, snapshot):
            if Digest.of(manifest).hex == sha256:
                return manifest
        raise ObjectNotFound(snapshot, f"the memory of {destination}")

    def close(self) -> None:
        """Close the database; a later question opens it again."""
        self._remembered.close()


class Forgetful(Receipts):
    """Receipts for those who have none: nothing is proven, nothing is remembered, no file is made."""

    def __init__(self) -> None:
        self._clock = time.time

    def fits(self, seen: os.stat_result, expected: Expected) -> bool:
        del seen, expected
        return False

    def note(self, path: Path, sha256: Digest, seen: os.stat_result, *, began: float) -> None:
        del path, sha256, seen, began

    @contextmanager
    def carrying(self, path: Path, expected: Expected) -> Iterator[None]:
        del path, expected
        yield

    def note_snapshot(self, destination: str, snapshot: str, manifest: bytes) -> None:
        del destination, snapshot, manifest

    def snapshot_at(self, destination: str, snapshot: str) -> bytes:
        raise ObjectNotFound(snapshot, f"the memory of {destination}")

    def close(self) -> None:
        pass


FORGETFUL = Forgetful()


@frozen
class FileState:
    """
    What is at the place of a file: "proven" by a receipt, "verified" by hashing it now, "missing", "different", or "unproven" as nobody hashed it.

    *defect* tells in what it is different: its "kind" (a link, a folder), its "size" in bytes or its "digest", with
    what was *expected* there and the *actual*.
    """

    status: Literal["proven", "verified", "missing", "different", "unproven"]
    defect: Literal["", "kind", "size", "digest"] = ""
    expected: str = ""
    actual: str = ""

    @property
    def good(self) -> bool:
        """Whether the right bytes are there."""
        return self.status in {"proven", "verified"}

    def __str__(self) -> str:
        if not self.defect:
            return self.status
        return f"{self.status}: expected {self.defect} {self.expected}, got {self.actual}"


def check_file(
    path: Path, expected: Expected, receipts: Receipts, *, links: bool = False, hashing: bool = True
) -> FileState:
    """
    Say whether *path* holds what is *expected*, asking the receipts first and, unless there is to be no *hashing*, hashing otherwise.

    With *links* a symbolic link that leads to the right bytes is right (see `Layout.follows_links`); without, it is
    "different", so that it is replaced and never written through. What was hashed and right is remembered. Raises
    `AccessDenied` for a file that may not be read, `Unavailable` for one that the disk cannot deliver.
    """
    follow = 0 if links else os.O_NOFOLLOW
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow)
    except (FileNotFoundError, NotADirectoryError):
        return FileState("missing")
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            actual = "a symbolic link" if error.errno == errno.ELOOP else "a socket"
            return FileState("different", "kind", "a regular file", actual)
        raise _unreadable(path, error) from error
    try:
        return _check_open(descriptor, path, expected, receipts, hashing=hashing)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _check_open(descriptor: int, path: Path, expected: Expected, receipts: Receipts, *, hashing: bool) -> FileState:
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        actual = "a folder" if stat.S_ISDIR(seen.st_mode) else "a special file"
        return FileState("different", "kind", "a regular file", actual)
    if seen.st_size != expected.size:
        return FileState("different", "size", str(expected.size), str(seen.st_size))
    proven = receipts.fits(seen, expected)
    if proven or not hashing:
        return FileState("proven" if proven else "unproven")
    began = receipts.now()
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        found = fingerprint(file, expected)
    if found.size != expected.size:
        return FileState("different", "size", str(expected.size), str(found.size))
    for promised, computed in ((expected.sha256, found.sha256), (expected.git_oid, found.git_oid)):
        if promised is not None and promised != computed:
            return FileState("different", "digest", str(promised), str(computed))
    receipts.note(path, found.sha256, seen, began=began)
    return FileState("verified")


def fingerprint(file: FileIO, expected: Expected) -> Fingerprint:
    """Hash the open *file* from where it stands, computing no more than `Expected.check` needs."""
    if expected.git_oid is None:
        start = file.tell()
        # One pass in C without the interpreter lock, and without the leaves, which only a store needs.
        sha256 = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        return Fingerprint(size=file.tell() - start, sha256=sha256, git_oid=None, leaf_list=None)
    hasher = expected.fingerprinter()
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
    return hasher.finish()


def _unreadable(path: Path, error: OSError) -> AccessDenied | Unavailable:
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"cannot read {path}: {error.strerror}", hint="run as the user who owns it, or change its permissions"
        )
    return Unavailable(f"cannot read {path}: {error.strerror}", hint="check the disk that it is on")


def _inode(seen: os.stat_result) -> tuple[str, str]:
    return str(seen.st_dev), str(seen.st_ino)  # up to 64 bits without a sign, more than an SQLite integer holds


def _state(seen: os.stat_result) -> tuple[int, int, int]:
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _take_lease(descriptor: int) -> bool:
    """Take a read lease: refused while anybody has the file open for writing. It ends when *descriptor* is closed."""
    if sys.platform != "linux":
        return False
    try:
        # Whoever opens the file for writing makes the kernel send us a signal: SIGIO would end this process, while
        # SIGURG is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        _log.debug("no lease: %s", error)
        return False
    return True


def _holds_lease(descriptor: int) -> bool:
    """Whether the lease is still whole: it is not from the moment on when somebody wants to write."""
    return sys.platform == "linux" and fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
