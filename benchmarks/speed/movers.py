"""The only module that knows the command lines of the peers that restore and save, with the settings by which each is fast, and ours."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve

from benchmarks.speed.contests import Entry
from benchmarks.speed.world import OURS, s5cmd
from tests.parts.servers import program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.speed.contests import Command
    from benchmarks.speed.inputs import Snapshot
    from benchmarks.speed.world import Place, World

OURS_LABEL, AGAIN, TIER = "ours", "ours, again", "ours, from the tier"
LINKED = "ours, from the tier by links"
ENCODED = "ours, encoded"
S5CMD, S5CMD_SUMS = "s5cmd", "s5cmd + sha256sum"
RCLONE, RCLONE_SUMS = "rclone", "rclone + sha256sum"
AWS, BOTO3, ARCHIVE = "aws-cli", "boto3 download_file", "tar.zst, as CI caches do"
COPIES, PROVEN = (S5CMD, RCLONE), (S5CMD_SUMS, RCLONE_SUMS)

_RCLONE = ("--config", "/dev/null", "--transfers", "8", "--checkers", "8", "--multi-thread-streams", "8")
_RCLONE_S3 = ("--s3-no-check-bucket", "--s3-upload-concurrency", "8", "--ignore-checksum")
_DOWNLOADS = """
import sys, pathlib, boto3
bucket, prefix, target = sys.argv[1:]
client, target = boto3.client("s3"), pathlib.Path(target)
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
    for each in page["Contents"]:
        file = target / each["Key"].removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, each["Key"], str(file))
"""


def restore(
    world: World, name: str, label: str = OURS_LABEL, *, options: Sequence[str] = (), encoding: str = ""
) -> Entry:
    """Ours: verified, into the target."""
    snapshot = world.snapshot(name)

    def command(place: Place) -> Command:
        return [*OURS, "restore", snapshot.ref, "--offline", "--to", place.target, *options]

    return Entry(label, command, ours=True, store=world.saved(name, encoding=encoding))


def again(world: World, name: str) -> Entry:
    """Ours, and once more when all is there."""
    first = restore(world, name)
    return evolve(first, then=(evolve(first, label=AGAIN),))


def s5cmd_copy(world: World, name: str, label: str = S5CMD, *, options: Sequence[str] = (), parts: int = 5) -> Entry:
    """s5cmd: five parts of each file at a time, of 256 workers."""
    url = world.raw(name)

    def command(place: Place) -> Command:
        given = ["--log", "error", *options, "cp", "--concurrency", str(parts), f"{url}/*", f"{place.target}/"]
        return [s5cmd(), *given]

    return Entry(label, command)


def rclone_copy(world: World, name: str) -> Entry:
    """rclone, eight files and eight streams of each at a time, without the checks of its own."""
    source = world.raw(name).replace("s3://", "s:")

    def command(place: Place) -> Command:
        return [program("rclone"), "copy", source, place.target, *_RCLONE, *_RCLONE_S3]

    return Entry(RCLONE, command)


def aws_copy(world: World, name: str) -> Entry:
    """aws-cli, as it is."""
    url = world.raw(name)

    def command(place: Place) -> Command:
        return [program("aws"), "s3", "cp", "--recursive", "--only-show-errors", f"{url}/", f"{place.target}/"]

    return Entry(AWS, command)


def boto3_copy(world: World, name: str) -> Entry:
    """boto3's `download_file` for one file after the other, ten threads each, as it is."""
    bucket, _, prefix = world.raw(name).removeprefix("s3://").partition("/")
    return Entry(BOTO3, lambda place: [sys.executable, "-c", _DOWNLOADS, bucket, f"{prefix}/", place.target])


def archive_copy(world: World, name: str) -> Entry:
    """What actions/cache and GitLab's cache do: one compressed archive is downloaded, and then unpacked."""
    url = world.packed(name)
    line = '"$0" --log error cp "$1" "$2.tar.zst" && mkdir "$2" && zstd -q -dc "$2.tar.zst" | tar -C "$2" -xf - && rm "$2.tar.zst"'
    return Entry(ARCHIVE, lambda place: shell(line, s5cmd(), url, place.target))


def with_sums(copy: Entry, *, label: str, snapshot: Snapshot) -> Entry:
    """*copy*, followed by ``sha256sum -P2`` of every file."""
    # As many files for each process as leave both cores something to do.
    batch = max(1, min(100, len(snapshot.files) // 20))
    line = f'"$@" && cd "$TARGET" && find . -type f -print0 | xargs -0 -P2 -n{batch} sha256sum >/dev/null'

    def command(place: Place) -> Command:
        # Not by the environment, which is the same for all.
        return ["/bin/sh", "-c", line.replace("$TARGET", str(place.target)), "sh", *copy.command(place)]

    return evolve(copy, label=label, command=command)


def movers(world: World, name: str, *, all_of_them: bool = False) -> list[Entry]:
    """s5cmd and rclone, both also with the sums; with *all_of_them* everybody else too."""
    snapshot = world.snapshot(name)
    quick, second = s5cmd_copy(world, name), rclone_copy(world, name)
    found = [quick, with_sums(quick, label=S5CMD_SUMS, snapshot=snapshot)]
    found += [second, with_sums(second, label=RCLONE_SUMS, snapshot=snapshot)]
    if all_of_them:
        found += [make(world, name) for make in (aws_copy, boto3_copy, archive_copy)]
    return found


def save(world: World, name: str) -> list[Entry]:
    """Into an empty bucket each time: ours, and once more; s5cmd, rclone, aws-cli."""
    snapshot = world.snapshot(name)
    source = snapshot.folder

    def ours(place: Place) -> Command:
        return [*OURS, "save", source, snapshot.ref, "--store", f"s3://{place.bucket}/models"]

    def s5(place: Place) -> Command:
        return [s5cmd(), "--log", "error", "cp", f"{source}/", f"s3://{place.bucket}/raw/"]

    def rclone(place: Place) -> Command:
        return [program("rclone"), "copy", source, f"s:{place.bucket}/raw", *_RCLONE, *_RCLONE_S3]

    def aws(place: Place) -> Command:
        return [program("aws"), "s3", "cp", "--recursive", "--only-show-errors", source, f"s3://{place.bucket}/raw/"]

    again = Entry(AGAIN, ours, ours=True, after=partial(_dropped, world))
    make = partial(_made, world)
    peers = [(S5CMD, s5), (RCLONE, rclone), (AWS, aws)]
    return [
        Entry(OURS_LABEL, ours, ours=True, before=make, then=(again,)),
        *(Entry(label, command, before=make, after=partial(_dropped, world)) for label, command in peers),
    ]


def _made(world: World, place: Place) -> None:
    world.make_bucket(place.bucket)


def _dropped(world: World, place: Place, _told: str) -> None:
    world.drop_bucket(place.bucket)


def shell(line: str, *arguments: str | Path) -> Command:
    """*line* for bash, in which *arguments* are $0, $1 and so on."""
    return ["/bin/bash", "-euo", "pipefail", "-c", line, *arguments]
