"""The only module where the path of a snapshot meets the disk."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.errors import AccessDenied, ConfigError, IntegrityError, UnsafePath
from ci_modelcache.model.path import check_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import stat_result

DENIALS = {errno.EACCES, errno.EPERM, errno.EROFS}
_EMPTY = "or use an empty folder as the destination"


def inside(root: Path, path: str) -> Path:
    """
    Where the file *path* of a snapshot lies below *root*, which is the user's own choice and may be a link itself.

    Raises `UnsafePath` for a path that breaks the rules of `model.path`, and when a folder on the way is a symbolic
    link: an archive, an older tool or an attacker can leave one that leads to ``/etc``, and everything below it would
    be written there. Raises `ConfigError` when a file is where a folder must go, or a folder where the file
    must go; neither is deleted, for nobody knows whose it is.
    """
    folder = str(root)
    for segment in check_path(path).split("/")[:-1]:
        folder = os.path.join(folder, segment)  # noqa: PTH118  # a `Path` costs more than the question, and this is asked for each file
        mode = _mode(folder)
        if stat.S_ISLNK(mode):
            msg = f"{folder} is a symbolic link to {Path(folder).readlink()}: {path} would be written there"
            raise UnsafePath(msg, hint=f"remove the link, {_EMPTY}")
        if mode and not stat.S_ISDIR(mode):
            msg = f"{folder} is a file, and {path} needs a folder there"
            raise ConfigError(msg, hint=f"remove the file, {_EMPTY}")
    target = root / path
    require_no_folder(target)
    return target


def require_no_folder(target: Path) -> None:
    """Raise `ConfigError` when a folder is at *target*, where a file must go."""
    if stat.S_ISDIR(_mode(str(target))):
        msg = f"{target} is a folder, and a file must go there"
        raise ConfigError(msg, hint=f"remove the folder, {_EMPTY}")


def require_file(path: Path, *, size: int, links: bool) -> stat_result:
    """
    The state of the regular file at *path*, or with *links* of the one where a symbolic link there leads.

    Raises `IntegrityError` unless there is one, of *size* bytes.
    """
    try:
        seen = path.stat() if links else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        found = "missing"
    except OSError:
        with explaining_denial(path):
            raise
    else:
        if stat.S_ISREG(seen.st_mode) and seen.st_size == size:
            return seen
        found = f"{seen.st_size} bytes long" if stat.S_ISREG(seen.st_mode) else "no regular file"
    msg = f"{path} was complete with {size} bytes, and is {found} now"
    raise IntegrityError(msg, hint="something else is at work on this destination; run again when it is done")


def require_below(root: Path, path: Path) -> None:
    """Raise `UnsafePath` unless *path* is below *root* without ``..`` and without a linked folder on the way."""
    between = path.parents[: len(path.parts) - len(root.parts) - 1]
    if not path.is_relative_to(root) or ".." in path.parts or any(folder.is_symlink() for folder in between):
        msg = f"{path} is not below {root}, so it is left alone"
        raise UnsafePath(msg)


def _mode(path: str) -> int:
    """The mode of *path* itself, no link followed; 0, which nothing has, when nothing is there."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        with explaining_denial(path):
            raise


@contextmanager
def explaining_denial(path: Path | str) -> Iterator[None]:
    """Turn the system's "permission denied" and "read-only" about *path* into `AccessDenied`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DENIALS:
            raise
        msg = f"cannot use {error.filename or path}: {error.strerror}"
        raise AccessDenied(msg, hint="run as the user who owns it, or choose another destination") from error
