"""
The only module that reads tar headers: POSIX ustar with pax records, and what GNU tar writes for plain files and folders.

It reads what `model.tar` writes, and what GNU tar makes of the same files; all else raises `IntegrityError`. Links, devices,
sparse files and further inventions are not understood here, and so nobody can be led astray by them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.errors import IntegrityError
from ci_modelcache.model.manifest import MAX_SIZE
from ci_modelcache.model.tar import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MEMBERS = 400_000
"""Members of the largest archive that is read: their names are in memory."""
MAX_NAME = 4096
"""Bytes of the longest name that is read."""
_MAX_RECORDS = 65_536
"""Bytes of the pax records of one member."""
_MAX_TRAILER = 1 << 20
"""Bytes after the last member: GNU tar fills up to a record, which its user may choose."""
_PIECE = 1 << 16

_EMPTY = bytes(BLOCK)
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_CHECKSUM = slice(148, 156)
_NUMBER = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_IGNORED = frozenset(["atime", "ctime", "gid", "gname", "mtime", "uid", "uname"])
"""Pax records that say nothing of a content; GNU tar writes them."""
_KINDS = {
    b"\0": "a file of a time before POSIX",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"7": "a contiguous file",
    b"D": "a folder of a GNU dump",
    b"K": "a GNU long link",
    b"M": "the rest of a file of another volume",
    b"N": "a GNU old long name",
    b"S": "a sparse file",
    b"V": "the name of a volume",
    b"g": "global pax records",
}
_HINT = "it was altered, broken off, or never made by ci-modelcache export: export or copy it again"


class Stream(Protocol):
    """The bytes of an archive, in their order."""

    @property
    def position(self) -> int:
        """How many bytes lie behind."""

    def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer at the end alone."""

    def skip(self, size: int) -> int:
        """Pass over *size* bytes; the result is how many there were, which is less at the end alone."""


@frozen
class Found:
    """A member: the *path* and *size* that it claims, and the *offset* of its content. What is *foreign* only other programs write."""

    path: str
    size: int
    offset: int
    folder: bool = False
    foreign: str | None = None


@frozen
class _Header:
    name: bytes
    size: int
    kind: bytes
    gnu: bool


def read_members(stream: Stream, what: str) -> Iterator[Found]:
    """
    The members of the tar archive *what*, up to the end of *stream*; whoever wants a content takes it from there before the next one.

    Raises `IntegrityError` for all that breaks the format or could mean two things: a name twice, a field with a wrong
    number, bytes where there should be none, an end before the end.
    """
    try:
        yield from _members(stream)
    except _Refused as refusal:
        msg = f"{what} is no archive that can be imported: {refusal}"
        raise IntegrityError(msg, hint=_HINT) from refusal


class _Refused(Exception):  # never leaves this module
    pass


def _members(stream: Stream) -> Iterator[Found]:
    seen: set[str] = set()
    while (header := _next(stream)) is not None:
        found = _found(stream, header)
        if found.path in seen:
            msg = f"it has {_shown(found.path)} twice"
            raise _Refused(msg)
        if len(seen) >= MAX_MEMBERS:
            msg = f"it has more than {MAX_MEMBERS} members"
            raise _Refused(msg)
        seen.add(found.path)
        end = found.offset + found.size
        yield found
        _pass(stream, end - stream.position, found.path)
        _require_empty(_exactly(stream, -found.size % BLOCK), f"after {_shown(found.path)}")
    if not seen:
        msg = "it is empty"
        raise _Refused(msg)


