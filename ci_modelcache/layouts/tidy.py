"""The only module that gives what a layout has made its mode and, for the layer of an image, its owner and time."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from ci_modelcache.errors import AccessDenied
from ci_modelcache.layouts.inside import DENIALS, explaining_denial
from ci_modelcache.transfer.place import Linking, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.model.digest import Expected
    from ci_modelcache.transfer.receipts import Receipts

_log = logging.getLogger(__name__)

FOLDER_MODE = 0o755
_ROOT = 0


@frozen
class Before:
    """
    What was there before anything was made: folders that were *missing*, deepest first, and the *time* of the one *above* them.

    *time* is an mtime in nanoseconds; without a missing folder nothing is above.
    """

    missing: tuple[Path, ...] = ()
    above: tuple[Path, ...] = ()
    time: int = 0

    @classmethod
    def of(cls, root: Path) -> Self:
        """What there is of *root* and the folders above it now."""
        with explaining_denial(root):
            missing = tuple(folder for folder in (root, *root.parents) if not folder.exists())
            if not missing:
                return cls()
            above = missing[-1].parent
            return cls(missing, (above,), above.stat().st_mtime_ns)


@frozen
class Tidying:
    """
    One time that a layout is put in order; with *mtime*, in seconds since the epoch, as a layer needs it.

    As a layer needs it is: that mtime for all, and owner and group 0 where this user is root, so that equal snapshots make equal layers. What
    belongs to somebody else and may not be changed stays as it is; `report` says so.
    """

    mtime: int | None
    _refused: dict[Path, str] = field(factory=dict, init=False)

    @property
    def for_layer(self) -> bool:
        """Whether owners and times matter."""
        return self.mtime is not None

    def give_file(
        self,
        path: Path,
        seen: os.stat_result,
        *,
        mode: int,
        expected: Expected,
        staging: Path,
        receipts: Receipts,
    ) -> None:
        """As `give`, to the regular file at *path* that was *seen*, which holds what is *expected*; its receipt is carried over."""
        if not self._is_due(seen, mode):
            return
        with self._noting(path):
            if seen.st_nlink > 1:
                # Mode, owner and mtime belong to all names of an inode, and the other names are not ours: part from them first.
                link = Linking.NEVER
                place(path, path, expected=expected, link=link, mode=mode, staging=staging, receipts=receipts)
            with receipts.carrying(path, expected):
                self.give(path, mode)

    def give(self, path: Path, mode: int) -> None:
        """Give the file or folder at *path* its *mode*, owner and time."""
        self._give_owner(path)
        with self._noting(path):
            seen = path.lstat()
            if stat.S_IMODE(seen.st_mode) != mode:
                path.chmod(mode)
            self._set_own_time(path, seen)

    def give_link(self, path: Path) -> None:
        """Give the symbolic link at *path* itself its owner and time."""
        self._give_owner(path)
        with self._noting(path):
            self._set_own_time(path, path.lstat())

    def give_time(self, path: Path) -> None:
        """Give the folder or file at *path*, or where a link there leads, its time alone: somebody else chose its mode and owner."""
        if self.mtime is not None:
            with self._noting(path):
                _set(path, path.stat(), self.mtime * 10**9)

    def give_above(self, before: Before) -> None:
        """Give the folders that were missing *before* all that they are to have, and the one above them the time that it had."""
        for folder in before.missing:
            self.give(folder, FOLDER_MODE)
        for folder in before.above if self.for_layer else ():
            with self._noting(folder):
                _set(folder, folder.stat(), before.time)

    def report(self, root: Path) -> None:
        """Warn about what may not be changed at *root*. The bytes are right, and proven: nothing that was asked for is missing."""
        if self._refused:
            first = next(iter(self._refused.values()))
            _log.warning("mode, owner or mtime of %d paths in %s stay as they are: %s", len(self._refused), root, first)

    def _give_owner(self, path: Path) -> None:
        with self._noting(path):
            if self._is_foreign(path.lstat()):
                os.chown(path, _ROOT, _ROOT, follow_symlinks=False)

    @contextmanager
    def _noting(self, path: Path) -> Iterator[None]:
        """Note that the system forbids what the block does to *path*, as it does with another user's files."""
        try:
            yield
        except AccessDenied as error:
            self._refused.setdefault(path, error.message)
        except OSError as error:
            if error.errno not in DENIALS:
                raise
            if error.errno == errno.EROFS:
                _log.debug("on a disk that nobody can write, nothing is put in order: %s", error)
                return
            self._refused.setdefault(path, f"{path}: {error.strerror}")

    def _is_due(self, seen: os.stat_result, mode: int) -> bool:
        late = self.mtime is not None and seen.st_mtime_ns != self.mtime * 10**9
        return late or stat.S_IMODE(seen.st_mode) != mode or self._is_foreign(seen)

    def _is_foreign(self, seen: os.stat_result) -> bool:
        return self.for_layer and os.geteuid() == _ROOT and (seen.st_uid, seen.st_gid) != (_ROOT, _ROOT)

    def _set_own_time(self, path: Path, seen: os.stat_result) -> None:
        if self.mtime is not None:
            _set(path, seen, self.mtime * 10**9, follow_symlinks=False)


def _set(path: Path, seen: os.stat_result, time: int, *, follow_symlinks: bool = True) -> None:
    """Set the mtime alone, and that only if it is another: the atime says when a cache was last used."""
    if seen.st_mtime_ns != time:
        os.utime(path, ns=(seen.st_atime_ns, time), follow_symlinks=follow_symlinks)
