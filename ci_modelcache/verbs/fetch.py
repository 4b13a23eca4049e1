"""Fill the store with a snapshot, and restore nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.cache.publication import published
from ci_modelcache.errors import IntegrityError, SnapshotNotFound
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.verbs.ingest import Ingested, ingest, selected
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.receive import senders
from ci_modelcache.verbs.resolve import note_head, resolve_now

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

HIT = "hit"
MISS = "miss"


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
    mirrors: dict[str, int] = field(factory=dict)
    """Bytes by the URL of the upstream that sent them."""
    warnings: tuple[str, ...] = ()


def fetch(
    ref: ModelRef,
    *,
    selection: Selection,
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    force: bool = False,
) -> FetchReport:
    """
    Store the snapshot that *ref* means to the authority now, restricted to *selection*.

    The authority is always asked what a branch means, for this is the verb that moves the store forward; only names that
    somebody saved are the store's own. By *force* all files are fetched, and replace what the store has.
    Raises what `ingest` and `resolve_now` raise.
    """
    started = step.clock()
    resolution = resolve_now(ref, cache=cache, upstream=upstream, force=force)
    snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, selection.id)
    try:
        ingested, result = Ingested(_stored(snapshot, cache, force=force), received=0), HIT
    except (SnapshotNotFound, IntegrityError) as why:
        _log.log(logging.WARNING if isinstance(why, IntegrityError) else logging.DEBUG, "fetching, because %s", why)
        ingested = ingest_listed(snapshot, ref, selection, cache=cache, upstream=upstream, step=step, force=force)
        result = MISS
    manifest = ingested.manifest
    note_head(ref, resolution, cache=cache, host=upstream.host)
    return FetchReport(
        ref=str(ref),
        commit=snapshot.commit,
        selection=snapshot.selection,
        result=result,
        store=cache.url,
        source=senders(ingested.sources, upstream) if result == MISS else cache.url,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        bytes_downloaded=ingested.received,
        seconds=step.clock() - started,
        mirrors=ingested.sources,
        warnings=ingested.warnings,
    )


def _stored(snapshot: SnapshotId, cache: ModelCache, *, force: bool) -> Manifest:
    if force:
        msg = f"{snapshot} is to be fetched whether or not it is stored"
        raise SnapshotNotFound(msg)
    return published(cache, snapshot)


def ingest_listed(
    snapshot: SnapshotId,
    ref: ModelRef,
    selection: Selection,
    *,
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    force: bool = False,
) -> Ingested:
    """Store *snapshot* as the authority lists it: what the store says about it is not asked; its blobs are made use of, but for *force*."""
    files = selected(upstream.listing(ref, snapshot.commit).files, selection, ref)
    initialise(cache)
    return ingest(snapshot, files, ref=ref, cache=cache, source=upstream, step=step, force=force)
