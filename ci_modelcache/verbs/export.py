"""Write models from a store into one archive that others can read: the same bytes on every run, each of them proven."""

from __future__ import annotations

from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.errors import DeadlineExceeded, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.digest import Fingerprinter, verified
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.plain_archive import plain_archive
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.model.tar import header, offsets, padding, trailer
from ci_modelcache.transfer.parallel import bounded, for_each, in_order
from ci_modelcache.verbs.resolve import resolve
from ci_modelcache.verbs.stored import stored_manifest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.plain_archive import Entry
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.transfer.outlet import Outlet
    from ci_modelcache.verbs.step import Step

PLAIN = "plain"
_AHEAD = 4
"""Stretches of blobs (`LEAF_SIZE` bytes) that are read ahead at most: they are in memory."""
_DOING = "exporting"

_Name = tuple["Digest", int, "Digest | None"]
"""What manifests say about a blob."""


@frozen
class ExportedModel:
    """One model of an archive."""

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
    """A model to export: the manifest that *ref* led to."""

    ref: ModelRef
    manifest: Manifest


def held(
    ref: ModelRef, selection: Selection, *, locks: Sequence[Lock] = (), cache: ModelCache, host: Upstream
) -> Exported:
    """
    What *ref* means by the lock of *locks*, or else in *cache*, however long ago that was found out; *host* is not asked.

    Raises `SnapshotNotFound` for what the store lacks, `NotInLock`, `IntegrityError`.
    """
    for lock in locks:
        return Exported(ref, lock.find(ref, selection).to_manifest())
    commit = resolve(ref, cache=cache, upstream=host, revision_ttl=float("inf")).commit
    snapshot = SnapshotId(host.host, ref.type, ref.repo, commit, selection.id)
    try:
        return Exported(ref, stored_manifest(snapshot, ref, selection, cache=cache))
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
    blobs = {_name(file): ProvenBlob(file, cache) for _, file in _files(entries)}
    _find(blobs, models, step)
    *_, end = offsets(entry.member for entry in entries)
    size = end + len(trailer(end))
    contents = _contents(entries, blobs, step)
    try:
        seen = bounded(
            lambda: _write(contents, trailer(end), size, outlet, step),
            deadline=step.deadline,
            doing=f"{_DOING} to {outlet.name}",
        )
    except DeadlineExceeded as error:
        error.hint = "raise --deadline: an export begins anew"
        raise
    return ExportReport(
        path=outlet.name,
        format=PLAIN,
        size=size,
        sha256=seen.hex,
        files=sum(1 for _ in _files(entries)),
        models=tuple(map(_model, models)),
        seconds=step.clock() - started,
    )


def _remedy(ref: ModelRef) -> str:
    return f"export asks no Hub: ci-modelcache fetch {ref} puts it into the store"


def _model(model: Exported) -> ExportedModel:
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


def _files(entries: Iterable[Entry]) -> Iterator[tuple[Entry, FileEntry]]:
    return ((entry, entry.content) for entry in entries if isinstance(entry.content, FileEntry))


def _name(file: FileEntry) -> _Name:
    return file.sha256, file.size, file.leaves


def _find(blobs: dict[_Name, ProvenBlob], models: Sequence[Exported], step: Step) -> None:
    """Look for every blob: nobody shall wait an hour for the news that the last one is missing."""
    try:
        for_each(
            blobs.values(),
            ProvenBlob.find,
            workers=step.workers,
            deadline=step.deadline,
            doing="looking at what is stored",
        )
    except ObjectNotFound as miss:
        for model in models:
            for file in model.manifest.files:
                if file.sha256.hex == miss.key:
                    miss.add_note(f"it is {file.path} of {model.ref}")
                    miss.hint = _remedy(model.ref)
        raise


def _write(contents: Generator[bytes, None, None], last: bytes, size: int, outlet: Outlet, step: Step) -> Digest:
    """Give *contents* and what is *last*, *size* bytes in all, to *outlet*; returns their digest."""
    hasher = Fingerprinter(size, git=False, leaves=False)
    with closing(contents), outlet.open(size) as take:
        step.progress.start(_DOING, size)
        try:
            for chunk in chain(contents, [last]):
                step.deadline.check(_DOING)
                take(chunk)
                hasher.update(chunk)
                step.progress.advance(len(chunk))
        finally:
            step.progress.finish()
    return hasher.finish().sha256


def _contents(entries: Sequence[Entry], blobs: dict[_Name, ProvenBlob], step: Step) -> Generator[bytes, None, None]:
    """All of the archive but its trailer."""
    stretches = (
        (blob, number)
        for _, file in _files(entries)
        for blob in (blobs[_name(file)],)
        for number in range(blob.stretches)
    )
    read = in_order(
        stretches,
        lambda stretch: stretch[0].read(stretch[1]),
        workers=min(_AHEAD, step.workers),
        deadline=step.deadline,
        doing="reading from the store",
    )
    with closing(read):
        for entry in entries:
            yield header(entry.member)
            if isinstance(entry.content, FileEntry):
                count = blobs[_name(entry.content)].stretches
                pieces = chain.from_iterable(islice(read, count))
                # One stretch is proven by the file's own digest; several by their leaves, which only say what the manifest does.
                yield from pieces if count == 1 else verified(pieces, entry.content.expected, entry.member.path)
            else:
                yield entry.content
            yield padding(entry.member.size)
