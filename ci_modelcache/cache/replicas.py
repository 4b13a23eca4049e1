"""
The only module that reads on where a store has nothing: in its replicas, which are stores that are only read.

A replica is filled by others, maybe by copying object after object: a ref may be there before its blobs. What it lacks is never taken for
damage. Nothing is written on the strength of what a replica has: writers look at the store `ModelCache.alone`.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.errors import (
    AccessDenied,
    BucketMissing,
    IntegrityError,
    ModelCacheError,
    NotFound,
    StoreUnsupported,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.cache.records import HeadRecord, RefRecord
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
    from ci_modelcache.stores.protocol import Store

T = TypeVar("T")

_log = logging.getLogger(__name__)

USELESS = (AccessDenied, BucketMissing, StoreUnsupported, Unavailable)
"""Why a replica may not serve, which costs time and never the job."""


class ReplicatedCache(ModelCache):
    """
    The snapshots of *cache*, and behind it those of *replicas*, in their order, for readers.

    There are four sorts of no, and after each the next one is asked:
    1. Nothing is there.
    2. What is there is wrong: said in the log.
    3. The store is unavailable, after all its retries: it is not asked again by this object, as each question would take as long.
    4. A replica may not be read, does not exist or has another format, too: as 3. The store's own refusal is raised, for
       somebody meant it to be read.

    When nobody has it, what the store said is raised; a replica's failure never is.
    """

    def __init__(self, cache: ModelCache, replicas: Iterable[ModelCache]) -> None:
        super().__init__(cache.store, retry=cache.retry, now=cache.now, random=cache.random)
        self.alone = cache
        self._all = (cache, *replicas)
        self._down: dict[int, ModelCacheError] = {}
        """Why which of them is not asked again."""

    @property
    def is_asked(self) -> bool:
        return 0 not in self._down

    # --- what readers ask

    def head(self, host: str, ref: ModelRef) -> HeadRecord:
        return self._first(lambda cache: cache.head(host, ref))

    def manifest(self, snapshot: SnapshotId) -> Manifest:
        return self._first(lambda cache: cache.manifest(snapshot))

    def ref(self, snapshot: SnapshotId) -> RefRecord:
        return self._first(lambda cache: cache.ref(snapshot))

    def leaf_list(self, digest: Digest) -> bytes:
        return self._first(lambda cache: cache.leaf_list(digest))

    def snapshots_of(self, host: str, type: RepoType, repo: str) -> Iterator[SnapshotId]:  # the Hub's word
        seen: set[SnapshotId] = set()
        for snapshot in self._every(lambda cache: cache.snapshots_of(host, type, repo)):
            if snapshot not in seen:
                seen.add(snapshot)
                yield snapshot

    def blob_copies(self, digest: Digest, size: int) -> Iterator[BlobCopy]:
        return self._every(lambda cache: cache.blob_copies(digest, size))

    def untried_copies(self, digest: Digest, size: int) -> Iterator[BlobCopy]:
        return self._every(lambda cache: cache.untried_copies(digest, size))

    def give_up(self, store: Store, error: ModelCacheError) -> None:
        """Ask *store* no more, a copy in which could not be read because of *error*; raises it when it is the store's own refusal."""
        for number, cache in enumerate(self._all):
            if cache.store is store:
                if number == 0 and not isinstance(error, Unavailable):
                    raise error
                self._pass_over(number, error)

    # --- whom they ask

    def _first(self, look: Callable[[ModelCache], T]) -> T:
        """What *look* finds in the first that has it."""
        said: list[ModelCacheError] = []
        for number in range(len(self._all)):
            with self._passing_over(number, said):
                return look(self._standing(number))
        raise said[0]

    def _every(self, look: Callable[[ModelCache], Iterable[T]]) -> Iterator[T]:
        """All that *look* finds in each of them, which is not asked before it is needed."""
        said: list[ModelCacheError] = []
        found = False
        for number in range(len(self._all)):
            with self._passing_over(number, said):
                for each in look(self._standing(number)):
                    found = True
                    yield each
                    self._standing(number)
        if said and not found:
            raise said[0]

    @contextmanager
    def _passing_over(self, number: int, said: list[ModelCacheError]) -> Iterator[None]:
        """Go on after a block in which number *number* was asked and failed; what the store itself *said* is kept."""
        own = number == 0
        try:
            yield
        except NotFound as miss:
            failure: ModelCacheError = miss
        except IntegrityError as wrong:
            _log.warning("%s is not believed: %s", self._all[number].url, wrong)
            failure = wrong
        except USELESS as error:
            if own and not isinstance(error, Unavailable):
                raise
            self._pass_over(number, error)
            failure = error
        else:
            return
        if own:
            said.append(failure)

    def _standing(self, number: int) -> ModelCache:
        """Number *number*; raises why it is not asked any more."""
        if number in self._down:
            raise copy(self._down[number])
        return self._all[number]

    def _pass_over(self, number: int, error: ModelCacheError) -> None:
        if number not in self._down:
            what = "the store" if number == 0 else "the replica"
            _log.warning("%s %s is not asked any more: %s", what, self._all[number].url, error)
            self._down[number] = error
