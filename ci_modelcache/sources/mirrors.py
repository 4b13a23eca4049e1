"""An upstream made of one authority, which is believed, and several sources of bytes, which are not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.errors import Unavailable
from ci_modelcache.sources.course import Course
from ci_modelcache.sources.health import FAULTS
from ci_modelcache.sources.router import Router, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Authority, ByteSource, Meaning, RefName, Upstream
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.transfer.throttle import Throttle

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that an authority is waited for when somebody else may be believed."""

_log = logging.getLogger(__name__)


class Mirrors:
    """
    Implements `Upstream`: what a revision means comes from *authority*, bytes come from the sources of *router*.

    *trusted* are mirrors whose word counts when the authority is `Unavailable`; `believed` names the one that was taken. *throttles*
    are by URL of a source, that of all together under ``""``.
    """

    def __init__(
        self,
        authority: Authority,
        router: Router,
        *,
        retry: RetryPolicy,
        trusted: Sequence[Upstream] = (),
        throttles: Mapping[str, Throttle] | None = None,
    ) -> None:
        self._authority = authority
        self.router = router
        self._retry = retry
        self._trusted = trusted
        self._throttles = throttles or {}
        self.believed: str | None = None
        """The mirror that was believed in place of the authority, or None."""

    @classmethod
    def of(cls, upstream: Upstream, *, retry: RetryPolicy, connections: int) -> Mirrors:
        """*upstream*, if it is one already; else one that has *upstream* as its authority and its only source."""
        if isinstance(upstream, cls):
            return upstream
        return cls(upstream, Router([Source(upstream, 0)], connections=connections), retry=retry)

    def over(self, router: Router) -> Mirrors:
        """The same authority and limits, with the sources of *router* in place of its own."""
        return Mirrors(self._authority, router, retry=self._retry, trusted=self._trusted, throttles=self._throttles)

    @property
    def host(self) -> str:
        return self._authority.host

    @property
    def url(self) -> str:
        return ", ".join(source.url for source in self.router.sources)

    @property
    def sends_ranges(self) -> bool | None:
        return self._first.sends_ranges

    @property
    def _first(self) -> ByteSource:
        return min(self.router.sources, key=lambda source: source.priority).bytes

    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> Meaning:
        return self._ask(
            lambda: self._authority.resolve(
                ref, known=known, patience=patience or (PATIENCE if self._trusted else None)
            ),
            lambda mirror: mirror.resolve(ref),
        )

    def listing(self, ref: ModelRef, commit: str) -> Listing:
        return self._ask(lambda: self._authority.listing(ref, commit), lambda mirror: mirror.listing(ref, commit))

    def branches(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._ask(lambda: self._authority.branches(ref), lambda mirror: mirror.branches(ref))

    def tags(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._ask(lambda: self._authority.tags(ref), lambda mirror: mirror.tags(ref))

    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """From the first source, in order of priority: who wants the others, too, takes a `course`."""
        return self._first.open(ref, commit, file, start=start, stop=stop)

    def course(self, ref: ModelRef, file: ListedFile) -> Course:
        """The way of *file*, of *ref* which is pinned to a commit, from all the sources."""
        return Course(ref, file, self.router, self._retry, self._throttles)

    def _ask(self, authority: Callable[[], T], mirror: Callable[[Upstream], T]) -> T:
        believed = [trusted for trusted in self._trusted if trusted.url == self.believed]
        if believed:
            # The rest of what it said a moment ago: two words must not be mixed, nor a dead authority asked for each of them.
            return mirror(believed[0])
        try:
            return authority()
        except Unavailable as outage:
            for trusted in self._trusted:
                try:
                    answer = mirror(trusted)
                except FAULTS as error:
                    # Also its "no": nobody but the authority can say that there is no such thing.
                    outage.add_note(f"and {trusted.url}, which may be believed, does not know either: {error.message}")
                    continue
                _log.warning("%s; believing the mirror %s, as --trust-mirror-metadata says", outage, trusted.url)
                self.believed = trusted.url
                return answer
            if not self._trusted and len(self.router.sources) > 1:
                outage.hint = (
                    outage.hint or "a lock needs no authority; or believe the mirrors: --trust-mirror-metadata"
                )
            raise
