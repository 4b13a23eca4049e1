"""
The only module that writes snapshots: the commit protocol of format 1 (DESIGN section 7, docs/format.md).

The order is the protocol. Intent -> condemned lists -> blobs -> leaf lists -> manifest -> ref -> intent still there? ->
intent removed. Whoever dies before the ref leaves garbage, never a lie; whoever runs again uploads nothing twice. Each step
but the create-only ref needs no more than atomic single-key writes and a consistent listing, and even the ref is
safe on a store that ignores create-only: two writers of one snapshot write the same manifest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.intents import Relying
from ci_modelcache.cache.presence import Copies, is_kept, listed
from ci_modelcache.cache.records import RefRecord
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AlreadyExists,
    IntegrityError,
    ObjectNotFound,
    SnapshotConflict,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected, verified
from ci_modelcache.model.document import to_json
from ci_modelcache.stores.protocol import OnDisk
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Fingerprint, Fingerprinter
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.transfer.packing import Packer

_CHECKS = 16
"""Existence checks at a time: each is one small request."""
_LEAF_LINE = 65
"""Bytes of one line of a leaf list: 64 hex digits and the end of the line."""

_log = logging.getLogger(__name__)


class Publication(Relying):
    """One writer on its way from intent to ref."""

    def __init__(self, cache: ModelCache) -> None:
        super().__init__(cache)
        self._stored: set[Digest] = set()
        self._listed: dict[str, Copies] = {}

    # --- blobs

    def look(self, digests: Collection[Digest]) -> None:
        """Find out about *digests*, all of which were announced, in as few requests as that takes: `has_blob` then asks for those only that a listing left open."""
        unannounced = set(digests) - self._announced
        if unannounced:
            msg = f"{min(unannounced)} is looked for before it was announced"
            raise ValueError(msg)
        found = listed(self._cache, map(keys.blob, digests))
        with self._lock:
            self._listed.update(found)

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
        packer: Packer | None = None,
    ) -> None:
        """
        Store *chunks* as the blob *digest*, unless they are not that or not what was *expected*: then nothing becomes visible.

        *what* names the file in errors; *into* collects its fingerprint on the way. *packer* in place of that of the cache.
        """
        self._heartbeat(digest)
        if expected.sha256 not in {None, digest}:
            msg = f"{what} is expected to be {expected.sha256} and stored as {digest}"
            raise ValueError(msg)
        # The name of the blob is proven too where only a git name was promised.
        proven = verified(chunks, evolve(expected, sha256=digest), what, into=into)
        self._write(digest, proven, expected.size, packer or self._cache.packer)
        self._stored.add(digest)

    def _write(self, digest: Digest, proven: Iterable[bytes], size: int, packer: Packer | None) -> None:
        if packer is None or not packer.may_pack(size) or self._stands(keys.blob(digest)):
            self._cache.store.write(self._writable(keys.blob(digest)), proven, size=size)
            return
        with packer.kept(proven, size) as kept:
            name = keys.packed(digest, size) if kept.packed else keys.blob(digest)
            _log.info("%s, of %d bytes, is stored in %d", digest, size, kept.size)
            self._cache.store.write(self._writable(name), kept.chunks, size=kept.size)

    def put_known(self, seen: Fingerprint, chunks: Iterable[bytes], *, what: str) -> None:
        """
        Store *chunks* as the blob of which an earlier reading has *seen* what it is; nothing becomes visible when they are not that any more.

        They are compared with the leaves of that reading as they are sent, and not hashed as a whole again. As `put_blob` otherwise.
        """
        if not seen.sums or self._cache.packer is not None:
            self.put_blob(Expected(seen.size, seen.sha256), seen.sha256, chunks, what=what)
            return
        self._heartbeat(seen.sha256)
        self._cache.store.write(self._writable(keys.blob(seen.sha256)), chunks, size=seen.size, sums=seen.sums)
        self._stored.add(seen.sha256)

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
        named = (keys.manifest(manifest.digest), manifest.to_json())
        self._require_complete(manifest, documents)
        self.announce(Digest.of(data) for data in (*documents.values(), named[1]))
        deadline, doing = self._cache.retry.deadline, f"writing what {manifest.id} consists of"
        for_each(documents.items(), self._put_document, workers=_CHECKS, deadline=deadline, doing=doing)
        self._put_document(named)
        self._put_ref(manifest, provenance)
        self._check_intents(manifest)

    def _put_document(self, document: tuple[str, bytes]) -> None:
        key, data = document
        if not self._has_document(key, data):
            self._cache.put_document(self._writable(key), data)

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

    def _stands(self, canonical: str) -> bool:
        """Whether something lies there that readers try first: it is replaced, for it may be what is wrong."""
        if canonical in self._condemned:
            return False
        try:
            self._cache.store.stat(canonical)
        except ObjectNotFound:
            return False
        return True

    def _has(self, canonical: str, size: int) -> bool:
        copies = None if self._lapsed else self._listed.get(canonical)
        return is_kept(self._cache.copies(canonical) if copies is None else copies, size, self._condemned)

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

    known = listed(cache, (keys.blob(file.sha256) for file in manifest.files))

    def check(item: tuple[str, int]) -> None:
        canonical, size = item
        copies = known.get(canonical)
        if not is_kept(cache.copies(canonical) if copies is None else copies, size, condemned):
            raise ObjectNotFound(canonical, cache.url)

    for_each(sizes.items(), check, workers=_CHECKS, deadline=cache.retry.deadline, doing=f"checking {manifest.id}")
