"""Prove what a store holds: every ref, manifest, leaf list and blob, by reading it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import IntegrityError, ModelCacheError, NotFound, ObjectNotFound, StoreUnsupported
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry
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


@frozen
class _Seen:
    """What was read so far; threads append."""

    manifests: list[Manifest] = field(factory=list)
    problems: list[Problem] = field(factory=list)
    bad: dict[_Blob, tuple[str, str]] = field(factory=dict)
    read: list[int] = field(factory=list)


def verify(snapshots: Iterable[SnapshotId], *, cache: ModelCache, step: Step) -> VerifyReport:
    """
    Read *snapshots* in *cache* in full and report everything that is not as promised; raises only for a store that fails.

    A blob that several snapshots share is read once.
    """
    started = step.clock()
    seen = _Seen()
    for snapshot in snapshots:
        _verify_manifest(snapshot, cache, seen)
    blobs = {_blob(file): file for manifest in seen.manifests for file in manifest.files}
    step.progress.start("verifying", sum(file.size for file in blobs.values()))

    def check(file: FileEntry) -> None:
        try:
            step.receive(partial(_read, file, cache, step, seen), doing=f"reading {file.sha256}")
        except (NotFound, IntegrityError) as error:
            seen.bad[_blob(file)] = (_kind(error), error.message)

    largest_first = sorted(blobs.values(), key=lambda file: file.size, reverse=True)
    try:
        for_each(largest_first, check, workers=step.workers, deadline=step.deadline, doing="verifying")
    finally:
        step.progress.finish()
    for manifest in seen.manifests:
        for file in manifest.files:
            if _blob(file) in seen.bad:
                kind, why = seen.bad[_blob(file)]
                seen.problems.append(Problem(str(manifest.id), file.path, kind, why))
    return VerifyReport(
        store=cache.url,
        snapshots=len(seen.manifests) + len({p.snapshot for p in seen.problems if p.what == "manifest"}),
        files=sum(len(manifest.files) for manifest in seen.manifests),
        blobs=len(blobs),
        bytes_read=sum(seen.read),
        problems=tuple(seen.problems),
        seconds=step.clock() - started,
    )


def _verify_manifest(snapshot: SnapshotId, cache: ModelCache, seen: _Seen) -> None:
    try:
        seen.manifests.append(cache.manifest(snapshot))
    except (NotFound, IntegrityError, StoreUnsupported) as error:
        seen.problems.append(Problem(str(snapshot), "manifest", _kind(error), error.message))


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
                seen.read.append(len(chunk))
        except (NotFound, IntegrityError) as error:
            failure = error
            continue
        if file.leaves is not None and cache.leaf_list(file.leaves) != hasher.finish().leaf_list:
            msg = f"{copy}: its leaf list {file.leaves} is that of another blob"
            raise IntegrityError(msg)
        return
    raise failure
