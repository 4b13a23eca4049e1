"""Benchmarks of save, fetch and export: into the store, from a Hub, and out of it into an archive."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.mirrors.entries import MB
from benchmarks.mirrors.hubs import REPO, FarHub
from benchmarks.speed.contests import Entry, contest
from benchmarks.speed.figures import Result, Verdict, faster
from benchmarks.speed.movers import OURS_LABEL, S5CMD, save, shell
from benchmarks.speed.restoring import LOOPBACK
from benchmarks.speed.world import OURS
from tests.parts.hub_faults import Limited
from tests.parts.servers import program

if TYPE_CHECKING:
    from benchmarks.speed.contests import Command
    from benchmarks.speed.world import Place, World

RATE = 50 * MB
"""Bytes a second that a connection to the Hub gets."""
HUB, ARIA2, FETCHED = "huggingface_hub", "aria2c", "ours, into the store"
CP, TAR, ZSTD = "cp", "tar", "tar | zstd"
_SNAPSHOT = "import sys, huggingface_hub; huggingface_hub.snapshot_download(sys.argv[1], local_dir=sys.argv[2])"


def save_large(world: World) -> Result:
    """Two shards, into an empty bucket."""
    snapshot = world.snapshot("half")
    rows = contest(world, save(world, "half"), size=snapshot.size)
    says = f"save, and save again: {snapshot.says} (fp32)"
    return Result("save", says, LOOPBACK, S5CMD, rows)


def save_small(world: World) -> Result:
    """Many small files, into an empty bucket."""
    snapshot = world.snapshot("small")
    rows = contest(world, save(world, "small")[:3], size=snapshot.size)
    says = f"save of small files, and again: {snapshot.says}"
    return Result("save-small", says, LOOPBACK, S5CMD, rows)


def fetch(world: World) -> Result:
    """One file from a Hub that gives each connection so much and no more."""
    snapshot = world.snapshot("one")
    with FarHub(snapshot.folder, (partial(Limited, rate=RATE),)) as hub:

        def begin(_place: Place) -> None:
            hub.begin()

        def restore(place: Place) -> Command:
            told: Command = ["--to", place.target, "--mode", "off", "--endpoint", hub.url]
            return [*OURS, "restore", REPO, *told]

        def store(place: Place) -> Command:
            return [*OURS, "fetch", REPO, "--endpoint", hub.url, "--store", f"s3://{place.bucket}/models"]

        def bucket(place: Place) -> None:
            hub.begin()
            world.make_bucket(place.bucket)

        def theirs(place: Place) -> Command:
            line = f'HF_ENDPOINT={hub.url} exec "$0" -c "$1" "$2" "$3"'
            return shell(line, sys.executable, _SNAPSHOT, REPO, place.target)

        def aria2(place: Place) -> Command:
            url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
            told = ["-q", "-x16", "-s16", "-k1M", "--file-allocation=none", f"--dir={place.target}"]
            return [program("aria2c"), *told, url]

        entries = [
            Entry(OURS_LABEL, restore, ours=True, before=begin),
            Entry(FETCHED, store, ours=True, before=bucket, after=lambda place, _: world.drop_bucket(place.bucket)),
            Entry(HUB, theirs, before=begin),
            Entry(ARIA2, aria2, before=begin),
        ]
        rows = contest(world, entries, size=snapshot.size)
    says = f"from a Hub, {RATE // MB} MB/s for each connection, one large file: {snapshot.says}"
    verdicts = faster(rows, OURS_LABEL, (HUB,), 0.25)
    return Result("fetch", says, "loopback, HTTP without Xet", HUB, rows, tuple(verdicts))


def export(world: World) -> Result:
    """Out of a store in a folder, and out of S3, beside cp, tar and tar with zstd."""
    snapshot = world.snapshot("half")
    shelf, source, sums = world.shelved("half"), snapshot.folder, dict[str, set[str]]()

    def ours(place: Place, *options: str) -> Command:
        return [*OURS, "export", snapshot.ref, "-o", place.folder / "models.tar", *options]

    def noting(label: str) -> Entry:
        """The sum that it prints is to be the same each time."""
        found = sums.setdefault(label, set())
        in_s3 = label == "ours, from S3"
        return Entry(
            label,
            ours,
            ours=True,
            store=world.saved("half") if in_s3 else str(shelf),
            after=lambda _, told: found.add(told.split()[0]),
        )

    def back(place: Place) -> Command:
        return [*OURS, "import", place.folder / "models.tar", "--store", place.folder / "imported"]

    brought = Entry("ours, import", back, ours=True)
    unpacked = Entry("tar -x", lambda place: shell('mkdir x && tar -C x -xf "$0"', place.folder / "models.tar"))
    packed = '-C "$0" -cf'
    entries = [
        Entry(OURS_LABEL, ours, ours=True, store=str(shelf), after=noting(OURS_LABEL).after, then=(brought,)),
        noting("ours, from S3"),
        Entry("ours, zstd", lambda place: ours(place, "--zstd"), ours=True, store=str(shelf)),
        Entry(CP, lambda place: ["/bin/cp", "-r", source, place.target]),
        Entry(TAR, lambda place: shell(f'tar {packed} "$1" .', source, place.folder / "models.tar"), then=(unpacked,)),
        Entry(
            ZSTD, lambda place: shell(f'tar {packed} - . | zstd -q -T0 -3 -o "$1"', source, place.folder / "models.tar")
        ),
    ]
    rows = contest(world, entries, size=snapshot.size)
    verdicts = faster(rows, OURS_LABEL, (CP,), 1 / 0.9)
    different = set().union(*sums.values())
    count = sum(len(row.samples) for row in rows if row.label in sums)
    verdicts.append(
        Verdict(
            len(different) == 1, f"{count} archives of the same model had {len(different)} different sums, at most 1"
        )
    )
    says = f"export and import: {snapshot.says} (fp32)"
    where = "a store in a folder, everything in memory; ours also hashes, and cp does not"
    return Result("export", says, where, CP, rows, tuple(verdicts))
