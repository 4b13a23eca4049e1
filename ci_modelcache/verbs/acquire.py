"""
The only module that restores what the store does not have.

There are two ways, and each moves every byte over the network once:
1. The store is on this disk: it is filled first, and the destination gets links or copies of what it holds.
2. The store is elsewhere, or may not be written: the files land at the destination, and are uploaded from there afterwards.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.errors import AccessDenied, NoSpace, StoreUnsupported
from ci_modelcache.model.digest import LEAF_SIZE, Fingerprint
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.transfer.disk import require_space, same_disk
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.comparing import contents
from ci_modelcache.verbs.deliver import NOT_WRITABLE, is_stored, listed_of
from ci_modelcache.verbs.ingest import entry_of, ingest
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.placing import Placement, by_links, carry_out, plan
from ci_modelcache.verbs.publish import fingerprint, publish, unwritten
from ci_modelcache.verbs.receive import senders

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.deliver import Route

_log = logging.getLogger(__name__)


@frozen
class Acquired:
    """
    A snapshot whose files are in place; *received* bytes came over the network.

    *saved*: whether the store has it. *leaf_lists* are for `save_acquired`, *unsaved* is why it need not try.
    """

    manifest: Manifest
    placement: Placement
    received: int
    saved: bool
    leaf_lists: tuple[bytes, ...] = ()
    unsaved: tuple[str, ...] = ()
    sources: dict[str, int] = field(factory=dict)
    """Bytes by the URL of the upstream that sent them."""
    warnings: tuple[str, ...] = ()


def acquire(snapshot: SnapshotId, files: tuple[ListedFile, ...], route: Route) -> Acquired:
    """Fetch *snapshot*, which consists of *files*, and put them in place. Raises what the upstream and the disks raise."""
    if not route.save or not route.cache.folders:
        return _land_all(snapshot, files, route)
    try:
        initialise(route.cache)
        route.cache.check_writable()
        _require_room(files, route)
    except (AccessDenied, NoSpace, StoreUnsupported) as error:
        _log.warning("restoring without the store: %s", error)
        why = f"{snapshot} was restored but not saved: {unwritten(error)}"
        return evolve(_land_all(snapshot, files, route), unsaved=(why,))
    ingested = ingest(
        snapshot,
        files,
        ref=route.ref,
        cache=route.cache,
        source=route.upstream,
        step=route.step,
        force=route.force,
    )
    placement = carry_out(plan(map(listed_of, ingested.manifest.files), route), route)
    return Acquired(
        ingested.manifest,
        placement,
        ingested.received + placement.downloaded,
        saved=True,
        sources=ingested.sources,
        warnings=ingested.warnings,
    )


def save_acquired(acquired: Acquired, route: Route) -> tuple[str, ...]:
    """
    Upload what was acquired, unless that has happened; returns why it could not be done, or nothing.

    The restore has succeeded by now, and a store that cannot be written is no reason to fail the job: it says so and goes on.
    """
    if acquired.saved or acquired.unsaved or not route.save:
        return acquired.unsaved
    manifest = acquired.manifest
    try:
        initialise(route.cache)
        publish(
            manifest,
            {file.path: route.layout.content(file) for file in manifest.files},
            leaf_lists=acquired.leaf_lists,
            provenance={"source": senders(acquired.sources, route.upstream)},
            cache=route.cache,
            step=route.step,
            force=route.force,
        )
    except NOT_WRITABLE as error:
        why = f"{manifest.id} was restored but not saved: {unwritten(error)}"
        _log.warning("%s", why)
        return (why,)
    return ()


def _require_room(files: tuple[ListedFile, ...], route: Route) -> None:
    """Raise `NoSpace` unless what the store and the destination both lack fits on their disks, before any byte moves."""
    unique = {file.sha256 or file.git_oid: file for file in files}.values()
    storing = sum(file.size for file in unique if not is_stored(file, route.cache.alone))
    placing = 0 if by_links(route) else plan(files, route).size
    for folder in route.cache.folders:
        if not os.access(folder, os.W_OK):
            msg = f"the store {folder} may not be written by this user"
            raise AccessDenied(msg)
        require_space(folder, storing + (placing if same_disk(folder, route.layout.root) else 0))


def _land_all(snapshot: SnapshotId, files: tuple[ListedFile, ...], route: Route) -> Acquired:
    route = evolve(route, leaves=True)
    placement = carry_out(plan(files, route), route, is_stored=False)
    seen = _fingerprints(files, placement, route)
    entries = tuple(entry_of(file, seen[route.layout.content(file)]) for file in files)
    return Acquired(
        manifest=Manifest(snapshot.host, snapshot.type, snapshot.repo, snapshot.commit, snapshot.selection, entries),
        placement=placement,
        received=placement.downloaded,
        sources=placement.sources,
        saved=False,
        leaf_lists=tuple(one.leaf_list for one in seen.values() if one.leaf_list is not None),
    )


def _fingerprints(files: tuple[ListedFile, ...], placement: Placement, route: Route) -> dict[Path, Fingerprint]:
    """What lies at each place, read again only where neither its delivery nor its listing tells all."""
    brought = {delivery.path: delivery.seen for delivery in placement.delivered}
    seen: dict[Path, Fingerprint] = {}

    def look(item: tuple[Path, ListedFile]) -> None:
        place, file = item
        known = brought.get(file.path)
        if known is None and file.sha256 is not None:
            known = Fingerprint(file.size, file.sha256, None, None)
        if known is None or (file.size > LEAF_SIZE and known.leaf_list is None):
            known = fingerprint(place, file.expected)
        seen[place] = known

    step, doing = route.step, "looking at what is there"
    for_each(contents(files, route).items(), look, workers=step.workers, deadline=step.deadline, doing=doing)
    return seen
