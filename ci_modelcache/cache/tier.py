"""The only module that keeps blobs near: a folder of this machine that is asked before the store, and after it is given what came from there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.copies import BlobCopy
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.land import sweep
from ci_modelcache.transfer.place import Linking, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.model.digest import Digest, Expected
    from ci_modelcache.transfer.receipts import Receipts

MODE = 0o644
MTIME = 0
"""Mode and time of every blob: those of a normalized file, so that such a file can be one more name of it."""


class Tier:
    """
    The blobs in the folder *root*, which is made when there is something to keep.

    It lies as the blobs of a directory store do, and holds nothing else: which snapshots there are is the store's to say. A file that
    was linked to a blob may be edited in place by somebody, so that no blob is believed unread (`transfer.place`). Losing
    all of it costs a download.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._staging = self.root / ".staging"

    def path(self, digest: Digest) -> Path:
        """The file of that blob, whether or not it is there; for `transfer.place`, which proves it."""
        return self.root / keys.blob(digest)

    def copies(self, digest: Digest, size: int) -> Iterator[BlobCopy]:
        """That blob as a copy to read, where it is here with *size* bytes; whoever reads it proves it."""
        path = self.path(digest)
        if os.access(path, os.R_OK) and path.stat().st_size == size:
            yield BlobCopy(DirectoryStore(self.root, create=False), keys.blob(digest), size)

    def keep(self, source: Path, expected: Expected, *, link: bool, receipts: Receipts) -> None:
        """
        Keep the bytes of *source*, which are *expected* and have a SHA-256; with *link* as one more name of it where the disk can.

        *source* has mode `MODE` then, and is given the time of a blob. What is here by that name is replaced. Raises `AccessDenied`, `NoSpace`,
        `ConfigError` or `Unavailable` where that cannot be done.
        """
        if expected.sha256 is None:
            msg = f"a blob without a SHA-256: {source}"
            raise ValueError(msg)
        target = self.path(expected.sha256)
        if self._staging.exists():
            sweep(self._staging)
        if link:
            _set_time(source, expected, receipts)
        linking = Linking.SAME_MODE if link else Linking.NEVER
        place(source, target, expected=expected, link=linking, mode=MODE, staging=self._staging, receipts=receipts)
        _set_time(target, expected, receipts)


def _set_time(path: Path, expected: Expected, receipts: Receipts) -> None:
    if path.stat().st_mtime_ns != MTIME:
        with receipts.carrying(path, expected):
            os.utime(path, (MTIME, MTIME))
