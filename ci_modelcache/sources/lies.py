"""
The only module that finds out which of several sources lies: by asking others for the same bytes.

The digest of a whole file says that something is wrong and not where. So a source that begins on a large file is compared with
another one in a small sample at once, which finds a mirror of another file early; and when the whole is wrong, part after part is
compared, those of the least proven source first, until the bad one is found.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.errors import DigestMismatch, ModelCacheError
from ci_modelcache.transfer.assemble import SPLIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.model.digest import Expected
    from ci_modelcache.sources.course import Course
    from ci_modelcache.sources.router import Source
    from ci_modelcache.transfer.assemble import Claim
    from ci_modelcache.transfer.partial import Partial, Stretch

_log = logging.getLogger(__name__)

SAMPLE = 64 * 1024
"""Bytes that a new source is compared in."""


def audit(source: Source, claim: Claim, partial: Partial, course: Course) -> None:
    """
    Compare a sample of what *source* just sent for *claim* with what another source sends.

    Where they differ a third one decides, or, without one, what was ever proven of the two; the loser is set aside for this file, and
    what it sent of it is forgotten. That nobody else can be asked is no verdict: the digest decides in the end.
    """
    length = min(SAMPLE, claim.offset - claim.start)
    start = claim.start + int(course.router.random() * (claim.offset - claim.start - length))
    have = b"".join(partial.read(start, start + length))
    others = course.others(source.url)
    try:
        liar = _liar(source, others, start, have, course) if others else None
    except ModelCacheError as error:
        _log.info("%s could not be compared with others: %s", source.url, error)
        return
    if liar is not None:
        _set_aside(liar, partial, course, f"a sample of {length} bytes at {start} differs from what others send")


def settle(partial: Partial, course: Course, expected: Expected, wrong: DigestMismatch) -> None:
    """
    Make *partial*, whose bytes are not what was *expected*, worth another look: wrong ranges replaced or forgotten, liars set aside.

    Raises *wrong*, with a note for each source, when nothing is left to try.
    """
    disputed = _first_dispute(partial, course)
    if disputed is not None:
        stretch, other, start, theirs = disputed
        suspect = course.source(stretch.source)
        third = [each for each in course.others(stretch.source) if each is not other]
        have = b"".join(partial.read(start, start + len(theirs)))
        if third and course.range_from(third[0], start, start + len(theirs)) == have:
            suspect, other = other, suspect
        else:
            with partial.writing(start, other.url) as pen:
                pen.write(theirs)
            if _is_right(partial, expected):
                course.convict(
                    suspect.url, wrong, f"bytes {start} to {start + len(theirs)} of {course.file.path} are wrong"
                )
                return
            if not third and course.router.proven(suspect.url) > course.router.proven(other.url):
                suspect = other
        _set_aside(suspect, partial, course, f"others send something else from byte {start} on")
        return
    if course.trials.begin_again(wrong):
        partial.forget(0, partial.size)
        return
    for url in sorted({stretch.source for stretch in partial.stretches}):
        wrong.add_note(f"these bytes came from {url}")
    raise wrong


def _first_dispute(partial: Partial, course: Course) -> tuple[Stretch, Source, int, bytes] | None:
    """The first part of *partial* that another source sends otherwise: its stretch, that source, the offset, its bytes."""
    for stretch in sorted(
        partial.stretches, key=lambda each: (course.router.proven(each.source), each.stop - each.start)
    ):
        others = course.others(stretch.source)
        if not others:
            continue
        for start in range(stretch.start, stretch.stop, SPLIT):
            stop = min(start + SPLIT, stretch.stop)
            theirs = course.range_from(others[0], start, stop)
            if theirs != b"".join(partial.read(start, stop)):
                return stretch, others[0], start, theirs
    return None


def _liar(source: Source, others: Sequence[Source], start: int, have: bytes, course: Course) -> Source | None:
    """Which of *source*, that sent *have*, and the first of *others* lies; None when they agree."""
    stop = start + len(have)
    theirs = course.range_from(others[0], start, stop)
    if theirs == have:
        return None
    if len(others) > 1:
        third = course.range_from(others[1], start, stop)
        if third == theirs:
            return source
        if third == have:
            return others[0]
    return min(source, others[0], key=lambda each: (course.router.proven(each.url), -each.priority))


def _set_aside(liar: Source, partial: Partial, course: Course, why: str) -> None:
    course.set_aside(liar.url, why)
    for stretch in partial.stretches:
        if stretch.source == liar.url:
            partial.forget(stretch.start, stretch.stop)


def _is_right(partial: Partial, expected: Expected) -> bool:
    hasher = expected.fingerprinter(leaves=False)
    for piece in partial.read(0, partial.size):
        hasher.update(piece)
    try:
        expected.check(hasher.finish(), "")
    except DigestMismatch:
        return False
    return True
