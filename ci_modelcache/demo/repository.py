"""The only module that keeps the repositories of the loopback Hub: commits, branches, tags, as git would name them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from attrs import define, field, frozen

from ci_modelcache.model.digest import Digest
from ci_modelcache.model.git import pointer_oid, tree_oid
from ci_modelcache.model.ref import ModelRef, RepoType

Files = Path | Mapping[str, bytes | Path]
"""The files of a commit: a folder, or path to content."""

LFS_SUFFIXES = (".bin", ".gguf", ".h5", ".model", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors", ".zip")
"""A part of the Hub's default .gitattributes."""
LFS_SIZE = 10 * 1024 * 1024
"""Bytes above which the Hub refuses a file that is not in LFS."""

_PIECE = 256 * 1024
_EPOCH = 1_735_689_600
"""2025-01-01: commits carry made-up times, one second apart, so that their names depend on content alone."""


@frozen
class StoredFile:
    """One file of a commit; its bytes stay where they were given."""

    path: str
    size: int
    sha256: Digest
    lfs: bool
    oid: str
    """The git blob name of the content, or of its LFS pointer."""
    source: bytes | Path = field(repr=False)

    @classmethod
    def of(cls, path: str, source: bytes | Path) -> StoredFile:
        """Read *source* once, to name it."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        lfs = size > LFS_SIZE or path.endswith(LFS_SUFFIXES)
        sha256 = hashlib.sha256()
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        for piece in _pieces(source, 0, size):
            sha256.update(piece)
            if not lfs:
                blob.update(piece)
        digest = Digest(sha256.hexdigest())
        return cls(path, size, digest, lfs, pointer_oid(digest, size) if lfs else blob.hexdigest(), source)

    @property
    def etag(self) -> str:
        """What names the content: the SHA-256 for LFS, else the git blob name."""
        return self.sha256.hex if self.lfs else self.oid

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes *start* to *stop* (exclusive)."""
        return _pieces(self.source, start, stop)


def _pieces(source: bytes | Path, start: int, stop: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for at in range(start, stop, _PIECE):
            yield source[at : min(at + _PIECE, stop)]
        return
    with source.open("rb") as file:
        file.seek(start)
        left = stop - start
        read: Callable[[], bytes] = partial(file.read, _PIECE)
        for piece in iter(read, b""):
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return


@frozen
class Commit:
    """A commit and all its files, by path."""

    oid: str
    message: str
    position: int
    files: dict[str, StoredFile]


@define
class Repository:
    """
    One repository of the Hub. Commits are made with `commit`; *readers* are the users who may see a
    *private* one, or who accepted the terms of a *gated* one.
    """

    name: str
    type: RepoType = RepoType.MODEL
    private: bool = False
    gated: bool = False
    disabled: bool = False
    readers: set[str] = field(factory=set)
    branches: dict[str, str] = field(factory=dict)
    tags: dict[str, str] = field(factory=dict)
    commits: dict[str, Commit] = field(factory=dict)

    def commit(self, files: Files, *, branch: str = "main") -> str:
        """Make *files* the whole content of *branch*; returns the commit, which depends on content and history alone."""
        given = _in_folder(files) if isinstance(files, Path) else files
        stored = {path: StoredFile.of(path, given[path]) for path in sorted(given)}
        tree = tree_oid({path: (file.oid, False) for path, file in stored.items()})
        parent = self.branches.get(branch)
        message = f"Commit {len(self.commits) + 1}"
        who = f"Loopback Hub <hub@localhost> {_EPOCH + len(self.commits)} +0000"
        lines = [f"tree {tree}"] + ([] if parent is None else [f"parent {parent}"])
        body = "\n".join([*lines, f"author {who}", f"committer {who}", "", message, ""]).encode()
        oid = hashlib.sha1(b"commit %d\0%s" % (len(body), body), usedforsecurity=False).hexdigest()
        self.commits[oid] = Commit(oid, message, len(self.commits), stored)
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> Commit | None:
        """The commit that *revision* (branch, tag, full name or ``refs/...``) means, or None."""
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(short) or self.tags.get(short) or revision
        return self.commits.get(oid)

    def ref(self, revision: str = "main") -> ModelRef:
        """How a user names it."""
        return ModelRef(self.name, revision, self.type)


def _in_folder(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def folders(files: Mapping[str, StoredFile]) -> dict[str, str]:
    """Every folder that *files* lie in, and git's name of its tree."""
    parts = [path.split("/")[:-1] for path in files]
    found = sorted({"/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)})
    return {folder: tree_oid(_below(folder, files)) for folder in found}


def _below(folder: str, files: Mapping[str, StoredFile]) -> dict[str, tuple[str, bool]]:
    start = f"{folder}/"
    return {path.removeprefix(start): (file.oid, False) for path, file in files.items() if path.startswith(start)}