def _found(stream: Stream, header: _Header) -> Found:
    """What *header* announces, with all that stands between it and the content."""
    records: dict[str, str] = {}
    name, foreign, extended = header.name, None, header.kind in {b"x", b"L"}
    if header.kind == b"x":
        records = _records(_data(stream, header, _MAX_RECORDS))
        foreign = next((f"the pax record {key}" for key in sorted(records) if key in _IGNORED), None)
        header = _required(stream, after="pax records")
        name = records["path"].encode() if "path" in records else header.name
    elif header.kind == b"L":
        name, foreign = _long_name(_data(stream, header, MAX_NAME + 1)), "a long name of GNU tar"
        header = _required(stream, after="a long name")
    if header.kind not in {b"0", b"5"}:
        odd = "pax records or a long name once more" if extended and header.kind in {b"x", b"L"} else None
        msg = f"it has {odd or _KINDS.get(header.kind) or f'a member of type {header.kind!r}'}: {_shown(header.name)}"
        raise _Refused(msg)
    size = _size(records, header)
    path, folder, prefixed = _path(name, folder=header.kind == b"5")
    if folder and size:
        msg = f"the folder {_shown(path)} has a content of {size} bytes"
        raise _Refused(msg)
    foreign = foreign or ("a folder" if folder else None) or ("a name that begins with ./" if prefixed else None)
    return Found(path, size, stream.position, folder, foreign)


def _next(stream: Stream) -> _Header | None:
    """The next header; None when the archive ends here as it should."""
    block = stream.take(BLOCK)
    if block != _EMPTY:
        return _header(block)
    if stream.take(BLOCK) != _EMPTY:
        msg = "one empty block stands alone, where two end an archive"
        raise _Refused(msg)
    length = 0
    while rest := stream.take(_PIECE):
        length += len(rest)
        _require_empty(rest, "after its end")
        if length > _MAX_TRAILER:
            msg = f"more than {_MAX_TRAILER} bytes follow its end"
            raise _Refused(msg)
    return None


def _required(stream: Stream, *, after: str) -> _Header:
    block = stream.take(BLOCK)
    if block == _EMPTY:
        msg = f"it ends after {after} of no member"
        raise _Refused(msg)
    return _header(block)


def _header(block: bytes) -> _Header:
    if len(block) < BLOCK:
        msg = f"it is broken off: {len(block)} bytes where a header of {BLOCK} should be"
        raise _Refused(msg)
    blank = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    magic = block[257:265]
    if magic not in {_POSIX, _GNU}:
        msg = f"what should be a header is none: its magic is {magic!r}"
        raise _Refused(msg)
    stated = _number(block[_CHECKSUM], "the checksum")
    if stated != sum(blank):
        msg = f"a header has the checksum {stated}, expected {sum(blank)}"
        raise _Refused(msg)
    gnu = magic == _GNU
    for start, stop, what in ((100, 108, "mode"), (108, 116, "user"), (116, 124, "group"), (136, 148, "time")):
        _number(block[start:stop], f"the {what}", binary=gnu, signed=True)
    name = _text(block[:100], "the name")
    if _text(block[157:257], "the target of a link") and block[156:157] not in {b"1", b"2"}:
        msg = f"{_shown(name)} is no link, and has the target of one"
        raise _Refused(msg)
    prefix = b"" if gnu else _text(block[345:500], "the prefix")
    _require_empty(block[345 if gnu else 500 :], "in a header")
    size = _number(block[124:136], "the size", binary=gnu)
    return _Header(prefix + b"/" + name if prefix else name, size, block[156:157], gnu)


def _number(field: bytes, what: str, *, binary: bool = False, signed: bool = False) -> int:
    if binary and field[0] in ({0x80, 0xFF} if signed else {0x80}):  # base 256, as GNU tar has it
        return int.from_bytes(field[1:]) if field[0] == 0x80 else -1  # noqa: PLR2004  # the marks of either sign
    digits = _NUMBER.fullmatch(field)
    if digits is None:
        msg = f"{what} in a header is no number: {field!r}"
        raise _Refused(msg)
    return int(digits[1] or b"0", 8)


def _text(field: bytes, what: str) -> bytes:
    text, _, rest = field.partition(b"\0")
    _require_empty(rest, f"after {what} in a header")
    return text


