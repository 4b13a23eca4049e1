"""
The only module that writes snapshots: the commit protocol of format 1 (DESIGN section 7, docs/format.md).

The order is the protocol. Intent -> condemned lists -> blobs -> leaf lists -> manifest -> ref -> intent still there? ->
intent removed. Whoever dies before the ref leaves garbage, never a lie; whoever runs again uploads nothing twice. Each step
but the create-only ref needs no more than atomic single-key writes and a consistent listing, and even the ref is
safe on a store that ignores create-only: two writers of one snapshot write the same manifest.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import IntentRecord, RefRecord
from ci_modelcache.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    ModelCacheError,
    ObjectNotFound,
    SnapshotConflict,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest, verified
from ci_modelcache.model.document import to_json
from ci_modelcache.stores.protocol import OnDisk
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Expected, Fingerprinter
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId

HEARTBEAT = 600.0
"""Seconds after which a long write says again that it lives; a collection forgets intents after days."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECKS = 16
"""Existence checks at a time: each is one small request."""
_LEAF_LINE = 65
"""Bytes of one line of a leaf list: 64 hex digits and the end of the line."""

_log = logging.getLogger(__name__)


def new_ulid(seconds: float, randomness: bytes) -> str:
    """A ULID: 48 bits of milliseconds since the epoch, 80 bits of *randomness*, 26 characters that sort by time."""
    value = int(seconds * 1000) << 80 | int.from_bytes(randomness[:10])
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -5, -5))


