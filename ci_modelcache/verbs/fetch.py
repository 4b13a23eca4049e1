"""Fill the store with a snapshot, and restore nothing."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.publication import published
from ci_modelcache.errors import IntegrityError, SnapshotNotFound
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.sources.offline import Offline
from ci_modelcache.verbs.deliver import listed_of
from ci_modelcache.verbs.ingest import Ingested, ingest, selected
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.receive import senders
from ci_modelcache.verbs.resolve import AUTHORITY, LOCK, STORE, Resolution, note_head, resolve_now
from ci_modelcache.verbs.turns import turn
from ci_modelcache.verbs.wanted import Wanted, require_locked

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.lock import Lock
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
    anchor: str = AUTHORITY
    """By whose word these are the right files: ``lock``, ``authority``, or for what was there already ``store``."""


def fetch(
    ref: ModelRef,
    *,
    selection: Selection,
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    force: bool = False,
    locks: tuple[Lock, ...] = (),
) -> FetchReport:
    """
    Store the snapshot that *ref* means to the authority now, restricted to *selection*; what another job is just fetching is waited for.

    The authority is always asked what a branch means, for this is the verb that moves the store forward; only names that
    somebody saved are the store's own. With a lock among *locks*, of which there are one or none, it is what that says, and nobody is asked.
    By *force* all files are fetched, and replace what the store has.
    Raises what `ingest` and `resolve_now` raise, `NotInLock`, and `DigestMismatch` for another manifest than the lock's.
    """
    started = step.clock()
    locked = tuple(lock.find(ref, selection).to_manifest() for lock in locks)
    if locked:
        resolution, snapshot = Resolution(locked[0].commit, LOCK), locked[0].id
    else:
        resolution = resolve_now(ref, cache=cache, upstream=upstream, force=force)
        snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, selection.id)
    wanted = Wanted(ref, snapshot, selection, resolution, resolution.anchor, locked)
    ingested, result = _brought(wanted, cache=cache, upstream=upstream, step=step, force=force)
    require_locked(ingested.manifest, locked)
    note_head(ref, resolution, cache=cache, host=upstream.host)
    return evolve(_report(wanted, ingested, result, cache=cache, upstream=upstream), seconds=step.clock() - started)


def _report(wanted: Wanted, ingested: Ingested, result: str, *, cache: ModelCache, upstream: Upstream) -> FetchReport:
    manifest = ingested.manifest
    return FetchReport(
        ref=str(wanted.ref),
        commit=wanted.snapshot.commit,
        selection=wanted.snapshot.selection,
        result=result,
        store=cache.url,
        source=senders(ingested.sources, upstream) if result == MISS else cache.url,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        bytes_downloaded=ingested.received,
        seconds=0.0,
        mirrors=ingested.sources,
        warnings=ingested.warnings,
        anchor=LOCK if wanted.locked else AUTHORITY if result == MISS else STORE,
    )


def _brought(wanted: Wanted, *, cache: ModelCache, upstream: Upstream, step: Step, force: bool) -> tuple[Ingested, str]:
    """What is in the store in the end, and whether it was there before, or came by another job, or by this one."""
    look = partial(published, cache, wanted.snapshot)
    bring = partial(_ingest, wanted, cache=cache, upstream=upstream, step=step, force=force)
    if force:
        return bring(), MISS
    try:
        return Ingested(look(), received=0), HIT
    except (SnapshotNotFound, IntegrityError) as why:
        _log.log(logging.WARNING if isinstance(why, IntegrityError) else logging.DEBUG, "fetching, because %s", why)
    if isinstance(upstream, Offline):
        return bring(), MISS
    with turn(wanted.snapshot, look, cache=cache, step=step, saves=True) as found:
        for manifest in found:
            return Ingested(manifest, received=0), HIT
        return bring(), MISS


def _ingest(wanted: Wanted, *, cache: ModelCache, upstream: Upstream, step: Step, force: bool) -> Ingested:
    snapshot, ref = wanted.snapshot, wanted.ref
    for manifest in wanted.locked:
        files = tuple(map(listed_of, manifest.files))
        initialise(cache)
        return ingest(snapshot, files, ref=ref, cache=cache, source=upstream, step=step, force=force)
    return ingest_listed(snapshot, ref, wanted.selection, cache=cache, upstream=upstream, step=step, force=force)


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
