"""The only module that knows which objects hold a blob in another form than its raw bytes, and makes such copies (docs/encoding.md)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import Factory, field, frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.copies import BlobCopy
from ci_modelcache.errors import NotDecodable, SizeMismatch, StoreUnsupported
from ci_modelcache.transfer.bytegroup import require_unpacking
from ci_modelcache.transfer.encoded import Unpacking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ci_modelcache.stores.protocol import ObjectInfo, Store


@frozen
class EncodedCopy(BlobCopy):
    """A copy in packed frames: *stored* bytes, which hold *size*. Where they cannot be unpacked for want of a library, `NotDecodable`."""

    stored: int
    _unpacking: Unpacking = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: self._unpacked(), takes_self=True)
    )

    def _unpacked(self) -> Unpacking:
        def open_part(start: int, stop: int | None = None) -> AbstractContextManager[Iterator[bytes]]:
            return self.store.read(self._key, start=start, stop=stop)

        return Unpacking(open_part, size=self.size, stored=self.stored, what=str(self))

    @contextmanager
    def open(self, start: int, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        try:
            require_unpacking()
        except StoreUnsupported as error:
            raise NotDecodable(self._key, self.store.url, why=error.message, hint=error.hint) from error
        with self._unpacking.open(start, stop) as chunks:
            yield chunks

    def require_size(self) -> None:
        actual = self.store.stat(self._key).size
        if actual != self.stored:
            raise SizeMismatch(str(self), expected=self.stored, actual=actual)

    @property
    def files(self) -> tuple[Path, ...]:
        """None: what lies there is no file of a model."""
        return ()


@frozen
class Held:
    """An object at *key*, of *stored* bytes, that holds a blob of *size* bytes."""

    key: str
    size: int
    stored: int
    packed: bool

    @classmethod
    def among(cls, infos: Iterable[ObjectInfo], canonical: str) -> tuple[Held, ...]:
        """Those of *infos* that are copies of the blob, leaf list or manifest *canonical*, in the order in which readers try them."""
        plain, packed = list[Held](), list[Held]()
        for info in infos:
            if info.key == canonical or keys.is_generation(info.key, canonical):
                plain.append(cls(info.key, info.size, info.size, packed=False))
            elif size := keys.packed_size(info.key, canonical):
                packed.append(cls(info.key, size, info.size, packed=True))
        return (*plain, *packed)

    def copy(self, store: Store) -> BlobCopy:
        """It as a copy in *store* to read."""
        return (
            EncodedCopy(store, self.key, self.size, self.stored)
            if self.packed
            else BlobCopy(store, self.key, self.size)
        )
