"""Write models from a store into one archive that others can read: the same bytes on every run, each of them proven."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.errors import DeadlineExceeded, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.archive import Packed, since_of
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.oci_archive import oci_archive
from ci_modelcache.model.plain_archive import plain_archive
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.model.selection import Selection
from ci_modelcache.transfer.outlet import Lasting, Written
from ci_modelcache.transfer.parallel import in_order
from ci_modelcache.verbs.archive import Archive
from ci_modelcache.verbs.resolve import resolve
from ci_modelcache.verbs.stored import stored_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.archive import Entry
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.transfer.outlet import Outlet
    from ci_modelcache.verbs.step import Step

OCI, PLAIN = "oci", "plain"
FORMATS = (OCI, PLAIN)
"""What an archive can be, the default first."""
_DOING = "exporting"


@frozen
class ExportedModel:
    """One model of an archive, or of a list of URLs."""

    ref: str
    commit: str
    selection: str
    manifest: str
    digest: str
    files: int
    size: int


@frozen
class ExportReport:
    """What `export` wrote; sizes in bytes. This is API: fields are added, never changed."""

    path: str
    """Where it was written: the file or object, of which there are only parts when it was split, or `-` for stdout."""
    format: str
    """`oci` or `plain`."""
    size: int
    """Bytes of the archive, before it is compressed or cut into parts."""
    sha256: str
    """Of the archive, before it is compressed or cut into parts: the same for the same models on every run and machine."""
    files: int
    """How many files of models are in it: of `oci` different ones, of `plain` what two parts of one commit share is in it once."""
    models: tuple[ExportedModel, ...]
    """What is in it, in the order asked for."""
    seconds: float
    since: str | None = None
    """Of a delta: SHA-256 over the sorted lines of the SHA-256 of what it leaves out, which an import must find in its store."""
    left_out: int = 0
    """How many different files of the models are not in it, as the other archive or lock has them."""
    written: tuple[Written, ...] = ()
    """What the archive has become: one file or object, or its parts; nothing for stdout."""


@frozen
class ExportOptions:
    """
    How to export: the *format*, one of `FORMATS`, and the digests of files that are left out, as whoever reads the archive has them.

    What *without* names and no model has changes nothing.
    """

    format: str = OCI
    without: frozenset[Digest] = frozenset()


@frozen
class Exported:
    """A model to export: the manifest that *ref* and *selection* led to. One that is *pinned* is a lock's, which no store can alter."""

    ref: ModelRef
    manifest: Manifest
    selection: Selection = field(factory=Selection)
    pinned: bool = False


def held(
    ref: ModelRef, selection: Selection, *, locks: Sequence[Lock] = (), cache: ModelCache, host: Upstream
) -> Exported:
    """
    What *ref* means by the lock of *locks*, or else in *cache*, however long ago that was found out; *host* is not asked.

    Raises `SnapshotNotFound` for what the store lacks, `NotInLock`, `IntegrityError`.
    """
    for lock in locks:
        return Exported(ref, lock.find(ref, selection).to_manifest(), selection, pinned=True)
    commit = resolve(ref, cache=cache, upstream=host, revision_ttl=float("inf")).commit
    snapshot = SnapshotId(host.host, ref.type, ref.repo, commit, selection.id)
    try:
        return Exported(ref, stored_manifest(snapshot, ref, selection, cache=cache), selection)
    except SnapshotNotFound as miss:
        miss.hint = _remedy(ref)
        raise


def export(
    models: Sequence[Exported],
    outlet: Outlet,
    *,
    cache: ModelCache,
    step: Step,
    options: ExportOptions = ExportOptions(),
) -> ExportReport:
    """
    Write the archive of *models*, whose blobs are in *cache*, to *outlet*.

    Before the first byte everything is looked for: a blob that the store lacks raises `ObjectNotFound`. Bytes are given to *outlet*
    when they are proven, those of a large file in stretches; wrong ones of which there is no right copy raise `IntegrityError`.
    """
    started = step.clock()
    with explaining_miss(models):
        entries = _entries(models, cache=cache, step=step, options=options)
        pinned = (file for model in models if model.pinned for file in model.manifest.files)
        archive = Archive(entries, cache=cache, step=step, doing=_DOING, pinned=pinned)
        archive.find()
    try:
        seen = archive.write(outlet)
    except DeadlineExceeded as error:
        goes_on = isinstance(outlet, Lasting) and outlet.goes_on
        again = "run it again: it goes on where it was" if goes_on else "it begins anew"
        error.hint = f"raise --deadline, and {again}"
        raise
    left_out = {file.sha256 for model in models for file in model.manifest.files} - {entry.sha256 for entry in entries}
    return ExportReport(
        path=outlet.name,
        format=options.format,
        size=archive.size,
        sha256=seen.hex,
        files=sum(1 for entry in entries if isinstance(entry.content, FileEntry)),
        models=tuple(map(described, models)),
        seconds=step.clock() - started,
        since=since_of(left_out).hex if left_out else None,
        left_out=len(left_out),
        written=outlet.written(seen.hex) if isinstance(outlet, Lasting) else (),
    )


def _entries(models: Sequence[Exported], *, cache: ModelCache, step: Step, options: ExportOptions) -> tuple[Entry, ...]:
    """The members of the archive, for which leaf lists are read."""
    manifests = [model.manifest for model in models]
    if options.format == PLAIN:
        return plain_archive(manifests, without=options.without)
    large = {file.leaves: file for manifest in manifests for file in manifest.files if file.leaves is not None}

    def read(item: tuple[Digest, FileEntry]) -> tuple[Digest, bytes]:
        name, file = item
        blob = ProvenBlob(file, cache)
        if file.sha256 not in options.without:
            blob.find()  # a blob that is missing is said to be, and not its leaf list
        return name, blob.leaf_list()

    leaf_lists = dict(
        in_order(
            large.items(),
            read,
            workers=step.workers,
            deadline=step.deadline,
            doing="reading leaf lists",
        )
    )
    packed = (Packed(model.manifest, frozenset({model.ref.revision})) for model in models)
    return oci_archive(packed, leaf_lists, without=options.without)


def _remedy(ref: ModelRef) -> str:
    return f"nobody but the store is asked here: ci-modelcache fetch {ref} puts it into the store"


def described(model: Exported) -> ExportedModel:
    """*model* as reports have it."""
    manifest = model.manifest
    return ExportedModel(
        ref=str(model.ref),
        commit=manifest.commit,
        selection=manifest.selection,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
    )


@contextmanager
def explaining_miss(models: Sequence[Exported]) -> Iterator[None]:
    """Say of an `ObjectNotFound`, whose key ends in the SHA-256 of a blob or leaf list, of which file of *models* that is, and what helps."""
    try:
        yield
    except ObjectNotFound as miss:
        for model in models:
            for file in model.manifest.files:
                if miss.key.rpartition("/")[2] in {file.sha256.hex, str(file.leaves)}:
                    miss.add_note(f"it is {file.path} of {model.ref}")
                    miss.hint = _remedy(model.ref)
        raise