class Publication:
    """
    One writer on its way from intent to ref; a context manager that removes its intents at the end.

    Every digest is announced before anything is found out about it: a collection that starts later then
    sees it, and one that started earlier has published what it condemned. Methods may be called from any thread.
    """

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache.alone
        self._write_id = cache.random(16).hex()
        self._ulid = self._new_ulid()
        self._intents: list[str] = []
        self._needed: list[str] = []
        self._announced: set[Digest] = set()
        self._stored: set[Digest] = set()
        self._condemned: frozenset[str] = frozenset()
        self._renewed = 0.0
        self._lapsed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._cache.check_writable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in self._intents:
            try:
                self._cache.store.delete(key)
            except ModelCacheError as obstacle:
                # It protects garbage until a collection forgets it. That is no reason to hide *error*, nor to call
                # what was committed a failure; and a store that refused one delete is not asked for the next.
                _log.warning("the intent %s stays in %s: %s", key, self._cache.url, obstacle)
                return

    # --- what this writer relies on

    def announce(self, digests: Iterable[Digest]) -> None:
        """Say that this writer relies on *digests*, and learn which names are condemned; before anything else."""
        with self._lock:
            new = set(digests) - self._announced
            if new:
                self._put_intent(new)
                # After the intent: a collection either saw it there, or had published its list before this reading.
                self._condemned = self._cache.condemned()
                self._announced |= new

    def _put_intent(self, digests: Iterable[Digest]) -> None:
        # Always a name that was never used: an intent that is found at the end has then stood all the time. Writing one
        # again would hide that it was gone for a while, and that blobs were condemned meanwhile.
        key = keys.intent(self._ulid, len(self._intents) + 1)
        self._intents.append(key)
        try:
            self._cache.put_document(key, to_json(IntentRecord(tuple(sorted(digests)), self._write_id)))
        except (AccessDenied, StoreUnsupported):
            self._intents.remove(key)  # it was refused, so there is nothing to remove at the end
            raise
        self._needed.append(key)
        self._renewed = self._cache.now()

    def _stand(self, intents: Iterable[str]) -> bool:
        """Whether all *intents* are still there, and have been since they were written."""
        return {info.key for info in self._cache.store.scan(keys.intents(self._ulid))}.issuperset(intents)

    def _heartbeat(self, digest: Digest) -> None:
        with self._lock:
            if digest not in self._announced:
                msg = f"{digest} is used before it was announced"
                raise ValueError(msg)
            if abs(self._cache.now() - self._renewed) > HEARTBEAT:
                self._renew()

    def _renew(self) -> None:
        """Rely on a young intent instead of the old ones, which a collection is to take for those of a dead writer some day."""
        old, self._needed = self._needed, []
        self._put_intent(self._announced)
        # In this order: if the old ones stand now, there was no moment without any.
        if not self._stand(old):
            self._lapsed = True
            self._condemned = self._cache.condemned()

    # --- blobs

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a copy that will stay is stored, of the right *size*."""
        self._heartbeat(digest)
        if not self._has(keys.blob(digest), size):
            return False
        self._stored.add(digest)
        return True

    def put_blob(
        self,
        expected: Expected,
        digest: Digest,
        chunks: Iterable[bytes],
        *,
        what: str,
        into: Fingerprinter | None = None,
    ) -> None:
        """
        Store *chunks* as the blob *digest*, unless they are not that or not what was *expected*: then nothing becomes visible.

        *what* names the file in errors; *into* collects its fingerprint on the way.
        """
        self._heartbeat(digest)
        if expected.sha256 not in {None, digest}:
            msg = f"{what} is expected to be {expected.sha256} and stored as {digest}"
            raise ValueError(msg)
        # The name of the blob is proven too where only a git name was promised.
        proven = verified(chunks, evolve(expected, sha256=digest), what, into=into)
        self._cache.store.write(self._writable(keys.blob(digest)), proven, size=expected.size)
        self._stored.add(digest)

    def adopt_blob(self, digest: Digest, move: Callable[[Path, int], None]) -> None:
        """Store a file of this disk, whose bytes were proven to be *digest*, by renaming it (`OnDisk.adopt`)."""
        self._heartbeat(digest)
        store = self._cache.store
        if not isinstance(store, OnDisk):
            msg = f"{store.url} is not on this disk"
            raise TypeError(msg)
        store.adopt(self._writable(keys.blob(digest)), move)
        self._stored.add(digest)

    # --- the commit

    def commit(self, manifest: Manifest, leaf_lists: Iterable[bytes], *, provenance: Mapping[str, str]) -> None:
        """
        Write leaf lists, manifest and, last, the ref of a snapshot whose blobs all went through `has_blob` or `put_blob`.

        Raises `SnapshotConflict` when the store has another manifest of the same snapshot, and `Unavailable` when a
        collection removed what this writer relied on because it took days.
        """
        documents = {keys.leaves(Digest.of(leaves)): leaves for leaves in leaf_lists}
        documents[keys.manifest(manifest.digest)] = manifest.to_json()
        self._require_complete(manifest, documents)
        self.announce(Digest.of(data) for data in documents.values())
        for key, data in documents.items():
            if not self._has_document(key, data):
                self._cache.put_document(self._writable(key), data)
        self._put_ref(manifest, provenance)
        self._check_intents(manifest)

    def _require_complete(self, manifest: Manifest, documents: Mapping[str, bytes]) -> None:
        for file in manifest.files:
            if file.sha256 not in self._stored:
                msg = f"{file.path}: its blob was neither found nor stored"
                raise ValueError(msg)
            if file.leaves is not None and keys.leaves(file.leaves) not in documents:
                msg = f"{file.path}: its leaf list is not there"
                raise ValueError(msg)

    def _put_ref(self, manifest: Manifest, provenance: Mapping[str, str]) -> None:
        # Looked at first because a store may ignore create-only and put this ref in the place of a different one.
        if self._is_published(manifest):
            return
        key, data = keys.ref(manifest.id), to_json(RefRecord(manifest.digest, self._write_id, dict(provenance)))
        try:
            self._cache.put_document(key, data, create_only=True)
        except (AlreadyExists, Unavailable) as error:
            # 1. Another writer was faster, or our own write landed and its answer was lost: what stands there says the same.
            if self._is_published(manifest):
                return
            # 2. The write did not land.
            if isinstance(error, Unavailable):
                raise
            # 3. What stands there leads to no manifest of this snapshot, so nobody relies on it: replacing it is repair.
            self._cache.put_document(key, data)

    def _is_published(self, manifest: Manifest) -> bool:
        """Whether the ref leads to *manifest*; raises `SnapshotConflict` when it leads to another one of this snapshot."""
        try:
            standing = self._cache.manifest(manifest.id)
        except SnapshotNotFound:
            return False
        except IntegrityError as error:
            _log.warning("replacing the ref of %s: %s", manifest.id, error)
            return False
        if standing == manifest:
            return True
        msg = f"{self._cache.url} holds {manifest.id} as manifest {standing.digest}, not as {manifest.digest}"
        raise SnapshotConflict(msg, hint="one of the two was made from wrong bytes; ci-modelcache verify tells which")

    def _check_intents(self, manifest: Manifest) -> None:
        if not self._lapsed and self._stand(self._needed):
            return
        # For a while no intent protected what this writer relied on. The ref does now: who condemns something
        # after this reading has seen it.
        try:
            _require_all(self._cache, manifest, self._cache.condemned())
        except ObjectNotFound as error:
            msg = f"a collection of {self._cache.url} took what {manifest.id} consists of while it was written: {error.key}"
            raise Unavailable(msg, hint="run it again: what is still there is not uploaded twice") from error

    # --- names that will stay

    def _has(self, canonical: str, size: int) -> bool:
        return _is_kept(self._cache, canonical, size, self._condemned)

    def _has_document(self, canonical: str, data: bytes) -> bool:
        for key, size in self._cache.copies(canonical):
            if size == len(data) and key not in self._condemned and self._holds(key, data):
                return True
        return False

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._cache.document(key) == data
        except ObjectNotFound:
            return False  # it vanished since it was listed

    def _writable(self, canonical: str) -> str:
        # A DELETE of a condemned name may land at any time, however late: such a name is never used again.
        if canonical in self._condemned:
            return keys.generation(canonical, self._new_ulid())
        return canonical

    def _new_ulid(self) -> str:
        return new_ulid(self._cache.now(), self._cache.random(10))


def published(cache: ModelCache, snapshot: SnapshotId) -> Manifest:
    """
    The manifest of a *snapshot* that is stored in full and will stay; raises `SnapshotNotFound` when it is not.

    Ref, then condemned lists, then every object, in that order: any other accepts what a collection is removing.
    Raises `IntegrityError` as `ModelCache.manifest` does.
    """
    cache = cache.alone
    manifest = cache.manifest(snapshot)
    try:
        _require_all(cache, manifest, cache.condemned())
    except ObjectNotFound as error:
        msg = f"{cache.url} holds {snapshot} without {error.key}"
        raise SnapshotNotFound(msg, hint="ci-modelcache fetch stores it again") from error
    return manifest


def _require_all(cache: ModelCache, manifest: Manifest, condemned: frozenset[str]) -> None:
    """Raise `ObjectNotFound` for an object of *manifest*, itself included, of which no copy will stay."""
    # Leaf lists and the manifest are collected as blobs are: a snapshot is no less lost without them.
    sizes = {keys.manifest(manifest.digest): len(manifest.to_json())}
    for file in manifest.files:
        sizes[keys.blob(file.sha256)] = file.size
        if file.leaves is not None:
            sizes[keys.leaves(file.leaves)] = _LEAF_LINE * -(-file.size // LEAF_SIZE)

    def check(item: tuple[str, int]) -> None:
        canonical, size = item
        if not _is_kept(cache, canonical, size, condemned):
            raise ObjectNotFound(canonical, cache.url)

    for_each(sizes.items(), check, workers=_CHECKS, deadline=cache.retry.deadline, doing=f"checking {manifest.id}")


def _is_kept(cache: ModelCache, canonical: str, size: int, condemned: frozenset[str]) -> bool:
    return any(actual == size and key not in condemned for key, actual in cache.copies(canonical))
