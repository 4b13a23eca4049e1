"""A store that holds nothing and takes nothing: what having no store means, without a special case anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ci_modelcache.errors import AccessDenied, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ci_modelcache.stores.protocol import ObjectInfo


class EmptyStore:
    """Implements `Store`: every read is a miss, every write is denied. *why* says why there is none."""

    def __init__(self, why: str = "mode off") -> None:
        self.url = f"no store ({why})"

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[Iterator[bytes]]:  # noqa: ARG002  # the protocol's
        raise ObjectNotFound(key, self.url)

    def write(  # the protocol's arguments, not needed to refuse
        self,
        key: str,
        chunks: Iterable[bytes],  # noqa: ARG002  # as above
        *,
        size: int,  # noqa: ARG002  # as above
        create_only: bool = False,  # noqa: ARG002  # as above
        sums: Sequence[bytes] = (),  # noqa: ARG002  # as above
    ) -> NoReturn:
        msg = f"cannot write {key}: there is {self.url}"
        raise AccessDenied(msg, hint="use --mode read-write with a store")

    def stat(self, key: str) -> ObjectInfo:
        raise ObjectNotFound(key, self.url)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:  # noqa: ARG002  # the protocol's
        return iter(())

    def delete(self, key: str) -> None:
        """Nothing is there."""
