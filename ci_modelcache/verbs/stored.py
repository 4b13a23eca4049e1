"""The only module that finds what a store has of a snapshot, also when it is a part of a larger one there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import evolve

from ci_modelcache.errors import ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.deliver import is_stored, listed_of
from ci_modelcache.verbs.ingest import selected

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import ModelRef, SnapshotId
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

_DOING = "looking at what is stored"


def stored_manifest(snapshot: SnapshotId, ref: ModelRef, selection: Selection, *, cache: ModelCache) -> Manifest:
    """
    The manifest of *snapshot*, which *ref* and *selection* led to, as *cache* has it: its own, or its part of the whole one's.

    Raises `SnapshotNotFound`, `IntegrityError`, and `FileNotFound` when *selection* selects nothing.
    """
    try:
        return cache.manifest(snapshot)
    except SnapshotNotFound:
        if snapshot.selection == ALL:
            raise
    # Whoever holds the whole holds every part of it.
    part = cache.manifest(evolve(snapshot, selection=ALL)).part(selection)
    selected(map(listed_of, part.files), selection, ref)
    return part


def missing_files(manifest: Manifest, *, cache: ModelCache, step: Step) -> tuple[str, ...]:
    """The paths of *manifest*, sorted, whose blobs *cache* lacks or has in another size; no byte of a blob is read."""
    missing: list[str] = []

    def check(file: FileEntry) -> None:
        if not is_stored(listed_of(file), cache):
            missing.append(file.path)

    for_each(manifest.files, check, workers=step.workers, deadline=step.deadline, doing=_DOING)
    return tuple(sorted(missing))


def has_all(manifest: Manifest, *, cache: ModelCache, step: Step) -> bool:
    """Whether *cache* has every blob of *manifest*; after the first that is missing no more are asked for."""

    def check(file: FileEntry) -> None:
        if not is_stored(listed_of(file), cache):
            raise ObjectNotFound(file.sha256.hex, cache.url)

    try:
        for_each(manifest.files, check, workers=step.workers, deadline=step.deadline, doing=_DOING)
    except ObjectNotFound as miss:
        _log.debug("%s", miss)
        return False
    return True
