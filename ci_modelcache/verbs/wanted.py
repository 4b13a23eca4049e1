"""The only module that decides which snapshot a restore is about, and what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import DigestMismatch, ObjectNotFound
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.model.selection import ALL, Selection
from ci_modelcache.verbs.near import Near
from ci_modelcache.verbs.resolve import LOCAL, LOCK, PINNED, STORE, Resolution, resolve_by, resolve_now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache  # noqa: TC004  # slow to import, and nobody asks attrs for the types of `Means`
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.sources.protocol import Upstream  # noqa: TC004  # as above
    from ci_modelcache.transfer.receipts import Receipts

_HOUR = 3600.0


@frozen
class RestoreOptions:
    """
    How to restore.

    *locks*: the lock that the snapshot must be in, or none when it need not be. *save*: whether the store may be written.
    *fail_on_miss*: ask nobody else for what the store lacks. *revision_ttl*: for how many seconds the store is believed about
    a branch. *force*: believe nothing that is here; ask upstream for everything again, and replace what the destination and the store have.
    *near*: what is asked before the store.
    """

    selection: Selection = field(factory=Selection)
    locks: tuple[Lock, ...] = ()
    save: bool = True
    fail_on_miss: bool = False
    prune_extra: bool = False
    revision_ttl: float = _HOUR
    force: bool = False
    near: Near = field(factory=Near)


@frozen
class Means:
    """Who may be asked, each made by the first call: the *cache*, and the *upstream* whose authority is called *host*."""

    host: str
    cache: Callable[[], ModelCache]
    upstream: Callable[[], Upstream]


@frozen
class Wanted:
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
        """Whether the snapshot has every file of its commit."""
        return self.snapshot.selection == ALL


def place_of(layout: Layout) -> str:
    """One name for one destination, from wherever and by whatever links it is called."""
    return str(layout.root.resolve())


def name_of(snapshot: SnapshotId) -> str:
    """One name for one snapshot of one host."""
    return f"{snapshot.host}/{snapshot}"


def find_wanted(ref: ModelRef, layout: Layout, receipts: Receipts, *, means: Means, options: RestoreOptions) -> Wanted:
    """What *ref* means, by the lock, the store, the authority, or an earlier restore at *layout*."""
    selection = options.selection
    for lock in options.locks:
        manifest = lock.find(ref, selection).to_manifest()
        return Wanted(ref, manifest.id, selection, Resolution(manifest.commit, LOCK), LOCK, (manifest,))
    if ref.is_pinned:
        resolution = Resolution(ref.revision, PINNED)
    elif options.force:
        resolution = resolve_now(ref, cache=means.cache(), upstream=means.upstream(), force=True)
    else:
        resolution = resolve_by(
            ref, cache=means.cache(), host=means.host, upstream=means.upstream, revision_ttl=options.revision_ttl
        )
    snapshot = SnapshotId(means.host, ref.type, ref.repo, resolution.commit, selection.id)
    try:
        noted = Manifest.from_json(receipts.snapshot_at(place_of(layout), name_of(snapshot)))
    except ObjectNotFound:
        return Wanted(ref, snapshot, selection, resolution, STORE)
    return Wanted(ref, snapshot, selection, resolution, LOCAL, (noted,))


def require_locked(manifest: Manifest, locked: Iterable[Manifest]) -> None:
    """Raise `DigestMismatch` for a *manifest* that is another one than those *locked*, of which there are one or none."""
    for promised in locked:
        if manifest != promised:
            what = f"the manifest of {promised.id}"
            raise DigestMismatch(
                what,
                expected=promised.digest.hex,
                actual=manifest.digest.hex,
                hint="the lock and the bytes disagree: restore modelcache.lock from git",
            )
