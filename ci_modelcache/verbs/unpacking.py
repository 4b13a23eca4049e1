"""The only module that finds out where in an archive each content is: by its headers alone, or as it goes by in a pipe."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn, Protocol

from attrs import frozen

from ci_modelcache.errors import DigestMismatch, IntegrityError
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.oci_archive import BLOBS, INDEX, LAYOUT
from ci_modelcache.model.plain_archive import SUMS
from ci_modelcache.model.tar_reader import read_members
from ci_modelcache.transfer.inlet import Ahead, Inlet, Reading
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.model.tar_reader import Found
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.transfer.stash import Stash

BLOB = re.compile(re.escape(BLOBS) + r"([0-9a-f]{64})")
"""Matches the name of a blob in an OCI archive."""
SUM = re.compile(r"([0-9a-f]{64})  (.+)")
"""Matches a line of `SUMS`."""
HINT = "it was altered, broken off, or never made by ci-modelcache export: export or copy it again"


@frozen
class Content:
    """*size* bytes of *inlet* from *offset* on, which the archive calls *path*."""

    inlet: Inlet
    path: str
    offset: int
    size: int

    @property
    def what(self) -> str:
        """What errors call it."""
        return f"{self.inlet.name}: {self.path}"

    def open(self, start: int, /) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from *start* on, and what follows them (`transfer.streams.OpenAt`)."""
        return self.inlet.open(self.offset + start)

    def chunks(self, retry: RetryPolicy) -> Iterator[bytes]:
        """All bytes; nothing of them is proven."""
        return read_through(self.open, self.size, retry, what=self.what)


class Contents:
    """What the archive *what* has: by path its contents, of which those that went into the store at once are None."""

    def __init__(self, what: str, *, retry: RetryPolicy) -> None:
        self.what = what
        self.contents: dict[str, Content | None] = {}
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self.is_oci = False
        self._sums: dict[str, Digest] = {}
        self._retry = retry

    def admit(self, found: Found) -> None:
        """Take note of *found*, before its content; the first member says which format it is."""
        if not self.sizes and not self.folders:
            self.is_oci = found.path == LAYOUT
        if self.is_oci:
            if found.path not in {LAYOUT, INDEX} and BLOB.fullmatch(found.path) is None:
                self.refuse(f"{found.path!r:.200} is no name in an OCI archive")
            if found.foreign is not None:
                self.refuse(f"{found.path!r:.200} has {found.foreign}, which no OCI archive of ours has")
        if found.folder:
            self.folders.add(found.path)
        else:
            self.sizes[found.path] = found.size

    def digest_of(self, path: str) -> Digest | None:
        """What the content of *path* is to be, as far as that is known by now."""
        if self.is_oci:
            named = BLOB.fullmatch(path)
            return None if named is None else Digest(named[1])
        return self._sums.get(path)

    def learn(self, found: Found) -> None:
        """Look at a content that tells what others are to be."""
        if found.path == SUMS and not self.is_oci:
            self._sums = self.sums()

    def sums(self) -> dict[str, Digest]:
        """What `SUMS` says, by path; raises `IntegrityError`."""
        text = self.document(SUMS).decode(errors="replace")
        lines = [SUM.fullmatch(line) for line in text.split("\n")[:-1]]
        sums = {line[2]: Digest(line[1]) for line in lines if line is not None}
        if len(sums) != len(lines) or not text.endswith("\n"):
            self.refuse(f"{SUMS} has a line that is none, or a path twice")
        return sums

    def document(self, path: str, digest: Digest | None = None) -> bytes:
        """The content of *path*, which must be there and small, and have that *digest* if one is given; raises `IntegrityError`."""
        content = self.contents.get(path)
        if content is None or content.size > MAX_DOCUMENT:
            why = "is not in it" if path not in self.sizes else f"has more than {MAX_DOCUMENT} bytes"
            self.refuse(f"{path} {why}")
        data = b"".join(content.chunks(self._retry))
        if digest is not None and (actual := Digest.of(data)) != digest:
            raise DigestMismatch(content.what, expected=digest.hex, actual=actual.hex, hint=HINT)
        return data

    def refuse(self, why: str) -> NoReturn:
        """Raise `IntegrityError` for an archive that is not as it should be."""
        msg = f"{self.what} is no archive that can be imported: {why}"
        raise IntegrityError(msg, hint=HINT)


def indexed(inlet: Inlet, *, retry: RetryPolicy) -> Contents:
    """What *inlet* has: every header of it is read, and no content. Raises `IntegrityError`."""
    contents = Contents(inlet.name, retry=retry)
    with closing(Reading(inlet, retry=retry)) as stream:
        for found in read_members(stream, inlet.name):
            contents.admit(found)
            if not found.folder:
                contents.contents[found.path] = Content(inlet, found.path, found.offset, found.size)
    return contents


class Take(Protocol):
    """Stores a blob that goes by, or looks away from one that is there."""

    def __call__(self, digest: Digest, found: Found, chunks: Iterator[bytes], /) -> None:
        """Take *chunks* as the blob *digest*; raises `IntegrityError` when they are not that."""


def streamed(
    chunks: Iterable[bytes], what: str, *, retry: RetryPolicy, stash: Stash, take: Take, large: int
) -> Contents:
    """
    What *chunks* have, which come once: a content over *large* bytes whose digest is known goes to *take*, all others to *stash*.

    Raises `IntegrityError`.
    """
    contents, stream = Contents(what, retry=retry), Ahead(chunks)
    for found in read_members(stream, what):
        retry.deadline.check(f"reading {what}")
        contents.admit(found)
        if found.folder:
            continue
        digest, pieces = contents.digest_of(found.path), stream.pieces(found.size)
        if digest is not None and found.size > large:
            take(digest, found, pieces)
            contents.contents[found.path] = None
        else:
            contents.contents[found.path] = Content(stash, found.path, stash.add(pieces), found.size)
            contents.learn(found)
    return contents
