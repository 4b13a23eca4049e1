"""Prove what a store holds: every ref, manifest, leaf list and blob, by reading it."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import (
    IntegrityError,
    ModelCacheError,
    NotDecodable,
    NotFound,
    ObjectNotFound,
    StoreUnsupported,
)
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.findings import (
    ITS_MANIFEST,
    MISSING,
    UNSUPPORTED,
    WRONG,
    Flaw,
    Problem,
    flaw_of,
    kind_of,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.mend import Mender
    from ci_modelcache.verbs.step import Count, Step


@frozen
class VerifyReport:
    """What `verify` read, in bytes (twice what was wrong at first), and what it found. This is API: fields are added, never changed."""

    store: str
    snapshots: int
    files: int
    blobs: int
    bytes_read: int
    problems: tuple[Problem, ...]
    seconds: float
    repaired: int = 0
    """How many of the problems were repaired."""
    bytes_repaired: int = 0
    """Bytes of the blobs that were stored anew for that."""
    objects: int = 0
    """How many objects the store has; 0 when only snapshots were looked at, as for the other numbers below."""
    bytes_stored: int = 0
    """Bytes of all objects."""
    unnamed: int = 0
    """How many of them no snapshot, pin, trash or writer names: garbage, or written while this ran."""
    bytes_unnamed: int = 0
    """Bytes of those."""
    unknown: tuple[str, ...] = ()
    """The first hundred objects that this version does not know: they do no harm."""
    unknown_objects: int = 0
    """How many of those there are."""
    round: int = 0
    """The how-manieth reading of the whole store this sample belongs to; 0 when it was no sample."""
    covered: float = 0.0
    """How much of that round is done, from 0 to 1."""

    @property
    def exit_code(self) -> int:
        """0, or that of `IntegrityError` when anything is missing or wrong still, or of `StoreUnsupported` when nothing worse is found."""
        if any(problem.is_harm for problem in self.problems):
            return IntegrityError.exit_code
        return StoreUnsupported.exit_code if any(one.kind == UNSUPPORTED for one in self.problems) else 0


_Blob = tuple[Digest, int, Digest | None]
"""Digest, size and the digest of the leaf list: what manifests say about a blob, and may say differently."""


class _Seen:
    """What is remembered of the snapshots before: no manifest, for all of those do not fit in memory. Threads add to it."""

    def __init__(self) -> None:
        self.blobs: set[_Blob] = set()
        self.bad: dict[_Blob, Flaw] = {}
        self.bytes_read = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """*size* more bytes were read."""
        with self._lock:
            self.bytes_read += size


def verify(
    snapshots: Iterable[SnapshotId],
    *,
    cache: ModelCache,
    step: Step,
    content: bool = True,
    menders: Sequence[Mender] = (),
) -> VerifyReport:
    """
    Read *snapshots* in *cache* in full and report everything that is not as promised; raises only for a store that fails.

    They are taken one at a time, each when the one before it has been read. A blob that several of them share is read once, and without
    *content* only its length is looked at. What *menders*, one or none, can mend is no harm any more.
    """
    started = step.clock()
    seen = _Seen()
    problems: list[Problem] = []
    count, files = 0, 0
    for snapshot in snapshots:
        count += 1
        lost: list[Problem] = []
        for manifest in _manifests(snapshot, cache, menders, lost):
            files += len(manifest.files)
            _read_unseen(manifest, cache, step, seen, content=content)
            bad = {file.path: seen.bad[_blob(file)] for file in manifest.files if _blob(file) in seen.bad}
            problems.extend(told(str(snapshot), manifest, bad, menders=menders))
        problems.extend(lost)
    return VerifyReport(
        store=cache.url,
        snapshots=count,
        files=files,
        blobs=len(seen.blobs),
        bytes_read=seen.bytes_read,
        problems=tuple(problems),
        seconds=step.clock() - started,
        repaired=sum(1 for problem in problems if problem.repaired),
        bytes_repaired=sum(mender.bytes_mended for mender in menders),
    )


def _manifests(
    snapshot: SnapshotId, cache: ModelCache, menders: Sequence[Mender], lost: list[Problem]
) -> Iterator[Manifest]:
    """The manifest of *snapshot*, if there is one, or could be had from elsewhere; *lost* gets what is to be said about that."""
    try:
        yield cache.manifest(snapshot)
    except (NotFound, IntegrityError, StoreUnsupported) as error:
        yield from recovered(snapshot, error, menders, lost)


def recovered(
    snapshot: SnapshotId, error: ModelCacheError, menders: Sequence[Mender], lost: list[Problem]
) -> Iterator[Manifest]:
    """
    The manifest of *snapshot*, which the store had lost with *error*, once *menders*, one or none, have found it elsewhere.

    When the caller has looked at its blobs and goes on, it is committed. *lost* gets what is to be said about that.
    """
    problem = partial(Problem, str(snapshot), "manifest", kind_of(error), error.message)
    if not menders or isinstance(error, StoreUnsupported):
        lost.append(problem())
        return
    for mender in menders:
        try:
            found = mender.recover(snapshot)
        except NotFound as miss:
            lost.append(problem(unrepaired=miss.message))
            return
        yield found.manifest
        known = set(mender.sources)
        why = "" if found.stored else mender.mend(found.manifest, (), whole=True)
        lost.append(problem(unrepaired=why) if why else problem(repaired=found.source))
        for file in found.manifest.files:
            if file.sha256 in mender.sources and file.sha256 not in known:
                missed = "it was not there when the snapshot was stored again"
                lost.append(Problem(str(snapshot), file.path, MISSING, missed, mender.sources[file.sha256]))


def _read_unseen(manifest: Manifest, cache: ModelCache, step: Step, seen: _Seen, *, content: bool) -> None:
    """Look at the blobs of *manifest* that no snapshot before it had."""
    unseen = {_blob(file): file for file in manifest.files if _blob(file) not in seen.blobs}
    if not unseen:
        return
    seen.blobs.update(unseen)

    def check(file: FileEntry) -> None:
        made: list[bytes] = []
        try:
            if content:
                step.receive(partial(_read, file, cache, step, seen, made), doing=f"reading {file.sha256}")
            else:
                find(file, cache)
                step.progress.advance(file.size)
        except (NotFound, IntegrityError) as error:
            seen.bad[_blob(file)] = flaw_of(error)
            return
        for flaw in _leaf_flaws(file, made[-1:], cache):
            seen.bad[_blob(file)] = flaw

    doing = f"verifying {manifest.repo}"
    largest_first = sorted(unseen.values(), key=lambda file: file.size, reverse=True)
    step.progress.start(doing, sum(file.size for file in largest_first))
    try:
        for_each(largest_first, check, workers=step.workers, deadline=step.deadline, doing=doing)
    finally:
        step.progress.finish()


def _blob(file: FileEntry) -> _Blob:
    return file.sha256, file.size, file.leaves


def find(file: FileEntry, cache: ModelCache) -> None:
    """Raise `ObjectNotFound` or `SizeMismatch` unless *cache* has a copy of the right length."""
    for _ in cache.blob_copies(file.sha256, file.size):
        return
    raise ObjectNotFound(file.sha256.hex, cache.url)


def _read(file: FileEntry, cache: ModelCache, step: Step, seen: _Seen, made: list[bytes], count: Count) -> None:
    """Prove that some copy of the blob is right; *made* gets the leaf list that it has, if it has one."""
    failure: NotFound | IntegrityError = ObjectNotFound(file.sha256.hex, cache.url)
    for copy in cache.blob_copies(file.sha256, file.size):
        hasher = file.expected.fingerprinter()
        chunks = count(read_through(copy.open, file.size, step.retry, what=str(copy)))
        try:
            for chunk in verified(chunks, file.expected, str(copy), into=hasher):
                seen.count(len(chunk))
        except (NotFound, IntegrityError) as error:
            # That one cannot be read here does not make right what is wrong beside it.
            failure = failure if isinstance(failure, IntegrityError) and isinstance(error, NotDecodable) else error
            continue
        leaf_list = hasher.finish().leaf_list
        made.extend([] if leaf_list is None else [leaf_list])
        return
    raise failure


def _leaf_flaws(file: FileEntry, made: Sequence[bytes], cache: ModelCache) -> Iterator[Flaw]:
    """What is wrong with the leaf list of *file*, if it has one; *made* is the one that its blob has, if that was read."""
    if file.leaves is None:
        return
    try:
        stored = cache.leaf_list(file.leaves)
    except (NotFound, IntegrityError) as error:
        yield Flaw(kind_of(error), error.message, leaves=True)
        return
    if stored not in (made or [stored]):
        why = f"the leaf list {file.leaves} of {file.sha256} is that of another blob"
        yield Flaw(WRONG, why, leaves=True, stays=ITS_MANIFEST)
