"""
The only module that finds out which of several sources lies: by asking others for the same bytes.

The digest of a whole file says that something is wrong and not where. So a source that begins on a large file is compared with
another one in a small sample at once, which finds a mirror of another file early; and when the whole is wrong, part after part is
compared, those of the least proven source first, until the bad one is found.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import DigestMismatch
from ci_modelcache.sources.health import FAULTS
from ci_modelcache.sources.router import Source
from ci_modelcache.transfer.assemble import SPLIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.model.digest import Expected
    from ci_modelcache.sources.course import Course
    from ci_modelcache.transfer.assemble import Claim, Claims
    from ci_modelcache.transfer.partial import Partial

_log = logging.getLogger(__name__)

SAMPLE = 64 * 1024
"""Bytes that a new source is compared in."""


def audit(source: Source, claim: Claim, claims: Claims, course: Course) -> None:
    """
    Compare a sample of what *source* just sent for *claim* with what another source sends.

    Where they differ a third one decides, or, without one, what was ever proven of the two; the loser is set aside for this file, and
    what it sent of it is forgotten. That nobody else can be asked is no verdict: the digest decides in the end. `Revoked` when the
    reader of *claims* is gone.
    """
    length = min(SAMPLE, claim.offset - claim.start)
    start = claim.start + int(course.router.random() * (claim.offset - claim.start - length))
    partial = claims.partial
    with partial.in_turn(claims.turn):
        have = b"".join(partial.read(start, start + length))
    liar = _liar(source, start, have, course)
    if liar is not None:
        with partial.in_turn(claims.turn):
            _set_aside(liar, partial, course, f"a sample of {length} bytes at {start} differs from what others send")


def settle(partial: Partial, course: Course, expected: Expected, wrong: DigestMismatch) -> None:
    """
    Make *partial*, whose bytes are not what was *expected*, worth another look: wrong ranges replaced or forgotten, liars set aside.

    Raises *wrong*, with a note for each source, when nothing is left to try.
    """
    strangers = {stretch.source for stretch in partial.stretches} - {source.url for source in course.router.sources}
    for url in strangers:
        # An earlier run had them from one who cannot be asked any more.
        partial.disown(url)
    if strangers:
        return
    course.senders.update(stretch.source for stretch in partial.stretches)
    disputed = _first_dispute(partial, course)
    if disputed is not None:
        _decide(disputed, partial, course, expected, wrong)
    elif course.trials.begin_again(wrong, {stretch.source for stretch in partial.stretches}):
        partial.forget(0, partial.size)
    else:
        for url in sorted(course.senders):
            wrong.add_note(f"these bytes came from {url}")
        wrong.hint = wrong.hint or "name another source with --mirror; ci-modelcache mirrors check compares them"
        raise wrong


def settle_whole(course: Course, wrong: DigestMismatch) -> None:
    """As `settle`, for a file of which nothing was kept: who sent it is set aside while there are others, and once all come again."""
    url = max(course.sent, key=lambda each: course.sent[each], default="")
    if url and course.others(url):
        course.set_aside(url, "the whole file is not what was promised")
    elif not course.trials.begin_again(wrong, {url} if url else ()):
        for sender in sorted(course.sent):
            wrong.add_note(f"these bytes came from {sender}")
        raise wrong


@frozen
class _Dispute:
    """From *start* on *suspect* sent something else than *other*, which sends *theirs*."""

    suspect: Source
    other: Source
    start: int
    theirs: bytes


def _decide(disputed: _Dispute, partial: Partial, course: Course, expected: Expected, wrong: DigestMismatch) -> None:
    suspect, other, start, theirs = disputed.suspect, disputed.other, disputed.start, disputed.theirs
    stop = start + len(theirs)
    have = b"".join(partial.read(start, stop))
    third = _from_anybody([each for each in course.others(suspect.url) if each is not other], start, stop, course)
    if third is not None and third[1] == have:
        suspect, other = other, suspect
    else:
        with partial.writing(start, other.url) as pen:
            pen.write(theirs)
        if _is_right(partial, expected):
            course.convict(suspect.url, wrong, f"bytes {start} to {stop} of {course.file.path} are wrong")
            return
        if third is None and course.router.proven(suspect.url) > course.router.proven(other.url):
            suspect = other
    _set_aside(suspect, partial, course, f"others send something else from byte {start} on")


def _first_dispute(partial: Partial, course: Course) -> _Dispute | None:
    """The first part of *partial* that another source sends otherwise; None when there is none, or nobody else to ask."""
    for stretch in sorted(
        partial.stretches, key=lambda each: (course.router.proven(each.source), each.stop - each.start)
    ):
        for start in range(stretch.start, stretch.stop, SPLIT):
            stop = min(start + SPLIT, stretch.stop)
            answer = _from_anybody(course.others(stretch.source), start, stop, course)
            if answer is None:
                break
            other, theirs = answer
            if theirs != b"".join(partial.read(start, stop)):
                return _Dispute(course.source(stretch.source), other, start, theirs)
            course.senders.add(other.url)
    return None


def _from_anybody(sources: Sequence[Source], start: int, stop: int, course: Course) -> tuple[Source, bytes] | None:
    """Bytes *start* to *stop* from the first of *sources* that sends them, and which one that is; None when nobody does."""
    for source in sources:
        if start > 0 and source.bytes.sends_ranges is False:
            continue  # all before would come, too, for each part that is compared
        try:
            return source, course.range_from(source, start, stop)
        except FAULTS as error:
            _log.info("%s could not be compared with others: %s", source.url, error)
    return None


def _liar(source: Source, start: int, have: bytes, course: Course) -> Source | None:
    """Which of *source*, that sent *have*, and another one lies; None when they agree, or nobody can be asked."""
    stop, others = start + len(have), course.others(source.url)
    answer = _from_anybody(others, start, stop, course)
    if answer is None or answer[1] == have:
        return None
    other, theirs = answer
    third = _from_anybody([each for each in others if each is not other], start, stop, course)
    if third is not None and third[1] in {have, theirs}:
        return other if third[1] == have else source
    return min(source, other, key=lambda each: (course.router.proven(each.url), -each.priority))


def _set_aside(liar: Source, partial: Partial, course: Course, why: str) -> None:
    course.set_aside(liar.url, why)
    partial.disown(liar.url)


def _is_right(partial: Partial, expected: Expected) -> bool:
    hasher = expected.fingerprinter(leaves=False)
    for piece in partial.read(0, partial.size):
        hasher.update(piece)
    try:
        expected.check(hasher.finish(), "")
    except DigestMismatch:
        return False
    return True
