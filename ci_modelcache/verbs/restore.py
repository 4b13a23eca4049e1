"""Put a snapshot at a destination: what is there already stays, what the store has is taken, the rest is fetched."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import (
    AccessDenied,
    DigestMismatch,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    NotFound,
    ObjectNotFound,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import SnapshotId
from ci_modelcache.model.selection import ALL, Selection
from ci_modelcache.transfer.exclusive import exclusive
from ci_modelcache.transfer.land import sweep
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.verbs.acquire import acquire, save_acquired
from ci_modelcache.verbs.deliver import Route, listed_of
from ci_modelcache.verbs.ingest import selected
from ci_modelcache.verbs.placing import Placement, carry_out, plan
from ci_modelcache.verbs.resolve import AUTHORITY, LOCAL, LOCK, STORE, Resolution, note_head, resolve

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

HIT = "hit"
MISS = "miss"
_HOUR = 3600.0


@frozen
class RestoreOptions:
    """
    How to restore.

    *locks*: locks that the snapshot must be in, or none when it need not be. *save*: whether the store may be written.
    *revision_ttl*: for how many seconds the store is believed about a branch.
    """

    selection: Selection = field(factory=Selection)
    locks: tuple[Lock, ...] = ()
    save: bool = True
    fail_on_miss: bool = False
    prune_extra: bool = False
    revision_ttl: float = _HOUR


DEFAULT = RestoreOptions()


@frozen
class RestoreReport:
    """What `restore` did; sizes in bytes. This is API: fields are added, never changed."""

    ref: str
    commit: str
    selection: str
    path: str
    result: str
    """``local``: complete already. ``hit``: the store had it. ``miss``: it was fetched from upstream."""
    source: str
    anchor: str
    """By whose word these are the right bytes: ``lock``, ``authority``, ``store`` or ``local`` (an earlier restore)."""
    stale: bool
    manifest: str
    digest: str
    files: int
    size: int
    files_restored: int
    bytes_downloaded: int
    bytes_copied: int
    bytes_linked: int
    replaced: tuple[str, ...]
    """Files that were here with other content."""
    mended: tuple[str, ...]
    """Files that the store should have had right, and upstream gave."""
    extra: tuple[str, ...]
    pruned: bool
    saved: bool
    warnings: tuple[str, ...]
    seconds: float


@frozen
class _Wanted:
    """The snapshot to restore, and its manifest when the lock or an earlier restore tells it."""

    snapshot: SnapshotId
    resolution: Resolution
    anchor: str
    manifests: tuple[Manifest, ...]


@frozen
class _Done:
    manifest: Manifest
    result: str
    anchor: str
    placement: Placement = field(factory=Placement)
    received: int = 0
    warnings: tuple[str, ...] = ()
    saved: bool = False


def restore(
    ref: ModelRef,
    layout: Layout,
    *,
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    options: RestoreOptions = DEFAULT,
) -> RestoreReport:
    """
    Make the snapshot that *ref* means complete at *layout*, every file proven.

    Raises `SnapshotNotFound` for a miss that may not be fetched, `NotInLock`, `IntegrityError`, `NoSpace`, `AccessDenied`,
    `Unavailable`, `DeadlineExceeded`. Whatever it raises, no wrong or half file is at a final path, and a second call
    goes on from there.
    """
    started = step.clock()
    step.state.mkdir(parents=True, exist_ok=True)
    with (
        exclusive(str(layout.root), folder=step.state / "locks", deadline=step.deadline),
        closing(Receipts(step.state / "receipts.sqlite")) as receipts,
    ):
        sweep(layout.staging)
        wanted = _wanted(ref, layout, receipts, cache=cache, upstream=upstream, options=options)
        route = Route(ref.at(wanted.snapshot.commit), layout, cache, upstream, receipts, step, options.save)
        done = _restore(ref, wanted, route, options)
        path = layout.snapshot_path(wanted.snapshot.commit)
        extra = layout.extra(done.manifest)  # noqa: S610  # a layout, not Django
        if options.prune_extra:
            layout.prune(extra)
        receipts.note_snapshot(_place(layout), str(wanted.snapshot), done.manifest.to_json())
    return RestoreReport(
        ref=str(ref),
        commit=wanted.snapshot.commit,
        selection=wanted.snapshot.selection,
        path=str(path),
        result=done.result,
        source={LOCAL: str(layout.root), HIT: cache.url, MISS: upstream.url}[done.result],
        anchor=done.anchor,
        stale=wanted.resolution.stale,
        manifest=done.manifest.digest.hex,
        digest=done.manifest.set_digest.hex,
        files=len(done.manifest.files),
        size=done.manifest.size,
        files_restored=len(done.placement.delivered),
        bytes_downloaded=done.received,
        bytes_copied=done.placement.bytes_by("copy"),
        bytes_linked=done.placement.bytes_by("hardlink", "reflink"),
        replaced=done.placement.replaced,
        mended=done.placement.mended if done.result == HIT else (),
        extra=tuple(str(one) for one in extra),
        pruned=options.prune_extra and bool(extra),
        saved=done.saved,
        warnings=done.warnings,
        seconds=step.clock() - started,
    )


def _is_full(wanted: _Wanted) -> bool:
    return wanted.snapshot.selection == ALL


def _place(layout: Layout) -> str:
    return str(layout.root.absolute())


def _wanted(
    ref: ModelRef,
    layout: Layout,
    receipts: Receipts,
    *,
    cache: ModelCache,
    upstream: Upstream,
    options: RestoreOptions,
) -> _Wanted:
    for lock in options.locks:
        manifest = lock.find(ref, options.selection).to_manifest()
        return _Wanted(manifest.id, Resolution(manifest.commit, LOCK), LOCK, (manifest,))
    resolution = resolve(ref, cache=cache, upstream=upstream, revision_ttl=options.revision_ttl)
    snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, options.selection.id)
    try:
        noted = receipts.snapshot_at(_place(layout), str(snapshot))
        return _Wanted(snapshot, resolution, LOCAL, (Manifest.from_json(noted),))
    except ObjectNotFound:
        return _Wanted(snapshot, resolution, STORE, ())


def _restore(ref: ModelRef, wanted: _Wanted, route: Route, options: RestoreOptions) -> _Done:
    """
    There are three cases, tried in this order:
    1. The manifest is known here, and every file is in place.
    2. The store has the snapshot.
    3. Upstream has it.
    """
    for manifest in wanted.manifests:
        missing = plan(manifest, route)
        if not missing.missing:
            route.layout.publish(manifest, ref, full=_is_full(wanted), receipts=route.receipts)
            return _Done(manifest, LOCAL, wanted.anchor)
    try:
        manifest = _stored(wanted, route.cache)
    except (SnapshotNotFound, IntegrityError) as error:
        if options.fail_on_miss:
            raise
        return _fetched(ref, wanted, route, options, error)
    placement = carry_out(plan(manifest, route), route)
    route.layout.publish(manifest, ref, full=_is_full(wanted), receipts=route.receipts)
    received = placement.bytes_by("download")
    anchor = LOCK if wanted.anchor == LOCK else STORE
    return _Done(manifest, HIT, anchor, placement, received, _note(ref, wanted, route))


def _stored(wanted: _Wanted, cache: ModelCache) -> Manifest:
    """The manifest to restore from the store; a lock's stands above the store's own."""
    if wanted.anchor == LOCK:
        cache.ref(wanted.snapshot)
        return wanted.manifests[0]
    return cache.manifest(wanted.snapshot)


def _fetched(ref: ModelRef, wanted: _Wanted, route: Route, options: RestoreOptions, failure: ModelCacheError) -> _Done:
    """Restore from upstream what the store does not have, or has wrong: *failure* tells."""
    if isinstance(failure, IntegrityError):
        _log.warning("the store is not believed: %s", failure)
    try:
        files = _listing(ref, wanted, route, options)
    except NotFound as miss:
        # Wrong bytes in the store are not a miss, even where nobody can be asked for right ones.
        raise (failure if isinstance(failure, IntegrityError) else miss) from None
    acquired = acquire(wanted.snapshot, files, route)
    for locked in wanted.manifests if wanted.anchor == LOCK else ():
        if acquired.manifest != locked:
            what = f"the manifest of {wanted.snapshot}"
            raise DigestMismatch(
                what,
                expected=locked.digest.hex,
                actual=acquired.manifest.digest.hex,
                hint="the lock and the bytes disagree: restore modelcache.lock from git",
            )
    route.layout.publish(acquired.manifest, ref, full=_is_full(wanted), receipts=route.receipts)
    warnings = save_acquired(acquired, route)
    return _Done(
        manifest=acquired.manifest,
        result=MISS,
        anchor=LOCK if wanted.anchor == LOCK else AUTHORITY,
        placement=acquired.placement,
        received=acquired.received,
        warnings=(*warnings, *_note(ref, wanted, route)),
        saved=options.save and not warnings,
    )


def _listing(ref: ModelRef, wanted: _Wanted, route: Route, options: RestoreOptions) -> tuple[ListedFile, ...]:
    if wanted.anchor == LOCK:
        return tuple(listed_of(file) for file in wanted.manifests[0].files)
    return selected(route.upstream.listing(ref, wanted.snapshot.commit).files, options.selection, ref)


def _note(ref: ModelRef, wanted: _Wanted, route: Route) -> tuple[str, ...]:
    """Tell the store what a branch means now; returns why that could not be done, or nothing."""
    if not route.save:
        return ()
    try:
        note_head(ref, wanted.resolution, cache=route.cache, host=route.upstream.host)
    except (AccessDenied, Unavailable, NoSpace) as error:
        why = f"the store could not be told what {ref} means: {error}"
        _log.warning("%s", why)
        return (why,)
    return ()
