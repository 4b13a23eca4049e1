"""
The only module that decides whether a path of a snapshot may meet a disk.

Every way in uses it: a manifest, a tree listing of a Hub, a directory to save, an archive to import.
The rules are those under which a snapshot can be written on Linux, macOS and Windows without two
files meeting: relative, NFC, ``/`` between segments, and nothing that an operating system reads as a
command. They refuse; they never repair, for a repaired path is another path than the one that was named.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from ci_modelcache.errors import UnsafePath

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SEGMENT = 255
"""Bytes of UTF-8 in one segment: the limit of ext4, APFS and most others."""
MAX_PATH = 1024
"""Bytes of UTF-8 in a whole path: the limit of macOS, below Linux's 4,096 with room for a destination."""

_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_RESERVED = {".git", ".ci-modelcache"}
_CONTROLS = {"Cc", "Cf", "Zl", "Zp"}


def check_path(path: str) -> str:
    """Return *path* unchanged, or raise `UnsafePath` saying which rule it breaks."""
    problem = _problem(path)
    if problem is not None:
        msg = f"unsafe path {path!r:.200}: {problem}"
        raise UnsafePath(msg)
    return path


def check_paths(paths: Iterable[str]) -> None:
    """
    Check each of *paths*, and that all can exist side by side.

    Refused: a duplicate, also one by letter case (a disk may fold it), and a file that is also a directory of another.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path)
        key = _fold(path)
        if key in files:
            msg = f"two files at one path: {files[key]!r} and {path!r}"
            raise UnsafePath(msg)
        files[key] = path
        parts = key.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), path)
    for key in files.keys() & folders.keys():
        msg = f"{files[key]!r} is a file and a folder of {folders[key]!r}"
        raise UnsafePath(msg)


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _problem(path: str) -> str | None:
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    segments = path.split("/")
    rules = (
        (not path, "it is empty"),
        (length > MAX_PATH, f"it has {length} bytes, at most {MAX_PATH} are allowed"),
        (unicodedata.normalize("NFC", path) != path, "it is not in Unicode normal form C"),
        ("\\" in path, "it has a backslash"),
        (any(unicodedata.category(char) in _CONTROLS for char in path), "it has a control character"),
        (path.startswith("/"), "it is absolute"),
        (segments[0].casefold() in _RESERVED, f"{segments[0]!r} is reserved"),
    )
    broken = [said for breaks, said in rules if breaks]
    return broken[0] if broken else next(filter(None, map(_segment_problem, segments)), None)


def _segment_problem(segment: str) -> str | None:
    rules = (
        (not segment, "it has an empty segment"),
        (segment in {".", ".."}, f"it has a {segment!r} segment"),
        (len(segment.encode()) > MAX_SEGMENT, f"a segment has more than {MAX_SEGMENT} bytes"),
        (":" in segment, "it has a colon (a drive or a stream on Windows)"),
        (segment[-1:] in {".", " "}, "a segment ends in a dot or a space"),
        (_DEVICES.fullmatch(segment.split(".", maxsplit=1)[0].rstrip()), f"{segment!r} is a device name on Windows"),
    )
    return next((said for breaks, said in rules if breaks), None)
