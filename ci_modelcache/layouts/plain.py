"""The only module that knows a plain folder: each file at its own path, and nothing of ours beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ci_modelcache.layouts.inside import explaining_denial, inside, require_below, require_file
from ci_modelcache.layouts.tidy import FOLDER_MODE, Before, Tidying
from ci_modelcache.transfer.land import sweep
from ci_modelcache.transfer.partial import sweep_partials
from ci_modelcache.transfer.receipts import FORGETFUL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.transfer.receipts import Receipts

_STAGING = ".ci-modelcache"  # reserved by model.path, so that no snapshot has a file there
_NOT_OURS = {".git", ".cache/huggingface"}
"""Folders below the root that belong to git and to ``huggingface_hub``: never reported, never pruned."""


class PlainLayout:
    """
    The files of a snapshot at ``root/<path>``, as Docker, git and people expect them; a `Layout`.

    Files have mode 0644, or 0755 when executable, and folders 0755, whatever the umask: an image is often built by one user
    and run by another. With *normalize_mtime* (seconds since the epoch) files, folders and the root have that mtime, and are
    root's if this user is, so that equal snapshots make equal layers; the folder in which the first of them was made keeps the
    mtime that it had. What belongs to somebody else and may not be changed so stays as it is, with a warning. After
    `publish` nothing of ours is left in *root*. A root, or folder above it, that existed before this object did keeps its mode and owner.
    """

    def __init__(self, root: Path, *, normalize_mtime: int | None = None) -> None:
        self.root = root
        self._staging = root / _STAGING
        self.normalize_mtime = normalize_mtime
        self._before = Before.of(root)

    @property
    def staging(self) -> Path:
        return self._staging

    @property
    def linkable(self) -> bool:
        return False

    @property
    def follows_links(self) -> bool:
        return False

    def content(self, file: FileEntry | ListedFile) -> Path:
        return inside(self.root, file.path)

    def mode(self, file: FileEntry | ListedFile) -> int:
        return 0o755 if file.executable else 0o644

    def publish(self, manifest: Manifest, ref: ModelRef, *, full: bool, receipts: Receipts = FORGETFUL) -> Path:
        del ref, full  # a plain folder says nothing of where it came from
        tidying = Tidying(self.normalize_mtime)
        with explaining_denial(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            for file in manifest.files:
                self._finish(file, receipts, tidying)
            sweep(self.staging)
            sweep_partials(self.staging)
            # OSError: another restore into the same folder is still at work, and removes it when it is done.
            with suppress(OSError):
                self.staging.rmdir()
            for folder in self._folders(manifest):
                tidying.give(folder, FOLDER_MODE)
            tidying.give_time(self.root)
            tidying.give_above(self._before)
        self._before = Before()
        tidying.report(self.root)
        return self.root

    def snapshot_path(self, commit: str) -> Path:
        del commit  # one folder, one snapshot
        return self.root

    def extra(self, manifest: Manifest) -> tuple[Path, ...]:
        wanted = {file.path for file in manifest.files}
        with explaining_denial(self.root):
            return tuple(sorted(self.root / path for path in self._walk() if path not in wanted))

    def prune(self, extra: Iterable[Path]) -> None:
        tidying = Tidying(self.normalize_mtime)
        with explaining_denial(self.root):
            for path in extra:
                require_below(self.root, path)
                path.unlink(missing_ok=True)
                tidying.give_time(self._remove_empty(path.parent))
        tidying.report(self.root)

    def _finish(self, file: FileEntry, receipts: Receipts, tidying: Tidying) -> None:
        path = self.content(file)
        seen = require_file(path, size=file.size, links=False)
        tidying.give_file(
            path, seen, mode=self.mode(file), expected=file.expected, staging=self.staging, receipts=receipts
        )

    def _folders(self, manifest: Manifest) -> list[Path]:
        """The folders of the snapshot below the root; `content` has made sure that none is a link."""
        found: set[str] = set()
        for file in manifest.files:
            folder = file.path.rpartition("/")[0]
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return sorted(self.root / folder for folder in found)

    def _walk(self) -> Iterator[str]:
        """The path, below the root, of every file there that is not under `_NOT_OURS`; a link is a file, wherever it leads."""
        ours, root = {*_NOT_OURS, _STAGING}, str(self.root)
        for name, folders, files in os.walk(root, onerror=_unless_missing):
            above = name.removeprefix(root).strip("/")
            begin = f"{above}/" if above else ""
            links = [one for one in folders if os.path.islink(f"{name}/{one}")]  # noqa: PTH114  # as `inside`
            yield from (begin + one for one in (*files, *links))
            folders[:] = [one for one in folders if begin + one not in ours]

    def _remove_empty(self, folder: Path) -> Path:
        """Remove *folder* and those above it, up to the root, as far as they are empty; returns the first that stays."""
        while folder != self.root:
            try:
                with suppress(FileNotFoundError):
                    folder.rmdir()
            except OSError:  # not empty
                break
            folder = folder.parent
        return folder


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
