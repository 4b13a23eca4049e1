"""
The only module that brings the files of a commit from an upstream into a store.

Bytes are hashed while they are read for the store, and none becomes visible there before it is proven. What is half received lies
in the state folder until then, if there is room: it is moved into a store on the same disk, and sent on to any other.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, field, frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import AccessDenied, ConfigError, FileNotFound, IntegrityError, ObjectNotFound
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprint, verified
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.manifest import MAX_FILES, FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.transfer.beside import fingerprinter
from ci_modelcache.transfer.disk import Room, same_disk
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.partial import sweep_partials
from ci_modelcache.transfer.stages import Stages
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.receive import Inbound, Received, receive, senders
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.transfer.partial import Partial
    from ci_modelcache.verbs.step import Count

_log = logging.getLogger(__name__)

Item = TypeVar("Item")

_GIVEN_UP = 7 * 86_400.0
"""Seconds after which nobody is expected to go on with what is half received."""
_GROUP = 256
"""Small files that are announced together, at least, while more are coming: each announcement is a few requests."""


@frozen
class Ingested:
    """A snapshot that is in the store now; *received* bytes came from upstream, the rest was there already."""

    manifest: Manifest
    received: int
    sources: dict[str, int] = field(factory=dict)
    """Bytes by the URL of who sent them."""
    warnings: tuple[str, ...] = ()


@frozen
class Upload:
    """What one ingest works on; threads append to the lists, each append a whole value."""

    ref: ModelRef
    source: Mirrors
    cache: ModelCache
    publication: Publication
    step: Step
    force: bool
    room: Room
    entries: list[FileEntry] = field(factory=list)
    leaf_lists: list[bytes] = field(factory=list)
    received: list[Received[Fingerprint]] = field(factory=list)
    sources: Counter[str] = field(factory=Counter)
    _lock: threading.Lock = field(factory=threading.Lock)

    @property
    def inbound(self) -> Inbound:
        """Where files come from; what is half received is kept in the state folder."""
        return Inbound(self.ref, self.source, self.step.state / "partial", self.step, self.force, self.room)

    def announce(self, digests: Collection[Digest]) -> None:
        """As `Publication.announce`, and look which of *digests* are there."""
        self.publication.announce(digests)
        if not self.force:
            self.publication.look(digests)

    def got(self, received: Received[Fingerprint]) -> None:
        """A file was *received* from upstream."""
        with self._lock:
            self.received.append(received)
            self.sources.update(received.sources)

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
    source: Upstream,
    step: Step,
    force: bool = False,
) -> Ingested:
    """
    Store *snapshot*, which consists of *files* of *ref*; returns when its own ref is written.

    By *force* everything is fetched, and replaces what the store has.
    Raises what `Publication` and the source raise. Whatever was stored before that is garbage which a second call makes use of.
    """
    _require_folder(step.state / "partial")
    sweep_partials(step.state / "partial", older_than=_GIVEN_UP)
    # Files with the same bytes come once.
    unique = {file.sha256 or file.git_oid: file.size for file in files}
    step.progress.start(f"fetching {ref}", sum(unique.values()))
    try:
        with Publication(cache) as publication:
            mirrors = Mirrors.of(source, retry=step.retry, connections=step.workers)
            upload = Upload(ref.at(snapshot.commit), mirrors, cache, publication, step, force, Room(step.state))
            _put_known(upload, [file for file in files if file.sha256 is not None])
            _put_small(upload, [file for file in files if file.sha256 is None])
            manifest = Manifest(
                snapshot.host, snapshot.type, snapshot.repo, snapshot.commit, snapshot.selection, tuple(upload.entries)
            )
            provenance = {"source": senders(upload.sources, mirrors)}
            publication.commit(manifest, upload.leaf_lists, provenance=provenance)
    finally:
        step.progress.finish()
    warnings = tuple(sorted({warning for each in upload.received for warning in each.warnings}))
    return Ingested(manifest, sum(each.fetched for each in upload.received), dict(upload.sources), warnings)


def _require_folder(folder: Path) -> None:
    """Raise `AccessDenied`, before a byte moves, when what is half received could not be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if os.access(folder, os.W_OK | os.X_OK):
            return
        reason = os.strerror(errno.EACCES)
    msg = f"cannot write to the state folder {folder.parent}: {reason}"
    raise AccessDenied(msg, hint="set CI_MODELCACHE_STATE to another one")


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


