"""
The only module that collects garbage: it deletes blobs, leaf lists and manifests that nobody names (DESIGN section 7, docs/format.md).

A collection announces what it found, and one that comes after the grace deletes it. No age and no clock makes that safe, but this order:
it publishes what it is going to delete, then reads who needs what, and deletes what nobody does; and a writer says what it
needs, then reads what is condemned. Whichever of the two is second sees the other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.condemning import announce_names, close, condemned_lists, doom_names, forget_lists, withdraw
from ci_modelcache.cache.named import Named, expire_intents, named
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import CollectionRefused, ModelCacheError, ObjectNotFound, Unavailable
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ci_modelcache.cache.condemning import CondemnedList
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.stores.protocol import ObjectInfo
    from ci_modelcache.transfer.deadline import Deadline

_DAY = 86400.0
_DELETES = 16
"""Objects that are deleted at a time: each is one small request."""
_MOST = 200_000
"""Names on one list, which is a document: what is more waits for the next collection."""

_log = logging.getLogger(__name__)


@frozen
class CollectOptions:
    """
    How a collection goes, times in seconds by the store's clock.

    What was announced less than *grace* ago is not deleted yet, and what is younger than *min_age* not announced. A writer that is
    silent for *intent_age* is dead. Deleted names are not used again for *quarantine*. The rest are brakes: refused is to announce or
    to delete more than *max_share* of all bytes, to collect where there is no ref (unless *may_be_empty*), or
    in a store whose marker has another id than *expected_id* (None: any).
    """

    grace: float = _DAY
    min_age: float = _DAY
    intent_age: float = 3 * _DAY
    quarantine: float = 7 * _DAY
    max_share: float = 0.20
    may_be_empty: bool = False
    expected_id: str | None = None


@frozen
class Amount:
    """So many objects, of so many bytes together."""

    objects: int = 0
    bytes: int = 0


@frozen
class Survey:
    """
    What there is of blobs, leaf lists and manifests: *named* by anybody, or *unnamed*.

    Of the latter, *young* ones are too young for a collection, *condemned* ones have been announced or doomed by some collection already, and
    *fresh* ones are what the next collection announces. *unknown* objects lie among them, and are none that this version knows.
    """

    total: Amount
    named: Amount
    unnamed: Amount
    young: Amount
    condemned: Amount
    fresh: Amount
    unknown: Amount
    refs: int


@frozen
class Collected:
    """
    What the collection *run* did.

    *deleted*: what was announced before and is gone now. *spared*: what was announced and is needed again. *announced*: what this one announces,
    to be deleted by one that comes after the grace. *waiting*: what others announced, or are deleting. *expired*: intents of dead writers that
    were removed. *forgotten*: runs whose quarantine was over. *survey*: what was there before.
    """

    run: str
    deleted: Amount
    spared: Amount
    announced: Amount
    waiting: Amount
    expired: int
    forgotten: int
    survey: Survey


def store_time(cache: ModelCache) -> float:
    """The store's clock now, in seconds since the epoch: the age of an object that is written for that, and removed."""
    key = f"{keys.PROBES}{cache.random(16).hex()}"
    cache.check_writable()
    cache.retry.call(lambda: cache.store.write(key, [b"."], size=1), doing=f"writing {cache.url}/{key}")
    try:
        return cache.store.stat(key).modified
    except ObjectNotFound as error:
        msg = f"{cache.url} does not show {key}, which was just written"
        raise Unavailable(msg, hint="a store that lists and shows late must not be collected") from error
    finally:
        cache.store.delete(key)


def survey(
    cache: ModelCache,
    *,
    options: CollectOptions,
    deadline: Deadline,
    without: frozenset[SnapshotId] = frozenset(),
) -> Survey:
    """
    What a collection would find now, had the snapshots *without* been dropped and forgotten; nothing is written.

    *options* say what is young, measured by the clock of this machine. Raises what cannot be read of refs, pins and manifests.
    """
    cache = cache.alone
    cache.check_format()
    objects = _objects(cache)
    lists = condemned_lists(cache)
    alive = named(cache, deadline=deadline, without=without)
    return _Finding(objects, lists, alive, old=cache.now() - options.min_age).survey


def collect(cache: ModelCache, *, options: CollectOptions, deadline: Deadline) -> Collected:
    """
    Delete what earlier collections announced and nobody needs, then announce what nobody names now.

    Raises `CollectionRefused` before anything is deleted when a brake holds, `IntegrityError` when it cannot be read what is to stay, and
    `Unavailable` when the store fails on the way: the next collection goes on from there.
    """
    return _Collection(cache, options, deadline).run()


def require_marker(cache: ModelCache, options: CollectOptions) -> None:
    """Raise `CollectionRefused` unless *cache* is the store that *options* expect."""
    if options.expected_id is None:
        return
    try:
        actual = cache.marker().id
    except ObjectNotFound:
        actual = "none"
    if actual != options.expected_id:
        msg = f"{cache.url} should have the id {options.expected_id} and has {actual}"
        raise CollectionRefused(
            msg, hint="this is another store than the one that was meant, or one that was made anew"
        )


