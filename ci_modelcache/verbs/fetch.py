"""Fill the store with a snapshot, and restore nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.publication import published
from ci_modelcache.errors import IntegrityError, SnapshotNotFound
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.verbs.ingest import ingest, selected
from ci_modelcache.verbs.resolve import note_head, resolve

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step


@frozen
class FetchReport:
    """What `fetch` did; sizes in bytes."""

    ref: str
    commit: str
    selection: str
    result: str
    """``hit`` when the store had it all, ``miss`` when it was fetched."""
    store: str
    source: str
    manifest: str
    digest: str
    files: int
    size: int
    bytes_downloaded: int
    seconds: float


def fetch(ref: ModelRef, *, selection: Selection, cache: ModelCache, upstream: Upstream, step: Step) -> FetchReport:
    """
    Store the snapshot that *ref* means to the authority now, restricted to *selection*.

    The authority is always asked what a branch means, for this is the verb that moves the store forward.
    Raises what `ingest` and `resolve` raise.
    """
    started = step.clock()
    resolution = resolve(ref, cache=cache, upstream=upstream, revision_ttl=0)
    snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, selection.id)
    manifest, received, result = _ensure(snapshot, ref, selection, cache=cache, upstream=upstream, step=step)
    note_head(ref, resolution, cache=cache, host=upstream.host)
    return FetchReport(
        ref=str(ref),
        commit=snapshot.commit,
        selection=snapshot.selection,
        result=result,
        store=cache.url,
        source=upstream.url if result == "miss" else cache.url,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        bytes_downloaded=received,
        seconds=step.clock() - started,
    )


def _ensure(
    snapshot: SnapshotId,
    ref: ModelRef,
    selection: Selection,
    *,
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
) -> tuple[Manifest, int, str]:
    try:
        return published(cache, snapshot), 0, "hit"
    except (SnapshotNotFound, IntegrityError):
        listing = upstream.listing(ref, snapshot.commit)
    files = selected(listing.files, selection, ref)
    ingested = ingest(snapshot, files, ref=ref, cache=cache, source=upstream, step=step)
    return ingested.manifest, ingested.received, "miss"
