"""The only module that knows what one stored copy of a blob is: something to open, and on a store that is a local disk something to link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import SizeMismatch
from ci_modelcache.stores.protocol import OnDisk, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@frozen
class BlobCopy:
    """One stored copy of a blob of *size* bytes."""

    store: Store
    _key: str
    size: int

    def open(self, start: int, stop: int | None = None) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from offset *start* to *stop* (exclusive; None: the end); one attempt (`transfer.streams.OpenAt`)."""
        return self.store.read(self._key, start=start, stop=stop)

    def require_size(self) -> None:
        """Raise `ObjectNotFound` or `SizeMismatch` unless it is there with its size; for one that was not looked at."""
        actual = self.store.stat(self._key).size
        if actual != self.size:
            raise SizeMismatch(str(self), expected=self.size, actual=actual)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of this machine that is this copy, or nothing when it is elsewhere."""
        return (self.store.path(self._key),) if isinstance(self.store, OnDisk) else ()

    def __str__(self) -> str:
        return f"{self.store.url}/{self._key}"
