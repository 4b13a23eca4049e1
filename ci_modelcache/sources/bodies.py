"""
The only module that asks for a part of a file over HTTP and knows whether the answer is that part.

No client of the Hub checks this, and a part from another offset then corrupts a file in silence. Ranges are those of RFC 9110,
section 14. One habit in the wild is understood: ModelScope sends the part that was asked for with ``Content-Range`` but with
status 200, so that header decides and not the status.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.errors import BrokenOff, IntegrityError, Misanswer, SizeMismatch, Unavailable
from ci_modelcache.model.digest import is_git_oid
from ci_modelcache.model.listing import ListedFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ci_modelcache.sources.http import Answer
    from ci_modelcache.transfer.deadline import Deadline

BODIES = frozenset({200, 206, 416})
"""Statuses of answers that are about the bytes asked for, and not about access, limits or trouble."""
TOLERABLE = 1024 * 1024
"""Bytes that are read and thrown away rather than blaming a source that ignores ranges."""

_CONTENT_RANGE = re.compile(r"\s*bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\s*", re.IGNORECASE | re.ASCII)
_UNSATISFIED = re.compile(r"\s*bytes\s+\*/(\d{1,19})\s*", re.IGNORECASE | re.ASCII)
_LENGTH = re.compile(r"\d{1,19}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGES = (".html", ".htm", ".xhtml", ".shtml")
_PAGE_HINT = "a login page, a proxy or another web server answers in its place"
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER = 1024


@frozen
class Span:
    """What ``Content-Range`` tells: bytes *start* to *stop* (exclusive) of *total*, None where that was not said."""

    start: int
    stop: int
    total: int | None

    @classmethod
    def parse(cls, text: str) -> Span | None:
        """None for what is no range of bytes, or one that ends before it begins or after the file."""
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None:
            return None
        start, stop = int(found[1]), int(found[2]) + 1
        total = None if found[3] == "*" else int(found[3])
        return None if stop <= start or (total is not None and stop > total) else cls(start, stop, total)


@frozen
class Part:
    """Bytes *start* to *stop* (exclusive; None: the end) of *file*; *doing* ("reading x from y") begins every message."""

    file: ListedFile
    doing: str
    start: int = 0
    stop: int | None = None

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.file.size if self.stop is None else min(self.stop, self.file.size)

    @property
    def empty(self) -> bool:
        """Whether no byte is wanted, which HTTP has no words for. An empty file is asked for: it may be missing."""
        return self.stop is not None and self.stop <= self.start

    @property
    def whole(self) -> bool:
        """Whether it is all of the file."""
        return self.start == 0 and self.end == self.file.size

    @property
    def headers(self) -> dict[str, str]:
        """What asks for it."""
        if self.whole:
            return {}
        last = "" if self.end == self.file.size else self.end - 1
        return {"Range": f"bytes={self.start}-{last}"}


class _Ranging(Protocol):
    sends_ranges: bool | None
    strict_ranges: bool


def pieces_of(answer: Answer, part: Part, source: _Ranging, *, deadline: Deadline) -> Iterator[bytes]:
    """
    The bytes of *part*, once the headers of *answer* (200, 206 or 416) agree with it; `BrokenOff` when they end early.

    *source* learns whether it sends ranges. The whole file in place of a part is skipped up to its first byte; but a *source*
    with ``strict_ranges``, whose caller has others to ask, gets a `Misanswer` when that is more than `TOLERABLE` bytes.
    Fewer bytes than asked for are right when ``Content-Range`` says so, and more than asked for may come: a reader counts.
    """
    if answer.status == 416:  # noqa: PLR2004  # HTTP's own number
        raise _unsatisfied(answer, part)
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        msg = f"{part.doing}: expected the bytes as they are, got them encoded as {encoding!r:.40}"
        raise Misanswer(msg, about="encoding", hint="a proxy or mirror compresses what it must not")
    if answer.status == 206 or "Content-Range" in answer.headers:  # noqa: PLR2004  # as above
        span = _span(answer, part)
        if span.start == part.start:
            source.sends_ranges = True
            return _exactly(answer.pieces(), span.stop - span.start, part.doing)
    _check_whole(answer, part)
    if part.whole:
        return _exactly(answer.pieces(), part.file.size, part.doing)
    return _unasked(answer, part, source, deadline)


def _unasked(answer: Answer, part: Part, source: _Ranging, deadline: Deadline) -> Iterator[bytes]:
    """The whole file although a part was asked for."""
    if part.file.size > TOLERABLE:
        # Many servers send a small file whole whatever is asked; that says nothing about their large ones.
        source.sends_ranges = False
    if source.strict_ranges and part.start > TOLERABLE:
        msg = f"{part.doing}: asked for bytes from {part.start} of {part.file.size}, got the whole file from its beginning"
        raise Misanswer(msg, about="range", hint="it ignores ranges: files can be had from their beginning only")
    return _skipping(part.start, _exactly(answer.pieces(), part.file.size, part.doing), deadline, part.doing)


def _span(answer: Answer, part: Part) -> Span:
    """What the answer says it is, when that is what was asked for, or the beginning of it, or the whole file with status 200."""
    asked = f"{part.doing}: asked for bytes {part.start} to {part.end - 1}"
    found = Span.parse(answer.headers.get("Content-Range", ""))
    if found is None:
        msg = f"{asked}, got a part that does not say which"
        raise Misanswer(msg, about="range")
    if found.total is not None and found.total != part.file.size:
        raise SizeMismatch(part.doing, expected=part.file.size, actual=found.total)
    everything = answer.status == 200 and (found.start, found.stop) == (0, part.file.size)  # noqa: PLR2004  # HTTP's own number
    if not everything and (found.start != part.start or found.stop > part.end):
        msg = f"{asked}, got bytes {found.start} to {found.stop - 1}"
        raise Misanswer(msg, about="range")
    length = _length(answer)
    if length is not None and length != found.stop - found.start:
        msg = f"{asked}, got bytes {found.start} to {found.stop - 1} in a body of {length}"
        raise Misanswer(msg, about="range")
    return found


def _check_whole(answer: Answer, part: Part) -> None:
    length, size = _length(answer), part.file.size
    if "html" in answer.headers.get("Content-Type", "").lower() and (
        length not in {None, size} or not part.file.path.lower().endswith(_PAGES)
    ):
        got = "a web page" if length is None else f"a web page of {length} bytes"
        msg = f"{part.doing}: expected a file of {size} bytes, got {got}"
        raise Misanswer(msg, about="page", hint=_PAGE_HINT)
    if length in {None, size}:
        return
    hint = None
    if part.file.lfs and length <= _MAX_POINTER and answer.read(_MAX_POINTER).startswith(_POINTER):
        hint = "it is a git-lfs pointer in place of the content: this mirror was filled without git-lfs"
    raise SizeMismatch(part.doing, expected=size, actual=length, hint=hint)


def _length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else None


def _unsatisfied(answer: Answer, part: Part) -> IntegrityError | Unavailable:
    found = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range", ""))
    if found is not None and int(found[1]) != part.file.size:
        return SizeMismatch(part.doing, expected=part.file.size, actual=int(found[1]))
    return Unavailable(f"{part.doing}: refused to send bytes from {part.start} of {part.file.size}")


def _exactly(pieces: Iterator[bytes], count: int, doing: str) -> Iterator[bytes]:
    """*pieces*, of which *count* bytes were promised: a connection that just ends leaves no other trace than a lack of bytes."""
    seen = 0
    for piece in pieces:
        seen += len(piece)
        yield piece
    if seen < count:
        msg = f"{doing}: the connection ended early, after {seen} of {count} bytes"
        raise BrokenOff(msg)


def _skipping(count: int, pieces: Iterator[bytes], deadline: Deadline, doing: str) -> Iterator[bytes]:
    """*pieces* without the first *count* bytes; they cost their time, so the deadline is looked at here, and it is no silence."""
    for piece in pieces:
        deadline.check(doing)
        yield piece[count:]
        count = max(0, count - len(piece))


def check_links(hops: Iterable[Mapping[str, str]], part: Part, *, commit: str | None) -> None:
    """
    Compare what the headers of a Hub's redirects and answer say about the content with what is wanted, before a byte is read.

    ``X-Repo-Commit`` must be *commit* (None: there is none to compare). ``X-Linked-Etag`` names the content, and so does ``ETag``
    beside ``X-Repo-Commit``, whose sender speaks the Hub's protocol; any other server's ``ETag`` is its own business, as is one
    that is neither a SHA-256 nor the name of a git blob.
    """
    for headers in hops:
        said = headers.get("X-Repo-Commit", "")
        if commit is not None and is_git_oid(said) and said != commit:
            msg = f"{part.doing}: asked for commit {commit}, got commit {said}"
            raise Misanswer(msg, about="commit", hint="this mirror answers from a copy of another time")
        size = headers.get("X-Linked-Size", "")
        if _LENGTH.fullmatch(size) and int(size) != part.file.size:
            raise SizeMismatch(part.doing, expected=part.file.size, actual=int(size))
        tag = headers.get("X-Linked-Etag") or (headers.get("ETag") if said else None) or ""
        _check_tag(tag.removeprefix("W/").strip('"').lower(), part)


def _check_tag(tag: str, part: Part) -> None:
    file = part.file
    if _SHA256.fullmatch(tag):
        wanted = None if file.sha256 is None else file.sha256.hex
    else:
        # Of an LFS file git names the pointer, which is not what is sent.
        wanted = file.git_oid if is_git_oid(tag) and not file.lfs else None
    if wanted not in {None, tag}:
        msg = f"{part.doing}: expected the content {wanted}, was offered {tag}"
        raise Misanswer(msg, about="etag", hint="this mirror has another file of that name")
