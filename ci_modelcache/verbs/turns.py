"""
The only module that lets one job at a time fetch a snapshot from upstream, and has the others wait for what it stores.

It saves bandwidth and protects nothing: whoever is in doubt fetches. A job waits for nobody who shows no sign of life, for no more
than two who gave up, and never past its deadline.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from ci_modelcache.cache.leases import Lease, Standing
from ci_modelcache.errors import IntegrityError, SnapshotNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.step import Step

T = TypeVar("T")

_log = logging.getLogger(__name__)

_GIVEN_UP = 2
"""So many others who fetched it and did not store it: if that is not to be had, or not to be stored, nobody is to wait in a long row for it."""


@contextmanager
def turn(
    snapshot: SnapshotId, look: Callable[[], T], *, cache: ModelCache, step: Step, saves: bool
) -> Iterator[tuple[T, ...]]:
    """
    Wait while another job fetches *snapshot*, and yield what *look* then finds in *cache*; nothing when it is for this job to fetch it.

    In that case no other job fetches it while the block runs, if this one *saves* what it fetches and the store takes its word; who only
    reads waits for those that save. *look* raises `SnapshotNotFound`, or `IntegrityError`, for as long as the store does not have it.
    Raises `DeadlineExceeded`.
    """
    lease = Lease(cache, snapshot, pace=step.pace)
    standing, found = _Queue(lease, look, snapshot, cache, step).wait(saves=saves)
    if standing is not Standing.OURS:
        yield found
        return
    with lease.kept():
        # Once more: between the last look and the lease another job may have ended.
        yield _found(look)


class _Queue(Generic[T]):
    """One job that waits for its turn."""

    def __init__(
        self, lease: Lease, look: Callable[[], T], snapshot: SnapshotId, cache: ModelCache, step: Step
    ) -> None:
        self._lease = lease
        self._look = look
        self._repo = snapshot.repo
        self._cache = cache
        self._step = step

    def wait(self, *, saves: bool) -> tuple[Standing, tuple[T, ...]]:
        """Whose the lease is in the end, and what came into the store meanwhile, or nothing."""
        waited, quiet, given_up, last = False, 0, 0, ""
        while True:
            standing = self._taken() if saves else self._standing()
            if standing is Standing.OURS:
                return standing, ()
            if standing is Standing.HELD:
                given_up += bool(last) and last != self._lease.holder
                quiet, last = 0, self._lease.holder
            else:
                given_up += bool(last) and standing is Standing.FREE
                quiet, last = quiet + 1, ""
            # Who has waited looks twice: of the others that wait, one takes over.
            if given_up >= _GIVEN_UP or quiet > waited:
                return standing, ()
            if not waited:
                _log.warning("another job is fetching %s; waiting for it", self._repo)
            waited = True
            self._pause()
            if found := _found(self._look):
                return standing, found

    def _standing(self) -> Standing:
        return self._lease.look(self._step.clock())

    def _taken(self) -> Standing:
        """Whose the lease is, after trying to take it if it is nobody's or a dead job's."""
        before = self._standing()
        if before in {Standing.OURS, Standing.HELD}:
            return before
        self._lease.take()
        if before is Standing.DEAD or not self._lease.is_atomic:
            # Others may have seen the same and written, too. The last one stays; nobody writes once this has passed.
            doing = f"seeing whether another job fetches {self._repo}"
            self._idle(self._lease.pace.settle, doing)
        return self._standing()

    def _pause(self) -> None:
        name = self._lease.holder[:8] or "unknown"
        doing = f"waiting for another job, {name}, that is fetching {self._repo} into {self._cache.url}"
        self._idle(self._lease.pace.poll, doing)

    def _idle(self, seconds: float, doing: str) -> None:
        self._step.retry.idle(seconds, doing=doing, told="another-job", source=self._cache.url)


def _found(look: Callable[[], T]) -> tuple[T, ...]:
    try:
        return (look(),)
    except (SnapshotNotFound, IntegrityError) as why:
        _log.debug("not there yet: %s", why)
        return ()
