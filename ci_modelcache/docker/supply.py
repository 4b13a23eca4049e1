"""The only module that finds the models for a streamed context: those that the store lacks are fetched into it first, where that is allowed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.cache.tier import Tier
from ci_modelcache.errors import IntegrityError, NotFound
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.fetch import FetchReport, fetch
from ci_modelcache.verbs.resolve import resolve
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.stored import stored_manifest

if TYPE_CHECKING:
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.protocol import Upstream

_log = logging.getLogger(__name__)


@frozen
class Supplied:
    """A model all of whose blobs are in the tiers or the store; *fetched* tells of what had to be done for that."""

    ref: ModelRef
    manifest: Manifest
    fetched: tuple[FetchReport, ...] = ()


@frozen
class Supply:
    """Where models come from: *tiers*, then *cache*; *save*: what they lack is fetched into *cache*."""

    cache: ModelCache
    step: Step
    save: bool
    why_not_saved: str
    revision_ttl: float
    tiers: tuple[Tier, ...] = field(factory=tuple)

    def find(self, ref: ModelRef, selection: Selection, *, locks: tuple[Lock, ...], upstream: Upstream) -> Supplied:
        """
        The model that *ref* and *selection* mean, by the lock of *locks* or as restore takes it.

        Raises `SnapshotNotFound` or `ObjectNotFound` for what the store lacks when it may not be written, and then as `fetch` does.
        """
        try:
            manifest = self._manifest(ref, selection, locks, upstream)
            self._require(manifest)
        except (NotFound, IntegrityError) as miss:
            if not self.save:
                miss.hint = f"fill the store first: ci-modelcache fetch {ref}; this run may not write there: {self.why_not_saved}"
                raise
            _log.info("fetching %s, because %s", ref, miss)
        else:
            return Supplied(ref, manifest)
        report = fetch(ref, selection=selection, cache=self.cache, upstream=upstream, step=self.step, locks=locks)
        pinned = ref.at(report.commit)
        return Supplied(ref, self._manifest(pinned, selection, locks, upstream), (report,))

    def _manifest(self, ref: ModelRef, selection: Selection, locks: tuple[Lock, ...], upstream: Upstream) -> Manifest:
        for lock in locks:
            return lock.find(ref, selection).to_manifest()
        found = resolve(ref, cache=self.cache, upstream=upstream, revision_ttl=self.revision_ttl)
        snapshot = SnapshotId(upstream.host, ref.type, ref.repo, found.commit, selection.id)
        return stored_manifest(snapshot, ref, selection, cache=self.cache)

    def _require(self, manifest: Manifest) -> None:
        """Raise `ObjectNotFound` for a blob that neither the tiers nor the store has."""
        for_each(
            [ProvenBlob(file, self.cache, tiers=self.tiers) for file in manifest.files],
            ProvenBlob.find,
            workers=self.step.workers,
            deadline=self.step.deadline,
            doing="looking at what is stored",
        )
