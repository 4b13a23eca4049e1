"""Put a snapshot at a destination: what is there already stays, what the store has is taken, the rest is fetched."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.errors import ConfigError, DigestMismatch, IntegrityError, ObjectNotFound, SnapshotNotFound
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.model.selection import ALL, Selection
from ci_modelcache.sources.offline import Offline
from ci_modelcache.transfer.exclusive import exclusive
from ci_modelcache.transfer.land import explaining_full_disk, sweep
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.verbs.acquire import acquire, save_acquired
from ci_modelcache.verbs.deliver import NOT_WRITABLE, Route, instead_of, is_stored, listed_of
from ci_modelcache.verbs.ingest import selected
from ci_modelcache.verbs.placing import Placement, carry_out, plan
from ci_modelcache.verbs.publish import unwritten
from ci_modelcache.verbs.resolve import AUTHORITY, LOCAL, LOCK, STORE, Resolution, note_head, resolve, resolve_now

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry
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

    *locks*: the lock that the snapshot must be in, or none when it need not be. *save*: whether the store may be written.
    *fail_on_miss*: ask nobody else for what the store lacks. *revision_ttl*: for how many seconds the store is believed about
    a branch. *force*: believe nothing that is here; ask upstream for everything again, and replace what the destination and the store have.
    """

    selection: Selection = field(factory=Selection)
    locks: tuple[Lock, ...] = ()
    save: bool = True
    fail_on_miss: bool = False
    prune_extra: bool = False
    revision_ttl: float = _HOUR
    force: bool = False


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
    """Files that the store should have had right, and upstream gave; `warnings` tells when they could not be stored."""
    extra: tuple[str, ...]
    pruned: bool
    saved: bool
    warnings: tuple[str, ...]
    seconds: float


@frozen
class _Wanted:
    """The snapshot to restore, as *ref* asked for it, and its manifest when the lock or an earlier restore tells it."""

    ref: ModelRef
    snapshot: SnapshotId
    selection: Selection
    resolution: Resolution
    anchor: str
    manifests: tuple[Manifest, ...] = ()

    @property
    def locked(self) -> tuple[Manifest, ...]:
        """The manifest that stands above all others, or nothing."""
        return self.manifests if self.anchor == LOCK else ()

    @property
    def is_full(self) -> bool:
        return self.snapshot.selection == ALL


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
    if options.prune_extra:
        _refuse_to_prune(layout, (*cache.folders, step.state))
    with (
        explaining_denial(layout.root),
        explaining_full_disk(layout.root),
        exclusive(_place(layout), folder=step.state / "locks", deadline=step.deadline),
        closing(Receipts(step.state / "receipts.sqlite")) as receipts,
    ):
        sweep(layout.staging)
        wanted = _wanted(ref, layout, receipts, cache=cache, upstream=upstream, options=options)
        source = Offline(upstream.host, why="--fail-on-miss is set") if options.fail_on_miss else upstream
        pinned = ref.at(wanted.snapshot.commit)
        route = Route(pinned, layout, cache, source, receipts, step, options.save, force=options.force)
        done = _restore(wanted, route)
        extra = layout.extra(done.manifest)  # noqa: S610  # a layout, not Django
        if options.prune_extra:
            layout.prune(extra)
        receipts.note_snapshot(_place(layout), _name(wanted.snapshot), done.manifest.to_json())
    return RestoreReport(
        ref=str(ref),
        commit=wanted.snapshot.commit,
        selection=wanted.snapshot.selection,
        path=str(layout.snapshot_path(wanted.snapshot.commit)),
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
        mended=done.placement.mended,
        extra=tuple(str(one) for one in extra),
        pruned=options.prune_extra and bool(extra),
        saved=done.saved,
        warnings=(*done.warnings, *done.placement.warnings),
        seconds=step.clock() - started,
    )


def _refuse_to_prune(layout: Layout, ours: tuple[Path, ...]) -> None:
    """Raise `ConfigError` when removing what is extra at the destination would remove the store or our notes."""
    for folder in ours:
        if folder.resolve().is_relative_to(layout.root.resolve()):
            msg = f"--prune-extra would remove {folder}, which lies in the destination {layout.root}"
            raise ConfigError(msg, hint="restore into a folder of its own")


def _place(layout: Layout) -> str:
    """One name for one destination, from wherever and by whatever links it is called."""
    return str(layout.root.resolve())


def _name(snapshot: SnapshotId) -> str:
    return f"{snapshot.host}/{snapshot}"


