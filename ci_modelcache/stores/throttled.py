"""The only module that slows a store down."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.stores.protocol import OnDisk, Presigning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ci_modelcache.stores.protocol import ObjectInfo, SignedUrls, Store
    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.throttle import Throttle


def throttled(store: Store, throttle: Throttle, *, deadline: Deadline) -> Store:
    """*store*, whose bytes *throttle* counts with those of everything else; a folder of this machine is no network, and stays as it is."""
    if isinstance(store, OnDisk):
        return store
    if isinstance(store, Presigning):
        return _PresigningStore(store, store, throttle, deadline=deadline)
    return ThrottledStore(store, throttle, deadline=deadline)


class ThrottledStore:
    """
    Implements `Store` by *store*, paced by *throttle* in both directions.

    Reading and writing end with `DeadlineExceeded` when *deadline* passes in a pause; a write then leaves nothing behind.
    """

    def __init__(self, store: Store, throttle: Throttle, *, deadline: Deadline) -> None:
        self._store = store
        self._throttle = throttle
        self._deadline = deadline

    @property
    def url(self) -> str:
        return self._store.url

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        with self._store.read(key, start=start, stop=stop) as chunks:
            yield self._throttle.pace(chunks, self._deadline)

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        self._store.write(
            key, self._throttle.pace(chunks, self._deadline), size=size, create_only=create_only, sums=sums
        )

    def stat(self, key: str) -> ObjectInfo:
        return self._store.stat(key)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.scan(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)


class _PresigningStore(ThrottledStore):
    """The same of a store that is *presigning*, which moves no bytes."""

    def __init__(self, store: Store, presigning: Presigning, throttle: Throttle, *, deadline: Deadline) -> None:
        super().__init__(store, throttle, deadline=deadline)
        self._presigning = presigning

    def presign(self, keys: Iterable[str], *, seconds: int) -> SignedUrls:
        return self._presigning.presign(keys, seconds=seconds)
