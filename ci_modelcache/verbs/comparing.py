"""The only module that compares a destination with the files that are to be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.receipts import check_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.transfer.receipts import FileState, Receipts
    from ci_modelcache.verbs.step import Step

File = TypeVar("File", FileEntry, ListedFile)

_DOING = "looking at what is there"
_BATCH = 64
"""Files that one thread looks at together: to hand over a single one costs as much as to look at it."""


class Destination(Protocol):
    """Where files are to be, and what is remembered of those that are there."""

    @property
    def layout(self) -> Layout: ...
    @property
    def receipts(self) -> Receipts: ...
    @property
    def step(self) -> Step: ...


def by_leaves(file: FileEntry | ListedFile) -> Expected:
    """
    What the receipt of a file says that was proven by its leaves alone: no digest of its bytes, but one of the two names that a lock gave it.

    Whoever knows its SHA-256 from elsewhere is not told that these are the bytes: only a lock vouches for both names being those of one file.
    """
    return Expected(file.size, sha256=Digest.of(f"{file.sha256} by the leaves {file.leaves}".encode()))


def compare(files: Iterable[File], there: Destination, *, pinned: bool = False) -> list[tuple[File, FileState]]:
    """
    Each of *files*, one for each place, with what is *there*: by receipts where nothing changed since, by hashing otherwise.

    *pinned*: a lock names them, so that they may have been proven by their leaves.
    Raises what `contents` and `check_file` raise, and `DeadlineExceeded`.
    """
    places = list(contents(files, there).items())
    states: dict[str, FileState] = {}
    step, links = there.step, there.layout.follows_links

    def look(batch: list[tuple[Path, File]]) -> None:
        for place, file in batch:
            state = check_file(place, file.expected, there.receipts, links=links, hashing=False)
            if pinned and file.leaves is not None and state.status == "unproven":
                state = check_file(place, by_leaves(file), there.receipts, links=links, hashing=False)
            states[file.path] = state

    def check(item: tuple[Path, File]) -> None:
        place, file = item
        states[file.path] = check_file(place, file.expected, there.receipts, links=links)

    batches = [places[start : start + _BATCH] for start in range(0, len(places), _BATCH)]
    for_each(batches, look, workers=step.workers, deadline=step.deadline, doing=_DOING)
    unproven = [item for item in places if states[item[1].path].status == "unproven"]
    for_each(unproven, check, workers=step.workers, deadline=step.deadline, doing=_DOING)
    return [(file, states[file.path]) for _, file in places]


def contents(files: Iterable[File], there: Destination) -> dict[Path, File]:
    """One file for each place: files with the same bytes may share it. Raises `ManifestInvalid` for others that would."""
    unique: dict[Path, File] = {}
    for file in files:
        other = unique.setdefault(there.layout.content(file), file)
        if other is not file and other.expected != file.expected:
            # A Hub cache names bytes by their ETag: one of the two would be served for the other, proven or not.
            msg = f"{other.path} and {file.path} have one ETag, {file.etag}, and different bytes"
            raise ManifestInvalid(msg)
    return unique
