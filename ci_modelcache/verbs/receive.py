"""The only module that brings the bytes of one file from upstream: from whichever sources are best, resumed, and proven."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from ci_modelcache.errors import DigestMismatch, IntegrityError, Rewritten
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.lies import settle, settle_whole
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.transfer.assemble import assemble
from ci_modelcache.transfer.disk import Room
from ci_modelcache.transfer.events import FileDone
from ci_modelcache.transfer.land import explaining_refusal
from ci_modelcache.transfer.partial import Partial
from ci_modelcache.transfer.stretches import Stretch
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
    """Bytes of the file that did not lie here already; what came twice, or only to be compared, is not counted."""
    warnings: tuple[str, ...] = ()


@frozen
class Inbound:
    """
    From where the files of *ref*, which is pinned to a commit, come: *upstream*.

    *folder* keeps what is half received; *fresh*: no use is made of what an earlier run left there. What does not fit into
    *room* is not kept; None: somebody has seen to that already.
    """

    ref: ModelRef
    upstream: Mirrors
    folder: Path
    step: Step
    fresh: bool = False
    room: Room | None = None


def receive(
    file: ListedFile, inbound: Inbound, *, take: Callable[[Iterator[bytes], Partial | None], T], keep: bool = False
) -> Received[T]:
    """
    Have *take* consume the bytes of *file* in order; it raises when they are not right.

    They are kept until they are: a later call goes on from there, whatever ended this one. *take* is given the
    partial file too, to move it to its place after the last byte was proven; it is called again when bytes were wrong and right
    ones could be had. With *keep* they stay for a second call. Where there is no room to keep them they come over one connection,
    *take* gets None, and a later call begins again. Raises what `Course` and *take* raise.
    """
    with ExitStack() as promises:
        if inbound.room is not None and not promises.enter_context(inbound.room.promised(file.size)):
            return _passed_on(file, inbound, take)
        return _kept(file, inbound, take, keep=keep)


def _passed_on(file: ListedFile, inbound: Inbound, take: Callable[[Iterator[bytes], Partial | None], T]) -> Received[T]:
    _log.info("%s is not kept while it comes: the disk of %s is too full", file.path, inbound.folder)
    step, course = inbound.step, inbound.upstream.course(inbound.ref, file)
    started = step.clock()

    def attempt(count: Count) -> T:
        with closing(course.stream()) as pieces:
            return take(count(pieces), None)

    result = _settled(file, course, lambda: step.attempt(attempt))
    course.proven(Stretch(0, size, url) for url, size in course.sent.items())
    seconds = step.clock() - started
    course.router.events.record(FileDone(str(inbound.ref), file.path, file.size, seconds, dict(course.sent)))
    return Received(result, dict(course.sent), file.size, tuple(course.convicted))


def _settled(file: ListedFile, course: Course, attempt: Callable[[], T]) -> T:
    while True:
        try:
            return attempt()
        except DigestMismatch as wrong:
            if sum(course.sent.values()) < file.size:
                raise  # a source said so of itself, and all were asked
            settle_whole(course, wrong)


def _kept(
    file: ListedFile, inbound: Inbound, take: Callable[[Iterator[bytes], Partial | None], T], *, keep: bool
) -> Received[T]:
    ref, step = inbound.ref, inbound.step
    course = inbound.upstream.course(ref, file)
    started = step.clock()
    with explaining_refusal(inbound.folder), Partial.opened(inbound.folder, _name(file), file.size) as partial:
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
    sources: dict[str, int] = {}
    for stretch in stretches:
        sources[stretch.source] = sources.get(stretch.source, 0) + stretch.stop - stretch.start
    if not keep:
        course.proven(stretches)
        course.router.events.record(FileDone(str(ref), file.path, file.size, step.clock() - started, sources))
    return Received(result, sources, max(0, file.size - resumed), tuple(course.convicted))


def senders(sources: Mapping[str, int], upstream: Upstream) -> str:
    """Who sent bytes, the most first; *upstream* as a whole when nobody did."""
    return ", ".join(sorted(sources, key=lambda url: -sources[url])) or upstream.url


def _taken(
    file: ListedFile, partial: Partial, course: Course, step: Step, take: Callable[[Iterator[bytes], Partial | None], T]
) -> T:
    def attempt(count: Count) -> T:
        # Closed whatever *take* does: an error would keep it, and its connections at work, for as long as itself.
        with closing(assemble(partial, course, deadline=step.deadline, doing=course.doing)) as pieces:
            return take(count(pieces), partial)

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
