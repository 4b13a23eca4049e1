"""
The only module that brings the files of a commit from an upstream into a store.

Bytes go from the source into the store in one pass, hashed on the way: no large file ever lies on this
disk, and none becomes visible in the store before it is proven.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, TypeVar

from attrs import field, frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import AccessDenied, ConfigError, FileNotFound, IntegrityError, ObjectNotFound
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprint, verified
from ci_modelcache.model.manifest import MAX_FILES, FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.protocol import ByteSource
from ci_modelcache.transfer.land import explaining_full_disk
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ci_modelcache.cache.modelcache import BlobCopy
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.verbs.step import Count

_log = logging.getLogger(__name__)

Item = TypeVar("Item")

_IN_MEMORY = 1 << 20
"""Bytes of a small file kept in memory before it goes to an unnamed file in the state folder."""
_GROUP = 64
"""Small files on their way at once: bounds memory (64 MiB) and open files."""


@frozen
class Ingested:
    """A snapshot that is in the store now; *received* bytes came from upstream, the rest was there already."""

    manifest: Manifest
    received: int


@frozen
class Upload:
    """What one ingest works on; threads append to the lists, each append a whole value."""

    ref: ModelRef
    source: ByteSource
    cache: ModelCache
    publication: Publication
    step: Step
    force: bool
    entries: list[FileEntry] = field(factory=list)
    leaf_lists: list[bytes] = field(factory=list)
    received: list[int] = field(factory=list)

    def note(self, same: Sequence[ListedFile], seen: Fingerprint) -> None:
        """The files *same*, which share their bytes, are in the store, and *seen* is what it holds."""
        self.entries.extend(entry_of(file, seen) for file in same)
        if seen.leaf_list is not None:
            self.leaf_lists.append(seen.leaf_list)


def ingest(
    snapshot: SnapshotId,
    files: tuple[ListedFile, ...],
    *,
    ref: ModelRef,
    cache: ModelCache,
    source: ByteSource,
    step: Step,
    force: bool = False,
) -> Ingested:
    """
    Store *snapshot*, which consists of *files* of *ref*; returns when its own ref is written.

    By *force* everything is fetched, and replaces what the store has.
    Raises what `Publication` and the source raise. Whatever was stored before that is garbage which a second call makes use of.
    """
    # Files with the same bytes come once.
    unique = {file.sha256 or file.git_oid: file.size for file in files}
    step.progress.start(f"fetching {ref}", sum(unique.values()))
    try:
        with Publication(cache) as publication:
            upload = Upload(ref.at(snapshot.commit), source, cache, publication, step, force)
            _put_known(upload, [file for file in files if file.sha256 is not None])
            _put_small(upload, [file for file in files if file.sha256 is None])
            manifest = Manifest(
                snapshot.host, snapshot.type, snapshot.repo, snapshot.commit, snapshot.selection, tuple(upload.entries)
            )
            publication.commit(manifest, upload.leaf_lists, provenance={"source": source.url})
    finally:
        step.progress.finish()
    return Ingested(manifest, sum(upload.received))


def selected(files: Iterable[ListedFile], selection: Selection, ref: ModelRef) -> tuple[ListedFile, ...]:
    """The files that *selection* asks for; raises `FileNotFound` when it asks for none of them."""
    chosen = tuple(file for file in files if selection.selects(file.path))
    if not chosen:
        msg = f"{ref} has no file that --include and --exclude select"
        raise FileNotFound(msg, hint="look at its files on the Hub: patterns are matched against whole paths")
    refuse_too_many(len(chosen), str(ref))
    return chosen


def refuse_too_many(files: int, what: str) -> None:
    """Raise `ConfigError`, before a byte moves, for more *files* than a manifest can name."""
    if files > MAX_FILES:
        msg = f"{what} has {files} files, and a snapshot has at most {MAX_FILES}"
        raise ConfigError(msg, hint="take a part of it with --include and --exclude")


def entry_of(file: ListedFile, seen: Fingerprint) -> FileEntry:
    """The manifest entry of a listed *file* whose bytes were *seen* and found right."""
    return FileEntry(file.path, file.size, seen.sha256, file.git_oid, file.lfs, file.executable, seen.leaves)


def stream(ref: ModelRef, file: ListedFile, *, source: ByteSource, step: Step) -> Iterator[bytes]:
    """The bytes of *file* at the commit that *ref* is pinned to, resumed where they break off."""
    return read_through(partial(_open, source, ref, file), file.size, step.retry, what=f"{file.path} from {source.url}")


def _open(source: ByteSource, ref: ModelRef, file: ListedFile, start: int) -> AbstractContextManager[Iterator[bytes]]:
    return source.open(ref, ref.revision, file, start=start)


def _put_known(upload: Upload, files: Sequence[ListedFile]) -> None:
    """Files whose sha256 is known before they are seen: the store may have them, and they need no disk."""
    blobs: dict[Digest, list[ListedFile]] = {}
    for file in sorted(files, key=lambda file: file.size, reverse=True):
        if file.sha256 is not None:
            blobs.setdefault(file.sha256, []).append(file)
    if not blobs:
        return
    upload.publication.announce(blobs)
    _for_each(upload, list(blobs.items()), partial(_put_blob, upload))


def _put_blob(upload: Upload, blob: tuple[Digest, Sequence[ListedFile]]) -> None:
    digest, same = blob
    file = same[0]
    if not upload.force and upload.publication.has_blob(digest, file.size):
        try:
            upload.note(same, _stored(upload, file, digest))
        except (IntegrityError, ObjectNotFound) as error:
            _log.warning("the store's copy of %s is not usable, fetching it again: %s", file.path, error)
        else:
            return
    upload.note(same, upload.step.receive(partial(_receive, upload, file, digest), doing=f"fetching {file.path}"))
    upload.received.append(file.size)


def _stored(upload: Upload, file: ListedFile, digest: Digest) -> Fingerprint:
    """
    The fingerprint of a blob that is stored already.

    Its leaf list can only be had by reading it: one taken from another manifest would be believed unproven, and
    a lock made from it would then vouch for it.
    """
    if file.size <= LEAF_SIZE:
        upload.step.progress.advance(file.size)
        return Fingerprint(file.size, digest, None, None)
    for copy in upload.cache.blob_copies(digest, file.size):
        return upload.step.receive(partial(_read, upload, file, copy), doing=f"reading {copy}")
    raise ObjectNotFound(digest.hex, upload.cache.url)


def _read(upload: Upload, file: ListedFile, copy: BlobCopy, count: Count) -> Fingerprint:
    hasher = file.expected.fingerprinter()
    chunks = read_through(copy.open, file.size, upload.step.retry, what=str(copy))
    for _ in verified(count(chunks), file.expected, str(copy), into=hasher):
        pass
    return hasher.finish()


def _receive(upload: Upload, file: ListedFile, digest: Digest, count: Count) -> Fingerprint:
    hasher = file.expected.fingerprinter()
    chunks = count(stream(upload.ref, file, source=upload.source, step=upload.step))
    upload.publication.put_blob(file.expected, digest, chunks, what=_named(upload, file), into=hasher)
    return hasher.finish()


def _put_small(upload: Upload, files: Sequence[ListedFile]) -> None:
    """Files of which only a git name is known: proven by it here first, for the store names them by sha256."""
    blobs: dict[str, list[ListedFile]] = {}
    for file in files:
        blobs.setdefault(file.git_oid, []).append(file)
    remaining = iter(blobs.values())
    while group := list(itertools.islice(remaining, _GROUP)):
        spooled: list[tuple[Sequence[ListedFile], Fingerprint, IO[bytes]]] = []
        try:
            _for_each(upload, group, partial(_spool, upload, spooled))
            upload.publication.announce(seen.sha256 for _, seen, _ in spooled)
            _for_each(upload, spooled, partial(_put_spooled, upload))
        finally:
            for _, _, body in spooled:
                body.close()


def _spool(
    upload: Upload,
    spooled: list[tuple[Sequence[ListedFile], Fingerprint, IO[bytes]]],
    same: Sequence[ListedFile],
) -> None:
    file = same[0]

    def receive(count: Count) -> tuple[Fingerprint, IO[bytes]]:
        hasher = file.expected.fingerprinter()
        chunks = count(stream(upload.ref, file, source=upload.source, step=upload.step))
        body = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(upload.step.state))  # noqa: SIM115  # `_put_small` closes it
        try:
            for chunk in verified(chunks, file.expected, _named(upload, file), into=hasher):
                body.write(chunk)
        except BaseException:
            body.close()
            raise
        return hasher.finish(), body

    with explaining_full_disk(upload.step.state), _explaining_denial(upload.step.state):
        upload.step.state.mkdir(parents=True, exist_ok=True)
        spooled.append((same, *upload.step.receive(receive, doing=f"fetching {file.path}")))
    upload.received.append(file.size)


@contextmanager
def _explaining_denial(state: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        msg = f"cannot write to the state folder {state}: {error.strerror}"
        raise AccessDenied(msg, hint="set CI_MODELCACHE_STATE to another one") from error


def _put_spooled(upload: Upload, item: tuple[Sequence[ListedFile], Fingerprint, IO[bytes]]) -> None:
    same, seen, body = item
    if upload.force or not upload.publication.has_blob(seen.sha256, seen.size):
        body.seek(0)
        chunks = iter(partial(body.read, _IN_MEMORY), b"")
        upload.publication.put_blob(same[0].expected, seen.sha256, chunks, what=_named(upload, same[0]))
    upload.note(same, seen)


def _named(upload: Upload, file: ListedFile) -> str:
    return f"{file.path} of {upload.ref} from {upload.source.url}"


def _for_each(upload: Upload, items: Sequence[Item], work: Callable[[Item], None]) -> None:
    doing = f"fetching {upload.ref}"
    for_each(items, work, workers=upload.step.workers, deadline=upload.step.deadline, doing=doing)
