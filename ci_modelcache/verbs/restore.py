"""Put a snapshot at a destination: what is there already stays, what the store has is taken, the rest is fetched."""

from __future__ import annotations

import logging
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.access import touch
from ci_modelcache.errors import ConfigError, IntegrityError, SnapshotNotFound
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.loading import runs_code
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.offline import Offline
from ci_modelcache.transfer.exclusive import exclusive
from ci_modelcache.transfer.land import explaining_full_disk, sweep
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.verbs.acquire import acquire, save_acquired
from ci_modelcache.verbs.deliver import NOT_WRITABLE, Route, instead_of, listed_of
from ci_modelcache.verbs.ingest import selected
from ci_modelcache.verbs.placing import Placement, carry_out, plan
from ci_modelcache.verbs.publish import unwritten
from ci_modelcache.verbs.receive import senders
from ci_modelcache.verbs.resolve import LOCAL, LOCK, MIRROR, STORE, note_head, word_of
from ci_modelcache.verbs.stored import has_all, stored_manifest
from ci_modelcache.verbs.turns import turn
from ci_modelcache.verbs.wanted import RestoreOptions, Wanted, find_wanted, name_of, place_of, require_locked

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

HIT = "hit"
MISS = "miss"
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
    """By whose word these are the right bytes: ``lock``, ``authority``, ``store``, ``local`` (an earlier restore), or ``mirror``."""
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
    mirrors: dict[str, int] = field(factory=dict)
    """Bytes by the URL of the upstream that sent them."""
    runs_code: tuple[str, ...] = ()
    """Files that may run code of their author when a library loads them."""
    bytes_from_tier: int = 0
    """Bytes that lay in a tier of this machine; they are among those copied and linked, too."""
    replicas: dict[str, int] = field(factory=dict)
    """Bytes by the URL of the replica that had them, as the store did not."""


@frozen
class _Done:
    manifest: Manifest
    result: str
    anchor: str
    placement: Placement = field(factory=Placement)
    received: int = 0
    warnings: tuple[str, ...] = ()
    saved: bool = False
    mirrors: dict[str, int] = field(factory=dict)


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
        exclusive(place_of(layout), folder=step.state / "locks", deadline=step.deadline),
        closing(Receipts(step.state / "receipts.sqlite")) as receipts,
    ):
        sweep(layout.staging)
        wanted = find_wanted(ref, layout, receipts, cache=cache, upstream=upstream, options=options)
        source = Offline(upstream.host, why="--fail-on-miss is set") if options.fail_on_miss else upstream
        mirrors = Mirrors.of(source, retry=step.retry, connections=step.workers)
        pinned = ref.at(wanted.snapshot.commit)
        route = Route(
            pinned, layout, cache, mirrors, receipts, step, options.save, force=options.force, near=options.near
        )
        done = _restore(wanted, route, waits=not isinstance(source, Offline))
        extra = layout.extra(done.manifest)  # noqa: S610  # a layout, not Django
        if options.prune_extra:
            layout.prune(extra)
        receipts.note_snapshot(place_of(layout), name_of(wanted.snapshot), done.manifest.to_json())
    report = _report(ref, wanted, done, route)
    return evolve(
        report,
        extra=tuple(str(one) for one in extra),
        pruned=options.prune_extra and bool(extra),
        seconds=step.clock() - started,
    )


def _report(ref: ModelRef, wanted: Wanted, done: _Done, route: Route) -> RestoreReport:
    layout = route.layout
    sources = {LOCAL: str(layout.root), HIT: route.cache.url, MISS: senders(done.mirrors, route.upstream)}
    return RestoreReport(
        ref=str(ref),
        commit=wanted.snapshot.commit,
        selection=wanted.snapshot.selection,
        path=str(layout.snapshot_path(wanted.snapshot.commit)),
        result=done.result,
        source=sources[done.result],
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
        extra=(),
        pruned=False,
        saved=done.saved,
        warnings=(*done.warnings, *done.placement.warnings),
        seconds=0.0,
        mirrors=done.mirrors,
        runs_code=runs_code(done.manifest),
        bytes_from_tier=done.placement.near,
        replicas=done.placement.replicas,
    )


