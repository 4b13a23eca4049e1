"""Small snapshots in stores: a clock and a randomness that repeat, and a writer that does just what the protocol says."""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from typing import TYPE_CHECKING

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import ObjectNotFound
from ci_modelcache.model.digest import Digest, Fingerprinter
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.snapshots import CONTENTS, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.stores.protocol import Store

NOW = 1_790_000_000.0
MANIFEST = manifest_of()
SNAPSHOT = MANIFEST.id
BLOBS = {Digest.of(data): data for data in CONTENTS.values()}


def repeating_random(seed: bytes = b"") -> Callable[[int], bytes]:
    """Random bytes that never come twice and are the same in every run."""
    numbers = itertools.count()
    return lambda count: hashlib.shake_256(b"%s %d" % (seed, next(numbers))).digest(count)


def cache_in(
    store: Store, *, seed: bytes = b"", now: Callable[[], float] = lambda: NOW, attempts: int = 3
) -> ModelCache:
    """A `ModelCache` that never sleeps and that does the same in every run."""
    retry = RetryPolicy(attempts=attempts, sleep=lambda _: None)
    return ModelCache(store, retry=retry, now=now, random=repeating_random(seed))


def publish(
    cache: ModelCache,
    manifest: Manifest = MANIFEST,
    contents: Mapping[str, bytes] = CONTENTS,
    *,
    source: str = "https://huggingface.co",
) -> None:
    """Store the snapshot of *manifest*, one file after another, in the order of their digests."""
    with Publication(cache) as publication:
        files = {file.sha256: file for file in manifest.files}
        publication.announce(files)
        publication.look(files)
        leaf_lists = []
        for digest, file in sorted(files.items()):
            data = contents[file.path]
            if not publication.has_blob(digest, file.size):
                pieces = [data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20)]
                publication.put_blob(file.expected, digest, pieces, what=file.path)
            if file.leaves is not None:
                leaf_lists.append(leaf_list(data))
        publication.commit(manifest, leaf_lists, provenance={"source": source})


def leaf_list(data: bytes) -> bytes:
    """The leaf list of *data*, which is larger than one leaf."""
    hasher = Fingerprinter(len(data), git=False)
    hasher.update(data)
    found = hasher.finish().leaf_list
    assert found is not None
    return found


def require_restorable(cache: ModelCache, manifest: Manifest = MANIFEST) -> None:
    """Read the snapshot in full, from whatever copies there are; every byte must be right."""
    stored = cache.manifest(manifest.id)
    assert stored == manifest
    for file in stored.files:
        assert file.sha256 in {digest_of(cache, copy_key) for copy_key in blob_keys(cache, file.sha256, file.size)}
        if file.leaves is not None:
            assert Digest.of(cache.leaf_list(file.leaves)) == file.leaves


def read_snapshot(cache: ModelCache, snapshot: SnapshotId) -> None:
    """Read it as a reader does beside whom others delete; raises `NotFound` for what is lost, and `AssertionError` for wrong bytes."""
    for file in cache.manifest(snapshot).files:
        if file.leaves is not None:
            cache.leaf_list(file.leaves)
        for copy in cache.blob_copies(file.sha256, file.size):
            with suppress(ObjectNotFound), copy.open(0) as chunks:
                assert Digest.of(b"".join(chunks)) == file.sha256, f"{copy} holds other bytes"
                break
        else:
            raise ObjectNotFound(file.sha256.hex, cache.url)


def blob_keys(cache: ModelCache, digest: Digest, size: int) -> list[str]:
    """The keys of the copies that a reader would try."""
    return [str(copy).removeprefix(f"{cache.url}/") for copy in cache.blob_copies(digest, size)]


def digest_of(cache: ModelCache, key: str) -> Digest:
    """The digest of what lies at *key*."""
    with cache.store.read(key) as chunks:
        return Digest.of(b"".join(chunks))