class _Collection:
    """One run of `collect`."""

    def __init__(self, cache: ModelCache, options: CollectOptions, deadline: Deadline) -> None:
        self._cache = cache.alone
        self._options = options
        self._deadline = deadline
        self._name = new_ulid(cache.now(), cache.random(10))

    def run(self) -> Collected:
        require_marker(self._cache, self._options)
        # What was seen or doomed too long ago may be usable again: nothing is deleted by then.
        self._deadline = self._deadline.ending(self._options.quarantine / 2, "half of the quarantine")
        now = store_time(self._cache)
        expired = expire_intents(self._cache, before=now - self._options.intent_age)
        forgotten = forget_lists(self._cache, before=now - self._options.quarantine)
        objects = _objects(self._cache)
        lists = condemned_lists(self._cache)
        due = [each for each in lists if each.closed is None and now - each.published >= self._options.grace]
        doomed = _first(objects.keys() & _union(due))
        if doomed:
            doom_names(self._cache, self._name, doomed)
        try:
            # After `objects` and after the list, and intents before refs: docs/format.md.
            alive = named(self._cache, deadline=self._deadline)
            found = _Finding(objects, lists, alive, old=now - self._options.min_age)
            deleted, announced = doomed & found.unnamed, _first(found.fresh)
            self._brake(found, deleted, announced)
        except BaseException:
            if doomed:
                self._withdraw()
            raise
        self._delete(doomed, deleted)
        for each in due:
            if not each.is_doomed:
                withdraw(self._cache, each.key)
        if announced:
            announce_names(self._cache, self._name, announced)
        return Collected(
            run=self._name,
            deleted=found.amount(deleted),
            spared=found.amount(doomed - deleted),
            announced=found.amount(announced),
            waiting=found.amount(found.condemned - deleted),
            expired=expired,
            forgotten=forgotten,
            survey=found.survey,
        )

    def _brake(self, found: _Finding, deleted: frozenset[str], announced: frozenset[str]) -> None:
        survey = found.survey
        if survey.total.objects and not survey.refs and not self._options.may_be_empty:
            msg = f"{self._cache.url} holds {survey.total.objects} objects and no ref at all"
            raise CollectionRefused(
                msg, hint="look whether this is the store that was meant; if so, say that it may be empty"
            )
        for names, what in ((deleted, "delete"), (announced, "announce")):
            share = found.amount(names).bytes / max(1, survey.total.bytes)
            if share > self._options.max_share:
                msg = (
                    f"{self._cache.url}: expected to {what} at most {self._options.max_share:.0%} of {survey.total.bytes} bytes, "
                    f"and it would be {found.amount(names).bytes} ({share:.1%})"
                )
                raise CollectionRefused(
                    msg, hint="look at what would go with a dry run; if it is right, allow a larger share"
                )

    def _withdraw(self) -> None:
        """Nothing was deleted by our list, so it need not stand; where it stays, its names are not used for a while."""
        try:
            withdraw(self._cache, keys.doomed(self._name))
        except ModelCacheError as obstacle:
            _log.warning("the list %s stays in %s: %s", keys.doomed(self._name), self._cache.url, obstacle)

    def _delete(self, doomed: frozenset[str], deleted: frozenset[str]) -> None:
        if not doomed:
            return
        doing = f"deleting {len(deleted)} objects of {self._cache.url}"

        def delete(key: str) -> None:
            self._deadline.check(doing)
            self._cache.retry.call(lambda: self._cache.store.delete(key), doing=f"deleting {self._cache.url}/{key}")

        for_each(sorted(deleted), delete, workers=_DELETES, deadline=self._deadline, doing=doing)
        close(self._cache, self._name, deleted=deleted, spared=doomed - deleted)


class _Finding:
    """What is in a store: *objects*, the *lists* that condemn some, and who is *alive*; young is what is not older than *old*."""

    def __init__(
        self, objects: Mapping[str, ObjectInfo], lists: Iterable[CondemnedList], alive: Named, *, old: float
    ) -> None:
        self._objects = objects
        self._alive = alive
        self._digests = {key: digest for key in objects if (digest := keys.collectable(key))}
        self.unnamed = {key for key, digest in self._digests.items() if digest not in alive.digests}
        self.condemned = self.unnamed & _union(lists)
        self.young = {key for key in self.unnamed - self.condemned if objects[key].modified > old}
        self.fresh = self.unnamed - self.condemned - self.young

    def amount(self, names: Iterable[str]) -> Amount:
        sizes = [self._objects[name].size for name in names]
        return Amount(len(sizes), sum(sizes))

    @property
    def survey(self) -> Survey:
        return Survey(
            total=self.amount(self._digests),
            named=self.amount(self._digests.keys() - self.unnamed),
            unnamed=self.amount(self.unnamed),
            young=self.amount(self.young),
            condemned=self.amount(self.condemned),
            fresh=self.amount(self.fresh),
            unknown=self.amount(self._objects.keys() - self._digests),
            refs=self._alive.refs,
        )


def _union(lists: Iterable[CondemnedList]) -> frozenset[str]:
    return frozenset[str]().union(*(each.names for each in lists))


def _first(names: Iterable[str]) -> frozenset[str]:
    return frozenset(sorted(names)[:_MOST])


def _objects(cache: ModelCache) -> dict[str, ObjectInfo]:
    return {info.key: info for prefix in keys.COLLECTED for info in cache.store.scan(prefix)}