def _put_known(upload: Upload, files: Sequence[ListedFile]) -> None:
    """Files whose sha256 is known before they are seen: the store may have them, and what arrives of the others is stored by that name."""
    blobs: dict[Digest, list[ListedFile]] = {}
    for file in sorted(files, key=lambda file: file.size, reverse=True):
        if file.sha256 is not None:
            blobs.setdefault(file.sha256, []).append(file)
    if not blobs:
        return
    upload.announce(blobs)
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
    received = receive(file, upload.inbound, take=partial(_store, upload, file, digest))
    upload.note(same, received.result)
    upload.got(received)


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
    hasher = fingerprinter(file.expected)
    chunks = read_through(copy.open, file.size, upload.step.retry, what=str(copy))
    for _ in verified(count(chunks), file.expected, str(copy), into=hasher):
        pass
    return hasher.finish()


def _store(
    upload: Upload, file: ListedFile, digest: Digest, chunks: Iterator[bytes], partial: Partial | None
) -> Fingerprint:
    """Make a blob of what arrives: by renaming it where the store is on this disk, else by sending it on."""
    hasher = fingerprinter(file.expected)
    linked = partial is not None and upload.cache.packer is None
    if partial is not None and linked and any(same_disk(folder, partial.path) for folder in upload.cache.folders):
        for _ in verified(chunks, file.expected, _named(upload, file), into=hasher):
            pass
        upload.publication.adopt_blob(digest, lambda target, mode: partial.land(target, mode=mode))
    else:
        upload.publication.put_blob(file.expected, digest, chunks, what=_named(upload, file), into=hasher)
    return hasher.finish()


def _put_small(upload: Upload, files: Sequence[ListedFile]) -> None:
    """Files of which only a git name is known: proven by it here first, for the store names them by sha256."""
    blobs: dict[str, list[ListedFile]] = {}
    for file in files:
        blobs.setdefault(file.git_oid, []).append(file)
    stages = Stages(
        list(blobs.values()),
        prepare=partial(_prove, upload),
        gather=lambda batch: upload.announce({each.seen.result.sha256 for each in batch}),
        finish=partial(_put_proven, upload),
        weigh=lambda _: 1,
        worth=_GROUP,
    )
    stages.run(workers=upload.step.workers, deadline=upload.step.deadline, doing=f"fetching {upload.ref}")


@frozen
class _Proven:
    """Files with the same bytes, which lie in the state folder, and what was *seen* of them."""

    same: Sequence[ListedFile]
    seen: Received[Fingerprint]


def _prove(upload: Upload, same: Sequence[ListedFile]) -> _Proven:
    """Receive a file of which only the git name is known, into the state folder: its sha256 is known then, and not before."""
    file = same[0]

    def take(chunks: Iterator[bytes], _partial: Partial | None) -> Fingerprint:
        hasher = fingerprinter(file.expected)
        for _ in verified(chunks, file.expected, _named(upload, file), into=hasher):
            pass
        return hasher.finish()

    return _Proven(same, receive(file, upload.inbound, take=take, keep=True))


def _put_proven(upload: Upload, proven: _Proven) -> None:
    file, seen = proven.same[0], proven.seen.result

    def take(chunks: Iterator[bytes], _partial: Partial | None) -> Fingerprint:
        if upload.force or not upload.publication.has_blob(seen.sha256, seen.size):
            upload.publication.put_known(seen, chunks, what=_named(upload, file))
        return seen

    # Nothing is fetched a second time: it lies in the state folder, whole.
    receive(file, evolve(upload.inbound, step=upload.step.silently(), fresh=False), take=take)
    upload.note(proven.same, seen)
    upload.got(proven.seen)


def _named(upload: Upload, file: ListedFile) -> str:
    return f"{file.path} of {upload.ref}"


def _for_each(upload: Upload, items: Sequence[Item], work: Callable[[Item], None]) -> None:
    doing = f"fetching {upload.ref}"
    for_each(items, work, workers=upload.step.workers, deadline=upload.step.deadline, doing=doing)
