"""Put a snapshot at a destination: what is there already stays, what the store has is taken, the rest is fetched."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.layouts.protocol import Layout
from ci_modelcache.model.loading import runs_code
from ci_modelcache.transfer.exclusive import exclusive
from ci_modelcache.transfer.land import explaining_full_disk, sweep
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.verbs.comparing import compare
from ci_modelcache.verbs.resolve import AUTHORITY, LOCAL
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.wanted import Means, RestoreOptions, Wanted, find_wanted, name_of, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream

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
class _Here:
    layout: Layout
    receipts: Receipts
    step: Step


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
    means = Means(upstream.host, cache=lambda: cache, upstream=lambda: upstream)
    return restore_by(ref, layout, means=means, step=step, options=options)


def restore_by(
    ref: ModelRef, layout: Layout, *, means: Means, step: Step, options: RestoreOptions = DEFAULT
) -> RestoreReport:
    """As `restore`, with a store and an upstream that are made when they are needed: not for what is pinned, or locked, and complete."""
    started = step.clock()
    if options.prune_extra:
        _refuse_to_prune(layout, (*means.cache().folders, step.state))
    with (
        explaining_denial(layout.root),
        explaining_full_disk(layout.root),
        exclusive(place_of(layout), folder=step.state / "locks", deadline=step.deadline),
        closing(Receipts(step.state / "receipts.sqlite")) as receipts,
    ):
        sweep(layout.staging)
        wanted = find_wanted(ref, layout, receipts, means=means, options=options)
        manifest, report = _make_complete(wanted, _Here(layout, receipts, step), means, options)
        extra = layout.extra(manifest)  # noqa: S610  # a layout, not Django
        if options.prune_extra:
            layout.prune(extra)
        receipts.note_snapshot(place_of(layout), name_of(wanted.snapshot), manifest.to_json())
    return evolve(
        report,
        extra=tuple(str(one) for one in extra),
        pruned=options.prune_extra and bool(extra),
        seconds=step.clock() - started,
    )


def _make_complete(
    wanted: Wanted, here: _Here, means: Means, options: RestoreOptions
) -> tuple[Manifest, RestoreReport]:
    for manifest in () if options.force else wanted.manifests:
        if all(state.good for _, state in compare(manifest.files, here, pinned=bool(wanted.locked))):
            here.layout.publish(manifest, wanted.ref, full=wanted.is_full, receipts=here.receipts)
            return manifest, evolve(_report(manifest, wanted, here.layout), warnings=_note(wanted, means, options))
    from ci_modelcache.verbs.completing import complete  # noqa: PLC0415  # 0.2 s of imports that what is complete does not need

    done = complete(wanted, here, means=means, options=options)
    return done.manifest, done.told(_report(done.manifest, wanted, here.layout))


def _note(wanted: Wanted, means: Means, options: RestoreOptions) -> tuple[str, ...]:
    if not options.save or wanted.resolution.anchor != AUTHORITY:
        return ()
    from ci_modelcache.verbs.completing import note  # noqa: PLC0415  # as above

    return note(wanted, cache=means.cache(), host=means.host)


def _report(manifest: Manifest, wanted: Wanted, layout: Layout) -> RestoreReport:
    """Of a snapshot that was complete already."""
    return RestoreReport(
        ref=str(wanted.ref),
        commit=wanted.snapshot.commit,
        selection=wanted.snapshot.selection,
        path=str(layout.snapshot_path(wanted.snapshot.commit)),
        result=LOCAL,
        source=str(layout.root),
        anchor=wanted.anchor,
        stale=wanted.resolution.stale,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(manifest.files),
        size=manifest.size,
        files_restored=0,
        bytes_downloaded=0,
        bytes_copied=0,
        bytes_linked=0,
        replaced=(),
        mended=(),
        extra=(),
        pruned=False,
        saved=False,
        warnings=(),
        seconds=0.0,
        runs_code=runs_code(manifest),
    )


def _refuse_to_prune(layout: Layout, ours: tuple[Path, ...]) -> None:
    """Raise `ConfigError` when removing what is extra at the destination would remove the store or our notes."""
    for folder in ours:
        if folder.resolve().is_relative_to(layout.root.resolve()):
            msg = f"--prune-extra would remove {folder}, which lies in the destination {layout.root}"
            raise ConfigError(msg, hint="restore into a folder of its own")
