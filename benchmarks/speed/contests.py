"""The only module that runs several ways of doing the same in turns, each in an empty place, and looks whether it was done."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks.speed.figures import Row, Sample
from benchmarks.speed.world import Place

if TYPE_CHECKING:
    from benchmarks.speed.world import World

Command = list[str | Path]


@frozen
class Entry:
    """
    One way to do it: what *command* makes of a place is run there; *before* it, and *after* it with what was printed, nothing counts.

    *endpoint* is where S3 is, if not on loopback over HTTP; *store* is what our commands are told. *then* is run in the same
    place, after it.
    """

    label: str
    command: Callable[[Place], Command]
    ours: bool = False
    endpoint: str = ""
    store: str = ""
    before: Callable[[Place], None] | None = None
    after: Callable[[Place, str], None] | None = None
    then: tuple[Entry, ...] = ()


def contest(
    world: World,
    entries: Sequence[Entry],
    *,
    size: int,
    files: Mapping[str, int] | None = None,
    on_disk: bool = False,
    runs: int | None = None,
) -> tuple[Row, ...]:
    """
    A row for each of *entries*, which moved *size* bytes each; their order is turned around each time, so that no place in it is better.

    *files* are what the target must have after each, with their sizes.
    """
    every = [each for entry in entries for each in (entry, *entry.then)]
    samples: dict[str, list[Sample]] = {each.label: [] for each in every}
    for number in range(runs or world.scale.runs):
        for entry in entries if number % 2 == 0 else reversed(entries):
            with world.place(on_disk=on_disk) as place:
                if on_disk:
                    # What the last run left to be written is not to be this one's.
                    os.sync()
                for each in (entry, *entry.then):
                    samples[each.label].append(_run(world, each, place))
                    if files is not None:
                        _check(place.target, files, each.label)
    return tuple(Row(each.label, each.ours, size, tuple(samples[each.label])) for each in every)


def _run(world: World, entry: Entry, place: Place) -> Sample:
    if entry.before is not None:
        entry.before(place)
    sample, told = world.run(entry.command(place), place, endpoint=entry.endpoint, store=entry.store)
    if entry.after is not None:
        entry.after(place, told)
    return sample


def _check(target: Path, files: Mapping[str, int], label: str) -> None:
    wrong = [path for path, size in files.items() if not _has(target / path, size)]
    if wrong:
        msg = f"{label} left {len(wrong)} of {len(files)} files wrong or missing, such as {wrong[0]}"
        raise RuntimeError(msg)


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size
