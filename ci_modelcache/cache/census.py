"""The only module that reads everything of one kind that names snapshots: all refs, all pins, or all trash."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import PinRecord, RefRecord
from ci_modelcache.errors import IntegrityError, ManifestInvalid, ObjectNotFound
from ci_modelcache.model.ref import SnapshotId
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import ObjectInfo

Named = TypeVar("Named", RefRecord, PinRecord)
Taken = TypeVar("Taken")

_READERS = 16
"""Documents that are read at a time: each is one small request."""
_REMEDY = "ci-modelcache verify tells what is wrong; ci-modelcache fetch stores a model again, and what is no document of ours can be removed"

_log = logging.getLogger(__name__)


@frozen
class Entry(Generic[Named]):
    """A *snapshot* with the *record* that names it, *modified* in seconds since the epoch by the store's clock."""

    snapshot: SnapshotId
    record: Named
    modified: float


def entries(cache: ModelCache, prefix: str, kind: type[Named]) -> tuple[Entry[Named], ...]:
    """
    Everything below *prefix*, ordered by key; what vanishes while it is read is left out.

    Raises `IntegrityError` for the first that nobody can read: who decides what goes must know all that is to stay.
    """
    cache.check_format()
    found: dict[str, Entry[Named]] = {}

    def read(info: ObjectInfo) -> None:
        try:
            record = cache.record(info.key, kind)
        except ObjectNotFound as error:
            _log.debug("it was removed since it was listed: %s", error)
            return
        except IntegrityError as error:
            error.hint = error.hint or _REMEDY
            raise
        found[info.key] = Entry(_snapshot(cache, info.key.removeprefix(prefix), record), record, info.modified)

    doing = f"reading {prefix} of {cache.url}"
    for_each(cache.store.scan(prefix), read, workers=_READERS, deadline=cache.retry.deadline, doing=doing)
    return tuple(found[key] for key in sorted(found))


def refs(cache: ModelCache) -> tuple[Entry[RefRecord], ...]:
    """Every snapshot that the store holds, as `entries`; *modified* is when it was published."""
    return entries(cache, keys.REFS, RefRecord)


def of_manifests(
    cache: ModelCache, named: Iterable[Entry[Named]], take: Callable[[Manifest], Taken]
) -> dict[SnapshotId, Taken]:
    """
    What *take* makes of the manifest of each of *named*; not the manifests themselves, for all of those may not fit in memory.

    Raises `IntegrityError` where one is missing, wrong, or of another snapshot.
    """
    found: dict[SnapshotId, Taken] = {}

    def read(entry: Entry[Named]) -> None:
        manifest = _manifest(cache, entry.record, str(entry.snapshot))
        if manifest.id != entry.snapshot:
            msg = f"{cache.url} names for {entry.snapshot} the manifest of {manifest.id}"
            raise ManifestInvalid(msg, hint=_REMEDY)
        found[entry.snapshot] = take(manifest)

    for_each(named, read, workers=_READERS, deadline=cache.retry.deadline, doing=f"reading manifests of {cache.url}")
    return found


def _manifest(cache: ModelCache, record: RefRecord | PinRecord, what: str) -> Manifest:
    try:
        return cache.manifest_named(record.manifest)
    except ObjectNotFound as error:
        msg = f"{cache.url} names {record.manifest} as the manifest of {what}, and does not hold it"
        raise ManifestInvalid(msg, hint=_REMEDY) from error


def _snapshot(cache: ModelCache, name: str, record: RefRecord | PinRecord) -> SnapshotId:
    """The snapshot behind a key that ends with *name*; where that has only the hash of a long word, the manifest tells."""
    ref_key = f"{keys.REFS}{name}"
    if not keys.is_hashed(ref_key):
        return keys.snapshot_of(ref_key)
    snapshot = _manifest(cache, record, name).id
    if keys.ref(snapshot) != ref_key:
        msg = f"{name} leads to the manifest of {snapshot}"
        raise ManifestInvalid(msg, hint=_REMEDY)
    return snapshot
