"""
The only module that writes snapshots: the commit protocol of format 1 (DESIGN section 7, docs/format.md).

The order is the protocol. Intent -> condemned lists -> blobs -> leaf lists -> manifest -> ref -> intent still there? ->
intent removed. Whoever dies before the ref leaves garbage, never a lie; whoever runs again uploads nothing twice. Each step
but the create-only ref needs no more than atomic single-key writes and a consistent listing, and even the ref is
safe on a store that ignores create-only: two writers of one snapshot write the same manifest.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import IntentRecord, RefRecord
from ci_modelcache.errors import (
    AlreadyExists,
    ManifestInvalid,
    ObjectNotFound,
    SnapshotConflict,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.model.document import to_json
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
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


def new_ulid(seconds: float, randomness: bytes) -> str:
    """A ULID: 48 bits of milliseconds since the epoch, 80 bits of *randomness*, 26 characters that sort by time."""
    value = int(seconds * 1000) << 80 | int.from_bytes(randomness[:10])
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -5, -5))


class Publication:
    """
    One writer on its way from intent to ref; a context manager that removes its intent at the end.

    Every digest is announced before anything is found out about it: a collection that starts later then
    sees it, and one that started earlier has published what it condemned. Methods may be called from any thread.
    """

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._write_id = cache.random(16).hex()
        self._intent = keys.intent(self._new_ulid())
        self._announced: set[Digest] = set()
        self._condemned: frozenset[str] = frozenset()
        self._renewed = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._cache.check_format()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._announced:
            return
        try:
            self._cache.store.delete(self._intent)
        except Unavailable:
            # A left-over intent protects garbage until it expires: harmless, and no reason to hide *error*.
            if kind is None:
                raise

    def announce(self, digests: Iterable[Digest]) -> None:
        """Say that this writer relies on *digests*, and learn which names are condemned; before anything else."""
        with self._lock:
            self._announced |= set(digests)
            self._put_intent()
            self._condemned = self._cache.condemned()

    def _put_intent(self) -> None:
        record = IntentRecord(tuple(sorted(self._announced)), self._write_id)
        self._cache.put_document(self._intent, to_json(record))
        self._renewed = self._cache.now()

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a copy that will stay is stored, of the right *size*."""
        self._heartbeat(digest)
        return self._has(keys.blob(digest), size)

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
        Store *chunks* as the blob *digest*, unless they are not what was *expected*: then nothing becomes visible.

        *what* names the file in errors; *into* collects its fingerprint on the way.
        """
        self._heartbeat(digest)
        proven = verified(chunks, expected, what, into=into)
        self._cache.store.write(self._writable(keys.blob(digest)), proven, size=expected.size)

    def commit(self, manifest: Manifest, leaf_lists: Iterable[bytes], *, provenance: Mapping[str, str]) -> None:
        """
        Write leaf lists, manifest and, last, the ref of a snapshot whose blobs are all stored.

        Raises `SnapshotConflict` when the store has another manifest of the same snapshot, and `Unavailable` when a
        collection removed what this writer relied on because it took days.
        """
        documents = {keys.leaves(Digest.of(leaves)): leaves for leaves in leaf_lists}
        documents[keys.manifest(manifest.digest)] = manifest.to_json()
        self.announce(Digest.of(data) for data in documents.values())
        for key, data in documents.items():
            if not self._has_document(key, data):
                self._cache.put_document(self._writable(key), data)
        self._put_ref(manifest, provenance)
        self._check_intent(manifest, documents)

    def _put_ref(self, manifest: Manifest, provenance: Mapping[str, str]) -> None:
        record = RefRecord(manifest.digest, self._write_id, dict(provenance))
        try:
            self._cache.put_document(keys.ref(manifest.id), to_json(record), create_only=True)
        except AlreadyExists:
            # Either another writer was faster, or our own write landed and its answer was lost.
            try:
                standing = self._cache.ref(manifest.id)
            except ManifestInvalid:
                # What stands there is no ref, so nobody can rely on it: replacing it is repair.
                self._cache.put_document(keys.ref(manifest.id), to_json(record))
                return
            if standing.manifest != manifest.digest:
                msg = f"{self._cache.url} holds {manifest.id} as manifest {standing.manifest}, not as {manifest.digest}"
                raise SnapshotConflict(
                    msg, hint="one of the two was made from wrong bytes; ci-modelcache verify tells which"
                ) from None

    def _check_intent(self, manifest: Manifest, documents: Mapping[str, bytes]) -> None:
        try:
            self._cache.store.stat(self._intent)
        except ObjectNotFound:
            self.announce(())
            blobs = {keys.blob(file.sha256): file.size for file in manifest.files}
            lost = [key for key, size in blobs.items() if not self._has(key, size)]
            lost += [key for key, data in documents.items() if not self._has_document(key, data)]
            if lost:
                msg = f"{self._cache.url} was collected while this was written: {len(lost)} objects are gone"
                raise Unavailable(msg, hint="run it again: what is still there is not uploaded twice") from None

    def _heartbeat(self, digest: Digest) -> None:
        with self._lock:
            if digest not in self._announced:
                msg = f"{digest} is used before it was announced"
                raise ValueError(msg)
            if self._cache.now() - self._renewed > HEARTBEAT:
                self._put_intent()

    def _has(self, canonical: str, size: int) -> bool:
        return any(actual == size and key not in self._condemned for key, actual in self._cache.copies(canonical))

    def _has_document(self, canonical: str, data: bytes) -> bool:
        copies = self._cache.copies(canonical)
        return any(key not in self._condemned and self._cache.document(key) == data for key, _ in copies)

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

    Ref, then condemned lists, then every blob, in that order: any other accepts what a collection is removing.
    """
    manifest = cache.manifest(snapshot)
    condemned = cache.condemned()

    def check(item: tuple[Digest, int]) -> None:
        digest, size = item
        wanted = keys.blob(digest)
        if not any(actual == size and key not in condemned for key, actual in cache.copies(wanted)):
            msg = f"{cache.url} holds {snapshot} without its blob {digest}"
            raise SnapshotNotFound(msg)

    sizes = {file.sha256: file.size for file in manifest.files}
    for_each(sizes.items(), check, workers=_CHECKS, deadline=cache.retry.deadline, doing=f"checking {snapshot}")
    return manifest
