"""Benchmark of starting: how long the command line takes to say something, or that there is nothing to do, beside peers that people know."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks.speed.contests import Entry, contest
from benchmarks.speed.figures import Result, below
from benchmarks.speed.world import OURS

if TYPE_CHECKING:
    from benchmarks.speed.contests import Command
    from benchmarks.speed.world import Place, World

HELP, COMPLETE, PINNED = "ours, --help", "ours, restore of what is complete", "ours, the same by commit"
BARE = "python -c pass"
HELP_MOST, COMPLETE_MOST = 0.150, 0.300
_TIMES = 4
"""Runs for each run of what takes seconds."""
_MS = (0.001, "ms")


def startup(world: World) -> Result:
    """Whole processes, from their start to their end."""
    snapshot, store, commit = world.snapshot("real"), world.saved("real"), world.commit("real")
    pinned = f"{snapshot.ref.partition('@')[0]}@{commit}"
    with world.place() as complete:

        def restored(ref: str) -> Command:
            return [*OURS, "restore", ref, "--offline", "--to", complete.target]

        def known(ref: str, label: str) -> Entry:
            # With the home of the first restore, in which is what it has proven.
            return Entry(
                label, lambda _: ["/usr/bin/env", f"HOME={complete.home}", *restored(ref)], ours=True, store=store
            )

        world.run(restored(snapshot.ref), complete, store=store)
        entries = [
            Entry(BARE, lambda _: [sys.executable, "-c", "pass"]),
            Entry("pip --version", lambda _: [sys.executable, "-m", "pip", "--version"]),
            _said(HELP, "--help"),
            _said("ours, --version", "--version"),
            _said("ours, restore --help", "restore", "--help"),
            known(snapshot.ref, COMPLETE),
            known(pinned, PINNED),
        ]
        if not world.scale.quick:
            contest(world, entries, size=0, runs=1)  # it fills the caches
        rows = contest(world, entries, size=0, runs=1 if world.scale.quick else _TIMES * world.scale.runs)
    verdicts = below(rows, HELP, "seconds", HELP_MOST, unit=_MS)
    for label in (COMPLETE, PINNED):
        verdicts += below(rows, label, "seconds", COMPLETE_MOST, unit=_MS)
    says = f"starting, and a restore with nothing to do: {snapshot.says}"
    where = "loopback, HTTP; files in memory"
    return Result("startup", says, where, BARE, rows, tuple(verdicts))


def _said(label: str, *arguments: str) -> Entry:
    def command(_place: Place) -> Command:
        return [*OURS, *arguments]

    return Entry(label, command, ours=True)
