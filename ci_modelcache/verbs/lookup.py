"""Say whether a store has a snapshot, and move nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import SnapshotNotFound
from ci_modelcache.model.ref import SnapshotId
from ci_modelcache.verbs.resolve import LOCK, STORE, resolve
from ci_modelcache.verbs.stored import missing_files, stored_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step

HIT = "hit"
MISS = "miss"


@frozen
class LookupReport:
    """What `lookup` found; sizes in bytes. Nobody has read the blobs: `verify` does."""

    ref: str
    commit: str
    selection: str
    result: str
    """``hit``: the store has the snapshot with every file. ``miss``: it lacks it, or the files in *missing*."""
    store: str
    anchor: str
    """By whose word the snapshot consists of these files: ``lock`` or ``store``."""
    manifest: str
    digest: str
    files: int
    size: int
    missing: tuple[str, ...]
    seconds: float


def lookup(
    ref: ModelRef,
    *,
    selection: Selection,
    locks: Sequence[Lock],
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    revision_ttl: float,
) -> LookupReport:
    """
    Look for the snapshot that *ref* means, by the first of *locks* or as `resolve` finds it, in *cache*.

    That it is not there is a result, not an error. Raises what `resolve` raises, `NotInLock`, `AccessDenied`, `Unavailable`
    and `IntegrityError`.
    """
    started = step.clock()
    manifests = [lock.find(ref, selection).to_manifest() for lock in locks]
    if manifests:
        snapshot = manifests[0].id
    else:
        commit = resolve(ref, cache=cache, upstream=upstream, revision_ttl=revision_ttl).commit
        snapshot = SnapshotId(upstream.host, ref.type, ref.repo, commit, selection.id)
        try:
            manifests.append(stored_manifest(snapshot, ref, selection, cache=cache))
        except SnapshotNotFound:
            return _report(ref, snapshot, cache=cache, seconds=step.clock() - started)
    manifest = manifests[0]
    missing = missing_files(manifest, cache=cache, step=step)
    return LookupReport(
        ref=str(ref),
        commit=snapshot.commit,
        selection=snapshot.selection,
        result=MISS if missing else HIT,
        store=cache.url,
        anchor=LOCK if locks else STORE,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        missing=missing,
        seconds=step.clock() - started,
    )


def _report(ref: ModelRef, snapshot: SnapshotId, *, cache: ModelCache, seconds: float) -> LookupReport:
    """The report of a snapshot that *cache* knows nothing of."""
    return LookupReport(
        str(ref), snapshot.commit, snapshot.selection, MISS, cache.url, STORE, "", "", 0, 0, (), seconds
    )
