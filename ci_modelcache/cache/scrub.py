"""The only module that keeps how far the reading of samples has come, so that in time all of a store is read (docs/format.md, Scrub)."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import ScrubRecord
from ci_modelcache.errors import AccessDenied, ConfigError, IntegrityError, NoSpace, ObjectNotFound, Unavailable
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import MAX_DOCUMENT, from_json, to_json
from ci_modelcache.transfer.land import explaining_refusal, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache

FIRST = "0" * 64
"""Where a round begins."""
_UNWRITABLE = (AccessDenied, ConfigError, NoSpace, Unavailable)

_log = logging.getLogger(__name__)


class Cursor:
    """
    Where the next sample of *cache* begins: kept in the store if *shared*, so that every machine goes on from there.

    Where the store may not be written it is kept in *folder*. Of the two the one that has come farther counts. It is advice: who loses
    it reads something once more.
    """

    def __init__(self, cache: ModelCache, folder: Path, *, shared: bool) -> None:
        self._cache = cache
        self._shared = shared
        name = hashlib.sha256(cache.url.encode(errors="surrogatepass")).hexdigest()
        self._path = folder / f"{name[:32]}.json"

    def load(self) -> ScrubRecord:
        """The farthest that is known; the beginning of round 1 where nothing is."""
        records = [*self._stored(), *self._noted()]
        return max(records, key=lambda one: (one.number, one.following), default=ScrubRecord(FIRST, 1))

    def keep(self, record: ScrubRecord) -> None:
        """Let the next sample begin at *record*; that it cannot be kept is logged, and nothing else is lost by it."""
        data = to_json(record)
        if self._shared:
            try:
                self._cache.put_document(keys.SCRUBBED, data)
            except _UNWRITABLE as error:
                _log.info("how far this came is noted in %s, not in the store: %s", self._path.parent, error)
            else:
                return
        try:
            with explaining_refusal(self._path), replacing(self._path) as file:
                file.write(data)
        except _UNWRITABLE as error:
            _log.warning(
                "how far this came cannot be noted, so that the next sample begins where this one began: %s", error
            )

    def _stored(self) -> Iterator[ScrubRecord]:
        try:
            yield _checked(self._cache.record(keys.SCRUBBED, ScrubRecord))
        except ObjectNotFound as miss:
            _log.debug("%s", miss)
        except IntegrityError as error:
            _log.warning("it counts as if no sample had been read: %s", error)

    def _noted(self) -> Iterator[ScrubRecord]:
        try:
            if self._path.stat().st_size <= MAX_DOCUMENT:
                yield _checked(from_json(self._path.read_bytes(), ScrubRecord, str(self._path)))
        except FileNotFoundError as miss:
            _log.debug("%s", miss)
        except (OSError, IntegrityError) as error:
            _log.warning("it counts as if no sample had been noted here: %s", error)


def _checked(record: ScrubRecord) -> ScrubRecord:
    Digest(record.following)  # raises `ManifestInvalid` for what is none
    return record


def after(digest: Digest) -> str:
    """The digest that follows on *digest*, or empty when it is the last one."""
    number = int(digest.hex, 16) + 1
    return "" if number >> 256 else f"{number:064x}"
