"""The only module that writes a file which a killed process leaves half done for the next one to complete."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError, DeadlineExceeded, Unavailable
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.holding import acquired
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal, sweep
from ci_modelcache.transfer.outlet import Keeping, Written, advising, refuse_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.transfer.outlet import Begin, Take

PIECE = 1024 * 1024
"""Bytes that are read at once of what is left."""
MODE = 0o644

PASSING = (Unavailable, DeadlineExceeded, KeyboardInterrupt, SystemExit)
"""What may be gone when the same is tried again; anything else would come again, or says that what was written is of no use."""


def staged(target: Path) -> Path:
    """Where what becomes *target* grows."""
    return target.with_name(f"{target.name}.partial")


class KeptFile(Keeping):
    """
    The file at *path*, as a `Keeping` outlet: it is there when the block has ended well, readable for all, and as it was when not.

    Until then it grows at ``<path>.partial``, which stays there after a kill. While another process writes the same, this one begins
    anew under a name of its own, and keeps nothing.
    """

    goes_on = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    def written(self, sha256: str) -> tuple[Written, ...]:
        return (Written(self.name, self.path.stat().st_size, sha256),)

    @contextmanager
    def resume(self, size: int, begin: Begin) -> Iterator[Take]:
        with prepared(self.path), growing(self.path) as (descriptor, name):
            for part in name.parent.glob(f"{_literal(name.name)}.[0-9][0-9][0-9]"):
                part.unlink()  # of the same, when it was to be split
            start = begin(lambda offset: pieces(descriptor, offset))
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            require_space(self.path.parent, size - start)
            yield lambda data: put(descriptor, data)
            finish(descriptor)
            name.replace(self.path)


@contextmanager
def prepared(path: Path) -> Iterator[None]:
    """Make the folder of *path*, and clear it of what killed processes left there that nobody can use; errors are said in our words."""
    with explaining_refusal(path), advising(), explaining_full_disk(path):
        refuse_others(path)
        if os.path.lexists(staged(path)) and not stat.S_ISREG(staged(path).lstat().st_mode):
            raise _not_ours(staged(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        for leftover in sorted(path.parent.glob(f"{_literal(staged(path).name)}-*")):
            _remove_unheld(leftover)
        yield


@contextmanager
def growing(target: Path, *, others: Callable[[Path], Iterable[Path]] = lambda _name: ()) -> Iterator[tuple[int, Path]]:
    """
    A descriptor of the file that becomes *target*, and its name, at which an earlier process may have left something; nobody else has it.

    When the block fails it stays if the next try may need it, else it is removed, and all *others* that go with that name.
    """
    descriptor, name, shared = acquired(staged(target))
    try:
        if not is_own(os.fstat(descriptor)):
            raise _not_ours(name)
        try:
            yield descriptor, name
        except BaseException as error:
            if shared and isinstance(error, PASSING) and os.fstat(descriptor).st_size:
                error.add_note(f"what was written is kept in {name}: the same command goes on there")
            else:
                for each in (*others(name), name):
                    each.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


def is_own(seen: os.stat_result) -> bool:
    """Whether that is a regular file which nobody but this user has a name for."""
    return stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid() and seen.st_nlink == 1


def _not_ours(name: Path) -> ConfigError:
    """About what somebody else could change after it was proven, or read elsewhere."""
    msg = f"cannot write {name}: it is there, and is no file that belongs to this user alone"
    return ConfigError(msg, hint="move it away, or name another file")


def _remove_unheld(leftover: Path) -> None:
    """Remove *leftover* unless a process holds it; one that cannot be opened is left to its owner."""
    try:
        descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink(missing_ok=True)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _literal(name: str) -> str:
    """*name* in a pattern for `Path.glob`."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def pieces(descriptor: int, offset: int) -> Iterator[bytes]:
    """What a file has from *offset* on."""
    while data := os.pread(descriptor, PIECE, offset):
        yield data
        offset += len(data)


def put(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of *data* where the last write ended."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def finish(descriptor: int) -> None:
    """Make a file ready for its name: readable for all, and on the disk."""
    os.fchmod(descriptor, MODE)
    os.fsync(descriptor)
