"""The only module that reads one object of a store as a long stream with offsets, whatever it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.stores.protocol import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


@frozen
class StoredInlet:
    """The object *key* of *store*, which has *size* bytes; a `transfer.inlet.Inlet`."""

    store: Store
    key: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.store.url}/{self.key}"

    def open(self, start: int, /) -> AbstractContextManager[Iterator[bytes]]:
        return self.store.read(self.key, start=start)
