"""
The only module that knows how a job tells the others, in a store, that it is fetching a snapshot (docs/format.md, Lease).

Leases are advice: what goes wrong with one is fetched twice, and nothing else. So no failure of a store is raised here: where a
lease cannot be read there is none, and where it cannot be written the job goes on without. Nobody compares clocks:
a lease that does not change while somebody looks at it is that of a dead job.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.pace import Pace
from ci_modelcache.cache.records import LeaseRecord
from ci_modelcache.errors import AlreadyExists, IntegrityError, ModelCacheError, ObjectNotFound
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.stores.protocol import OnDisk
from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId

_log = logging.getLogger(__name__)


class Standing(Enum):
    """Whose a lease is: nobody's, ours, that of another job at work, or that of one that is dead."""

    FREE = auto()
    OURS = auto()
    HELD = auto()
    DEAD = auto()


class Lease:
    """The lease of *snapshot*, as one job sees it. Not for several threads at a time, but for `kept`."""

    def __init__(self, cache: ModelCache, snapshot: SnapshotId, *, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._cache = cache
        self._key = keys.lease(snapshot)
        self._name = cache.random(16).hex()
        self._beat = 0
        self._seen: bytes | None = None
        self._since = 0.0

    @property
    def holder(self) -> str:
        """The name of who held the lease when it was last looked at, or empty."""
        if self._seen is None:
            return ""
        try:
            return from_json(self._seen, LeaseRecord, self._key).holder
        except IntegrityError as error:
            _log.debug("somebody's lease cannot be read: %s", error)
            return ""

    @property
    def is_atomic(self) -> bool:
        """Whether of several jobs that write a lease where there was none, just one finds its own there."""
        if isinstance(self._cache.store, OnDisk):
            return True
        try:
            return self._cache.marker().capabilities.get("create_only") == "atomic"
        except ModelCacheError as error:
            _log.debug("nobody has said what the store can do: %s", error)
            return False

    def look(self, now: float) -> Standing:
        """Whose the lease is at *now*, in seconds of a clock that never goes back."""
        try:
            content = self._cache.document(self._key)
        except ObjectNotFound:
            self._seen = None
            return Standing.FREE
        except ModelCacheError as error:
            _log.debug("going on as if there were no lease: %s", error)
            self._seen = None
            return Standing.FREE
        if content != self._seen:
            self._seen, self._since = content, now
        if self.holder == self._name:
            return Standing.OURS
        return Standing.DEAD if now - self._since >= self.pace.dead else Standing.HELD

    def take(self) -> None:
        """Write our name where nobody's was when we last looked, or that of a dead job; the next `look` says what came of it."""
        try:
            self._write(create_only=self._seen is None)
        except AlreadyExists as error:
            _log.debug("somebody was faster: %s", error)
        except ModelCacheError as error:
            _log.debug("going on without a lease: %s", error)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Say all the time that we live, as the holder, and remove the lease at the end; but never another's."""

        def beat() -> None:
            while not crew.stopping.wait(self.pace.beat) and self._is_renewed():
                continue

        crew = Crew(beat, deadline=self._cache.retry.deadline, changed=threading.Condition())
        try:
            with crew:
                crew.grow()
                yield
        finally:
            self._remove()

    def _write(self, *, create_only: bool) -> None:
        self._beat += 1
        self._cache.put_document(self._key, to_json(LeaseRecord(self._name, self._beat)), create_only=create_only)

    def _is_renewed(self) -> bool:
        """Whether the lease is still ours; one that cannot be renewed now may be the next time."""
        try:
            if self._holds(self._cache.document(self._key)):
                self._write(create_only=False)
                return True
            _log.debug("another job took the lease %s", self._key)
        except ObjectNotFound as error:
            _log.debug("somebody removed the lease: %s", error)
        except ModelCacheError as error:
            _log.debug("the lease was not renewed: %s", error)
            return True
        return False

    def _remove(self) -> None:
        store = self._cache.store
        try:
            # Read without the retries of the cache, which end with the deadline: also a job that came too late cleans up.
            with store.read(self._key) as chunks:
                content = b"".join(chunks)
            if self._holds(content):
                store.delete(self._key)
        except ModelCacheError as error:
            _log.debug("the lease stays until it counts as that of a dead job: %s", error)

    def _holds(self, content: bytes) -> bool:
        return from_json(content, LeaseRecord, self._key).holder == self._name
