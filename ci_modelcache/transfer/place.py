"""The only module that makes one local file out of another: a clone, a link, or a copy, always of proven bytes."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import sys
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from ci_modelcache.errors import AccessDenied, IntegrityError, ObjectNotFound
from ci_modelcache.transfer.land import PREFIX, explaining_refusal, land, replacing
from ci_modelcache.transfer.receipts import check_file, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from ci_modelcache.model.digest import Expected
    from ci_modelcache.transfer.receipts import Receipts

_FICLONE = 0x40049409
"""linux/fs.h: ``_IOW(0x94, 9, int)``; the new file shares the blocks of the old one until either is written."""
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_CANNOT_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.ENOENT}
"""
EPERM is what ``fs.protected_hardlinks`` says of other people's files, ENOLCK what a disk without locks says, and ENOENT who has lost the
folder for staged files to another that has just finished.
"""
_CANNOT_COPY = {*_CANNOT_CLONE, errno.EPERM, errno.EBADF, errno.ETXTBSY}
_CHUNK = 1024 * 1024


class Placed(StrEnum):
    """How a file came to its place."""

    REFLINK = "reflink"
    HARDLINK = "hardlink"
    COPY = "copy"


class Linking(StrEnum):
    """When a hard link to the source will do."""

    NEVER = "never"
    READ_ONLY = "read-only"
    """When nobody can write to the source by accident, and it is as executable as the target is to be."""
    SAME_MODE = "same-mode"
    """When the source has the mode that the target is to have: for trees that are ours and read before they are believed."""


def place(
    source: Path,
    target: Path,
    *,
    expected: Expected,
    link: Linking,
    mode: int,
    staging: Path,
    receipts: Receipts,
) -> Placed:
    """
    Make *target* a file of the bytes of *source*, which are *expected*, in the cheapest way that this disk has.

    A clone (*mode* applies) is tried first; then, if *link* allows it, a hard link, which keeps the mode of *source*; then a
    copy, which the kernel makes where a receipt proves *source* before and after. Bytes that no receipt proves are hashed, never trusted. *target*
    appears whole or not at all, by way of *staging*, and is remembered. Raises `DigestMismatch` or `SizeMismatch`
    when *source* is corrupt, `ObjectNotFound` when it is gone, `AccessDenied`, `NoSpace`, or `ConfigError` when something
    else is in the place of *target*.
    """
    with explaining_refusal(target), _open_source(source) as original:
        if _cloned(source, original, target, expected=expected, mode=mode, staging=staging, receipts=receipts):
            how = Placed.REFLINK
        elif _may_link(original, link, mode) and _linked(source, original, target, expected, staging, receipts):
            return Placed.HARDLINK  # one inode, remembered as *source* already
        else:
            how = Placed.COPY
            if not _copied(original, target, expected=expected, mode=mode, staging=staging, receipts=receipts):
                before, began = os.fstat(original.fileno()), receipts.now()
                seen = land(_chunks(original), target, expected, mode=mode, staging=staging, leaves=False)
                receipts.note(source, seen.sha256, before, began=began)
    if expected.sha256 is not None:
        receipts.remember(target, expected.sha256)
    return how


@contextmanager
def _open_source(source: Path) -> Iterator[FileIO]:
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hang us.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ObjectNotFound(source.name, str(source.parent)) from None
    except PermissionError as error:
        msg = f"cannot read {source}: {error.strerror}"
        raise AccessDenied(msg, hint="run as the user who owns it, or change its permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"{source} is not a regular file"
        raise IntegrityError(msg)
    with open(descriptor, "rb", buffering=0) as original:  # noqa: PTH123  # a descriptor, not a path
        try:
            yield original
        except IntegrityError as error:
            error.add_note(f"the bytes came from {source}")
            raise


def _chunks(original: FileIO) -> Iterator[bytes]:
    while chunk := original.read(_CHUNK):
        yield chunk


def _cloned(
    source: Path,
    original: FileIO,
    target: Path,
    *,
    expected: Expected,
    mode: int,
    staging: Path,
    receipts: Receipts,
) -> bool:
    """Make *target* a clone; False when this disk, or this pair of disks, cannot do that."""
    before, began = os.fstat(original.fileno()), receipts.now()
    try:
        with replacing(target, mode=mode, staging=staging) as clone:
            _clone(clone.fileno(), original.fileno())
            after = os.fstat(original.fileno())
            if not (receipts.fits(before, expected) and receipts.fits(after, expected)):
                # The clone rather than *original* is hashed: nobody else knows it, so nobody can change it meanwhile.
                with open(clone.fileno(), "rb", buffering=0, closefd=False) as written:
                    written.seek(0)
                    found = fingerprint(written, expected)
                expected.check(found, str(target))
                receipts.note(source, found.sha256, before, began=began)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def _clone(new: int, old: int) -> None:
    fcntl.ioctl(new, _FICLONE, old)


def _copied(
    original: FileIO, target: Path, *, expected: Expected, mode: int, staging: Path, receipts: Receipts
) -> bool:
    """Make *target* a copy that nobody hashes; False when no receipt proves *original*, or this kernel or disk cannot do that."""
    if not receipts.fits(os.fstat(original.fileno()), expected):
        return False
    try:
        with replacing(target, mode=mode, staging=staging) as copy:
            _copy(copy.fileno(), original.fileno(), expected.size)
            _require_proven(original, expected, receipts)
    except _Uncertain:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
        return False
    return True


def _require_proven(original: FileIO, expected: Expected, receipts: Receipts) -> None:
    if not receipts.fits(os.fstat(original.fileno()), expected):
        raise _Uncertain


def _copy(new: int, old: int, size: int) -> None:
    """Let the kernel copy *size* bytes; raises `_Uncertain` when it finds fewer."""
    done = 0
    while done < size:
        count = os.copy_file_range(old, new, size - done, done, done) if sys.platform == "linux" else 0
        if not count:  # the file was cut meanwhile, or the disk says so of files that it makes up
            raise _Uncertain
        done += count


class _Uncertain(Exception):
    """A copy that may be of other bytes than those that were proven."""


def _may_link(original: FileIO, link: Linking, mode: int) -> bool:
    source_mode = stat.S_IMODE(os.fstat(original.fileno()).st_mode)
    if link is Linking.READ_ONLY:
        return not source_mode & 0o222 and source_mode & 0o111 == mode & 0o111
    return link is Linking.SAME_MODE and source_mode == mode


def _linked(
    source: Path, original: FileIO, target: Path, expected: Expected, staging: Path, receipts: Receipts
) -> bool:
    """Make *target* a second name of *source*; False when that cannot be, or *source* is not what is expected."""
    if not check_file(source, expected, receipts).good:
        return False
    before = os.fstat(original.fileno())
    staging.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = staging / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        # Held until *original* is closed: `sweep` of another process leaves locked files alone. Shared, as others may link, too.
        fcntl.flock(original, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with receipts.carrying(source, expected):
            return _link(source, target, staged, before)
    except OSError as error:
        if error.errno not in _CANNOT_LINK and not isinstance(error, BlockingIOError):
            raise
        return False


def _link(source: Path, target: Path, staged: Path, checked: os.stat_result) -> bool:
    """Make *target* a name of the inode that was *checked*, by way of *staged*; False when *source* is another by now."""
    try:
        os.link(source, staged, follow_symlinks=False)
        if not _same_bytes(staged.lstat(), checked):
            return False
        staged.replace(target)
    finally:
        # Renaming one name of an inode to another name of it does nothing, and says nothing.
        with suppress(FileNotFoundError):
            staged.unlink()
    return True


def _same_bytes(staged: os.stat_result, checked: os.stat_result) -> bool:
    """Whether the link leads to the inode that was checked, unwritten since; only its ctime may have moved."""

    def facts(seen: os.stat_result) -> tuple[int, ...]:
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns

    return facts(staged) == facts(checked)
