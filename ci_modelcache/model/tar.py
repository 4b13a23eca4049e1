"""
The only module that makes the bytes of a tar archive besides its members' content: POSIX ustar, and pax records where that is too small.

Every byte is a pure function of what a `Member` says (docs/export.md). Python's `tarfile` is not used: what it
writes into the fields of a device changed from one version to another.
"""

from __future__ import annotations

from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
"""Bytes; headers and contents are padded to a multiple of it."""
_RECORD = 10_240
"""Bytes; the whole archive is padded to a multiple of it, as tape drives had it and every tar still has."""
_NAME, _PREFIX = 100, 155
"""Bytes of the two fields that a path may be divided between, at a slash."""
_MAX_SIZE = 0o77777777777
"""The largest size that a header can say by itself: 8 GiB less a byte."""
_PAX = b"x"
_PAX_NAME = b"././@PaxHeader"


class Kind(Enum):
    """What a member is, as its header says it."""

    FILE = b"0"
    LINK = b"2"
    FOLDER = b"5"


@frozen
class Member:
    """
    One thing in an archive: its *path* there, relative and with ``/``, and the *size* of its content in bytes, which only files have.

    *mode* are its permission bits, for None 0644, or 0755 when it is *executable*; *time* is its mtime in epoch seconds, and *link* is
    where a symbolic link leads.
    """

    path: str
    size: int = 0
    executable: bool = False
    kind: Kind = Kind.FILE
    mode: int | None = None
    time: int = 0
    link: str = ""

    @property
    def permissions(self) -> int:
        """The bits that its header says."""
        if self.mode is not None:
            return self.mode
        return 0o755 if self.executable else 0o644


def header(member: Member) -> bytes:
    """What stands before the content of *member*: one block, or three and more when it takes pax records."""
    path = f"{member.path}/" if member.kind is Kind.FOLDER else member.path
    name, prefix = _divided(path)
    records = {}
    if not name:
        records["path"] = path
        name = _abridged(path)
    link = member.link.encode()
    if not member.link.isascii() or len(link) > _NAME:
        records["linkpath"] = member.link
        link = _abridged(member.link)
    size = member.size
    if size > _MAX_SIZE:
        records["size"], size = str(size), 0
    own = _block(name, prefix, size=size, mode=member.permissions, kind=member.kind.value, time=member.time, link=link)
    if not records:
        return own
    data = b"".join(_pax_record(key, value) for key, value in records.items())
    return _block(_PAX_NAME, b"", size=len(data), mode=0o644, kind=_PAX) + data + padding(len(data)) + own


def _abridged(text: str) -> bytes:
    """For readers that know no pax, and for nobody else."""
    return text.encode("ascii", "replace")[:_NAME]


def padding(size: int) -> bytes:
    """What stands after a content of *size* bytes."""
    return bytes(-size % BLOCK)


def offsets(members: Iterable[Member]) -> Iterator[int]:
    """Where the header of each of *members* begins, and at last where the trailer does; nothing needs to be read for it."""
    return accumulate((_length(member) for member in members), initial=0)


def trailer(end: int) -> bytes:
    """What ends an archive whose last member ends at offset *end*: two empty blocks, and more up to a whole record."""
    return bytes(2 * BLOCK + -(end + 2 * BLOCK) % _RECORD)


def _length(member: Member) -> int:
    return len(header(member)) + member.size + -member.size % BLOCK


def _divided(path: str) -> tuple[bytes, bytes]:
    """*path* for the fields name and prefix; the name is empty when it does not fit, or is not ASCII."""
    if not path.isascii():
        return b"", b""
    encoded = path.encode()
    if len(encoded) <= _NAME:
        return encoded, b""
    # The first slash that leaves a name which fits: the shortest prefix.
    slash = encoded.find(b"/", len(encoded) - _NAME - 1)
    return (encoded[slash + 1 :], encoded[:slash]) if 0 < slash <= _PREFIX else (b"", b"")


def _block(name: bytes, prefix: bytes, *, size: int, mode: int, kind: bytes, time: int = 0, link: bytes = b"") -> bytes:
    before = b"".join(
        (
            name.ljust(_NAME, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,  # user
            b"%07o\0" % 0,  # group
            b"%011o\0" % size,
            b"%011o\0" % time,
        )
    )
    after = b"".join(
        (
            kind,
            link.ljust(_NAME, b"\0"),
            b"ustar\x0000",
            bytes(32),  # name of the user
            bytes(32),  # name of the group
            b"%07o\0" % 0,  # device
            b"%07o\0" % 0,  # device
            prefix.ljust(_PREFIX, b"\0"),
            bytes(12),
        )
    )
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def _pax_record(key: str, value: str) -> bytes:
    """``<length> <key>=<value>``, the length being that of the whole line with its own digits."""
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest
