"""The only module that brings files of this disk into a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ci_modelcache.cache.publication import Publication
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.progress import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.verbs.step import Step

_PIECE = 1 << 20
"""Bytes read from a file at a time."""


def read_file(path: Path) -> Iterator[bytes]:
    """The bytes of the file at *path*, in pieces."""
    with path.open("rb") as file:
        yield from iter(partial(file.read, _PIECE), b"")


def publish(
    manifest: Manifest,
    contents: Mapping[str, Path],
    *,
    leaf_lists: Sequence[bytes],
    provenance: Mapping[str, str],
    cache: ModelCache,
    step: Step,
) -> int:
    """
    Store the snapshot of *manifest*, whose file at each path has its bytes in *contents*; returns the bytes uploaded.

    Each file is hashed again while it is sent: one that changed since the manifest was made raises
    `DigestMismatch`, and nothing wrong becomes visible.
    """
    uploaded: list[int] = []
    unique = {file.sha256: file for file in manifest.files}
    largest_first = sorted(unique.values(), key=lambda file: file.size, reverse=True)
    step.progress.start(f"saving {manifest.repo}", sum(file.size for file in largest_first))

    def put(file: FileEntry) -> None:
        if publication.has_blob(file.sha256, file.size):
            step.progress.advance(file.size)
            return
        chunks = counted(read_file(contents[file.path]), step.progress)
        publication.put_blob(file.expected, file.sha256, chunks, what=str(contents[file.path]))
        uploaded.append(file.size)

    doing = f"saving {manifest.id}"
    try:
        with Publication(cache) as publication:
            publication.announce(unique)
            for_each(largest_first, put, workers=step.workers, deadline=step.deadline, doing=doing)
            publication.commit(manifest, leaf_lists, provenance=provenance)
    finally:
        step.progress.finish()
    return sum(uploaded)
