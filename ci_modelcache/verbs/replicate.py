"""
Copy from one store to another what that one lacks, and nothing else: once, or again and again.

The destination is written as by any writer (`cache.publication`), so that it is consistent at every moment: blobs, proven on the way,
then the manifest, then the ref, and then what branches and tags mean. Nothing is ever removed there.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.encodings import EncodedCopy
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.replication import Heads, carry_pin
from ci_modelcache.errors import (
    DeadlineExceeded,
    IntegrityError,
    ModelCacheError,
    NotFound,
    ObjectNotFound,
    SnapshotConflict,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.transfer.packing import Packer
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import RepoType, SnapshotId
    from ci_modelcache.verbs.step import Count

_log = logging.getLogger(__name__)

_OF_ONE = (NotFound, IntegrityError, StoreUnsupported)
"""What may be wrong with one snapshot and with no other."""


@frozen
class CopiedSnapshot:
    """A snapshot that the destination has now because of this run."""

    ref: str
    """``org/name@commit``"""
    selection: str
    manifest: str
    files: int
    size: int
    blobs_copied: int
    """How many files of different content travelled."""
    bytes_copied: int
    """Their bytes."""


@frozen
class UncopiedSnapshot:
    """A snapshot that could not be copied."""

    ref: str
    """``org/name@commit``"""
    selection: str
    why: str
    exit_code: int
    """That of this failure alone."""


@frozen
class ReplicateReport:
    """What `replicate` did, over many rounds all of it; what it found there, and could not copy, is of the last round alone."""

    source: str
    """The store that was read."""
    destination: str
    """The store that was written."""
    snapshots: int
    """How many snapshots were to be there."""
    present: int
    """How many of them were there already, in full."""
    copied: tuple[CopiedSnapshot, ...]
    """The snapshots that are there now because of this run."""
    failed: tuple[UncopiedSnapshot, ...]
    """The snapshots that could not be copied."""
    heads: int
    """How many branches and tags were learnt there, or moved on."""
    pins: int
    """How many snapshots were pinned there."""
    bytes_copied: int
    """Bytes of files that travelled."""
    rounds: int
    """How often it was looked: once without ``--watch``."""
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or the gravest of the failures: wrong bytes, then what the source lacks, then what this version cannot read."""
        return max((failure.exit_code for failure in self.failed), default=0)


class Replication:
    """
    The way from *source* to *destination*: what one round found out spares the next one questions.

    *pins*: whether pins are copied, too. A snapshot that was seen in full at the destination, or brought there, is not looked at again by the same
    object, so that one which was dropped there meanwhile is not brought back by it.
    """

    def __init__(self, source: ModelCache, destination: ModelCache, *, step: Step, pins: bool = False) -> None:
        self._source, self._destination, self._step, self._pins = source, destination, step, pins
        self._heads = Heads(source, destination)
        self._settled: set[SnapshotId] = set()

    def round(self, snapshots: Iterable[SnapshotId]) -> ReplicateReport:
        """
        Copy what the destination lacks of *snapshots* of the source, one after the other; those of one repository come together.

        A snapshot that the source does not have right is reported, and the next one begun. Raises `AccessDenied`, `NoSpace`,
        `Unavailable`, `DeadlineExceeded`; what was copied by then stays.
        """
        step, started = self._step, self._step.clock()
        initialise(self._destination)
        self._destination.check_writable()
        copied: list[CopiedSnapshot] = []
        failed: list[UncopiedSnapshot] = []
        count, heads, pins = 0, 0, 0
        for repository, group in groupby(snapshots, key=_repository):
            commits: set[str] = set()
            for snapshot in group:
                count += 1
                try:
                    copied.extend(self._brought(snapshot))
                    pins += self._pins and carry_pin(self._source, self._destination, snapshot)
                except _OF_ONE as error:
                    _log.warning("%s is not copied: %s", snapshot, error)
                    failed.append(_uncopied(snapshot, error))
                else:
                    commits.add(snapshot.commit)
            heads += len(self._heads.forward(*repository, commits))
        return ReplicateReport(
            source=self._source.url,
            destination=self._destination.url,
            snapshots=count,
            present=count - len(copied) - len(failed),
            copied=tuple(copied),
            failed=tuple(failed),
            heads=heads,
            pins=pins,
            bytes_copied=sum(one.bytes_copied for one in copied),
            rounds=1,
            seconds=step.clock() - started,
        )

    def _brought(self, snapshot: SnapshotId) -> tuple[CopiedSnapshot, ...]:
        """See that the destination has *snapshot*; returns what was done for that, or nothing."""
        if snapshot in self._settled:
            return ()
        manifest = self._source.manifest(snapshot)
        copied = () if self._has(manifest) else (self._copied(manifest),)
        self._settled.add(snapshot)
        return copied

    def _has(self, manifest: Manifest) -> bool:
        """Whether the destination has all of *manifest*; raises `SnapshotConflict` when it has another one of the same snapshot."""
        try:
            standing = published(self._destination, manifest.id)
        except (SnapshotNotFound, IntegrityError) as why:
            _log.debug("copying, because %s", why)
            return False
        if standing == manifest:
            return True
        msg = f"{self._destination.url} holds {manifest.id} as manifest {standing.digest}, and {self._source.url} as {manifest.digest}"
        raise SnapshotConflict(msg, hint="one of the two was made from wrong bytes; ci-modelcache verify tells which")

    def _copied(self, manifest: Manifest) -> CopiedSnapshot:
        step = self._step
        largest_first = sorted({file.sha256: file for file in manifest.files}.values(), key=lambda file: -file.size)
        step.progress.start(f"replicating {manifest.repo}", sum(file.size for file in largest_first))
        doing = f"replicating {manifest.id}"
        try:
            with Publication(self._destination) as publication:
                publication.announce(file.sha256 for file in largest_first)
                freight = _Freight(self._source, publication, step, Packer(step.state / "packing"))
                for_each(largest_first, freight.bring, workers=step.workers, deadline=step.deadline, doing=doing)
                publication.commit(manifest, freight.leaf_lists, provenance=self._provenance(manifest))
        finally:
            step.progress.finish()
        return CopiedSnapshot(
            ref=_ref(manifest.id),
            selection=manifest.selection,
            manifest=manifest.digest.hex,
            files=len(manifest.files),
            size=manifest.size,
            blobs_copied=len(freight.sizes),
            bytes_copied=sum(freight.sizes),
        )

    def _provenance(self, manifest: Manifest) -> dict[str, str]:
        return {**self._source.ref(manifest.id).provenance, "replicated_from": self._source.url}


