"""
The only module that makes a store of this tool's format a source of bytes like any mirror (`sources.protocol.ByteSource`).

It is here and not in sources/, as those and stores know nothing of each other.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import FileNotFound, NotDecodable, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.ref import SnapshotId
from ci_modelcache.model.selection import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import ModelRef

_log = logging.getLogger(__name__)

KNOWN_SECONDS = 60.0
"""For how long it is believed which files a commit has here, and that it is not here: somebody may save it meanwhile."""


class StoreSource:
    """
    The blobs of *cache*, whatever repository they were saved for.

    A file without a SHA-256 (small ones, of which the Hub tells only the git name) is looked up in the manifest of its commit
    on *host*, where that is stored. Documents are read with the retries of *cache*, blobs once. *clock* is monotonic.
    """

    sends_ranges = True

    def __init__(self, cache: ModelCache, *, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._host = host
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[SnapshotId, tuple[float, Mapping[str, Digest]]] = {}

    @property
    def url(self) -> str:
        return self._cache.url

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        what = f"{file.path} of {ref.at(commit)}"
        if stop is not None and stop <= start:
            yield iter(())
            return
        digest = file.sha256 or self._digest(ref, commit, file, what)
        with ExitStack() as opened:
            yield self._pieces(digest, file, start, stop, opened)

    def _pieces(
        self, digest: Digest, file: ListedFile, start: int, stop: int | None, opened: ExitStack
    ) -> Iterator[bytes]:
        """The bytes from the first copy that is there; one that vanished after it was found was collected, and has a better one."""
        miss = FileNotFound(f"{self.url} does not hold {file.path} (sha256 {digest})")
        for copy in self._cache.blob_copies(digest, file.size):
            try:
                return opened.enter_context(copy.open(start, stop))
            except NotDecodable as error:
                miss = FileNotFound(f"{file.path}: {error.message}", hint=error.hint)
            except ObjectNotFound as error:
                _log.debug("%s", error)
        raise miss

    def _digest(self, ref: ModelRef, commit: str, file: ListedFile, what: str) -> Digest:
        """The SHA-256 of what git calls by the name that is known of *file*; raises `FileNotFound`."""
        snapshot = SnapshotId(self._host, ref.type, ref.repo, commit, ALL)
        digest = self._digests(snapshot).get(file.git_oid)
        if digest is None:
            msg = f"{self.url} does not know {what}"
            raise FileNotFound(msg)
        return digest

    def _digests(self, snapshot: SnapshotId) -> Mapping[str, Digest]:
        """SHA-256 by git name of the content, for the files of all that is stored of the commit of *snapshot*."""
        with self._lock:
            since, known = self._known.get(snapshot, (0.0, None))
            if known is not None and self._clock() - since < KNOWN_SECONDS:
                return known
        found = {
            entry.git_oid: entry.sha256
            for manifest in self._manifests(snapshot)
            for entry in manifest.files
            # Of an LFS file git names the pointer.
            if not entry.lfs
        }
        with self._lock:
            self._known[snapshot] = (self._clock(), found)
        return found

    def _manifests(self, snapshot: SnapshotId) -> Iterator[Manifest]:
        """The manifest of *snapshot*, or those of the parts of it that are stored."""
        try:
            found = [self._cache.manifest(snapshot)]
        except SnapshotNotFound:
            stored = self._cache.snapshots_of(snapshot.host, snapshot.type, snapshot.repo)
            found = [self._cache.manifest(each) for each in stored if each.commit == snapshot.commit]
        yield from found
