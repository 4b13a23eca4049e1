"""Benchmarks of restore on loopback: large, small and many files, over HTTP and TLS, in memory and on a disk, and once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from benchmarks.speed.contests import contest
from benchmarks.speed.figures import Result, Verdict, faster
from benchmarks.speed.movers import (
    AGAIN,
    COPIES,
    LINKED,
    OURS_LABEL,
    PROVEN,
    S5CMD,
    S5CMD_SUMS,
    TIER,
    again,
    movers,
    restore,
    s5cmd_copy,
    with_sums,
)
from benchmarks.speed.world import OURS
from tests.parts.faults import relaying

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.speed.contests import Command, Entry
    from benchmarks.speed.figures import Row
    from benchmarks.speed.world import Place, World

LOOPBACK = "loopback, HTTP, everything in memory"
PROVEN_MOST, COPY_MOST, AGAIN_MOST = 1.0, 1.25, 0.05


def promised(rows: Sequence[Row]) -> tuple[Verdict, ...]:
    """What a first restore may cost."""
    verdicts = faster(rows, OURS_LABEL, PROVEN, PROVEN_MOST) + faster(rows, OURS_LABEL, COPIES, COPY_MOST)
    return tuple(verdicts)


def restore_large(world: World) -> Result:
    """Three large shards in fp32, beside everybody."""
    snapshot = world.snapshot("fp32")
    entries = [again(world, "fp32"), *movers(world, "fp32", all_of_them=True)]
    rows = contest(world, entries, size=snapshot.size, files=snapshot.files)
    says = f"restore, verified: {snapshot.says} (fp32)"
    return Result("restore", says, LOOPBACK, S5CMD, rows, promised(rows))


def restore_tls(world: World) -> Result:
    """Half as much, over TLS."""
    snapshot, secure = world.snapshot("half"), world.service.secure
    entries = [restore(world, "half"), *movers(world, "half")]
    entries = [evolve(each, endpoint=secure) for each in entries]
    rows = contest(world, entries, size=snapshot.size, files=snapshot.files)
    says = f"restore over TLS, verified: {snapshot.says} (fp32)"
    return Result("restore-tls", says, "loopback, TLS, everything in memory", S5CMD, rows, promised(rows))


def restore_disk(world: World) -> Result:
    """Onto a disk; ours and s5cmd."""
    snapshot = world.snapshot("fp32")
    copy = s5cmd_copy(world, "fp32")
    entries = [restore(world, "fp32"), copy, with_sums(copy, label=S5CMD_SUMS, snapshot=snapshot)]
    rows = contest(world, entries, size=snapshot.size, files=snapshot.files, on_disk=True)
    says = f"restore onto a disk, verified: {snapshot.says} (fp32)"
    where = "loopback, HTTP; the store is in memory, the files go to a disk (ours are synchronized with it, the peers' are not)"
    return Result("restore-disk", says, where, S5CMD, rows, promised(rows))


def restore_shards(world: World) -> Result:
    """42 shards."""
    snapshot = world.snapshot("shards")
    rows = contest(
        world, [restore(world, "shards"), *movers(world, "shards")], size=snapshot.size, files=snapshot.files
    )
    says = f"restore of 42 shards, verified: {snapshot.says} (fp32)"
    return Result("shards", says, LOOPBACK, S5CMD, rows, promised(rows))


def restore_small(world: World) -> Result:
    """Many small files."""
    snapshot = world.snapshot("small")
    entries = [again(world, "small"), *movers(world, "small")]
    rows = contest(world, entries, size=snapshot.size, files=snapshot.files)
    says = f"restore of small files, verified: {snapshot.says}"
    return Result("small-files", says, LOOPBACK, S5CMD, rows, promised(rows))


def restore_again(world: World) -> Result:
    """What is complete, and from a tier of the same file system."""
    snapshot, first = world.snapshot("fp32"), restore(world, "fp32")

    def tiered(place: Place) -> Command:
        return [*first.command(place), "--tier", place.folder / "tier"]

    def elsewhere(place: Place) -> Command:
        told: Command = ["--to", place.folder / "other", "--tier", place.folder / "tier"]
        return [*OURS, "restore", snapshot.ref, "--offline", *told]

    def linked(place: Place) -> Command:
        told: Command = ["--hub-cache", place.folder / "hub", "--tier", place.folder / "tier", "--no-normalize"]
        return [*OURS, "restore", snapshot.ref, "--offline", *told]

    second: Entry = evolve(first, label=AGAIN)
    others = (evolve(first, label=TIER, command=elsewhere), evolve(first, label=LINKED, command=linked))
    filled = evolve(first, label="ours, filling a tier", command=tiered, then=others)
    rows = contest(world, [evolve(first, then=(second,)), filled], size=snapshot.size, files=snapshot.files)
    verdicts = faster(rows, AGAIN, (OURS_LABEL,), AGAIN_MOST) + faster(rows, TIER, (OURS_LABEL,), AGAIN_MOST)
    verdicts += faster(rows, LINKED, (OURS_LABEL,), AGAIN_MOST)
    verdicts.append(_no_blobs(world))
    says = f"restore again, and from a local tier: {snapshot.says} (fp32)"
    return Result("again", says, LOOPBACK, OURS_LABEL, rows, tuple(verdicts))


def _no_blobs(world: World) -> Verdict:
    """Whether what is complete is restored without a blob from the store."""
    entry = restore(world, "fp32")
    with world.place() as place, relaying(world.service.server.port) as relay:
        world.run(entry.command(place), place, store=entry.store)
        relay.seen.clear()
        world.run(entry.command(place), place, store=entry.store, endpoint=relay.endpoint)
        asked = [path for method, path in relay.seen if method == "GET" and "/blobs/" in path]
        says = f"{AGAIN}: {len(asked)} blobs were read from the store, at most 0 ({len(relay.seen)} requests in all)"
    return Verdict(not asked, says)
