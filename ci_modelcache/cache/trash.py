"""
The only module that drops snapshots, and brings them back (docs/format.md, Trash).

A dropped snapshot keeps all its bytes: what lay at its ref lies in the trash, which a collection takes for a ref. Whoever
dies between two steps has dropped it or not, and the next one goes on from there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.census import Entry, entries
from ci_modelcache.cache.publication import Publication
from ci_modelcache.cache.records import RefRecord
from ci_modelcache.errors import IntegrityError, NotFound, ObjectNotFound, SnapshotNotFound, Unavailable
from ci_modelcache.model.document import to_json
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import SnapshotId

_COPIES = 4
"""Blobs that are looked at, and copied where need be, at a time."""
_FETCH = "ci-modelcache fetch stores it again"

_log = logging.getLogger(__name__)


def trashed(cache: ModelCache) -> tuple[Entry[RefRecord], ...]:
    """Every snapshot that lies in the trash, as `census.entries`; *modified* is when it was dropped last."""
    return entries(cache, keys.TRASH, RefRecord)


def drop(cache: ModelCache, snapshot: SnapshotId) -> bool:
    """
    Move the ref of *snapshot* into the trash, and return whether it is gone; raises `SnapshotNotFound` when there is none.

    It stays when somebody pins it, or publishes it anew, at the same time.
    """
    cache.check_writable()
    record = cache.ref(snapshot)
    # In the trash first: at every moment something names the bytes. Written anew also where an earlier one lies, as its age counts.
    _put(cache, snapshot, record)
    if cache.ref(snapshot) != record:
        _log.warning("%s stays: somebody has just stored it anew", snapshot)
        return False
    cache.store.delete(keys.ref(snapshot))
    if not _exists(cache, keys.trash(snapshot)):
        # Somebody brought it back from an earlier drop, or forgot that one, just before the delete.
        _put(cache, snapshot, record)
    # After the delete: who pins it writes the pin first and looks at the ref then. One of the two sees the other.
    if not _exists(cache, keys.pin(snapshot)):
        return True
    _log.warning("%s stays: somebody has just pinned it", snapshot)
    undelete(cache, snapshot)
    return False


def _put(cache: ModelCache, snapshot: SnapshotId, record: RefRecord) -> None:
    cache.put_document(keys.trash(snapshot), to_json(record))


def _exists(cache: ModelCache, key: str) -> bool:
    try:
        cache.store.stat(key)
    except ObjectNotFound:
        return False
    return True


def forget(cache: ModelCache, snapshot: SnapshotId, *, before: float) -> bool:
    """Remove *snapshot* from the trash, for good, and return whether; not if it was dropped again after *before*, by the store's clock."""
    cache.check_writable()
    key = keys.trash(snapshot)
    try:
        if cache.store.stat(key).modified >= before:
            return False
    except ObjectNotFound as error:
        _log.debug("somebody else did: %s", error)
        return False
    cache.store.delete(key)
    return True


def undelete(cache: ModelCache, snapshot: SnapshotId) -> Manifest:
    """
    Bring *snapshot* back out of the trash and return its manifest; raises `SnapshotNotFound` when it is not there, or its bytes are gone.

    This is a writer as any other: copies that a collection is about to delete are not relied on, but copied.
    """
    stands = _exists(cache, keys.ref(snapshot))
    try:
        record = cache.record(keys.trash(snapshot), RefRecord)
        manifest = cache.manifest_named(record.manifest)
        _publish(cache, manifest, record)
    except ObjectNotFound as error:
        msg = f"{cache.url} cannot bring {snapshot} back: it holds no {error.key}"
        raise SnapshotNotFound(msg, hint=_FETCH) from error
    if stands:
        # The DELETE of whoever was dropping it may land yet: what names the bytes then stays until it is forgotten.
        return manifest
    cache.store.delete(keys.trash(snapshot))
    if not _exists(cache, keys.ref(snapshot)):
        # Somebody dropped it again just before, and counted on what has now left the trash.
        _put(cache, snapshot, record)
        msg = f"{snapshot} was dropped again while it was brought back"
        raise Unavailable(
            msg, hint="pin it, so that no policy drops it, once ci-modelcache undelete has brought it back"
        )
    return manifest


def _publish(cache: ModelCache, manifest: Manifest, record: RefRecord) -> None:
    with Publication(cache) as publication:
        files = {file.sha256: file for file in manifest.files}
        publication.announce(files)

        def keep(file: FileEntry) -> None:
            if not publication.has_blob(file.sha256, file.size):
                _copy(file, publication, cache)

        doing = f"bringing {manifest.id} back"
        for_each(files.values(), keep, workers=_COPIES, deadline=cache.retry.deadline, doing=doing)
        leaves = {file.leaves for file in manifest.files if file.leaves is not None}
        publication.commit(manifest, map(cache.leaf_list, sorted(leaves)), provenance=record.provenance)


def _copy(file: FileEntry, publication: Publication, cache: ModelCache) -> None:
    """Store the blob of *file* under a name that will stay, from a copy that still stands."""
    failure: NotFound | IntegrityError = ObjectNotFound(keys.blob(file.sha256), cache.url)
    for copy in cache.blob_copies(file.sha256, file.size):
        try:
            chunks = read_through(copy.open, file.size, cache.retry, what=str(copy))
            publication.put_blob(file.expected, file.sha256, chunks, what=str(copy))
        except (NotFound, IntegrityError) as error:
            failure = error
            continue
        return
    raise failure
