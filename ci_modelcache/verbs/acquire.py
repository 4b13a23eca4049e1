"""
The only module that restores what the store does not have.

There are two ways, and each moves every byte over the network once:
1. The store is on this disk: it is filled first, and the destination gets links or copies of what it holds.
2. The store is elsewhere, or may not be written: the files land at the destination, and are uploaded from there afterwards.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import AccessDenied, IntegrityError, NoSpace, SizeMismatch, Unavailable
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.retry import once_more
from ci_modelcache.verbs.deliver import UPSTREAM, Delivery, land_listed
from ci_modelcache.verbs.ingest import entry_of, ingest
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.placing import Placement, carry_out, plan
from ci_modelcache.verbs.publish import publish, read_file

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Fingerprint
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.deliver import Route

_log = logging.getLogger(__name__)


@frozen
class Acquired:
    """A snapshot whose files are in place; *received* bytes came from upstream. *leaf_lists* are for `save_acquired`."""

    manifest: Manifest
    placement: Placement
    received: int
    leaf_lists: tuple[bytes, ...]
    saved: bool


def acquire(snapshot: SnapshotId, files: tuple[ListedFile, ...], route: Route) -> Acquired:
    """Fetch *snapshot*, which consists of *files*, and put them in place. Raises what the upstream and the disks raise."""
    if route.save and route.cache.folders and _is_writable(route.cache, sum(file.size for file in files)):
        ingested = ingest(snapshot, files, ref=route.ref, cache=route.cache, source=route.upstream, step=route.step)
        placement = carry_out(plan(ingested.manifest, route), route)
        return Acquired(ingested.manifest, placement, ingested.received, (), saved=True)
    return _land_all(snapshot, files, route)


def save_acquired(acquired: Acquired, route: Route) -> tuple[str, ...]:
    """
    Upload what was acquired, unless that has happened; returns why it could not be done, or nothing.

    The restore has succeeded by now, and a store that cannot be written is no reason to fail the job: it says so and goes on.
    """
    if acquired.saved or not route.save:
        return ()
    manifest = acquired.manifest
    try:
        initialise(route.cache)
        publish(
            manifest,
            {file.path: route.layout.content(file) for file in manifest.files},
            leaf_lists=acquired.leaf_lists,
            provenance={"source": route.upstream.url},
            cache=route.cache,
            step=route.step,
        )
    except (AccessDenied, Unavailable, NoSpace) as error:
        why = f"{manifest.id} was restored but not saved: {error}"
        _log.warning("%s", why)
        return (why,)
    return ()


def _is_writable(cache: ModelCache, need: int) -> bool:
    try:
        initialise(cache)
        for folder in cache.folders:
            require_space(folder, need)
    except (AccessDenied, NoSpace) as error:
        _log.warning("restoring without the store: %s", error)
        return False
    return True


def _land_all(snapshot: SnapshotId, files: tuple[ListedFile, ...], route: Route) -> Acquired:
    step = route.step
    unique: dict[Path, ListedFile] = {route.layout.content(file): file for file in files}
    seen: dict[Path, Fingerprint] = {}
    delivered: list[Delivery] = []

    def bring(item: tuple[Path, ListedFile]) -> None:
        target, file = item
        try:
            seen[target] = _fingerprint(target, file)
        except (FileNotFoundError, IntegrityError):
            seen[target] = once_more(partial(land_listed, file, route), doing=f"fetching {file.path}")
            delivered.append(Delivery(file.path, file.size, "download", UPSTREAM))
        else:
            step.progress.advance(file.size)
        route.receipts.remember(target, seen[target].sha256)

    doing = f"fetching {route.ref}"
    total = sum(file.size for file in unique.values())
    require_space(route.layout.root, sum(file.size for path, file in unique.items() if not path.exists()))
    step.progress.start(doing, total)
    try:
        largest_first = sorted(unique.items(), key=lambda item: item[1].size, reverse=True)
        for_each(largest_first, bring, workers=step.workers, deadline=step.deadline, doing=doing)
    finally:
        step.progress.finish()
    entries: list[FileEntry] = [entry_of(file, seen[route.layout.content(file)]) for file in files]
    return Acquired(
        manifest=Manifest(
            snapshot.host, snapshot.type, snapshot.repo, snapshot.commit, snapshot.selection, tuple(entries)
        ),
        placement=Placement(tuple(delivered)),
        received=sum(delivery.size for delivery in delivered),
        leaf_lists=tuple(one.leaf_list for one in seen.values() if one.leaf_list is not None),
        saved=False,
    )


def _fingerprint(path: Path, file: ListedFile) -> Fingerprint:
    """The fingerprint of what lies at *path* if it is *file*; raises `IntegrityError` or `FileNotFoundError`."""
    actual = path.stat().st_size
    if actual != file.size:
        raise SizeMismatch(str(path), expected=file.size, actual=actual)
    hasher = file.expected.fingerprinter()
    for chunk in read_file(path):
        hasher.update(chunk)
    found = hasher.finish()
    file.expected.check(found, str(path))
    return found
