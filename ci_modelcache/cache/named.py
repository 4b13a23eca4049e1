"""
The only module that says which digests of a store are named, so that a collection leaves every copy of them alone.

They are named by refs, pins, the trash and the intents of writers. What cannot be read raises: who deletes must know all that is to stay.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.census import entries
from ci_modelcache.cache.records import IntentRecord, PinRecord, RefRecord
from ci_modelcache.errors import IntegrityError, ManifestInvalid, ObjectNotFound
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.stores.protocol import ObjectInfo
    from ci_modelcache.transfer.deadline import Deadline

_READERS = 16
"""Documents that are read at a time: each is one small request."""
_KNOWN = (keys.REFS, keys.PINS, keys.TRASH)

_log = logging.getLogger(__name__)


@frozen
class Named:
    """The *digests*, in hex, that somebody relies on, and how many *refs* there are."""

    digests: frozenset[str]
    refs: int


def expire_intents(cache: ModelCache, *, before: float) -> int:
    """
    Remove the intents of writers that have not said since *before* that they live, and return how many there were.

    In seconds since the epoch, by the store's clock. Whoever lives nevertheless finds that out before it reports success.
    """
    old = [info.key for info in cache.store.scan(keys.INTENTS) if info.modified < before]
    for key in old:
        _log.info("removing the intent of a writer that is silent: %s/%s", cache.url, key)
        cache.store.delete(key)
    return len(old)


def named(cache: ModelCache, *, deadline: Deadline, without: frozenset[SnapshotId] = frozenset()) -> Named:
    """
    What is named now; *without* the refs and the trash of these snapshots.

    Intents are read before refs: a writer that is done has removed its intent after its ref was there.
    """
    cache.check_format()
    digests = _intended(cache, deadline)
    _require_known(cache)
    refs = entries(cache, keys.REFS, RefRecord)
    pins = entries(cache, keys.PINS, PinRecord)
    trash = entries(cache, keys.TRASH, RefRecord)
    wanted = {entry.record.manifest for entry in refs if entry.snapshot not in without}
    wanted.update(entry.record.manifest for entry in pins)
    dropped = {entry.record.manifest for entry in trash if entry.snapshot not in without} - wanted
    digests |= _reached(cache, wanted, deadline) | _reached(cache, dropped, deadline, may_lack=True)
    return Named(frozenset(digests), len(refs))


def _require_known(cache: ModelCache) -> None:
    for prefix in keys.ROOTS:
        for info in cache.store.scan(prefix):
            if not info.key.startswith(_KNOWN):
                msg = f"{cache.url}/{info.key} is nothing that this version knows, and may name what is to stay"
                raise ManifestInvalid(msg, hint="upgrade ci-modelcache, or remove it if it came there by mistake")


def _intended(cache: ModelCache, deadline: Deadline) -> set[str]:
    found: set[str] = set()
    lock = threading.Lock()

    def read(info: ObjectInfo) -> None:
        try:
            record = cache.record(info.key, IntentRecord)
        except ObjectNotFound as error:
            _log.debug("that writer is done: %s", error)
            return
        with lock:
            found.update(digest.hex for digest in record.digests)

    doing = f"reading intents of {cache.url}"
    for_each(cache.store.scan(keys.INTENTS), read, workers=_READERS, deadline=deadline, doing=doing)
    return found


def _reached(cache: ModelCache, manifests: Iterable[Digest], deadline: Deadline, *, may_lack: bool = False) -> set[str]:
    """The digests of *manifests* and of all that they name; with *may_lack* one that is not there names nothing but itself."""
    found: set[str] = set()
    lock = threading.Lock()

    def read(digest: Digest) -> None:
        own = {digest.hex}
        try:
            for file in cache.manifest_named(digest).files:
                own.update(each.hex for each in (file.sha256, file.leaves) if each is not None)
        except ObjectNotFound as error:
            if not may_lack:
                msg = f"{cache.url} holds a ref or a pin of the manifest {digest}, and not the manifest"
                raise ManifestInvalid(msg, hint=_LACKING) from error
            # Nothing can be brought back from there.
            _log.warning("%s holds something in its trash whose manifest %s is gone", cache.url, digest)
        except IntegrityError as error:
            error.hint = error.hint or _LACKING
            raise
        with lock:
            found.update(own)

    doing = f"reading manifests of {cache.url}"
    for_each(sorted(manifests), read, workers=_READERS, deadline=deadline, doing=doing)
    return found


_LACKING = (
    "nothing is deleted while it is not known what is to stay: ci-modelcache verify tells which snapshot that is, "
    "and ci-modelcache fetch stores it again"
)
