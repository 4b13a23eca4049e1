"""A store that holds nothing and takes nothing: what ``--mode off`` means, without a special case anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ci_modelcache.errors import AccessDenied, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.stores.protocol import ObjectInfo

_WHERE = "no store (mode off)"


class EmptyStore:
    """Implements `Store`: every read is a miss, every write is denied."""

    url = _WHERE

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[Iterator[bytes]]:  # noqa: ARG002  # the protocol's
        raise ObjectNotFound(key, _WHERE)

    def write(self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False) -> NoReturn:  # noqa: ARG002  # the protocol's
        msg = f"cannot write {key}: there is {_WHERE}"
        raise AccessDenied(msg, hint="use --mode read-write with a store")

    def stat(self, key: str) -> ObjectInfo:
        raise ObjectNotFound(key, _WHERE)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:  # noqa: ARG002  # the protocol's
        return iter(())

    def delete(self, key: str) -> None:
        """Nothing is there."""
