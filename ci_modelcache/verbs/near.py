"""The only module that brings a file from a tier, and gives a tier what came from farther away."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.tier import MODE, Tier
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    ObjectNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import Expected
from ci_modelcache.transfer.disk import require_space, same_disk
from ci_modelcache.transfer.place import Linking, Placed, place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.transfer.receipts import Receipts

_log = logging.getLogger(__name__)

_USELESS = (AccessDenied, ConfigError, NoSpace, Unavailable)
"""Why a tier may not serve, which costs time and never the job."""


@frozen
class Near:
    """
    The *tiers* to ask before the store, nearest first; *keeping*: whether they are given what they lacked.

    *linked*: files of the destination may be further names of blobs: its user writes into none of them in place, and they have a blob's time.
    """

    tiers: tuple[Tier, ...] = field(factory=tuple)
    linked: bool = False
    keeping: bool = True

    def bring(self, file: ListedFile, digest: Digest, layout: Layout, receipts: Receipts) -> Placed:
        """Put *file* at its place in *layout* from the first tier that has it right; raises `ObjectNotFound`."""
        for tier in self.tiers:
            blob = tier.path(digest)
            if not os.access(blob, os.R_OK):
                continue  # absent, or somebody else's: the store is asked either way
            try:
                return place(
                    blob,
                    layout.content(file),
                    expected=Expected(file.size, sha256=digest),
                    link=Linking.SAME_MODE if self._links(layout) else Linking.NEVER,
                    mode=layout.mode(file),
                    staging=layout.staging,
                    receipts=receipts,
                )
            except ObjectNotFound as miss:
                _log.debug("%s: %s", file.path, miss)
            except IntegrityError as failure:
                _log.warning("%s is passed over in the tier %s: %s", file.path, tier.root, failure)
        raise ObjectNotFound(digest.hex, ", ".join(str(tier.root) for tier in self.tiers) or "no tier")

    def keep(self, file: ListedFile, digest: Digest, layout: Layout, receipts: Receipts) -> None:
        """Give the bytes of *file*, which are proven and in place, to the tiers; what these cannot take is logged."""
        if not (self.keeping and self.tiers):
            return
        source = layout.content(file)
        link = self._links(layout) and layout.mode(file) == MODE
        for tier in self.tiers:
            try:
                tier.keep(source, Expected(file.size, sha256=digest), link=link, receipts=receipts)
            except (*_USELESS, IntegrityError, ObjectNotFound) as failure:
                _log.warning("%s is not kept in the tier %s: %s", file.path, tier.root, failure)

    def room(self, files: Iterable[ListedFile], layout: Layout) -> Near:
        """The same, but not keeping where the tiers would take the room that *files* need at *layout*; links need none."""
        need = sum(file.size for file in files)
        try:
            for tier in self.tiers:
                shared = same_disk(tier.root, layout.root)
                if not (shared and self._links(layout)):
                    require_space(tier.root, 2 * need if shared else need)
        except ModelCacheError as full:
            _log.warning("nothing is kept in the tier: %s", full)
            return evolve(self, keeping=False)
        return self

    def lacking(self, files: Iterable[ListedFile], layout: Layout) -> tuple[ListedFile, ...]:
        """Those of *files* that take room at *layout*: all that do not become further names of blobs."""
        return tuple(file for file in files if not self._is_linked(file, layout))

    def _is_linked(self, file: ListedFile, layout: Layout) -> bool:
        if file.sha256 is None or not self._links(layout) or layout.mode(file) != MODE:
            return False
        paths = (tier.path(file.sha256) for tier in self.tiers if same_disk(tier.root, layout.root))
        return any(path.is_file() and path.stat().st_size == file.size for path in paths)

    def _links(self, layout: Layout) -> bool:
        return self.linked or layout.linkable
