"""
The only module that knows how snapshots lie in a store; above it nobody sees a key.

Reading follows ref -> manifest -> blob and checks a digest at each arrow but the first. Writing is
`publication`'s.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.cache import keys
from ci_modelcache.cache.condemning import condemned_names
from ci_modelcache.cache.copies import BlobCopy
from ci_modelcache.cache.encodings import Held
from ci_modelcache.cache.records import FORMAT, HeadRecord, Marker, RefRecord
from ci_modelcache.errors import (
    AlreadyExists,
    DigestMismatch,
    IntegrityError,
    ManifestInvalid,
    NotFound,
    ObjectNotFound,
    SizeMismatch,
    SnapshotNotFound,
    StoreUnsupported,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import MAX_DOCUMENT, from_json, to_json
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.stores.protocol import OnDisk, Store
from ci_modelcache.transfer.retry import RetryPolicy, once_more

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
    from ci_modelcache.transfer.packing import Packer

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ModelCache:
    """
    Snapshots in a *store*.

    Every method raises `Unavailable`, `AccessDenied` and `BucketMissing` as the store does, reads after the retries
    of *retry*; a store of a later format raises `StoreUnsupported` before anything else in it is believed.
    """

    def __init__(
        self,
        store: Store,
        *,
        retry: RetryPolicy | None = None,
        now: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
        packer: Packer | None = None,
    ) -> None:
        self.store = store
        self.packer = packer
        """Who packs what is written here, or None: everything is stored raw."""
        self.retry = retry or RetryPolicy()
        self.now = now
        self.random = random
        self.alone: ModelCache = self
        """The same without replicas behind it (`cache.replicas`): what a writer looks at."""
        self._checked = False
        self._refusal: IntegrityError | StoreUnsupported | None = None
        self._format = FORMAT

    @property
    def url(self) -> str:
        """The store as its user knows it."""
        return self.store.url

    @property
    def is_asked(self) -> bool:
        """Whether the store itself is still asked."""
        return True

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder of this machine that the store is, or nothing when it is elsewhere."""
        return (self.store.root,) if isinstance(self.store, OnDisk) else ()

    # --- the marker

    def marker(self) -> Marker:
        """The store's marker; raises `ObjectNotFound` for a store that nobody has initialised."""
        if self._refusal is not None:
            raise copy(self._refusal)
        where = f"{self.url}/{keys.MARKER}"
        try:
            marker = once_more(
                lambda: Marker.from_json(self._unchecked_document(keys.MARKER), where), doing=f"reading {where}"
            )
        except IntegrityError as error:
            remedy = "somebody altered it: put the old one back, or remove it, and a save writes it anew"
            error.hint = error.hint or remedy
            self._refusal = error
            raise
        except StoreUnsupported as error:
            self._refusal = error
            raise
        self._format, self._checked = marker.format, True
        return marker

    def initialise(self, probe: Callable[[Store], dict[str, str | bool]]) -> Marker:
        """The marker, written first when there is none; *probe* then finds out what the store can do."""
        with suppress(ObjectNotFound):
            return self.marker()
        data = to_json(Marker(self.random(16).hex(), probe(self.store), FORMAT, min_reader=FORMAT, features=()))
        try:
            self.store.write(keys.MARKER, [data], size=len(data), create_only=True)
        except AlreadyExists as error:
            _log.debug("somebody else was faster: %s", error)
        # A store that ignores create-only lets the last writer win: what counts is what stands there now.
        return self.marker()

    def check_format(self) -> None:
        """Refuse a store of a later format, once; one without a marker is empty and of any format."""
        if not self._checked:
            with suppress(ObjectNotFound):
                self.marker()
            self._checked = True

    def check_writable(self) -> None:
        """As `check_format`, and refuse a store that this version may read but does not know how to write."""
        self.check_format()
        if self._format > FORMAT:
            msg = f"{self.url} has format {self._format}, which this version can read but not write"
            raise StoreUnsupported(msg, hint="upgrade ci-modelcache, or use another store for writing")

    # --- reading

    def head(self, host: str, ref: ModelRef) -> HeadRecord:
        """What the branch or tag of *ref* meant when last seen; raises `SnapshotNotFound`."""
        key = keys.head(host, ref.type, ref.repo, ref.revision)
        try:
            record = self.record(key, HeadRecord)
        except ObjectNotFound as error:
            msg = f"{self.url} does not know {ref}"
            raise SnapshotNotFound(msg) from error
        if record.revision != ref.revision:
            msg = f"{self.url}/{key} should tell of {ref.revision!r} and tells of {record.revision!r:.300}"
            raise ManifestInvalid(msg, hint="somebody altered it; ci-modelcache fetch writes it anew")
        return record

    def put_head(self, host: str, ref: ModelRef, commit: str, origin: str, *, seen: float | None = None) -> None:
        """Record that the branch or tag of *ref* meant *commit* when it was *seen* (default: now); the last writer wins, which is what a head is."""
        key = keys.head(host, ref.type, ref.repo, ref.revision)
        self.put_document(
            key, to_json(HeadRecord(ref.revision, commit, int(self.now() if seen is None else seen), origin))
        )

    def manifest(self, snapshot: SnapshotId) -> Manifest:
        """The manifest of *snapshot*; raises `SnapshotNotFound` for a miss and `IntegrityError` for a lie."""
        digest = self.ref(snapshot).manifest
        try:
            manifest = self.manifest_named(digest)
        except ObjectNotFound as error:
            msg = f"{self.url} has a ref of {snapshot} but not its manifest {digest}"
            raise SnapshotNotFound(msg, hint="ci-modelcache fetch stores it again") from error
        if manifest.id != snapshot:
            msg = f"the ref of {snapshot} leads to the manifest of {manifest.id}"
            raise ManifestInvalid(msg, hint=f"somebody altered {self.url}/{keys.ref(snapshot)}")
        return manifest

    def ref(self, snapshot: SnapshotId) -> RefRecord:
        """The ref of *snapshot*; raises `SnapshotNotFound`."""
        try:
            return self.record(keys.ref(snapshot), RefRecord)
        except ObjectNotFound as error:
            msg = f"{self.url} does not hold {snapshot}"
            raise SnapshotNotFound(msg) from error

    def manifest_named(self, digest: Digest) -> Manifest:
        """The manifest with that digest, from whichever copy is right; raises `ObjectNotFound`, `DigestMismatch`."""
        return Manifest.from_json(self._named_document(keys.manifest(digest), digest))

    def leaf_list(self, digest: Digest) -> bytes:
        """The leaf list with that digest, from whichever copy is right; raises `ObjectNotFound`, `DigestMismatch`."""
        return self._named_document(keys.leaves(digest), digest)

    def _named_document(self, canonical: str, digest: Digest) -> bytes:
        self.check_format()
        failure: ObjectNotFound | IntegrityError = ObjectNotFound(canonical, self.url)
        for key in chain([canonical], (one.key for one in self._others(canonical))):
            try:
                return once_more(partial(self._proven_document, key, digest), doing=f"reading {self.url}/{key}")
            except ObjectNotFound:
                continue  # or it vanished between listing and reading: a collection took it, and left a better one
            except IntegrityError as error:
                failure = error
        raise failure

    def _proven_document(self, key: str, digest: Digest) -> bytes:
        data = self.document(key)
        actual = Digest.of(data)
        if actual != digest:
            where = f"{self.url}/{key}"
            raise DigestMismatch(where, expected=digest.hex, actual=actual.hex)
        return data

    def blob_copies(self, digest: Digest, size: int) -> Iterator[BlobCopy]:
        """
        Every stored copy of a blob, the canonical one first, found as they are asked for.

        A copy of another length than *size* is raised as `SizeMismatch` when all that were right have been given.
        """
        return self._of_size(self._held(keys.blob(digest)), size)

    def untried_copies(self, digest: Digest, size: int) -> Iterator[BlobCopy]:
        """
        As `blob_copies`, for who reads at once: nobody has looked whether the first one is there, and how large it is.

        That it is neither is told by its first answer, so that a blob costs one request.
        """
        self.check_format()
        canonical = keys.blob(digest)
        yield BlobCopy(self.store, canonical, size)
        yield from self._of_size(self._others(canonical), size)

    def _of_size(self, found: Iterable[Held], size: int) -> Iterator[BlobCopy]:
        wrong: SizeMismatch | None = None
        for one in found:
            if one.size == size:
                yield one.copy(self.store)
            else:
                wrong = SizeMismatch(f"{self.url}/{one.key}", expected=size, actual=one.size)
        if wrong is not None:
            raise wrong

    def copies(self, canonical: str) -> Iterator[tuple[str, int]]:
        """Key and size of every copy: the canonical name, then the generations (DESIGN section 7), then encodings with the size of what they hold."""
        return ((one.key, one.size) for one in self._held(canonical))

    def _held(self, canonical: str) -> Iterator[Held]:
        self.check_format()
        with suppress(ObjectNotFound):
            yield from Held.among([self.store.stat(canonical)], canonical)
        yield from self._others(canonical)

    def _others(self, canonical: str) -> Iterator[Held]:
        # In a step of its own: nothing is listed before it is needed.
        yield from Held.among(self.store.scan(keys.copies(canonical)), canonical)

    def snapshots(self) -> Iterator[SnapshotId]:
        """Every snapshot that the store has a ref of, ordered by key; refs that nobody can read are logged."""
        self.check_format()
        return self._snapshots_below(keys.REFS)

    def snapshots_of(self, host: str, type: RepoType, repo: str) -> Iterator[SnapshotId]:  # the Hub's word
        """Every snapshot of one repository."""
        self.check_format()
        return self._snapshots_below(keys.REFS + keys.repository(host, type, repo))

    def _snapshots_below(self, prefix: str) -> Iterator[SnapshotId]:
        for info in self.store.scan(prefix):
            try:
                yield self._snapshot_named(info.key) if keys.is_hashed(info.key) else keys.snapshot_of(info.key)
            except (IntegrityError, NotFound, StoreUnsupported) as error:
                _log.warning("%s/%s cannot be read as a ref: %s", self.url, info.key, error)

    def _snapshot_named(self, ref_key: str) -> SnapshotId:
        """The snapshot behind a key that has only the hash of a long name: its manifest tells."""
        snapshot = self.manifest_named(self.record(ref_key, RefRecord).manifest).id
        if keys.ref(snapshot) != ref_key:
            msg = f"{ref_key} leads to the manifest of {snapshot}"
            raise ManifestInvalid(msg)
        return snapshot

    def heads_of(self, snapshot: SnapshotId) -> tuple[str, ...]:
        """The branches and tags that mean the commit of *snapshot*, sorted; as `heads`."""
        return self.heads(snapshot.host, snapshot.type, snapshot.repo).get(snapshot.commit, ())

    def heads(self, host: str, type: RepoType, repo: str) -> dict[str, tuple[str, ...]]:  # the Hub's word
        """
        The branches and tags of one repository, sorted, by the commit that they mean; heads that nobody can read are logged.

        Every head is read: for many snapshots of one repository call this once.
        """
        self.check_format()
        revisions: dict[str, list[str]] = {}
        for info in self.store.scan(keys.HEADS + keys.repository(host, type, repo)):
            try:
                record = self.record(info.key, HeadRecord)
            except (IntegrityError, ObjectNotFound) as error:
                _log.warning("%s/%s cannot be read as a head: %s", self.url, info.key, error)
                continue
            if keys.head(host, type, repo, record.revision) != info.key:
                _log.warning("%s/%s tells of another revision: %r", self.url, info.key, record.revision)
            else:
                revisions.setdefault(record.commit, []).append(record.revision)
        return {commit: tuple(sorted(names)) for commit, names in revisions.items()}

    def condemned(self) -> frozenset[str]:
        """
        Every key that some collection may delete, or has deleted and not yet forgotten; not those that it then spared.

        A list that cannot be read raises: relying on a name that may be condemned is how data gets lost.
        """
        return condemned_names(self)

    # --- documents: objects small enough to be in memory

    def document(self, key: str) -> bytes:
        """All bytes of the document *key*; raises `ObjectNotFound`."""
        self.check_format()
        return self._unchecked_document(key)

    def record(self, key: str, kind: type[T]) -> T:
        """The document *key* as a *kind*; one that cannot be read is asked for twice, for it may have been cut short."""
        self.check_format()  # first: its verdict is about the store, and asking again for *key* would not change it
        where = f"{self.url}/{key}"
        return once_more(lambda: from_json(self.document(key), kind, where), doing=f"reading {where}")

    def _unchecked_document(self, key: str) -> bytes:
        return self.retry.call(lambda: self._read_document(key), doing=f"reading {key} from {self.url}")

    def _read_document(self, key: str) -> bytes:
        parts, size = [], 0
        with self.store.read(key) as chunks:
            for chunk in chunks:
                size += len(chunk)
                if size > MAX_DOCUMENT:
                    msg = f"{self.url}/{key} has more than {MAX_DOCUMENT} bytes, too many for a document"
                    raise ManifestInvalid(msg)
                parts.append(chunk)
        return b"".join(parts)

    def put_document(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Make *key* hold *data*; raises `AlreadyExists` as the store does."""
        self.check_writable()
        self.store.write(key, [data], size=len(data), create_only=create_only)
