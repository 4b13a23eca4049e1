"""The only module that knows how git names trees and LFS pointers (git's ``Documentation/gitformat-*``, git-lfs' spec)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci_modelcache.model.digest import Digest

_FILE = b"100644"
_EXECUTABLE = b"100755"
_TREE = b"40000"


def pointer_oid(sha256: Digest, size: int) -> str:
    """The git blob name of the LFS pointer to a file of *size* bytes."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return _object_name(b"blob", pointer)


def tree_oid(files: Mapping[str, tuple[str, bool]]) -> str:
    """The name of the tree in which each path holds the blob (name, whether executable)."""
    entries: dict[bytes, tuple[bytes, bytes, str]] = {}
    folders: dict[str, dict[str, tuple[str, bool]]] = {}
    for path, (oid, executable) in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(name, {})[rest] = (oid, executable)
        else:
            entries[name.encode()] = (_EXECUTABLE if executable else _FILE, name.encode(), oid)
    for name, below in folders.items():
        # git orders a folder as if its name ended in a slash.
        entries[name.encode() + b"/"] = (_TREE, name.encode(), tree_oid(below))
    lines = (b"%s %s\0%s" % (mode, name, bytes.fromhex(oid)) for _, (mode, name, oid) in sorted(entries.items()))
    return _object_name(b"tree", b"".join(lines))


def _object_name(kind: bytes, body: bytes) -> str:
    return hashlib.sha1(b"%s %d\0%s" % (kind, len(body), body), usedforsecurity=False).hexdigest()
