"""The only module that reads files of this disk in order to bring them into a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import AccessDenied, FileNotFound, IntegrityError, ModelCacheError
from ci_modelcache.model.digest import Expected, verified
from ci_modelcache.transfer.inlet import explaining_failure
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Fingerprint
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.verbs.step import Count, Step

_PIECE = 1 << 20
"""Bytes read from a file at a time."""
CHANGING = "something else writes there: run again when it has ended"


def read_file(path: Path) -> Iterator[bytes]:
    """The bytes of the file at *path*, in pieces; raises `AccessDenied`, `Unavailable`, or `IntegrityError` when it is gone."""
    try:
        with explaining_failure(path), path.open("rb", buffering=0) as file:
            yield from iter(partial(file.read, _PIECE), b"")
    except FileNotFound as error:
        msg = f"{path} vanished before it was read"
        raise IntegrityError(msg, hint=CHANGING) from error


def fingerprint(path: Path, expected: Expected) -> Fingerprint:
    """All about the file at *path*, which must be what is *expected*; raises `IntegrityError` when it is not."""
    hasher = expected.fingerprinter()
    for _ in verified(read_file(path), expected, str(path), into=hasher):
        pass
    return hasher.finish()


def unwritten(error: ModelCacheError) -> str:
    """*error*, because of which the store was not written, for a warning; after a refusal with what makes it the last one."""
    return (
        f"{error}; give --mode read where the store is not to be written"
        if isinstance(error, AccessDenied)
        else str(error)
    )


def publish(
    manifest: Manifest,
    contents: Mapping[str, Path],
    *,
    leaf_lists: Sequence[bytes],
    provenance: Mapping[str, str],
    cache: ModelCache,
    step: Step,
    force: bool = False,
) -> int:
    """
    Store the snapshot of *manifest*, whose file at each path has its bytes in *contents*; returns the bytes uploaded.

    Each file is hashed again while it is sent: one that changed since the manifest was made raises
    `DigestMismatch` or `SizeMismatch`, and nothing wrong becomes visible. By *force* blobs that are there are replaced.
    """
    uploaded: list[int] = []
    unique = {file.sha256: file for file in manifest.files}
    largest_first = sorted(unique.values(), key=lambda file: file.size, reverse=True)
    step.progress.start(f"saving {manifest.repo}", sum(file.size for file in largest_first))

    def put(file: FileEntry) -> None:
        if not force and publication.has_blob(file.sha256, file.size):
            step.progress.advance(file.size)
            return
        path = contents[file.path]

        def send(count: Count) -> None:
            publication.put_blob(file.expected, file.sha256, count(read_file(path)), what=str(path))

        try:
            step.attempt(send)
        except IntegrityError as error:
            error.hint = error.hint or CHANGING
            raise
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
