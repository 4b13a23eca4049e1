"""The only module that proves a stretch of a file by the digests of its leaves."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ci_modelcache.errors import DigestMismatch
from ci_modelcache.model.digest import LEAF_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence


class LeafByLeaf:
    """
    Proves what comes from *offset* on, where a leaf begins, of a file of *size* bytes by the SHA-256 of its *leaves*.

    `proven` is how far it was right, and `wrong` the leaf after that, by its start and stop, once it has proved to be; then nothing more is taken.
    """

    def __init__(self, offset: int, leaves: Sequence[bytes], size: int) -> None:
        self.proven = offset
        self.wrong: tuple[int, int] | None = None
        self._offset = offset
        self._leaves, self._size = leaves, size
        self._hasher = hashlib.sha256()

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        rest = memoryview(piece)
        while rest and self.wrong is None:
            stop = self._stop
            part, rest = rest[: stop - self._offset], rest[stop - self._offset :]
            self._hasher.update(part)
            self._offset += len(part)
            if self._offset < stop:
                return
            if self._hasher.digest() != self._leaves[self.proven // LEAF_SIZE]:
                self.wrong = self.proven, stop
            else:
                self.proven = stop
                self._hasher = hashlib.sha256()

    def mismatch(self, what: str) -> DigestMismatch:
        """What to say of the leaf of *what* that is wrong."""
        expected = self._leaves[self.proven // LEAF_SIZE].hex()
        stretch = f"{what}, bytes {self.proven} to {self._stop}"
        return DigestMismatch(stretch, expected=expected, actual=self._hasher.hexdigest())

    @property
    def _stop(self) -> int:
        return min(self.proven + LEAF_SIZE, self._size)
