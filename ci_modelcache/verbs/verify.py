"""Prove what a store holds: every ref, manifest, leaf list and blob, by reading it."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import IntegrityError, ModelCacheError, NotFound, ObjectNotFound, StoreUnsupported
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.step import Count, Step


MISSING = "missing"
WRONG = "wrong"
UNSUPPORTED = "unsupported"


@frozen
class Problem:
    """
    Something that is not as promised: *what* is a path or "manifest", *why* a sentence.

    *kind* is ``missing``, ``wrong``, or ``unsupported`` by this version, which may be as it should be.
    """

    snapshot: str
    what: str
    kind: str
    why: str


@frozen
class VerifyReport:
    """What `verify` read, in bytes (twice what was wrong at first), and what it found."""

    store: str
    snapshots: int
    files: int
    blobs: int
    bytes_read: int
    problems: tuple[Problem, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or that of `IntegrityError` when anything is missing or wrong, or of `StoreUnsupported` when nothing worse is found."""
        if any(problem.kind != UNSUPPORTED for problem in self.problems):
            return IntegrityError.exit_code
        return StoreUnsupported.exit_code if self.problems else 0


_Blob = tuple[Digest, int, Digest | None]
"""Digest, size and the digest of the leaf list: what manifests say about a blob, and may say differently."""


class _Seen:
    """What is remembered of the snapshots before: no manifest, for all of those do not fit in memory. Threads add to it."""

    def __init__(self) -> None:
        self.blobs: set[_Blob] = set()
        self.bad: dict[_Blob, tuple[str, str]] = {}
        """Kind and reason of what is wrong with a blob."""
        self.bytes_read = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """*size* more bytes were read."""
        with self._lock:
            self.bytes_read += size


def verify(snapshots: Iterable[SnapshotId], *, cache: ModelCache, step: Step) -> VerifyReport:
    """
    Read *snapshots* in *cache* in full and report everything that is not as promised; raises only for a store that fails.

    They are taken one at a time, each when the one before it has been read. A blob that several of them share is read once.
    """
    started = step.clock()
    seen = _Seen()
    problems: list[Problem] = []
    count, files = 0, 0
    for snapshot in snapshots:
        count += 1
        try:
            manifest = cache.manifest(snapshot)
        except (NotFound, IntegrityError, StoreUnsupported) as error:
            problems.append(Problem(str(snapshot), "manifest", _kind(error), error.message))
            continue
        files += len(manifest.files)
        _read_unseen(manifest, cache, step, seen)
        bad = ((file.path, seen.bad[_blob(file)]) for file in manifest.files if _blob(file) in seen.bad)
        problems.extend(Problem(str(snapshot), path, kind, why) for path, (kind, why) in bad)
    return VerifyReport(
        store=cache.url,
        snapshots=count,
        files=files,
        blobs=len(seen.blobs),
        bytes_read=seen.bytes_read,
        problems=tuple(problems),
        seconds=step.clock() - started,
    )


def _read_unseen(manifest: Manifest, cache: ModelCache, step: Step, seen: _Seen) -> None:
    """Read the blobs of *manifest* that no snapshot before it had."""
    unseen = {_blob(file): file for file in manifest.files if _blob(file) not in seen.blobs}
    if not unseen:
        return
    seen.blobs.update(unseen)

    def check(file: FileEntry) -> None:
        try:
            step.receive(partial(_read, file, cache, step, seen), doing=f"reading {file.sha256}")
        except (NotFound, IntegrityError) as error:
            seen.bad[_blob(file)] = (_kind(error), error.message)

    doing = f"verifying {manifest.repo}"
    largest_first = sorted(unseen.values(), key=lambda file: file.size, reverse=True)
    step.progress.start(doing, sum(file.size for file in largest_first))
    try:
        for_each(largest_first, check, workers=step.workers, deadline=step.deadline, doing=doing)
    finally:
        step.progress.finish()


def _kind(error: ModelCacheError) -> str:
    if isinstance(error, StoreUnsupported):
        return UNSUPPORTED
    return MISSING if isinstance(error, NotFound) else WRONG


def _blob(file: FileEntry) -> _Blob:
    return file.sha256, file.size, file.leaves


def _read(file: FileEntry, cache: ModelCache, step: Step, seen: _Seen, count: Count) -> None:
    """Prove that some copy of the blob is right, and its leaf list."""
    failure: NotFound | IntegrityError = ObjectNotFound(file.sha256.hex, cache.url)
    for copy in cache.blob_copies(file.sha256, file.size):
        hasher = file.expected.fingerprinter()
        chunks = count(read_through(copy.open, file.size, step.retry, what=str(copy)))
        try:
            for chunk in verified(chunks, file.expected, str(copy), into=hasher):
                seen.count(len(chunk))
        except (NotFound, IntegrityError) as error:
            failure = error
            continue
        if file.leaves is not None and cache.leaf_list(file.leaves) != hasher.finish().leaf_list:
            msg = f"{copy}: its leaf list {file.leaves} is that of another blob"
            raise IntegrityError(msg)
        return
    raise failure
