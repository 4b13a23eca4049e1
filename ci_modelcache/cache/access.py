"""The only module that notes, in a store, on which days a snapshot was restored (docs/format.md, Access)."""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.errors import (
    AccessDenied,
    AlreadyExists,
    BucketMissing,
    DeadlineExceeded,
    IntegrityError,
    NoSpace,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId

_REMOVALS = 16
"""Markers that are removed at a time: each is one small request."""

_NOT_NOTED = (AccessDenied, BucketMissing, DeadlineExceeded, IntegrityError, NoSpace, StoreUnsupported, Unavailable)
"""Of these a deadline that has passed ends whatever comes next."""

_log = logging.getLogger(__name__)


def touch(cache: ModelCache, snapshot: SnapshotId) -> None:
    """
    Note that *snapshot* is being restored today; once a day, and as well as it goes.

    To be begun before the first blob is read: who decides meanwhile what has not been used for long sees it. That it
    could not be noted is no failure of a restore.
    """
    day = dt.datetime.fromtimestamp(cache.now(), dt.UTC).strftime("%Y-%m-%d")
    try:
        # Create-only: a store that keeps old versions would keep one more for every restore.
        cache.put_document(keys.access(snapshot, day), b"", create_only=True)
    except AlreadyExists as error:
        _log.debug("noted before: %s", error)
    except _NOT_NOTED as error:
        _log.debug("it is not noted that %s was used: %s", snapshot, error)


def accessed(cache: ModelCache, snapshots: Iterable[SnapshotId]) -> dict[SnapshotId, float]:
    """
    When those of *snapshots* that somebody has noted were restored last: the day's first restore, in seconds since the epoch.

    By the store's clock, for the days that markers are named by are those of any machine. It may have been used
    again within a day after. Who restores a part may do so from the whole: that counts as a use of both.
    """
    cache.check_format()
    parts: dict[str, float] = {}
    wholes: dict[str, float] = {}
    for info in cache.store.scan(keys.ACCESS):
        for last, of in ((parts, _of(info.key)), (wholes, _commit(_of(info.key)))):
            last[of] = max(last.get(of, info.modified), info.modified)
    found: dict[SnapshotId, float] = {}
    for one in snapshots:
        of = keys.accesses(one)
        last, of = (wholes, _commit(of)) if one.selection == ALL else (parts, of)
        if of in last:
            found[one] = last[of]
    return found


def tidy(cache: ModelCache, snapshots: Iterable[SnapshotId], *, before: float) -> int:
    """
    Remove markers older than *before* (seconds since the epoch, the store's clock) that say nothing, and return how many.

    Those are all but the last one of a snapshot, and all where none of *snapshots* has the commit.
    """
    cache.check_format()
    living = {_commit(keys.accesses(one)) for one in snapshots}
    markers: dict[str, list[tuple[float, str]]] = {}
    for info in cache.store.scan(keys.ACCESS):
        markers.setdefault(_of(info.key), []).append((info.modified, info.key))
    for of, found in markers.items():
        if _commit(of) in living:
            found.remove(max(found))
    old = [key for found in markers.values() for modified, key in found if modified < before]
    doing = f"removing old notes of {cache.url}"
    for_each(old, cache.store.delete, workers=_REMOVALS, deadline=cache.retry.deadline, doing=doing)
    return len(old)


def _of(key: str) -> str:
    """The prefix of all markers of the snapshot that the marker *key* is of."""
    return key.rpartition("/")[0] + "/"


def _commit(of: str) -> str:
    """The prefix of all markers of the same commit, whole or in part; *of*: that of a snapshot."""
    return of.rstrip("/").rpartition("/")[0] + "/"
