"""
The only module that reads an archive of files that lie in an image: it hashes them as they go by, and writes none of them.

Whoever made the image chose the names, links and sizes in there. Names are compared and never opened; a link is followed within
the archive alone; of a file no more than a piece is in memory, and of a header no more than `_LARGEST_HEADER`.
"""

from __future__ import annotations

import hashlib
import tarfile
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import BrokenOff, IntegrityError, ManifestInvalid
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import MAX_FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_MEMBERS = 4 * MAX_FILES
"""Files and links of the largest folder that is read: a Hub cache has a blob and a link of each file, and maybe older commits."""

_PIECE = 1024 * 1024
_LARGEST_HEADER = 1024 * 1024
"""Bytes of the extra headers of one member: the longest name and link of Linux have 4 KiB each."""
_HOPS = 40
"""Links that are followed before it is called a circle, as Linux does."""


@frozen
class FileSeen:
    """The content of a regular file."""

    size: int
    sha256: Digest


@frozen
class LinkSeen:
    """A symbolic link, and where it says it leads."""

    target: str


@frozen
class OtherSeen:
    """A device, a pipe, or what else is no file."""


Seen = FileSeen | LinkSeen | OtherSeen


@frozen
class Nothing:
    """There is no file, and *why*: a sentence about a link, or empty when nothing is at that path."""

    why: str = ""


@frozen
class FolderSeen:
    """All that lies below the folder *at* of an image, by its path there."""

    at: str
    members: dict[str, Seen] = field(factory=dict)

    def file(self, path: str) -> FileSeen | Nothing:
        """The file at *path*, links followed; none that leads out of this folder."""
        waiting, at = path.split("/")[::-1], list[str]()
        hops = 0
        while waiting:
            segment = waiting.pop()
            if segment == "..":
                if not at:
                    return Nothing("a link that leads out of the folder")
                at.pop()
                continue
            if segment in {"", "."}:
                continue
            at.append(segment)
            seen = self.members.get("/".join(at))
            if isinstance(seen, LinkSeen):
                hops += 1
                target = self._within(seen.target)
                if hops > _HOPS or target is None:
                    said = "in a circle" if target is not None else "out of the folder"
                    return Nothing(f"a link that leads {said}, to {seen.target!r:.200}")
                at = [] if seen.target.startswith("/") else at[:-1]
                waiting += target.split("/")[::-1]
        found = self.members.get("/".join(at))
        if isinstance(found, FileSeen):
            return found
        return Nothing("neither a file nor a link" if found is not None else "a link to nothing" if hops else "")

    def below(self, folder: str) -> Iterator[str]:
        """The paths of all files and links below *folder*, relative to it and sorted; the folder itself is the empty text."""
        start = f"{folder}/" if folder else ""
        yield from sorted(path.removeprefix(start) for path in self.members if path.startswith(start))

    def _within(self, target: str) -> str | None:
        """*target* relative to this folder when it is absolute; None when it leads elsewhere."""
        if not target.startswith("/"):
            return target
        start = f"{self.at.rstrip('/')}/"
        return target.removeprefix(start) if target.startswith(start) else None


def read_folder(pieces: Iterator[bytes], at: str, *, counted: Callable[[int], object]) -> FolderSeen:
    """
    What the archive of the folder *at* holds, whose bytes are *pieces*; *counted* is told how many bytes of files went by.

    Raises `BrokenOff` when the archive ends early, `ManifestInvalid` when it is none, `IntegrityError` when it has more than `MAX_MEMBERS`.
    """
    stream = _Forward(pieces, at)
    seen = FolderSeen(at)
    try:
        with tarfile.TarFile(fileobj=stream, mode="r", errorlevel=2) as archive:  # type: ignore[arg-type]  # all that is asked of it is there
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # not for us, but it would keep them all
                _note(member, stream, seen, counted)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if stream.ended:
            raise stream.broken_off() from error
        msg = f"{at}: what the engine sent is no archive: {error}"
        raise ManifestInvalid(msg) from error
    if stream.last != bytes(tarfile.BLOCKSIZE):
        # Where the end is missing altogether, tarfile sees an end like any other.
        raise stream.broken_off()
    return seen


def _note(member: tarfile.TarInfo, stream: _Forward, seen: FolderSeen, counted: Callable[[int], object]) -> None:
    path = member.name.removeprefix("./")
    if member.isdir():
        return
    if len(seen.members) >= MAX_MEMBERS:
        msg = f"{seen.at} has more than {MAX_MEMBERS} files"
        raise IntegrityError(msg, hint="give models a folder of their own in the image")
    if member.issym():
        seen.members[path] = LinkSeen(member.linkname)
    elif member.islnk():
        # The same file under another name, which went by before.
        seen.members[path] = seen.members.get(member.linkname.removeprefix("./"), OtherSeen())
    elif member.isreg() and not member.issparse():
        hasher = hashlib.sha256()
        stream.seek(member.offset_data)
        left = member.size
        while left > 0:
            piece = stream.read(min(_PIECE, left))
            if not piece:
                raise stream.broken_off()
            hasher.update(piece)
            left -= len(piece)
            counted(len(piece))
        seen.members[path] = FileSeen(member.size, Digest(hasher.hexdigest()))
    else:
        seen.members[path] = OtherSeen()


class _Forward:
    """*pieces* as the file that `tarfile` reads: it goes forward only, and gives no more at once than has to be in memory."""

    def __init__(self, pieces: Iterator[bytes], at: str) -> None:
        self._pieces = pieces
        self._at = at
        self._rest = memoryview(b"")
        self._offset = 0
        self.ended = False
        """Whether more was asked for than there is."""
        self.last = b""
        """What was read last."""

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int) -> None:
        """Skip to *offset*; raises `ManifestInvalid` for one that is behind."""
        if offset < self._offset:
            msg = f"{self._at}: the archive contradicts itself"
            raise ManifestInvalid(msg)
        while self._offset < offset and self._some(offset - self._offset):
            pass

    def read(self, count: int) -> bytes:
        """The next *count* bytes, or fewer at the end."""
        if count > _LARGEST_HEADER:
            msg = f"{self._at}: the archive has a header of {count} bytes, at most {_LARGEST_HEADER} are read"
            raise ManifestInvalid(msg)
        first = self._some(count)
        if len(first) == count:
            self.last = bytes(first)
            return self.last
        parts, left = [first], count - len(first)
        while left and (part := self._some(left)):
            parts.append(part)
            left -= len(part)
        self.last = b"".join(parts)
        return self.last

    def close(self) -> None:
        """Nothing: whoever opened it closes it."""

    def broken_off(self) -> BrokenOff:
        return BrokenOff(f"{self._at}: the archive ended early, after {self._offset} bytes")

    def _some(self, most: int) -> memoryview:
        """The next bytes, at least one and at most *most* of them; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                return self._rest
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:most], self._rest[most:]
        self._offset += len(part)
        return part
