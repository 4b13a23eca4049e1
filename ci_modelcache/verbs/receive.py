"""The only module that brings the bytes of one file from upstream: from whichever sources are best, resumed, and proven."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from ci_modelcache.errors import DigestMismatch, IntegrityError, Rewritten
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.lies import settle
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.transfer.assemble import assemble
from ci_modelcache.transfer.events import FileDone
from ci_modelcache.transfer.partial import Partial
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.sources.course import Course
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Count

T = TypeVar("T")

_log = logging.getLogger(__name__)


@frozen
class Received(Generic[T]):
    """What became of a file: the *result* of what took it, bytes by *sources*, and what is to be said about sources that lied."""

    result: T
    sources: dict[str, int]
    """Bytes by URL, those of an earlier run included."""
    fetched: int
    """Bytes that came over the network now."""
    warnings: tuple[str, ...] = ()


@frozen
class Inbound:
    """
    From where the files of *ref*, which is pinned to a commit, come: *upstream*.

    *folder* keeps what is half received; *fresh*: no use is made of what an earlier run left there.
    """

    ref: ModelRef
    upstream: Mirrors
    folder: Path
    step: Step
    fresh: bool = False


def receive(
    file: ListedFile, inbound: Inbound, *, take: Callable[[Iterator[bytes], Partial], T], keep: bool = False
) -> Received[T]:
    """
    Have *take* consume the bytes of *file* in order; it raises when they are not right.

    They are kept until they are: a later call goes on from there, whatever ended this one. *take* is given the
    partial file too, to move it to its place after the last byte was proven; it is called again when bytes were wrong and right
    ones could be had. With *keep* they stay for a second call. Raises what `Course` and *take* raise.
    """
    ref, step = inbound.ref, inbound.step
    course = inbound.upstream.course(ref, file)
    started = step.clock()
    with Partial.opened(inbound.folder, _name(file), file.size) as partial:
        if inbound.fresh:
            partial.forget(0, partial.size)
        resumed = partial.received
        try:
            result = _taken(file, partial, course, step, take)
        except IntegrityError:
            partial.discard()
            raise
        stretches = partial.stretches
        if not keep:
            partial.discard()
    course.proven(stretches)
    sources: dict[str, int] = {}
    for stretch in stretches:
        sources[stretch.source] = sources.get(stretch.source, 0) + stretch.stop - stretch.start
    course.router.events.record(FileDone(str(ref), file.path, file.size, step.clock() - started, sources))
    return Received(result, sources, max(0, file.size - resumed), tuple(course.convicted))


def senders(sources: Mapping[str, int], upstream: Upstream) -> str:
    """Who sent bytes, the most first; *upstream* as a whole when nobody did."""
    return ", ".join(sorted(sources, key=lambda url: -sources[url])) or upstream.url


def _taken(
    file: ListedFile, partial: Partial, course: Course, step: Step, take: Callable[[Iterator[bytes], Partial], T]
) -> T:
    def attempt(count: Count) -> T:
        return take(count(assemble(partial, course, deadline=step.deadline, doing=course.doing)), partial)

    while True:
        try:
            return step.attempt(attempt)
        except Rewritten as error:
            _log.info("%s: %s; reading it again", file.path, error)
        except DigestMismatch as wrong:
            if partial.gaps():
                raise  # a source said so of itself, and all were asked
            _log.warning("%s; finding out who sent that", wrong)
            partial.seal()
            settle(partial, course, file.expected, wrong)


def _name(file: ListedFile) -> str:
    return file.git_oid if file.sha256 is None else file.sha256.hex
