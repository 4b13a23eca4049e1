"""Look, and change nothing: which snapshots a store holds, and what is in one."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import IntegrityError, NotFound, StoreUnsupported
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.ref import SnapshotId
from ci_modelcache.verbs.resolve import resolve

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import ModelRef, RepoType
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream


@frozen
class StoredSnapshot:
    """One line of `ls`; *problem* is a sentence when the manifest cannot be read, and then the numbers are 0."""

    repo: str
    type: str
    commit: str
    selection: str
    revisions: tuple[str, ...]
    files: int
    size: int
    digest: str
    host: str
    problem: str


def list_snapshots(cache: ModelCache) -> tuple[StoredSnapshot, ...]:
    """Every snapshot of the store, ordered by host, type, repository and commit."""
    lines: list[StoredSnapshot] = []
    # The snapshots of one repository come together, and its heads are read once for all of them.
    for repository, snapshots in groupby(cache.snapshots(), key=_repository):
        heads = cache.heads(*repository)
        lines.extend(_line(cache, snapshot, heads.get(snapshot.commit, ())) for snapshot in snapshots)
    return tuple(lines)


def _repository(snapshot: SnapshotId) -> tuple[str, RepoType, str]:
    return snapshot.host, snapshot.type, snapshot.repo


def _line(cache: ModelCache, snapshot: SnapshotId, revisions: tuple[str, ...]) -> StoredSnapshot:
    files, size, digest, problem = 0, 0, "", ""
    try:
        manifest = cache.manifest(snapshot)
        files, size, digest = len(manifest.files), manifest.size, manifest.set_digest.hex
    except (NotFound, IntegrityError, StoreUnsupported) as error:
        problem = error.message
    return StoredSnapshot(
        repo=snapshot.repo,
        type=snapshot.type.value,
        commit=snapshot.commit,
        selection=snapshot.selection,
        revisions=revisions,
        files=files,
        size=size,
        digest=digest,
        host=snapshot.host,
        problem=problem,
    )


@frozen
class SnapshotInfo:
    """All that the store knows about one snapshot; sizes in bytes."""

    ref: str
    host: str
    commit: str
    selection: str
    revisions: tuple[str, ...]
    manifest: str
    digest: str
    size: int
    provenance: dict[str, str]
    files: tuple[FileEntry, ...]


def info(ref: ModelRef, *, selection: Selection, cache: ModelCache, upstream: Upstream) -> SnapshotInfo:
    """
    What the store knows about the snapshot that *ref* means to it; raises `SnapshotNotFound`.

    A branch is read as the store saw it last, however long ago: give an `Offline` upstream.
    """
    resolution = resolve(ref, cache=cache, upstream=upstream, revision_ttl=float("inf"))
    snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, selection.id)
    manifest = cache.manifest(snapshot)
    return SnapshotInfo(
        ref=str(ref),
        host=snapshot.host,
        commit=snapshot.commit,
        selection=snapshot.selection,
        revisions=cache.heads_of(snapshot),
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        size=manifest.size,
        provenance=dict(cache.ref(snapshot).provenance),
        files=manifest.files,
    )