def _size(records: dict[str, str], header: _Header) -> int:
    size = header.size
    if "size" in records:
        if _SIZE.fullmatch(records["size"]) is None or header.size not in {0, int(records["size"])}:
            msg = f"{_shown(header.name)} has two sizes: {header.size} and {records['size']!r:.40}"
            raise _Refused(msg)
        size = int(records["size"])
    if size > MAX_SIZE:
        msg = f"{_shown(header.name)} has the impossible size {size}"
        raise _Refused(msg)
    return size


def _path(name: bytes, *, folder: bool) -> tuple[str, bool, bool]:
    """The path in *name*, whether it is a folder's, and whether it began with ``./``."""
    if len(name) > MAX_NAME:
        msg = f"a name has {len(name)} bytes, at most {MAX_NAME} are read"
        raise _Refused(msg)
    try:
        path = name.decode()
    except UnicodeDecodeError as error:
        msg = f"a name is not UTF-8: {name!r:.200}"
        raise _Refused(msg) from error
    bare = path.removeprefix("./")
    bare = bare.removesuffix("/") if folder else bare
    if folder and path in {".", "./"}:
        bare = "."
    elif not bare or "\0" in bare or any(segment in {"", ".", ".."} for segment in bare.split("/")):
        msg = f"a name leads elsewhere: {_shown(name)}"
        raise _Refused(msg)
    return bare, folder, path.startswith("./")


def _data(stream: Stream, header: _Header, limit: int) -> bytes:
    """The content of a member that only tells of the next one."""
    if header.size > limit:
        msg = f"{_shown(header.name)} has {header.size} bytes of names or records, at most {limit} are read"
        raise _Refused(msg)
    if header.kind == b"L" and not header.gnu:
        msg = "a long name of GNU tar in a header that is not GNU tar's"
        raise _Refused(msg)
    data = _exactly(stream, header.size)
    _require_empty(_exactly(stream, -header.size % BLOCK), f"after {_shown(header.name)}")
    return data


def _long_name(data: bytes) -> bytes:
    name = data.removesuffix(b"\0")
    if not name or b"\0" in name:
        msg = f"a long name is none: {data!r:.200}"
        raise _Refused(msg)
    return name


def _records(data: bytes) -> dict[str, str]:
    """``<length> <key>=<value>`` and a line break, each; *data* is nothing else."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        length = _RECORD.match(data, start)
        stop = start + int(length[1]) if length else start
        record = data[length.end() if length else start : stop]
        if length is None or stop > len(data) or record[-1:] != b"\n" or b"=" not in record:
            msg = f"broken pax records: {data[start : start + 100]!r}"
            raise _Refused(msg)
        key, value = _record(record[:-1])
        if key in records:
            msg = f"the pax record {key} twice"
            raise _Refused(msg)
        records[key], start = value, stop
    return records


def _record(record: bytes) -> tuple[str, str]:
    try:
        key, _, value = record.decode().partition("=")
    except UnicodeDecodeError as error:
        msg = f"a pax record is not UTF-8: {record[:100]!r}"
        raise _Refused(msg) from error
    if key not in _IGNORED | {"path", "size"} or not value or "\0" in value:
        msg = f"a pax record that is not understood: {key!r:.100} = {value!r:.100}"
        raise _Refused(msg)
    return key, value


def _pass(stream: Stream, size: int, path: str) -> None:
    missing = size - stream.skip(size)
    if missing:
        msg = f"it is broken off: {_shown(path)} lacks {missing} bytes"
        raise _Refused(msg)


def _exactly(stream: Stream, size: int) -> bytes:
    data = stream.take(size)
    if len(data) < size:
        msg = f"it is broken off: {len(data)} of {size} bytes are there"
        raise _Refused(msg)
    return data


def _require_empty(data: bytes, where: str) -> None:
    if data.strip(b"\0"):
        msg = f"it has bytes {where}, where there should be none"
        raise _Refused(msg)


def _shown(name: bytes | str) -> str:
    return f"{name.decode(errors='backslashreplace') if isinstance(name, bytes) else name!r:.200}"
