"""Benchmarks of what is scarce: a slow link, a long way, memory and disk."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve

from benchmarks.speed.contests import Entry, contest
from benchmarks.speed.figures import MIB, Result, Row, Verdict, below, faster
from benchmarks.speed.inputs import make_model, snapshot_of
from benchmarks.speed.movers import (
    AGAIN,
    ARCHIVE,
    ENCODED,
    OURS_LABEL,
    S5CMD,
    S5CMD_SUMS,
    archive_copy,
    restore,
    s5cmd_copy,
    shell,
    with_sums,
)
from benchmarks.speed.networks import HERE, RATE, Latency, PathRelay, as_root, slow_link
from benchmarks.speed.restoring import AGAIN_MOST
from benchmarks.speed.running import measured
from benchmarks.speed.world import ENCODING, OURS, serving
from tests.parts.servers import BUCKET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.speed.contests import Command
    from benchmarks.speed.networks import Link
    from benchmarks.speed.world import Place, World

LATENCY = Latency(delay=0.030, window=256 * 1024)
CONNECTIONS = (1, 2, 4, 8, 16, 32)
MOST_MEMORY = 256 * MIB
ENCODED_MOST = 0.75
_ROOM = 3
"""Times the snapshot: what the file system has room for whose fullest moment is looked for."""


def link(world: World) -> Result:
    """bf16 weights over a slow link, as they are and encoded."""
    snapshot = world.snapshot("bf16")
    copy = s5cmd_copy(world, "bf16")
    entries = [restore(world, "bf16"), copy, with_sums(copy, label=S5CMD_SUMS, snapshot=snapshot)]
    if world.encodes:
        entries.insert(1, restore(world, "bf16", ENCODED, encoding=ENCODING))
    rate = "20gbit" if world.scale.quick else RATE
    with slow_link(rate) as between, PathRelay(world.service.server.port, Latency(), host=between.host) as relay:
        far = [_behind(each, between, f"http://{between.host}:{relay.port}") for each in entries]
        rows = contest(world, far, size=snapshot.size, files=snapshot.files, runs=max(1, world.scale.runs - 1))
    verdicts = faster(rows, ENCODED, (S5CMD,), ENCODED_MOST) + faster(rows, OURS_LABEL, (S5CMD_SUMS,), 1.0)
    notes = ["--encoding does not exist yet: nothing was measured encoded."]
    if world.encodes:
        share = world.held(world.saved("bf16", encoding=ENCODING)) / snapshot.size
        notes = [f"encoded, the store holds {share:.2f}x of the bytes"]
    says = f"restore over a slow link, verified: {snapshot.says} (bf16)"
    where = f"{rate} in a network namespace, HTTP, everything in memory"
    return Result("link", says, where, S5CMD, rows, tuple(verdicts), tuple(notes))


def _behind(entry: Entry, between: Link, endpoint: str) -> Entry:
    def command(place: Place) -> Command:
        return ["/usr/bin/env", *between.within, *entry.command(place)]

    return evolve(entry, command=command, endpoint=endpoint)


def connections(world: World) -> Result:
    """From one to 32 connections over a long way."""
    name = "shards" if world.scale.quick else "far"
    snapshot = world.snapshot(name)
    with PathRelay(world.service.server.port, LATENCY, host=HERE) as relay:
        entries = []
        for count in CONNECTIONS if not world.scale.quick else CONNECTIONS[-1:]:
            entries.append(restore(world, name, _with(OURS_LABEL, count), options=("--workers", str(count))))
            bound = ("--numworkers", str(count))
            entries.append(s5cmd_copy(world, name, _with(S5CMD, count), options=bound, parts=1))
        entries.append(restore(world, name, f"{OURS_LABEL}, by itself"))
        entries = [evolve(each, endpoint=f"http://{HERE}:{relay.port}") for each in entries]
        runs = max(1, world.scale.runs - 1)
        rows = contest(world, entries, size=snapshot.size, files=snapshot.files, runs=runs)
    last = CONNECTIONS[-1]
    verdicts = [
        *faster(rows, _with(OURS_LABEL, last), (_with(S5CMD, last),), 1.25),
        *_scaled(rows, 1),
        *_scaled(rows, 2),
    ]
    says = f"restore over a long way, by connections: {snapshot.says} (fp32)"
    where = f"{LATENCY.delay * 1000:.0f} ms for a round trip, {LATENCY.window // 1024} KiB of a connection on their way, HTTP"
    return Result("connections", says, where, _with(S5CMD, last), rows, tuple(verdicts))


def _scaled(rows: Sequence[Row], first: int) -> list[Verdict]:
    """Whether all connections make ours as many times as fast as the *first* number of them as s5cmd, which opens two where it is told one."""
    known = {row.label: row.median() for row in rows}
    last = CONNECTIONS[-1]
    if not {_with(S5CMD, first), _with(OURS_LABEL, first)} <= known.keys():
        return []
    ours, theirs = (known[_with(each, first)] / known[_with(each, last)] for each in (OURS_LABEL, S5CMD))
    says = f"ours: {ours:.1f} times as fast with {last} connections as with {first}, s5cmd {theirs:.1f} times, at least as often"
    return [Verdict(ours >= theirs, says)]


def _with(label: str, count: int) -> str:
    return f"{label}, {count} connection{'' if count == 1 else 's'}"


def peak_disk(world: World) -> Result:
    """How full the file system gets, beside one compressed archive."""
    snapshot = world.snapshot("half")
    rows = []
    for label, entry in ((OURS_LABEL, restore(world, "half")), (ARCHIVE, archive_copy(world, "half"))):
        with world.place() as place, _file_system(place.target, size=_ROOM * snapshot.size):
            inner = evolve(place, folder=place.target)
            environ = world.environ(place, store=entry.store)
            sample, _ = measured(entry.command(inner), environ=environ, folder=place.folder, watched=place.target)
        rows.append(Row(label, entry.ours, snapshot.size, (sample,)))
    verdicts = below(rows, OURS_LABEL, "disk", 1.005 * snapshot.size, unit=(snapshot.size, "times the snapshot"))
    notes = tuple(
        f"{row.label}: {(row.samples[0].disk or 0) / snapshot.size:.2f}x at the fullest moment" for row in rows
    )
    says = f"peak of the disk while restoring: {snapshot.says} (fp32)"
    return Result(
        "disk", says, "a file system of its own, looked at all the time", ARCHIVE, tuple(rows), tuple(verdicts), notes
    )


@contextmanager
def _file_system(folder: Path, *, size: int) -> Iterator[None]:
    """A file system in memory at *folder* that nobody else uses; needs root."""
    folder.mkdir()
    as_root("mount", "-t", "tmpfs", "-o", f"size={size}", "bench", str(folder))
    try:
        yield
    finally:
        as_root("umount", str(folder))


def memory(world: World) -> Result:
    """The peaks of the memory of save, restore and export with a very large model, all of which lies on a disk."""
    size = world.scale.size if world.scale.quick else max(world.scale.size, 10 * 1024 * MIB)
    with world.place(on_disk=True) as place, serving(place.folder / "store") as service:
        source = place.folder / "source"
        make_model(source, size=size, shards=5, dtype="F32", seed=8)
        snapshot = snapshot_of("huge", source)
        environ = world.environ(place, endpoint=service.plain, store=f"s3://{BUCKET}/ours")
        restored: Command = [*OURS, "restore", snapshot.ref, "--offline", "--to", place.target]
        orders: dict[str, Command] = {
            "ours, save": [*OURS, "save", source, snapshot.ref],
            OURS_LABEL: restored,
            AGAIN: restored,
            "ours, export": shell('"$0" "$@" >/dev/null', *OURS, "export", snapshot.ref, "-o", "-"),
        }
        rows = []
        for label, command in orders.items():
            sample, _ = measured(command, environ=environ, folder=place.folder, served_by=service.pid)
            rows.append(Row(label, ours=True, size=snapshot.size, samples=(sample,)))
    verdicts = [verdict for label in orders for verdict in below(rows, label, "memory", MOST_MEMORY, unit=(MIB, "MiB"))]
    verdicts += faster(rows, AGAIN, (OURS_LABEL,), AGAIN_MOST)
    says = f"peak of the memory: {snapshot.says} (fp32)"
    return Result("memory", says, "loopback, HTTP, everything on a disk", "", tuple(rows), tuple(verdicts))
