"""The only module that knows who may have right bytes of what a store has wrong: a replica, a tier, a folder of this machine."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ci_modelcache.errors import SnapshotNotFound
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.publish import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.tier import Tier
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger(__name__)

Offer = tuple[str, "Callable[[], Iterator[bytes]]"]
"""What is offered, for messages, and its bytes: of the right length perhaps, and unproven."""


class Giver(Protocol):
    """Somebody who may have right bytes; whoever takes them proves them. Methods may be called from any thread."""

    @property
    def url(self) -> str:
        """The place as its user writes it, without credentials."""

    def offers(self, file: FileEntry) -> Iterator[Offer]:
        """Everything here that may be *file*, best first; nothing where there is none. Raises as its disk or store does."""

    def manifest(self, snapshot: SnapshotId, promised: Iterable[Digest]) -> Manifest:
        """
        The manifest of *snapshot*: the one that is *promised*, if any is, else what this place itself says.

        Raises `SnapshotNotFound`, `ObjectNotFound`, and `IntegrityError`.
        """


class StoreGiver:
    """A store: a replica, or the very one that is to be mended, which may have other copies."""

    def __init__(self, cache: ModelCache, *, retry: RetryPolicy) -> None:
        self._cache = cache
        self._retry = retry

    @property
    def url(self) -> str:
        return self._cache.url

    def offers(self, file: FileEntry) -> Iterator[Offer]:
        return _copies(self._cache.blob_copies(file.sha256, file.size), file, self._retry)

    def manifest(self, snapshot: SnapshotId, promised: Iterable[Digest]) -> Manifest:
        for digest in promised:
            return self._cache.manifest_named(digest)
        return self._cache.manifest(snapshot)


class TierGiver:
    """A tier of this machine: it has blobs and nothing else."""

    def __init__(self, tier: Tier, *, retry: RetryPolicy) -> None:
        self._tier = tier
        self._retry = retry

    @property
    def url(self) -> str:
        return str(self._tier.root)

    def offers(self, file: FileEntry) -> Iterator[Offer]:
        return _copies(self._tier.copies(file.sha256, file.size), file, self._retry)

    def manifest(self, snapshot: SnapshotId, promised: Iterable[Digest]) -> Manifest:  # noqa: ARG002  # the protocol's
        return _no_manifest(self.url, snapshot)


class FolderGiver:
    """
    A folder with files of models, wherever they lie in it: a restored model, a folder of many, the Hub's own cache.

    A file is looked for by its length; those whose path ends as it should come first. Only the names and lengths are remembered.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._by_size: dict[int, list[Path]] | None = None

    @property
    def url(self) -> str:
        return str(self._root)

    def offers(self, file: FileEntry) -> Iterator[Offer]:
        found = self._files().get(file.size, [])
        alike = sorted(found, key=lambda path: not f"/{path.as_posix()}".endswith(f"/{file.path}"))
        seen: set[Path] = set()
        for path in alike:
            real = path.resolve()
            if real not in seen:  # a cache of the Hub has each file under several names
                seen.add(real)
                yield str(path), partial(read_file, path)

    def manifest(self, snapshot: SnapshotId, promised: Iterable[Digest]) -> Manifest:  # noqa: ARG002  # the protocol's
        return _no_manifest(self.url, snapshot)

    def _files(self) -> dict[int, list[Path]]:
        with self._lock:
            if self._by_size is None:
                self._by_size = _sizes(self._root)
            return self._by_size


def _copies(copies: Iterable[BlobCopy], file: FileEntry, retry: RetryPolicy) -> Iterator[Offer]:
    return ((str(copy), partial(read_through, copy.open, file.size, retry, what=str(copy))) for copy in copies)


def _no_manifest(url: str, snapshot: SnapshotId) -> Manifest:
    msg = f"{url} has files, and does not say which of them are {snapshot}"
    raise SnapshotNotFound(msg)


def _sizes(root: Path) -> dict[int, list[Path]]:
    """The regular files below *root* by their length, and links to such; what cannot be looked at is logged."""
    found: defaultdict[int, list[Path]] = defaultdict(list)
    for folder, _, names in os.walk(root, onerror=lambda error: _log.warning("%s is passed over: %s", root, error)):
        for name in sorted(names):
            path = Path(folder) / name
            try:
                seen = path.stat()
            except OSError as error:
                _log.debug("%s is passed over: %s", path, error)
                continue
            if stat.S_ISREG(seen.st_mode):
                found[seen.st_size].append(path)
    return dict(found)
