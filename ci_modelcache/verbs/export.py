"""Write models from a store into one archive that others can read: the same bytes on every run, each of them proven."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import DeadlineExceeded, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.plain_archive import plain_archive
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.archive import Archive
from ci_modelcache.verbs.resolve import resolve
from ci_modelcache.verbs.stored import stored_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.transfer.outlet import Outlet
    from ci_modelcache.verbs.step import Step

PLAIN = "plain"
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
    """The file that was written, or `-` for stdout."""
    format: str
    """`plain`."""
    size: int
    """Bytes of the archive."""
    sha256: str
    """Of the archive: the same for the same models on every run and machine."""
    files: int
    """How many files of models are in it; what two parts of one commit share is in it once."""
    models: tuple[ExportedModel, ...]
    """What is in it, in the order asked for."""
    seconds: float


@frozen
class Exported:
    """A model to export: the manifest that *ref* and *selection* led to."""

    ref: ModelRef
    manifest: Manifest
    selection: Selection = field(factory=Selection)


def held(
    ref: ModelRef, selection: Selection, *, locks: Sequence[Lock] = (), cache: ModelCache, host: Upstream
) -> Exported:
    """
    What *ref* means by the lock of *locks*, or else in *cache*, however long ago that was found out; *host* is not asked.

    Raises `SnapshotNotFound` for what the store lacks, `NotInLock`, `IntegrityError`.
    """
    for lock in locks:
        return Exported(ref, lock.find(ref, selection).to_manifest(), selection)
    commit = resolve(ref, cache=cache, upstream=host, revision_ttl=float("inf")).commit
    snapshot = SnapshotId(host.host, ref.type, ref.repo, commit, selection.id)
    try:
        return Exported(ref, stored_manifest(snapshot, ref, selection, cache=cache), selection)
    except SnapshotNotFound as miss:
        miss.hint = _remedy(ref)
        raise


def export(models: Sequence[Exported], outlet: Outlet, *, cache: ModelCache, step: Step) -> ExportReport:
    """
    Write the archive of *models*, whose blobs are in *cache*, to *outlet*.

    Before the first byte everything is looked for: a blob that the store lacks raises `ObjectNotFound`. Bytes are given to *outlet*
    when they are proven, those of a large file in stretches; wrong ones of which there is no right copy raise `IntegrityError`.
    """
    started = step.clock()
    entries = plain_archive(model.manifest for model in models)
    archive = Archive(entries, cache=cache, step=step, doing=_DOING)
    with explaining_miss(models):
        archive.find()
    try:
        seen = archive.write(outlet)
    except DeadlineExceeded as error:
        error.hint = "raise --deadline: an export begins anew"
        raise
    return ExportReport(
        path=outlet.name,
        format=PLAIN,
        size=archive.size,
        sha256=seen.hex,
        files=sum(1 for entry in entries if isinstance(entry.content, FileEntry)),
        models=tuple(map(described, models)),
        seconds=step.clock() - started,
    )


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
    """Say of an `ObjectNotFound`, whose key is the SHA-256 of a blob, of which file of *models* that is, and what helps."""
    try:
        yield
    except ObjectNotFound as miss:
        for model in models:
            for file in model.manifest.files:
                if file.sha256.hex == miss.key:
                    miss.add_note(f"it is {file.path} of {model.ref}")
                    miss.hint = _remedy(model.ref)
        raise
