"""The only module that gathers what a policy wants to know about every snapshot of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from ci_modelcache.cache.access import accessed
from ci_modelcache.cache.census import of_manifests, refs
from ci_modelcache.cache.pins import pinned
from ci_modelcache.model.retention import Holding
from ci_modelcache.model.selection import ALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.ref import SnapshotId


def holdings(cache: ModelCache, *, locks: Iterable[Lock] = ()) -> tuple[Holding, ...]:
    """
    Every snapshot of *cache*, ordered by key, with what pins, access markers and *locks* say of it.

    Raises `IntegrityError` when a ref, a manifest or a pin cannot be read.
    """
    published = refs(cache)
    blobs = of_manifests(cache, published, lambda manifest: {file.sha256: file.size for file in manifest.files})
    locked = {one for lock in locks for model in lock.models for one in _of_lock(model.to_manifest().id)}
    return refreshed(
        [
            Holding(entry.snapshot, entry.modified, blobs[entry.snapshot], locked=entry.snapshot in locked)
            for entry in published
        ],
        cache=cache,
    )


def refreshed(given: Sequence[Holding], *, cache: ModelCache) -> tuple[Holding, ...]:
    """*given*, with the pins and the uses that the store knows now."""
    pins = {entry.snapshot for entry in pinned(cache)}
    used = accessed(cache, (one.snapshot for one in given))
    return tuple(evolve(one, used=used.get(one.snapshot), pinned=one.snapshot in pins) for one in given)


def _of_lock(locked: SnapshotId) -> tuple[SnapshotId, SnapshotId]:
    """What must stay for *locked* to be restored: itself, or the whole, of which it may be restored just as well."""
    return locked, evolve(locked, selection=ALL)
