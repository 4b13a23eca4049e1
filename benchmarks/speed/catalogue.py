"""Every benchmark by its name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from benchmarks.speed import harder, profile, restoring, startup, storing
from benchmarks.speed.figures import Result
from benchmarks.speed.world import World


@frozen
class Benchmark:
    """What *run* measures, in some words, with the inputs that it *uses*; *asked* for by its name, or left out."""

    name: str
    says: str
    run: Callable[[World], Result]
    uses: tuple[str, ...]
    asked: bool = False


CATALOGUE = (
    Benchmark("startup", "--help, and a restore of what is complete", startup.startup, ("real",)),
    Benchmark("restore", "large files, verified, beside everybody", restoring.restore_large, ("fp32",)),
    Benchmark("again", "what is complete, and from a local tier", restoring.restore_again, ("fp32",)),
    Benchmark("restore-disk", "the same onto a disk", restoring.restore_disk, ("fp32",)),
    Benchmark("restore-tls", "the same over TLS", restoring.restore_tls, ("half",)),
    Benchmark("save", "large files into an empty bucket, and again", storing.save_large, ("half",)),
    Benchmark("export", "into an archive, and back", storing.export, ("half",)),
    Benchmark("disk", "how full the disk gets; needs root", harder.peak_disk, ("half",)),
    Benchmark("small-files", "2,000 small files", restoring.restore_small, ("small",)),
    Benchmark("save-small", "2,000 small files into an empty bucket, and again", storing.save_small, ("small",)),
    Benchmark("shards", "42 shards", restoring.restore_shards, ("shards",)),
    Benchmark("connections", "1 to 32 connections with 30 ms of latency", harder.connections, ("far", "shards")),
    Benchmark("fetch", "from a Hub that limits every connection", storing.fetch, ("one",)),
    Benchmark("link", "1 Gb/s, also encoded; needs root", harder.link, ("bf16",)),
    Benchmark("memory", "peaks at 10 GiB, on a disk that has 25 GB", harder.memory, (), asked=True),
    Benchmark("profile", "where the time goes", profile.profile, ("fp32", "half", "small"), asked=True),
)
NAMES = tuple(each.name for each in CATALOGUE)
ABSENT = ("serve: not measured, as it does not exist yet; its peer is Olah 0.5.0.",)
"""What the design names and nothing can measure."""
