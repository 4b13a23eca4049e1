"""Pin snapshots, so that no policy drops them, and bring dropped ones back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.pins import pin, pinned, unpin
from ci_modelcache.cache.trash import trashed, undelete
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.prune import moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId


@frozen
class PinnedSnapshot:
    """A pin."""

    ref: str
    host: str
    selection: str
    manifest: str
    since: str
    """When it was pinned, by the clock of whoever did."""
    reason: str
    """Why, in the words of whoever did."""


@frozen
class DroppedSnapshot:
    """A snapshot in the trash."""

    ref: str
    host: str
    selection: str
    manifest: str
    since: str
    """When it was dropped, by the store's clock."""


def list_pins(cache: ModelCache) -> tuple[PinnedSnapshot, ...]:
    """Every pin of the store, ordered by host, type, repository and commit; raises `IntegrityError`."""
    return tuple(
        PinnedSnapshot(*_names(one.snapshot), one.record.manifest.hex, moment(one.record.pinned_at), one.record.reason)
        for one in pinned(cache.alone)
    )


def list_trash(cache: ModelCache) -> tuple[DroppedSnapshot, ...]:
    """Everything that can be brought back, ordered as pins are; raises `IntegrityError`."""
    return tuple(
        DroppedSnapshot(*_names(one.snapshot), one.record.manifest.hex, moment(one.modified))
        for one in trashed(cache.alone)
    )


def pinned_snapshots(cache: ModelCache) -> tuple[SnapshotId, ...]:
    """All that is pinned; raises `IntegrityError`."""
    return tuple(one.snapshot for one in pinned(cache.alone))


def trashed_snapshots(cache: ModelCache) -> tuple[SnapshotId, ...]:
    """All that can be brought back; raises `IntegrityError`."""
    return tuple(one.snapshot for one in trashed(cache.alone))


def pin_all(snapshots: Iterable[SnapshotId], *, cache: ModelCache, reason: str) -> tuple[PinnedSnapshot, ...]:
    """Pin each of *snapshots* for a *reason* that people read; raises `SnapshotNotFound` for one that is not stored in full."""
    done = []
    for snapshot in snapshots:
        record = pin(cache.alone, snapshot, reason=reason)
        done.append(PinnedSnapshot(*_names(snapshot), record.manifest.hex, moment(record.pinned_at), reason))
    return tuple(done)


def unpin_all(snapshots: Iterable[SnapshotId], *, cache: ModelCache) -> tuple[str, ...]:
    """Unpin each of *snapshots* and return their names; raises `SnapshotNotFound` for one that is not pinned."""
    done = []
    for snapshot in snapshots:
        unpin(cache.alone, snapshot)
        done.append(_names(snapshot)[0])
    return tuple(done)


def undelete_all(snapshots: Iterable[SnapshotId], *, cache: ModelCache) -> tuple[DroppedSnapshot, ...]:
    """Bring each of *snapshots* back; raises `SnapshotNotFound` for one that is not in the trash, or whose bytes are gone."""
    since = {one.snapshot: moment(one.modified) for one in trashed(cache.alone)}
    done = []
    for snapshot in snapshots:
        manifest = undelete(cache.alone, snapshot)
        done.append(DroppedSnapshot(*_names(snapshot), manifest.digest.hex, since[snapshot]))
    return tuple(done)


def _names(snapshot: SnapshotId) -> tuple[str, str, str]:
    return str(ModelRef(snapshot.repo, snapshot.commit, snapshot.type)), snapshot.host, snapshot.selection
