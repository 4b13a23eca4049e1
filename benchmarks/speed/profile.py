"""Where the processor's time goes: what py-spy sees of our threads, as a list and as a flame graph, and what strace counts of our calls."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.speed.contests import Entry, contest
from benchmarks.speed.figures import Result, Row
from benchmarks.speed.movers import restore, save
from benchmarks.speed.world import Scale
from tests.parts.servers import program

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.speed.contests import Command
    from benchmarks.speed.world import Place, World

FLAMES = Path(__file__).parents[1] / "results"
"""Where ``flame-NAME.svg`` is kept for each of what is watched."""
_RATE = "200"
"""Samples a second."""
_TOP, _CALLS = 12, 8
_HERE = re.compile(r"^(?P<function>.+) \((?:.*/)?(?P<file>[^/]+/[^/]+?):\d+\)$")


def profile(world: World) -> Result:
    """A restore of large files, one of small files, and a save, each as it is and then watched."""
    watched = {"restore": restore(world, "fp32")}
    if not world.scale.quick:
        watched |= {"small-files": restore(world, "small"), "save": save(world, "half")[0]}
    rows, notes = list[Row](), list[str]()
    for name, entry in watched.items():
        plain = Entry(name, entry.command, ours=True, store=entry.store, before=entry.before)
        rows += contest(world, [plain], size=0, runs=1)
        notes += [f"{name}, of the samples: {line}" for line in _samples(world, plain)]
        notes += [f"{name}, of the calls: {line}" for line in _calls(world, plain)]
        if world.scale.size == Scale().size:
            (FLAMES / f"flame-{name}.svg").write_text(_flame(world, plain, name))
    says = f"where the time goes: {world.snapshot('fp32').says}"
    return Result("profile", says, "loopback, HTTP, everything in memory", "", tuple(rows), (), tuple(notes))


def _samples(world: World, entry: Entry) -> list[str]:
    """The functions in which our threads were found, the most frequent first."""
    folded = _beside(world, entry, partial(_watch, "raw"))
    found: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack:
            found[_function(stack.rpartition(";")[2])] += int(count)
    whole = found.total() or 1
    return [f"{count / whole:.0%} {name}" for name, count in found.most_common(_TOP)]


def _flame(world: World, entry: Entry, name: str) -> str:
    """The same as a picture: how wide a function is, is how often it was found; who called it lies above it."""
    drawn = _beside(world, entry, partial(_watch, "flamegraph"))
    # Its title is the command, with folders of who runs this.
    return re.sub(r"[^>]*py-spy record [^<]*", f"{name}: in which functions our threads were found", drawn)


def _watch(form: str, out: Path) -> Command:
    return [program("py-spy"), "record", "-r", _RATE, "-f", form, "-o", out, "--"]


def _function(frame: str) -> str:
    """``update (transfer/land.py)`` for a frame of py-spy, with the last folder of its file."""
    found = _HERE.match(frame)
    return f"{found['function']} ({found['file']})" if found else frame


def _calls(world: World, entry: Entry) -> list[str]:
    """System calls by the time that was spent in them, with how often."""
    told = _beside(world, entry, lambda out: [program("strace"), "-c", "-f", "-o", out, "--"])
    lines = (line.split() for line in told.splitlines())
    # % time, seconds, usecs/call, calls, errors if any, name
    counted = [line for line in lines if len(line) >= 5 and line[0][0].isdigit() and line[-1] != "total"]  # noqa: PLR2004  # columns
    return [f"{line[3]} {line[-1]}, {line[0]} % of their time" for line in counted[:_CALLS]]


def _beside(world: World, entry: Entry, watcher: Callable[[Path], Command]) -> str:
    told = list[str]()

    def command(place: Place) -> Command:
        return [*watcher(place.folder / "watched"), *entry.command(place)]

    def read(place: Place, _said: str) -> None:
        told.append((place.folder / "watched").read_text())

    watched = Entry("watched", command, ours=True, store=entry.store, before=entry.before, after=read)
    contest(world, [watched], size=0, runs=1)
    return told[0]
