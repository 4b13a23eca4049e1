"""
The only module that carries from one store to another what is said about snapshots: what branches and tags mean, and pins.

Each follows the snapshot that it is about: a head that leads to nothing would turn a miss of its branch into a miss of its commit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.pins import pin
from ci_modelcache.cache.records import HeadRecord, PinRecord
from ci_modelcache.errors import IntegrityError, ObjectNotFound
from ci_modelcache.model.document import to_json
from ci_modelcache.stores.protocol import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Collection

    from ci_modelcache.model.ref import RepoType, SnapshotId

_log = logging.getLogger(__name__)

_SETTLED = 2
"""Readings of a head after which it is believed to be as it was listed: stores tell times in whole seconds, and one may be written twice in
one of them, but not before and after a pause between two rounds."""


@frozen
class Heads:
    """The heads of *source* on their way to *destination*; over many rounds those that did not change are not read again."""

    source: ModelCache
    destination: ModelCache
    _read: dict[str, tuple[ObjectInfo, int]] = field(factory=dict)
    """How often each was read as it was listed then."""

    def forward(
        self, host: str, type: RepoType, repo: str, commits: Collection[str]
    ) -> tuple[str, ...]:  # the Hub's word
        """
        Have *destination* know which of *commits*, whose snapshots it has, the branches and tags of one repository mean; returns those that it learnt.

        A head only moves forward: of two the one observed later is right. One that nobody can read is logged, and replaced where it is
        the destination's.
        """
        learnt: list[str] = []
        for info in self.source.store.scan(keys.HEADS + keys.repository(host, type, repo)):
            before, times = self._read.get(info.key, (info, 0))
            times = times if before == info else 0
            if times >= _SETTLED:
                continue
            try:
                record = self.source.record(info.key, HeadRecord)
            except (IntegrityError, ObjectNotFound) as error:
                _log.warning("%s/%s cannot be read as a head: %s", self.source.url, info.key, error)
                continue
            if keys.head(host, type, repo, record.revision) != info.key:
                _log.warning("%s/%s tells of another revision: %r", self.source.url, info.key, record.revision)
            elif record.commit in commits:
                if not self._is_known(info.key, record):
                    self.destination.put_document(info.key, to_json(record))
                    learnt.append(record.revision)
                self._read[info.key] = info, times + 1
        return tuple(sorted(learnt))

    def _is_known(self, key: str, record: HeadRecord) -> bool:
        """Whether the destination has that head as *record* says, or by a later word."""
        try:
            standing = self.destination.record(key, HeadRecord)
        except ObjectNotFound:
            return False
        except IntegrityError as error:
            _log.warning("replacing %s/%s: %s", self.destination.url, key, error)
            return False
        return standing.observed_at >= record.observed_at


def carry_pin(source: ModelCache, destination: ModelCache, snapshot: SnapshotId) -> bool:
    """Pin *snapshot* in *destination*, which has it, if it is pinned in *source* and not there; returns whether that was done."""
    key = keys.pin(snapshot)
    try:
        record = source.record(key, PinRecord)
    except ObjectNotFound:
        return False
    try:
        destination.store.stat(key)
    except ObjectNotFound:
        pin(destination, snapshot, reason=record.reason)
        return True
    return False