@frozen
class _Freight:
    """The blobs of one snapshot on their way from *source*; threads append to the lists, each append a whole value."""

    source: ModelCache
    publication: Publication
    step: Step
    packer: Packer
    sizes: list[int] = field(factory=list)
    """Bytes of each blob that travelled."""
    leaf_lists: list[bytes] = field(factory=list)

    def bring(self, file: FileEntry) -> None:
        """See that the blob of *file* is stored, and get its leaf list."""
        if self.publication.has_blob(file.sha256, file.size):
            self.step.progress.advance(file.size)
            if file.leaves is not None:
                self.leaf_lists.append(ProvenBlob(file, self.source).leaf_list())
            return
        failure: NotFound | IntegrityError = ObjectNotFound(file.sha256.hex, self.source.url)
        for copy in self.source.blob_copies(file.sha256, file.size):
            try:
                self.step.receive(partial(self._send, file, copy), doing=f"copying {copy}")
            except (NotFound, IntegrityError) as error:
                failure = error
            else:
                self.sizes.append(file.size)
                return
        raise failure

    def _send(self, file: FileEntry, copy: BlobCopy, count: Count) -> None:
        hasher = file.expected.fingerprinter()
        chunks = count(read_through(copy.open, file.size, self.step.retry, what=str(copy)))
        # What was packed there is packed here, too, and proven by having been unpacked.
        packer = self.packer if isinstance(copy, EncodedCopy) else None
        self.publication.put_blob(file.expected, file.sha256, chunks, what=str(copy), into=hasher, packer=packer)
        seen = hasher.finish()
        if seen.leaves != file.leaves:
            msg = f"{copy}: the manifest names the leaf list {file.leaves}, and the bytes make {seen.leaves}"
            raise IntegrityError(msg)
        if seen.leaf_list is not None:
            self.leaf_lists.append(seen.leaf_list)


def replicate(
    snapshots: Iterable[SnapshotId], *, source: ModelCache, destination: ModelCache, step: Step, pins: bool = False
) -> ReplicateReport:
    """Copy what *destination* lacks of *snapshots* of *source*: one `Replication.round`."""
    return Replication(source, destination, step=step, pins=pins).round(snapshots)


def watch(
    snapshots: Callable[[], Iterable[SnapshotId]],
    *,
    replication: Replication,
    every: float,
    step: Step,
    told: Callable[[ReplicateReport], None],
) -> ReplicateReport:
    """
    A round of *replication* about *every* so many seconds, over what *snapshots* then returns, until the deadline of *step*; each is *told*.

    A round that ends because one of the stores is `Unavailable` is logged, and the next one goes on from there. When the deadline passes between
    two, all rounds are returned as one, or the failure of the last one is raised; within one `DeadlineExceeded` is raised.
    """
    rounds: list[ReplicateReport] = []
    while True:
        failure: Unavailable | None = None
        try:
            report = replication.round(snapshots())
        except Unavailable as error:
            _log.warning("this round ended early: %s", error)
            failure = error
        else:
            told(report)
            rounds = [_together(*rounds, report)]
        try:
            step.retry.idle(every, doing="waiting for the next round", told="next-round")
        except DeadlineExceeded:
            if failure is not None:
                raise failure from None
            return rounds[0]


def _together(*reports: ReplicateReport) -> ReplicateReport:
    last = reports[-1]
    return evolve(
        last,
        copied=tuple(one for report in reports for one in report.copied),
        heads=sum(report.heads for report in reports),
        pins=sum(report.pins for report in reports),
        bytes_copied=sum(report.bytes_copied for report in reports),
        rounds=sum(report.rounds for report in reports),
        seconds=sum(report.seconds for report in reports),
    )


def _repository(snapshot: SnapshotId) -> tuple[str, RepoType, str]:
    return snapshot.host, snapshot.type, snapshot.repo


def _ref(snapshot: SnapshotId) -> str:
    return str(ModelRef(snapshot.repo, snapshot.commit, snapshot.type))


def _uncopied(snapshot: SnapshotId, error: ModelCacheError) -> UncopiedSnapshot:
    return UncopiedSnapshot(_ref(snapshot), snapshot.selection, error.message, error.exit_code)
