"""The only module that decides whence one file of a restore comes: a tier, the copies in the store, or upstream."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache.replicas import USELESS, ReplicatedCache
from ci_modelcache.errors import AccessDenied, IntegrityError, NotDecodable, ObjectNotFound, Unavailable
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprint
from ci_modelcache.transfer.land import Landing
from ci_modelcache.transfer.place import Linking, place
from ci_modelcache.verbs.comparing import by_leaves
from ci_modelcache.verbs.deliver import DOWNLOAD, Delivery, from_elsewhere, from_upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.transfer.errand import Errand
from ci_modelcache.verbs.deliver import Route

_log = logging.getLogger(__name__)


def errand(
    file: ListedFile, route: Route, delivered: Callable[[Delivery], None], *, is_stored: bool
) -> Errand[BlobCopy]:
    """
    How to put the proven bytes of *file* at its place, which *delivered* is told of.

    *is_stored*: it is of a snapshot that the store has. A copy there that is missing or wrong is passed over for the next one, then for
    upstream, and then mended if the store may be written; which error is raised when upstream cannot help: see `instead_of`. Otherwise the
    store may lack it. Large files often stay the same from commit to commit: what the store has of another snapshot is taken from there.
    """
    return _Delivering(file, route, delivered, is_stored=is_stored)


class _Delivering:
    """An `Errand`."""

    def __init__(
        self, file: ListedFile, route: Route, delivered: Callable[[Delivery], None], *, is_stored: bool
    ) -> None:
        self.expected = file.expected
        self._file, self._route = file, route
        self._delivered = delivered
        self._is_stored = is_stored
        self._asks_store = file.sha256 is not None and (is_stored or not route.force)
        self._failure: ModelCacheError | None = None
        self._copies: Iterator[BlobCopy] = iter(())
        if file.sha256 is not None:
            self._copies = route.cache.untried_copies(file.sha256, file.size)

    @property
    def lists_leaves(self) -> bool:
        return self._route.leaves

    @property
    def trusts_leaves(self) -> bool:
        route = self._route
        # A tier serves others than this lock, and would have to hash the whole.
        return route.pinned and self._file.leaves is not None and not route.leaves and not route.near.tiers

    def start(self) -> bool:
        file, route = self._file, self._route
        if file.sha256 is not None and not route.force:
            try:
                placed = route.near.bring(file, file.sha256, route.layout, route.receipts)
            except ObjectNotFound as miss:
                _log.debug("%s", miss)
            else:
                route.step.progress.advance(file.size)
                seen = Fingerprint(file.size, file.sha256, None, None)
                self._delivered(Delivery(file.path, file.size, placed, seen, near=True))
                return True
        if not self._asks_store:
            self.lost(_unknown(file, route))
            return True
        return False

    def copy(self) -> BlobCopy | None:
        for copy in self._copies:
            try:
                for local in copy.files:
                    self._place(local, copy)
                    return None
            except (ObjectNotFound, IntegrityError) as error:
                self.passed_over(copy, error)
            else:
                return copy
        raise self._failure or _unknown(self._file, self._route)

    def passed_over(self, copy: BlobCopy, error: ModelCacheError) -> None:
        if not isinstance(error, (ObjectNotFound, IntegrityError)):
            if not isinstance(self._route.cache, ReplicatedCache) or not isinstance(error, USELESS):
                raise error
            self._route.cache.give_up(copy.store, error)
        # What was said first stays, for it is the store's own; but a miss says less than a lie.
        if self._failure is None or (
            isinstance(self._failure, ObjectNotFound) and isinstance(error, (IntegrityError, NotDecodable, Unavailable))
        ):
            self._failure = error

    def require_size(self, copy: BlobCopy) -> None:
        copy.require_size()

    def leaf_digests(self) -> Sequence[bytes]:
        file = self._file
        if file.leaves is None:
            return ()
        try:
            found = self._route.cache.leaf_list(file.leaves).decode("ascii", "replace").split()
            leaves = tuple(bytes.fromhex(Digest(leaf).hex) for leaf in found)
        except (ObjectNotFound, IntegrityError, AccessDenied) as error:
            _log.info("%s is proven as a whole: %s", file.path, error)
            return ()
        return leaves if len(leaves) == -(-file.size // LEAF_SIZE) else ()

    def landing(self) -> Landing:
        file, layout = self._file, self._route.layout
        mode, mtime = layout.mode(file), layout.normalize_mtime
        return Landing(layout.content(file), file.size, mode=mode, staging=layout.staging, mtime=mtime)

    def landed(self, target: Path, seen: Fingerprint, copy: BlobCopy, *, by_its_leaves: bool) -> None:
        file = self._file
        known = by_leaves(file).sha256 if by_its_leaves else seen.sha256
        assert known is not None  # noqa: S101  # narrows the type
        self._route.receipts.remember(target, known)
        self._tell(Delivery(file.path, file.size, DOWNLOAD, seen, received=file.size, replica=self._replica(copy)))

    def lost(self, failure: ModelCacheError) -> None:
        if self._is_stored or isinstance(failure, IntegrityError):
            self._tell(from_elsewhere(self._file, failure, self._route))
        else:
            _log.debug("%s: %s", self._file.path, failure)
            self._tell(from_upstream(self._file, self._route))

    def _place(self, local: Path, copy: BlobCopy) -> None:
        file, route = self._file, self._route
        placed = place(
            local,
            route.layout.content(file),
            expected=self.expected,
            link=Linking.READ_ONLY if route.layout.linkable else Linking.NEVER,
            mode=route.layout.mode(file),
            staging=route.layout.staging,
            receipts=route.receipts,
        )
        route.step.progress.advance(file.size)
        assert file.sha256 is not None  # noqa: S101  # narrows the type: it has a copy
        seen = Fingerprint(file.size, file.sha256, None, None)
        self._tell(Delivery(file.path, file.size, placed, seen, replica=self._replica(copy)))

    def _replica(self, copy: BlobCopy) -> str:
        return "" if copy.store is self._route.cache.store else copy.store.url

    def _tell(self, delivery: Delivery) -> None:
        """It has come from farther away than the tiers, which may keep it."""
        route = self._route
        route.near.keep(self._file, delivery.seen.sha256, route.layout, route.receipts)
        self._delivered(delivery)


def _unknown(file: ListedFile, route: Route) -> ObjectNotFound:
    return ObjectNotFound(f"of git name {file.git_oid}" if file.sha256 is None else file.sha256.hex, route.cache.url)
