"""The only module that knows a plain folder: each file at its own path, and nothing of ours beside it."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.errors import AccessDenied
from ci_modelcache.layouts.inside import DENIALS, explaining_denial, inside, require_below, require_file
from ci_modelcache.transfer.land import sweep
from ci_modelcache.transfer.partial import sweep_partials
from ci_modelcache.transfer.place import place
from ci_modelcache.transfer.receipts import FORGETFUL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.transfer.receipts import Receipts

_log = logging.getLogger(__name__)

_FOLDER_MODE = 0o755
_STAGING = ".ci-modelcache"  # reserved by model.path, so that no snapshot has a file there
_NOT_OURS = {".git", ".cache/huggingface"}
"""Folders below the root that belong to git and to ``huggingface_hub``: never reported, never pruned."""


class PlainLayout:
    """
    The files of a snapshot at ``root/<path>``, as Docker, git and people expect them; a `Layout`.

    Files have mode 0644, or 0755 when executable, and folders 0755, whatever the umask: an image is often built by one user
    and run by another. With *normalize_mtime* (seconds since the epoch) files, folders and the root have that
    mtime, so that equal snapshots make equal layers; what belongs to somebody else and may not be changed so stays as it
    is, with a warning. After `publish` nothing of ours is left in *root*. A
    root, or folder above it, that existed before keeps its mode.
    """

    def __init__(self, root: Path, *, normalize_mtime: int | None = None) -> None:
        self.root = root
        self.normalize_mtime = normalize_mtime
        with explaining_denial(root):
            self._made = tuple(folder for folder in (root, *root.parents) if not folder.exists())

    @property
    def staging(self) -> Path:
        return self.root / _STAGING

    @property
    def linkable(self) -> bool:
        return False

    def content(self, file: FileEntry | ListedFile) -> Path:
        return inside(self.root, file.path)

    def mode(self, file: FileEntry | ListedFile) -> int:
        return 0o755 if file.executable else 0o644

    def publish(self, manifest: Manifest, ref: ModelRef, *, full: bool, receipts: Receipts = FORGETFUL) -> Path:
        del ref, full  # a plain folder says nothing of where it came from
        with explaining_denial(self.root):
            for made in self._made:
                made.mkdir(parents=True, exist_ok=True)
                made.chmod(_FOLDER_MODE)
            refused: list[str] = []
            for file in manifest.files:
                self._finish(file, receipts, refused)
            sweep(self.staging)
            sweep_partials(self.staging)
            # OSError: another restore into the same folder is still at work, and removes it when it is done.
            with suppress(OSError):
                self.staging.rmdir()
            for folder in self._folders(manifest):
                with _noting(refused):
                    self._tidy(folder, _FOLDER_MODE)
            with _noting(refused):
                self._tidy(self.root, stat.S_IMODE(self.root.stat().st_mode))
        if refused:
            # The bytes are right, and proven: nothing that was asked for is missing.
            _log.warning("mode or mtime of %d paths in %s stay as they are: %s", len(refused), self.root, refused[0])
        return self.root

    def snapshot_path(self, commit: str) -> Path:
        del commit  # one folder, one snapshot
        return self.root

    def extra(self, manifest: Manifest) -> tuple[Path, ...]:
        wanted = {self.root / file.path for file in manifest.files}
        with explaining_denial(self.root):
            return tuple(sorted(path for path in self._walk() if path not in wanted))

    def prune(self, extra: Iterable[Path]) -> None:
        with explaining_denial(self.root):
            for path in extra:
                require_below(self.root, path)
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def _finish(self, file: FileEntry, receipts: Receipts, refused: list[str]) -> None:
        path, mode = self.content(file), self.mode(file)
        seen = require_file(path, size=file.size, links=False)
        if self._is_tidy(seen, mode):
            return
        with _noting(refused):
            if seen.st_nlink > 1:
                # Mode and mtime belong to all names of an inode, and the other names are not ours: part from them first.
                place(
                    path, path, expected=file.expected, link=False, mode=mode, staging=self.staging, receipts=receipts
                )
            with receipts.carrying(path, file.expected):
                self._tidy(path, mode)

    def _is_tidy(self, seen: os.stat_result, mode: int) -> bool:
        on_time = self.normalize_mtime is None or seen.st_mtime_ns == self.normalize_mtime * 10**9
        return on_time and stat.S_IMODE(seen.st_mode) == mode

    def _tidy(self, path: Path, mode: int) -> None:
        if not self._is_tidy(path.stat(), mode):
            path.chmod(mode)
            self._set_time(path)

    def _set_time(self, path: Path) -> None:
        if self.normalize_mtime is not None:
            os.utime(path, (self.normalize_mtime, self.normalize_mtime))

    def _folders(self, manifest: Manifest) -> list[Path]:
        """The folders of the snapshot below the root; `content` has made sure that none is a link."""
        paths = {parent for file in manifest.files for parent in (self.root / file.path).parents}
        return sorted(path for path in paths if path != self.root and path.is_relative_to(self.root))

    def _walk(self) -> Iterator[Path]:
        """Every file below the root that is not under `_NOT_OURS`; a link is a file, wherever it leads."""
        ours = {self.root / name for name in (*_NOT_OURS, _STAGING)}
        for name, folders, files in os.walk(self.root, onerror=_unless_missing):
            folder = Path(name)
            links = [one for one in folders if (folder / one).is_symlink()]
            yield from (folder / one for one in (*files, *links))
            folders[:] = [one for one in folders if folder / one not in ours]

    def _remove_empty(self, folder: Path) -> None:
        """Remove *folder* and those above it, up to the root, as far as they are empty."""
        while folder != self.root:
            try:
                with suppress(FileNotFoundError):
                    folder.rmdir()
            except OSError:  # not empty
                break
            folder = folder.parent
        self._set_time(folder)


@contextmanager
def _noting(refused: list[str]) -> Iterator[None]:
    """Note in *refused* that the system forbids what the block does, as it does with another user's files."""
    try:
        yield
    except AccessDenied as error:
        refused.append(error.message)
    except OSError as error:
        if error.errno not in DENIALS:
            raise
        refused.append(f"{error.filename}: {error.strerror}")


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
