"""The only module that says what a writer relies on, before it finds out anything about that (DESIGN section 7, docs/format.md)."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import IntentRecord
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import AccessDenied, ModelCacheError, StoreUnsupported
from ci_modelcache.model.document import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest

HEARTBEAT = 600.0
"""Seconds after which a long write says again that it lives; a collection forgets intents after days."""

_log = logging.getLogger(__name__)


class Relying:
    """
    One writer and its intents; a context manager that removes them at the end.

    Every digest is announced before anything is found out about it: a collection that starts later then
    sees it, and one that started earlier has published what it condemned. Methods may be called from any thread.
    """

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache.alone
        self._write_id = cache.random(16).hex()
        self._ulid = new_ulid(cache.now(), cache.random(10))
        self._intents: list[str] = []
        self._needed: list[str] = []
        self._announced: set[Digest] = set()
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
            self._cache.put_document(key, to_json(IntentRecord(tuple(sorted(digests, key=str)), self._write_id)))
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