def _wanted(
    ref: ModelRef,
    layout: Layout,
    receipts: Receipts,
    *,
    cache: ModelCache,
    upstream: Upstream,
    options: RestoreOptions,
) -> _Wanted:
    selection = options.selection
    for lock in options.locks:
        manifest = lock.find(ref, selection).to_manifest()
        return _Wanted(ref, manifest.id, selection, Resolution(manifest.commit, LOCK), LOCK, (manifest,))
    if options.force:
        resolution = resolve_now(ref, cache=cache, upstream=upstream, force=True)
    else:
        resolution = resolve(ref, cache=cache, upstream=upstream, revision_ttl=options.revision_ttl)
    snapshot = SnapshotId(upstream.host, ref.type, ref.repo, resolution.commit, selection.id)
    try:
        noted = Manifest.from_json(receipts.snapshot_at(_place(layout), _name(snapshot)))
    except ObjectNotFound:
        return _Wanted(ref, snapshot, selection, resolution, STORE)
    return _Wanted(ref, snapshot, selection, resolution, LOCAL, (noted,))


def _restore(wanted: _Wanted, route: Route) -> _Done:
    """
    There are three cases, tried in this order:
    1. The manifest is known here, and every file is in place.
    2. The store has the snapshot.
    3. Upstream has it. By force this is the only one.
    """
    if route.force:
        return _fetched(wanted, _listing(wanted, route), route)
    for manifest in wanted.manifests:
        if not plan(map(listed_of, manifest.files), route).missing:
            _publish(manifest, wanted, route)
            return _Done(manifest, LOCAL, wanted.anchor, warnings=_note(wanted, route))
    try:
        manifest = _stored(wanted, route)
    except SnapshotNotFound:
        return _fetched(wanted, _listing(wanted, route), route)
    except IntegrityError as failure:
        _log.warning("the store is not believed: %s", failure)
        with instead_of(failure):
            files = _listing(wanted, route)
        done = _fetched(wanted, files, route)
        return evolve(done, warnings=(f"the store was not believed: {failure}", *done.warnings))
    placement = carry_out(plan(map(listed_of, manifest.files), route), route)
    _publish(manifest, wanted, route)
    anchor = LOCK if wanted.locked else STORE
    return _Done(manifest, HIT, anchor, placement, placement.downloaded, _note(wanted, route))


def _stored(wanted: _Wanted, route: Route) -> Manifest:
    """The manifest to restore from the store; a lock's stands above the store's own, and needs the blobs alone."""
    for locked in wanted.locked:
        try:
            route.cache.ref(wanted.snapshot)
        except (SnapshotNotFound, IntegrityError):
            if not _has_all(locked, route):
                raise
        return locked
    try:
        return route.cache.manifest(wanted.snapshot)
    except SnapshotNotFound:
        if wanted.is_full:
            raise
    # Whoever holds the whole holds every part of it.
    part = route.cache.manifest(evolve(wanted.snapshot, selection=ALL)).part(wanted.selection)
    selected(map(listed_of, part.files), wanted.selection, wanted.ref)
    return part


def _has_all(manifest: Manifest, route: Route) -> bool:
    """Whether the store has every blob of *manifest*; after the first that is missing no more are asked for."""

    def check(file: FileEntry) -> None:
        if not is_stored(listed_of(file), route.cache):
            raise ObjectNotFound(file.sha256.hex, route.cache.url)

    step = route.step
    try:
        for_each(manifest.files, check, workers=step.workers, deadline=step.deadline, doing="looking at what is stored")
    except ObjectNotFound as miss:
        _log.debug("%s", miss)
        return False
    return True


def _fetched(wanted: _Wanted, files: tuple[ListedFile, ...], route: Route) -> _Done:
    """Restore from upstream what the store does not have, or has wrong."""
    acquired = acquire(wanted.snapshot, files, route)
    for locked in wanted.locked:
        if acquired.manifest != locked:
            what = f"the manifest of {wanted.snapshot}"
            raise DigestMismatch(
                what,
                expected=locked.digest.hex,
                actual=acquired.manifest.digest.hex,
                hint="the lock and the bytes disagree: restore modelcache.lock from git",
            )
    _publish(acquired.manifest, wanted, route)
    unsaved = save_acquired(acquired, route)
    return _Done(
        manifest=acquired.manifest,
        result=MISS,
        anchor=LOCK if wanted.locked else AUTHORITY,
        placement=acquired.placement,
        received=acquired.received,
        warnings=(*unsaved, *_note(wanted, route)),
        saved=route.save and not unsaved,
    )


def _publish(manifest: Manifest, wanted: _Wanted, route: Route) -> None:
    route.layout.publish(manifest, wanted.ref, full=wanted.is_full, receipts=route.receipts)


def _listing(wanted: _Wanted, route: Route) -> tuple[ListedFile, ...]:
    for locked in wanted.locked:
        return tuple(map(listed_of, locked.files))
    return selected(route.upstream.listing(wanted.ref, wanted.snapshot.commit).files, wanted.selection, wanted.ref)


def _note(wanted: _Wanted, route: Route) -> tuple[str, ...]:
    """Tell the store what a branch means now; returns why that could not be done, or nothing."""
    if not route.save:
        return ()
    try:
        note_head(wanted.ref, wanted.resolution, cache=route.cache, host=route.upstream.host)
    except NOT_WRITABLE as error:
        why = f"the store could not be told what {wanted.ref} means: {unwritten(error)}"
        _log.warning("%s", why)
        return (why,)
    return ()
