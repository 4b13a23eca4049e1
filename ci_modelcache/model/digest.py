"""The only module that knows how bytes are hashed: SHA-256, git blob names, leaf lists, set digests."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from ci_modelcache.errors import DigestMismatch, ManifestInvalid, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEAF_SIZE = 16 * 1024 * 1024
"""Bytes under one leaf digest; only a blob larger than this has a leaf list."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


def is_git_oid(text: str) -> bool:
    """Whether *text* is a full git object name: 40 lower-case hex digits."""
    return _SHA1.fullmatch(text) is not None


@frozen(order=True)
class Digest:
    """A SHA-256, as 64 lower-case hex digits; anything else raises `ManifestInvalid`."""

    hex: str = field()

    @hex.validator
    def _is_sha256(self, _attribute: object, value: str) -> None:
        if _SHA256.fullmatch(value) is None:
            msg = f"not a SHA-256 in lower-case hex: {value!r:.100}"
            raise ManifestInvalid(msg)

    def __str__(self) -> str:
        return self.hex

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of *data*, for documents that are in memory anyway."""
        return cls(hashlib.sha256(data).hexdigest())


@frozen
class Fingerprint:
    """What was seen while bytes went by: enough to write a manifest entry."""

    size: int
    sha256: Digest
    git_oid: str | None
    leaf_list: bytes | None
    """
    Where it was asked for, that of a blob larger than `LEAF_SIZE`, else None: one line for each `LEAF_SIZE` bytes, the
    SHA-256 in hex, as ``split -b 16M --filter=sha256sum BLOB | cut -c-64`` prints them.
    """

    @property
    def leaves(self) -> Digest | None:
        """The digest that names the leaf list."""
        return None if self.leaf_list is None else Digest.of(self.leaf_list)

    @property
    def sums(self) -> tuple[bytes, ...]:
        """The raw SHA-256 of each `LEAF_SIZE` and of the rest (`stores.protocol.Store.write`); nothing for a large file without leaf list."""
        if self.leaf_list is not None:
            return tuple(map(bytes.fromhex, self.leaf_list.decode("ascii").split()))
        return (bytes.fromhex(self.sha256.hex),) if self.size <= LEAF_SIZE else ()


class Leaves:
    """Hashes each `LEAF_SIZE` of what goes by."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._room = LEAF_SIZE
        self._done: list[str] = []

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        rest = memoryview(chunk)
        while len(rest) >= self._room:
            self._hasher.update(rest[: self._room])
            self._done.append(self._hasher.hexdigest())
            rest = rest[self._room :]
            self._hasher, self._room = hashlib.sha256(), LEAF_SIZE
        self._hasher.update(rest)
        self._room -= len(rest)

    def finish(self) -> bytes:
        """The leaf list (`Fingerprint.leaf_list`)."""
        partial = [self._hasher.hexdigest()] if self._room < LEAF_SIZE else []
        return "".join(f"{leaf}\n" for leaf in self._done + partial).encode()


class Fingerprinter:
    r"""
    Hashes one file of known *size* in one pass.

    *git* also computes the git blob name, ``sha1("blob <size>\0" + bytes)``; it is asked for where the
    file is no LFS file. *leaves* also makes the leaf list of a file that has one, and hashes every byte of it twice.
    """

    def __init__(self, size: int, *, git: bool, leaves: bool = True) -> None:
        self.size = size
        self.seen = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else None
        self._leaves = self._hash_leaves() if leaves and size > LEAF_SIZE else None

    def _hash_leaves(self) -> Leaves:
        return Leaves()

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._leaves is not None:
            self._leaves.update(chunk)
        self._sha256.update(chunk)
        if self._git is not None:
            self._git.update(chunk)
        self.seen += len(chunk)

    def finish(self) -> Fingerprint:
        """What went by. Call at the end."""
        return Fingerprint(
            size=self.seen,
            sha256=Digest(self._sha256.hexdigest()),
            git_oid=None if self._git is None else self._git.hexdigest(),
            leaf_list=None if self._leaves is None else self._leaves.finish(),
        )


@frozen
class Expected:
    """
    What was promised about a file: its *size* in bytes and at least one digest.

    *sha256* comes from a manifest, a lock or the Hub's ``lfs.oid``; *git_oid* proves the small files,
    for which the Hub publishes nothing else (DESIGN: "sha1 of blob header and bytes").
    """

    size: int
    sha256: Digest | None = None
    git_oid: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.size < 0:
            msg = f"impossible size {self.size}"
            raise ManifestInvalid(msg)
        if self.git_oid is not None and not is_git_oid(self.git_oid):
            msg = f"not a git object name: {self.git_oid!r:.100}"
            raise ManifestInvalid(msg)
        if self.sha256 is None and self.git_oid is None:
            msg = "a file without any promised digest cannot be proven"
            raise ManifestInvalid(msg)

    def fingerprinter(self, *, leaves: bool = True) -> Fingerprinter:
        """A hasher that computes what `check` needs; and the *leaves*, for those who write a manifest."""
        return Fingerprinter(self.size, git=self.git_oid is not None, leaves=leaves)

    def check(self, seen: Fingerprint, what: str) -> None:
        """Raise `SizeMismatch` or `DigestMismatch` unless *seen* is what was promised about *what*."""
        if seen.size != self.size:
            raise SizeMismatch(what, expected=self.size, actual=seen.size)
        if self.sha256 is not None and seen.sha256 != self.sha256:
            raise DigestMismatch(what, expected=self.sha256.hex, actual=seen.sha256.hex)
        if self.git_oid is not None and seen.git_oid != self.git_oid:
            raise DigestMismatch(what, expected=self.git_oid, actual=str(seen.git_oid))


def verified(
    chunks: Iterable[bytes], expected: Expected, what: str, *, into: Fingerprinter | None = None
) -> Iterator[bytes]:
    """
    Pass *chunks* on, and raise instead of ending if they are not what was *expected*.

    A consumer that publishes only after the iterator ended (`stores.protocol.Store.write`) can therefore
    never publish wrong bytes. *into* is a fingerprinter to use, for callers who want its result.
    """
    hasher = into or expected.fingerprinter(leaves=False)
    for chunk in chunks:
        hasher.update(chunk)
        if hasher.seen > expected.size:
            raise SizeMismatch(what, expected=expected.size, actual=hasher.seen)
        yield chunk
    expected.check(hasher.finish(), what)


def set_digest(files: Iterable[tuple[str, Digest]]) -> Digest:
    r"""
    One digest for a set of (path, digest): SHA-256 over ``"<sha256>  <path>\n"``, lines sorted bytewise.

    ``find . -type f -printf '%P\0' | xargs -0 sha256sum -- | LC_ALL=C sort | sha256sum`` computes the same.
    """
    lines = sorted(f"{digest}  {path}\n".encode() for path, digest in files)
    return Digest.of(b"".join(lines))
