"""The only module that makes a snapshot complete at a destination where it is not: what the store has is taken, the rest is fetched."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.access import touch
from ci_modelcache.errors import IntegrityError, SnapshotNotFound
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.offline import Offline
from ci_modelcache.transfer.parallel import Behind
from ci_modelcache.verbs.acquire import acquire, save_acquired
from ci_modelcache.verbs.deliver import NOT_WRITABLE, Route, instead_of, listed_of
from ci_modelcache.verbs.ingest import selected
from ci_modelcache.verbs.placing import Placement, carry_out, plan
from ci_modelcache.verbs.publish import unwritten
from ci_modelcache.verbs.receive import senders
from ci_modelcache.verbs.resolve import LOCK, MIRROR, STORE, note_head, word_of
from ci_modelcache.verbs.restore import HIT, MISS
from ci_modelcache.verbs.stored import has_all, stored_manifest
from ci_modelcache.verbs.turns import turn
from ci_modelcache.verbs.wanted import require_locked

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.verbs.comparing import Destination
    from ci_modelcache.verbs.restore import RestoreReport
    from ci_modelcache.verbs.wanted import Means, RestoreOptions, Wanted

_log = logging.getLogger(__name__)


@frozen
class Completed:
    """What it took to make the snapshot of *manifest* complete."""

    manifest: Manifest
    result: str
    source: str
    anchor: str
    placement: Placement = field(factory=Placement)
    received: int = 0
    warnings: tuple[str, ...] = ()
    saved: bool = False
    mirrors: dict[str, int] = field(factory=dict)

    def told(self, report: RestoreReport) -> RestoreReport:
        """*report*, which tells of a snapshot that needed nothing, with what this one needed."""
        placement = self.placement
        return evolve(
            report,
            result=self.result,
            source=self.source,
            anchor=self.anchor,
            files_restored=len(placement.delivered),
            bytes_downloaded=self.received,
            bytes_copied=placement.bytes_by("copy"),
            bytes_linked=placement.bytes_by("hardlink", "reflink"),
            replaced=placement.replaced,
            mended=placement.mended,
            saved=self.saved,
            warnings=(*self.warnings, *placement.warnings),
            mirrors=self.mirrors,
            bytes_from_tier=placement.near,
            replicas=placement.replicas,
        )


def complete(wanted: Wanted, there: Destination, *, means: Means, options: RestoreOptions) -> Completed:
    """
    Bring what is missing *there*, and publish the snapshot.

    There are two cases, tried in this order:
    1. The store has the snapshot.
    2. Upstream has it. By force this is the only one. Unless it may not be asked, others that fetch the same may store it meanwhile.
    """
    step = there.step
    source = Offline(means.host, why="--fail-on-miss is set") if options.fail_on_miss else means.upstream()
    mirrors = Mirrors.of(source, retry=step.retry, connections=step.workers)
    route = Route(
        wanted.ref.at(wanted.snapshot.commit),
        there.layout,
        means.cache(),
        mirrors,
        there.receipts,
        step,
        options.save,
        pinned=bool(wanted.locked),
        force=options.force,
        near=options.near,
    )
    return _complete(wanted, route, waits=not isinstance(source, Offline))


def _complete(wanted: Wanted, route: Route, *, waits: bool) -> Completed:
    if route.force:
        return _fetched(wanted, _listing(wanted, route), route)
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


def _in_turn(wanted: Wanted, route: Route) -> Completed:
    """Restore what the store did not have: from there, when another job was just fetching it, else from upstream."""
    look = partial(_stored, wanted, route)
    with turn(wanted.snapshot, look, cache=route.cache, step=route.step, saves=route.save) as found:
        for manifest in found:
            return _from_store(manifest, wanted, route)
        return _fetched(wanted, _listing(wanted, route), route)


def _from_store(manifest: Manifest, wanted: Wanted, route: Route) -> Completed:
    telling = Behind()
    if route.save and route.cache.is_asked:
        telling.run(partial(touch, route.cache.alone, wanted.snapshot))
    placement = carry_out(plan(map(listed_of, manifest.files), route), route)
    _publish(manifest, wanted, route)
    telling.wait()
    anchor = LOCK if wanted.locked else STORE
    said = note(wanted, cache=route.cache, host=route.upstream.host) if route.save else ()
    return Completed(
        manifest, HIT, route.cache.url, anchor, placement, placement.downloaded, said, mirrors=placement.sources
    )


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


def _fetched(wanted: Wanted, files: tuple[ListedFile, ...], route: Route) -> Completed:
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
    said = note(wanted, cache=route.cache, host=route.upstream.host) if route.save and not unsaved else ()
    return Completed(
        manifest=acquired.manifest,
        result=MISS,
        source=senders(acquired.sources, route.upstream),
        anchor=anchor,
        placement=acquired.placement,
        received=acquired.received,
        warnings=(*believed, *acquired.warnings, *(unsaved or said)),
        saved=route.save and not unsaved,
        mirrors=acquired.sources,
    )


def _publish(manifest: Manifest, wanted: Wanted, route: Route) -> None:
    route.layout.publish(manifest, wanted.ref, full=wanted.is_full, receipts=route.receipts)


def _listing(wanted: Wanted, route: Route) -> tuple[ListedFile, ...]:
    for locked in wanted.locked:
        return tuple(map(listed_of, locked.files))
    return selected(route.upstream.listing(wanted.ref, wanted.snapshot.commit).files, wanted.selection, wanted.ref)


def note(wanted: Wanted, *, cache: ModelCache, host: str) -> tuple[str, ...]:
    """Tell the store what a branch of *host* means now; returns why that could not be done, or nothing."""
    try:
        note_head(wanted.ref, wanted.resolution, cache=cache, host=host)
    except NOT_WRITABLE as error:
        why = f"the store could not be told what {wanted.ref} means: {unwritten(error)}"
        _log.warning("%s", why)
        return (why,)
    return ()
