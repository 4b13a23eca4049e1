"""The only module that brings what an archive holds into a store: announced first, proven on the way, made visible last."""

from __future__ import annotations

import logging
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.errors import IntegrityError, ManifestInvalid, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected, Fingerprint, verified
from ci_modelcache.transfer.beside import fingerprinter
from ci_modelcache.transfer.lane import verified_beside
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.unpacking import HINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.publication import Publication
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.tar_reader import Found
    from ci_modelcache.verbs.planning import Plan
    from ci_modelcache.verbs.step import Count, Step
    from ci_modelcache.verbs.unpacking import Content

T = TypeVar("T")

_log = logging.getLogger(__name__)

_SHOWN = 3
"""Files that are named of those that a delta needs."""
_LEAF_LIST = re.compile(rb"([0-9a-f]{64}\n)+")


class Bringing:
    """What goes from the archive *name* into *cache*, by *publication*."""

    def __init__(self, name: str, *, publication: Publication, cache: ModelCache, step: Step) -> None:
        self.uploaded = 0
        """Bytes that the store did not have."""
        self._name = name
        self._publication = publication
        self._cache = cache
        self._step = step
        self._lock = threading.Lock()
        self._leaf_lists: dict[Digest, bytes] = {}
        """By the digests of their blobs. Made from the bytes alone: one that is only said to be a blob's is believed by nobody."""

    def take(self, digest: Digest, found: Found, chunks: Iterator[bytes]) -> None:
        """Store a blob that goes by in a pipe, or prove it where the store has it (`unpacking.Take`)."""
        self._publication.announce([digest])
        there = self._publication.has_blob(digest, found.size)
        if not there or found.size > LEAF_SIZE:
            expected = Expected(found.size, sha256=digest)
            self._bring(expected, digest, chunks, f"{self._name}: {found.path}", there=there)

    def bring(self, plan: Plan, files: Sequence[FileEntry]) -> None:
        """
        Store *files* of *plan*; raises `SnapshotNotFound` before that when a delta needs more than is there.

        Raises `IntegrityError` for contents that are not what the manifests say.
        """
        self._publication.announce(file.sha256 for file in files)
        self._require(plan, [file for file in files if file.sha256 in plan.absent])
        work = sorted(files, key=lambda file: file.size, reverse=True)
        total = sum(file.size for file in work if self._needs_reading(file, plan))
        self._step.progress.start(f"importing {self._name}", total)
        try:
            self._for_each(work, partial(self._bring_file, plan))
        finally:
            self._step.progress.finish()
        for file in files:
            self._check_leaves(file)

    def commit(self, manifest: Manifest) -> None:
        """Make the snapshot of *manifest* visible, whose files went through `bring`."""
        large = (file for file in manifest.files if file.leaves is not None)
        leaf_lists = [self._leaf_lists[file.sha256] for file in large]
        self._publication.commit(manifest, leaf_lists, provenance={"source": "imported"})

    def _for_each(self, items: Iterable[T], work: Callable[[T], object]) -> None:
        step = self._step
        for_each(items, work, workers=step.workers, deadline=step.deadline, doing=f"importing {self._name}")

    # --- what a delta leaves out

    def _require(self, plan: Plan, absent: Sequence[FileEntry]) -> None:
        lacking: list[str] = []

        def look(file: FileEntry) -> None:
            if not self._publication.has_blob(file.sha256, file.size):
                lacking.append(f"{file.path} ({file.sha256})")

        self._for_each(absent, look)
        if lacking:
            some = ", ".join(sorted(lacking)[:_SHOWN])
            msg = f"of the files that {self._name} leaves out {self._cache.url} lacks {len(lacking)} of {len(plan.absent)}: {some}"
            raise SnapshotNotFound(
                msg, hint="import the archive first that it was made against; or export without --since"
            )

    # --- one file

    def _needs_reading(self, file: FileEntry, plan: Plan) -> bool:
        return file.sha256 in plan.absent or plan.contents[file.sha256] is not None

    def _bring_file(self, plan: Plan, file: FileEntry) -> None:
        if file.sha256 in plan.absent:
            self._read_stored(file)
            return
        content = plan.contents[file.sha256]
        if content is None:
            return  # it went into the store as it came
        there = self._publication.has_blob(file.sha256, file.size)
        if there and file.leaves is None:
            self._step.progress.advance(file.size)
            return

        if there or not self._is_brought_as_said(plan, file, content):
            self._step.attempt(partial(self._bring_content, file, content, there=there))

    def _bring_content(self, file: FileEntry, content: Content, count: Count, *, there: bool) -> None:
        chunks = count(content.chunks(self._step.retry))
        self._bring(file.expected, file.sha256, chunks, content.what, there=there)

    def _is_brought_as_said(self, plan: Plan, file: FileEntry, content: Content) -> bool:
        """
        Whether *file* is stored, and is what the leaf list of the archive says, so that nobody hashes its leaves a second time.

        When it is not, nothing is stored, and which of the two is wrong is not known.
        """
        leaf_list = None if file.leaves is None else plan.leaf_lists.get(file.leaves, b"")
        if self._cache.packer is not None or (leaf_list is not None and _LEAF_LIST.fullmatch(leaf_list) is None):
            return False
        said = Fingerprint(file.size, file.sha256, None, leaf_list)

        def bring(count: Count) -> None:
            chunks = count(content.chunks(self._step.retry))
            if leaf_list is not None:
                chunks = verified_beside(chunks, file.expected, content.what)
            self._publication.put_known(said, chunks, what=content.what)

        try:
            self._step.attempt(bring)
        except IntegrityError as error:
            _log.warning("%s; reading it once more to find out what is wrong", error)
            return False
        with self._lock:
            self.uploaded += file.size
            if leaf_list is not None:
                self._leaf_lists[file.sha256] = leaf_list
        return True

    def _read_stored(self, file: FileEntry) -> None:
        """Make the leaf list of a file that the store has and the archive has not."""
        if file.leaves is None:
            self._step.progress.advance(file.size)
            return
        for copy in self._cache.blob_copies(file.sha256, file.size):
            self._step.receive(partial(self._read_copy, file, copy), doing=f"reading {copy}")
            return
        raise ObjectNotFound(file.sha256.hex, self._cache.url)

    def _read_copy(self, file: FileEntry, copy: BlobCopy, count: Count) -> None:
        chunks = count(read_through(copy.open, file.size, self._step.retry, what=str(copy)))
        self._bring(file.expected, file.sha256, chunks, str(copy), there=True)

    def _bring(self, expected: Expected, digest: Digest, chunks: Iterator[bytes], what: str, *, there: bool) -> None:
        """Store *chunks* as *digest*, or only read them where the store has it; what they are is known then."""
        hasher = fingerprinter(expected)
        try:
            if there:
                for _ in verified(chunks, expected, what, into=hasher):
                    pass
            else:
                self._publication.put_blob(expected, digest, chunks, what=what, into=hasher)
        except IntegrityError as error:
            error.hint = error.hint or HINT
            raise
        leaf_list = hasher.finish().leaf_list
        with self._lock:
            self.uploaded += 0 if there else expected.size
            if leaf_list is not None:
                self._leaf_lists[digest] = leaf_list

    def _check_leaves(self, file: FileEntry) -> None:
        if file.leaves is None:
            return
        actual = Digest.of(self._leaf_lists[file.sha256])
        if actual != file.leaves:
            msg = f"{self._name}: the leaf list of {file.path} is {actual}, and its manifest says {file.leaves}"
            raise ManifestInvalid(msg, hint=HINT)
