"""Put the models of an archive into a store: each byte proven on the way, the refs last, and nothing outside the store."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.errors import IntegrityError, SnapshotConflict, SnapshotNotFound
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.git import tree_oid
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.transfer.inlet import Pipe
from ci_modelcache.transfer.parallel import bounded
from ci_modelcache.transfer.stash import Stash
from ci_modelcache.transfer.unzstd import plain_of
from ci_modelcache.verbs.bringing import Bringing
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.planning import plan
from ci_modelcache.verbs.unpacking import indexed, streamed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.records import HeadRecord
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.transfer.inlet import Inlet
    from ci_modelcache.verbs.planning import Plan
    from ci_modelcache.verbs.step import Step
    from ci_modelcache.verbs.unpacking import Contents

_log = logging.getLogger(__name__)

_LONG_AGO = 0.0
"""When a branch of an archive meant its commit: nobody knows, so whoever can ask the Hub does."""


@frozen
class ImportedModel:
    """One model of an archive; *ref* has its commit, and *revisions* are the branches and tags that mean it in the store by the archive."""

    ref: str
    commit: str
    selection: str
    manifest: str
    digest: str
    files: int
    size: int
    revisions: tuple[str, ...] = ()


@frozen
class ImportReport:
    """What `import` did; sizes in bytes. This is API: fields are added, never changed."""

    path: str
    """The archive, or `-` for stdin."""
    format: str
    """`oci` or `plain`."""
    store: str
    files: int
    """Different files of all models."""
    size: int
    """Bytes of these."""
    bytes_uploaded: int
    """Bytes of those that the store did not have."""
    models: tuple[ImportedModel, ...]
    warnings: tuple[str, ...]
    """Branches and tags that stay as they were, as the store knows them from somebody else."""
    seconds: float


@frozen
class ImportOptions:
    """How an archive is imported: with *revisions* the branches and tags that it names are made known to the store, too."""

    revisions: bool = True
    large: int = MAX_DOCUMENT
    """Bytes; of a pipe what is larger goes into the store at once, and what is not waits in the state folder until the end."""


_DEFAULT = ImportOptions()


def import_archive(
    source: Inlet | Pipe, *, cache: ModelCache, step: Step, options: ImportOptions = _DEFAULT
) -> ImportReport:
    """
    Store all models of the archive *source*, in either format of `export`, and what GNU tar makes of the plain one.

    Raises `IntegrityError` for an archive that is not exactly what its manifests say: before any ref is written, and where *source*
    has offsets before anything is, but for a content that is another one. A delta whose other files *cache* lacks raises
    `SnapshotNotFound`, a snapshot that is there as another one `SnapshotConflict`. What is there is not stored again.
    """
    started = step.clock()
    source = plain_of(source, retry=step.retry)
    with Stash(step.state, source.name) as stash, Publication(cache) as publication:
        bringing = Bringing(source.name, publication=publication, cache=cache, step=step)
        planned = plan(_contents(source, stash, bringing, cache, step, options))
        todo = [each.manifest for each in planned.snapshots if not _is_published(each.manifest, cache)]
        initialise(cache)
        bringing.bring(planned, _files_of(todo, planned))
        for manifest in todo:
            bringing.commit(manifest)
    warnings: list[str] = []
    models = []
    for packed in planned.snapshots:
        named = sorted(packed.revisions) if options.revisions else []
        models.append(_described(packed.manifest, _tell(packed.manifest, named, cache, warnings)))
    return ImportReport(
        path=source.name,
        format=planned.format,
        store=cache.url,
        files=len(planned.files),
        size=sum(file.size for file in planned.files.values()),
        bytes_uploaded=bringing.uploaded,
        models=tuple(models),
        warnings=tuple(warnings),
        seconds=step.clock() - started,
    )


def _contents(
    source: Inlet | Pipe, stash: Stash, bringing: Bringing, cache: ModelCache, step: Step, options: ImportOptions
) -> Contents:
    doing = f"reading {source.name}"
    if not isinstance(source, Pipe):
        return bounded(partial(indexed, source, retry=step.retry), deadline=step.deadline, doing=doing)
    initialise(cache)
    read = partial(streamed, source.chunks(), source.name, retry=step.retry, stash=stash, take=bringing.take)
    return bounded(partial(read, large=options.large), deadline=step.deadline, doing=doing)


def _is_published(manifest: Manifest, cache: ModelCache) -> bool:
    """Whether *cache* has all of it; raises `SnapshotConflict` when it has another one of the same commit."""
    try:
        standing = published(cache, manifest.id)
    except SnapshotNotFound:
        return False
    except IntegrityError as error:
        _log.warning("%s; it is written anew", error)
        return False
    if standing != manifest:
        msg = f"{cache.url} holds {manifest.id} as manifest {standing.digest}, and the archive has {manifest.digest}"
        raise SnapshotConflict(msg, hint="one of the two was made from wrong bytes; ci-modelcache verify tells which")
    return True


def _files_of(manifests: Sequence[Manifest], planned: Plan) -> list[FileEntry]:
    """The files of *manifests*, each once."""
    digests = {file.sha256 for manifest in manifests for file in manifest.files}
    return [file for digest, file in planned.files.items() if digest in digests]


def _tell(manifest: Manifest, revisions: Sequence[str], cache: ModelCache, warnings: list[str]) -> list[str]:
    """Let the store know what *revisions* mean, but for those that it knows better; returns those that it knows so now."""
    # The commit of what `save` made is that of its tree. It has no Hub that could be asked about it.
    tree = {file.path: (file.git_oid, file.executable) for file in manifest.files}
    origin = SAVED if tree_oid(tree) == manifest.commit else HUB
    told: list[str] = []
    for revision in revisions:
        ref = ModelRef(manifest.repo, revision, manifest.type)
        known = _known(ref, manifest.host, cache)
        same = [head for head in known if (head.commit, head.origin) == (manifest.commit, origin)]
        newer = [head for head in known if head.observed_at > _LONG_AGO and (head.origin, origin) != (SAVED, SAVED)]
        if newer and newer[0].commit != manifest.commit:
            stays = f"{ref} stays {newer[0].commit}, as {cache.url} knows it; the archive has it as {manifest.commit}"
            warnings.append(stays)
            continue
        if not newer and not same:
            cache.put_head(manifest.host, ref, manifest.commit, origin, seen=_LONG_AGO if origin == HUB else None)
        told.append(revision)
    return told


def _known(ref: ModelRef, host: str, cache: ModelCache) -> tuple[HeadRecord, ...]:
    """What *cache* knows of *ref*: one head, or none where it cannot be read."""
    try:
        return (cache.head(host, ref),)
    except SnapshotNotFound:
        return ()
    except IntegrityError as error:
        _log.warning("what the store knows of %s is replaced: %s", ref, error)
        return ()


def _described(manifest: Manifest, revisions: Sequence[str]) -> ImportedModel:
    return ImportedModel(
        ref=str(ModelRef(manifest.repo, manifest.commit, manifest.type)),
        commit=manifest.commit,
        selection=manifest.selection,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        revisions=tuple(revisions),
    )
