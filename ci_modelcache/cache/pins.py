"""The only module that pins snapshots, so that no policy drops them (docs/format.md, Pin)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.census import Entry, entries
from ci_modelcache.cache.publication import published
from ci_modelcache.cache.records import PinRecord
from ci_modelcache.cache.trash import undelete
from ci_modelcache.errors import ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.document import to_json

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId

_log = logging.getLogger(__name__)


def pinned(cache: ModelCache) -> tuple[Entry[PinRecord], ...]:
    """Every pin, as `census.entries`."""
    return entries(cache, keys.PINS, PinRecord)


def pin(cache: ModelCache, snapshot: SnapshotId, *, reason: str) -> PinRecord:
    """
    Let *snapshot* stay until it is unpinned; people read the *reason*.

    Raises `SnapshotNotFound` when the store does not hold it in full: a pin keeps bytes, it brings none back.
    """
    record = PinRecord(published(cache, snapshot).digest, int(cache.now()), reason)
    cache.put_document(keys.pin(snapshot), to_json(record))
    # After the pin: who drops the snapshot deletes the ref first and looks for a pin then. One of the two sees the other.
    try:
        cache.ref(snapshot)
    except SnapshotNotFound as error:
        _log.debug("it was dropped at the same moment: %s", error)
        undelete(cache, snapshot)
    return record


def unpin(cache: ModelCache, snapshot: SnapshotId) -> None:
    """Let *snapshot* go when a policy says so; raises `SnapshotNotFound` when it is not pinned."""
    cache.check_writable()
    try:
        cache.store.stat(keys.pin(snapshot))
    except ObjectNotFound as error:
        msg = f"{snapshot} is not pinned in {cache.url}"
        raise SnapshotNotFound(msg, hint="ci-modelcache pin without REF lists what is") from error
    cache.store.delete(keys.pin(snapshot))
