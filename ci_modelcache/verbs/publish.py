"""The only module that reads files of this disk in order to bring them into a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import (
    AccessDenied,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    SizeMismatch,
)
from ci_modelcache.model.digest import Digest, Expected, Fingerprint, verified
from ci_modelcache.transfer.beside import fingerprinter
from ci_modelcache.transfer.inlet import explaining_failure
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry, Manifest

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
    hasher = fingerprinter(expected)
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

    Each file is compared with the manifest again while it is sent: one that changed since that was made raises
    `DigestMismatch` or `SizeMismatch`, and nothing wrong becomes visible. By *force* blobs that are there are replaced.
    """
    lists = {Digest.of(leaf_list): leaf_list for leaf_list in leaf_lists}
    unique = {file.sha256: file for file in manifest.files}
    largest_first = sorted(unique.values(), key=lambda file: file.size, reverse=True)
    step.progress.start(f"saving {manifest.repo}", sum(file.size for file in largest_first))

    def put(file: FileEntry) -> None:
        leaf_list = None if file.leaves is None else lists[file.leaves]
        sending.put(contents[file.path], Fingerprint(file.size, file.sha256, None, leaf_list))

    doing = f"saving {manifest.id}"
    try:
        with Publication(cache) as publication:
            sending = Sending(publication, step, force)
            sending.announce(unique)
            for_each(largest_first, put, workers=step.workers, deadline=step.deadline, doing=doing)
            publication.commit(manifest, leaf_lists, provenance=provenance)
    finally:
        step.progress.finish()
    return sum(sending.uploaded)


@frozen
class Sending:
    """Files of this disk on their way into a store. By *force* blobs that are there are replaced."""

    publication: Publication
    step: Step
    force: bool = False
    uploaded: list[int] = field(factory=list)
    """The size of each file that was sent; threads append to it."""

    def announce(self, digests: Collection[Digest]) -> None:
        """As `Publication.announce`, and look which of *digests* are there."""
        self.publication.announce(digests)
        if not self.force:
            self.publication.look(digests)

    def put(self, path: Path, seen: Fingerprint) -> None:
        """
        Store the file at *path*, of which an earlier reading has *seen* what it is, unless that is stored already.

        Raises `IntegrityError` when it is not that any more.
        """
        if not self.force and self.publication.has_blob(seen.sha256, seen.size):
            self.step.progress.advance(seen.size)
            return
        try:
            self.step.attempt(lambda count: self.publication.put_known(seen, count(read_file(path)), what=str(path)))
        except DigestMismatch as error:  # of a part, about a key
            raise DigestMismatch(str(path), expected=error.expected, actual=error.actual, hint=CHANGING) from error
        except SizeMismatch as error:  # about a key
            raise SizeMismatch(str(path), expected=error.expected, actual=error.actual, hint=CHANGING) from error
        except IntegrityError as error:
            error.hint = error.hint or CHANGING
            raise
        self.uploaded.append(seen.size)
