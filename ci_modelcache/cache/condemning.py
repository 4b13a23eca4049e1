"""
The only module that reads and writes which names collections have condemned (docs/format.md, Collecting).

There are two kinds of lists. An *announced* one (``gc/<run>/condemned.json``) lets nobody delete anything: it gives readers time, and
a later collection may take it away. A *doomed* one (``gc/<run>/doomed/condemned.json``) is what its run deletes itself, after it has
looked once more: only that run closes it, and nobody else takes it away before its quarantine is over, for a DELETE may land late.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import ClosedRecord, CondemnedRecord
from ci_modelcache.errors import ObjectNotFound
from ci_modelcache.model.document import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.stores.protocol import ObjectInfo

_log = logging.getLogger(__name__)


@frozen
class CondemnedList:
    """The *names* that the list *key* condemns, *published* (seconds since the epoch, the store's clock) by some run; *closed* when, or None."""

    key: str
    names: frozenset[str]
    published: float
    closed: float | None = None

    @property
    def ended(self) -> float:
        """When its run closed it, or published it if it never did."""
        return self.published if self.closed is None else self.closed

    @property
    def is_doomed(self) -> bool:
        """Whether the run that published it deletes what is on it, and nobody else may say that a name on it is usable again."""
        return keys.is_doomed(self.key)


def condemned_lists(cache: ModelCache) -> tuple[CondemnedList, ...]:
    """
    Every condemned list, without the names that its run spared; raises for one that cannot be read.

    One that vanishes while it is read was taken away because no delete of its names is to come by it.
    """
    cache.check_format()
    found = {info.key: info for info in cache.store.scan(keys.COLLECTIONS)}
    return tuple(
        each for key, info in found.items() if key.endswith(keys.CONDEMNED) for each in _list(cache, info, found)
    )


def _list(cache: ModelCache, info: ObjectInfo, found: dict[str, ObjectInfo]) -> Iterable[CondemnedList]:
    try:
        names = frozenset(cache.record(info.key, CondemnedRecord).keys)
    except ObjectNotFound as error:
        _log.debug("it was forgotten since it was listed: %s", error)
        return
    closing = found.get(keys.closed(info.key)) if keys.is_doomed(info.key) else None
    if closing is None:
        yield CondemnedList(info.key, names, info.modified)
        return
    try:
        spared = cache.record(closing.key, ClosedRecord).spared
    except ObjectNotFound as error:
        _log.debug("it was forgotten since it was listed: %s", error)
        spared = ()
    yield CondemnedList(info.key, names.difference(spared), info.modified, closing.modified)


def condemned_names(cache: ModelCache) -> frozenset[str]:
    """Every name that is not to be relied on nor written: it is on a list of a run that did not spare it."""
    return frozenset[str]().union(*(each.names for each in condemned_lists(cache)))


def announce_names(cache: ModelCache, run: str, names: Iterable[str]) -> None:
    """Tell that *names* are going to be deleted by a later collection, if nobody needs them until then."""
    _publish(cache, keys.condemned(run), names)


def doom_names(cache: ModelCache, run: str, names: Iterable[str]) -> None:
    """Tell that this *run* may delete *names* from now on."""
    _publish(cache, keys.doomed(run), names)


def close(cache: ModelCache, run: str, *, deleted: Iterable[str], spared: Iterable[str]) -> None:
    """Tell what became of what *run* had doomed: it was *deleted*, or *spared* and is usable again. Only for the run itself."""
    record = ClosedRecord(tuple(sorted(deleted)), tuple(sorted(spared)))
    data = to_json(record)
    key = keys.closed(keys.doomed(run))
    cache.retry.call(lambda: cache.put_document(key, data), doing=f"writing {cache.url}/{key}")


def withdraw(cache: ModelCache, list_key: str) -> None:
    """Take the list *list_key* away: no delete of a name on it is on its way, nor will be sent."""
    # In this order: a list without what became of it would count as one of a run that is still at work.
    cache.store.delete(list_key)
    cache.store.delete(keys.closed(list_key))


def forget_lists(cache: ModelCache, *, before: float) -> int:
    """
    Take away what was doomed and closed *before*, or doomed and never closed, and return how many lists that were.

    In seconds since the epoch, by the store's clock: no delete that was sent before is on its way any more.
    """
    old = [each for each in condemned_lists(cache) if each.is_doomed and each.ended < before]
    for each in old:
        withdraw(cache, each.key)
    found = {info.key for info in cache.store.scan(keys.COLLECTIONS)}
    for key in found:
        # What somebody who died in `withdraw` has left. A list is always there before that.
        if key.endswith(keys.CLOSED) and keys.list_of(key) not in found:
            cache.store.delete(key)
    return len(old)


def _publish(cache: ModelCache, key: str, names: Iterable[str]) -> None:
    # Sent again when it is not known whether it landed: it is the same list under a name of this run.
    data = to_json(CondemnedRecord(tuple(sorted(names))))
    cache.retry.call(lambda: cache.put_document(key, data), doing=f"writing {cache.url}/{key}")