def _refuse_to_prune(layout: Layout, ours: tuple[Path, ...]) -> None:
    """Raise `ConfigError` when removing what is extra at the destination would remove the store or our notes."""
    for folder in ours:
        if folder.resolve().is_relative_to(layout.root.resolve()):
            msg = f"--prune-extra would remove {folder}, which lies in the destination {layout.root}"
            raise ConfigError(msg, hint="restore into a folder of its own")


def _restore(wanted: Wanted, route: Route, *, waits: bool) -> _Done:
    """
    There are three cases, tried in this order:
    1. The manifest is known here, and every file is in place.
    2. The store has the snapshot.
    3. Upstream has it. By force this is the only one. If this run *waits*, others that fetch the same may store it meanwhile.
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
        return _in_turn(wanted, route) if waits else _fetched(wanted, _listing(wanted, route), route)
    except IntegrityError as failure:
        _log.warning("the store is not believed: %s", failure)
        with instead_of(failure):
            files = _listing(wanted, route)
        done = _fetched(wanted, files, route)
        return evolve(done, warnings=(f"the store was not believed: {failure}", *done.warnings))
    return _from_store(manifest, wanted, route)


def _in_turn(wanted: Wanted, route: Route) -> _Done:
    """Restore what the store did not have: from there, when another job was just fetching it, else from upstream."""
    look = partial(_stored, wanted, route)
    with turn(wanted.snapshot, look, cache=route.cache, step=route.step, saves=route.save) as found:
        for manifest in found:
            return _from_store(manifest, wanted, route)
        return _fetched(wanted, _listing(wanted, route), route)


def _from_store(manifest: Manifest, wanted: Wanted, route: Route) -> _Done:
    if route.save and route.cache.is_asked:
        touch(route.cache.alone, wanted.snapshot)
    placement = carry_out(plan(map(listed_of, manifest.files), route), route)
    _publish(manifest, wanted, route)
    anchor = LOCK if wanted.locked else STORE
    said = _note(wanted, route)
    return _Done(manifest, HIT, anchor, placement, placement.downloaded, said, mirrors=placement.sources)


def _stored(wanted: Wanted, route: Route) -> Manifest:
    """The manifest to restore from the store; a lock's stands above the store's own, and needs the blobs alone."""
    for locked in wanted.locked:
        try:
            route.cache.ref(wanted.snapshot)
        except (SnapshotNotFound, IntegrityError):
            if not has_all(locked, cache=route.cache, step=route.step):
                raise
        return locked
    return stored_manifest(wanted.snapshot, wanted.ref, wanted.selection, cache=route.cache)


def _fetched(wanted: Wanted, files: tuple[ListedFile, ...], route: Route) -> _Done:
    """Restore from upstream what the store does not have, or has wrong."""
    anchor = LOCK if wanted.locked else word_of(route.upstream)
    believed: tuple[str, ...] = ()
    if anchor == MIRROR:
        # Whoever reads the store later believes it; nobody told him that a mirror's word is in it.
        route = evolve(route, save=False)
        believed = (f"which files {wanted.snapshot} has was said by a mirror, not by {route.upstream.host}: not saved",)
    acquired = acquire(wanted.snapshot, files, route)
    require_locked(acquired.manifest, wanted.locked)
    _publish(acquired.manifest, wanted, route)
    unsaved = save_acquired(acquired, route)
    return _Done(
        manifest=acquired.manifest,
        result=MISS,
        anchor=anchor,
        placement=acquired.placement,
        received=acquired.received,
        warnings=(*believed, *acquired.warnings, *(unsaved or _note(wanted, route))),
        saved=route.save and not unsaved,
        mirrors=acquired.sources,
    )


def _publish(manifest: Manifest, wanted: Wanted, route: Route) -> None:
    route.layout.publish(manifest, wanted.ref, full=wanted.is_full, receipts=route.receipts)


def _listing(wanted: Wanted, route: Route) -> tuple[ListedFile, ...]:
    for locked in wanted.locked:
        return tuple(map(listed_of, locked.files))
    return selected(route.upstream.listing(wanted.ref, wanted.snapshot.commit).files, wanted.selection, wanted.ref)


def _note(wanted: Wanted, route: Route) -> tuple[str, ...]:
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
