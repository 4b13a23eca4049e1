"""
The only module that decides whether a path of a snapshot may meet a disk.

Every way in uses it: a manifest, a tree listing of a Hub, a directory to save, an archive to import.
The rules are those under which a snapshot can be written on Linux and macOS without two files meeting:
relative, NFC, ``/`` between segments, and nothing that an operating system, Windows too, reads as a command
(a drive, a stream, a device). That Windows can write every name is not promised: ``< > " | ? *`` are in names
of real repositories, and pass. They refuse; they never repair, for a repaired path is another path than the one that was named.
"""

from __future__ import annotations

import functools
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

_PORTS = [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"]
_DEVICES = frozenset(["con", "prn", "aux", "nul", "conin$", "conout$", *_PORTS])
_GIT = frozenset([".git", "git~1"])
"""The folder that git obeys, and the short name under which Windows finds it."""
_OWN = ".ci-modelcache"
_STAGED = ".landing-"
"""How `transfer.land` names what it is writing: `sweep` would take such a file for one that a killed process left."""

_KNOWN = 10_000
"""Paths whose rules are remembered: each comes by several times, in a manifest, when it is looked at, and when it is written."""

_HINT = "no snapshot can hold it: rename it where it comes from"
_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\\:]")
_CONTROL = "it has a control character"
_SAID = {"\\": "it has a backslash", ":": "it has a colon (a drive or a stream on Windows)"}
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROLS = {"Cc", "Cf", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Indic and emoji names need; some disks ignore them when they compare names."""
_IGNORED = re.compile(rf"[{_JOINERS}\ufe00-\ufe0f]")
"""Joiners and variation selectors: what a disk that folds names may leave out, so that ``.g<joiner>it`` is ``.git``."""


def check_path(path: str) -> str:
    """Return *path* unchanged, or raise `UnsafePath` saying which rule it breaks."""
    problem = _problem(path)
    if problem is not None:
        msg = f"unsafe path {path!r:.200}: {problem}"
        raise UnsafePath(msg, hint=_HINT)
    return path


def check_paths(paths: Iterable[str]) -> None:
    """
    Check each of *paths*, and that all can exist side by side.

    Refused: a duplicate, also one by letter case (a disk may fold it), and a file that is also a folder of another.
    Not refused: folders that differ by letter case. Where a disk folds them they become one folder, and as no
    two files of it have one name, every file still holds its own bytes.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path)
        key = _fold(path)
        if key in files:
            msg = f"two files at one path: {files[key]!r} and {path!r}"
            raise UnsafePath(msg, hint=_HINT)
        files[key] = path
        folder = key.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = path
            folder = folder.rpartition("/")[0]
    for key in files.keys() & folders.keys():
        msg = f"{files[key]!r} is a file, and a folder of {folders[key]!r}"
        raise UnsafePath(msg, hint=_HINT)


def _fold(path: str) -> str:
    """One spelling for all that some disk takes for the same name."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", _IGNORED.sub("", path).casefold())


@functools.lru_cache(_KNOWN)
def _problem(path: str) -> str | None:
    plain = path
    if not path.isascii():
        problem = _unicode_problem(path)
        if problem is not None:
            return problem
        plain = _IGNORED.sub("", path)
    return _shape_problem(plain) or _length_problem(path.encode())


def _shape_problem(path: str) -> str | None:
    bad = _CHARACTERS.search(path)
    if bad is not None:
        return _SAID.get(bad[0], _CONTROL)
    if not path:
        return "it is empty"
    if path[0] == "/":
        return "it is absolute"
    segments = path.split("/")
    if segments[0].casefold() == _OWN:
        return f"{_OWN!r} is reserved"
    return next(filter(None, map(_segment_problem, segments)), None)


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "it has an empty segment"
    if segment in {".", ".."}:
        return f"it has a {segment!r} segment"
    if segment[-1] in ". ":
        return "a segment ends in a dot or a space"
    folded = segment.casefold()
    # At any depth, as git itself refuses it: whoever runs git in that folder would run what its config names.
    if folded in _GIT or folded.startswith(_STAGED):
        return f"{segment!r:.100} is reserved"
    if folded.partition(".")[0].rstrip(" ") in _DEVICES:
        return f"{segment!r:.100} is a device name on Windows"
    return None


def _unicode_problem(path: str) -> str | None:
    """What ASCII cannot get wrong."""
    if _SURROGATE.search(path):
        return "it is not valid Unicode"
    if not unicodedata.is_normalized("NFC", path):
        return "it is not in Unicode normal form C"
    if any(unicodedata.category(char) in _CONTROLS for char in _BEYOND_ASCII.findall(path) if char not in _JOINERS):
        return _CONTROL
    return None


def _length_problem(path: bytes) -> str | None:
    if len(path) > MAX_PATH:
        return f"it has {len(path)} bytes, at most {MAX_PATH} are allowed"
    if len(path) > MAX_SEGMENT and any(len(segment) > MAX_SEGMENT for segment in path.split(b"/")):
        return f"a segment has more than {MAX_SEGMENT} bytes"
    return None
