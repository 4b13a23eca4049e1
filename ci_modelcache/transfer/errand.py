"""What the connections of a restore ask of those who know whence a file comes and where it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.model.digest import Expected, Fingerprint
    from ci_modelcache.transfer.land import Landing


class Copy(Protocol):
    """Somewhere to read the bytes of a file."""

    def open(self, start: int, stop: int | None = None, /) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from *start* to *stop* (None: the end); one attempt."""


C = TypeVar("C", bound=Copy)


class Errand(Protocol[C]):
    """
    One file to bring: where it may come from, where it goes, and what becomes of it. At most one thread at a time calls it, but for `require_size`.

    What a method raises ends all, but for `ObjectNotFound` and `IntegrityError` of `copy`: `lost` is told of those.
    """

    @property
    def expected(self) -> Expected:
        """What its bytes must prove."""

    @property
    def lists_leaves(self) -> bool:
        """Whether the fingerprint is to have its leaf list."""

    @property
    def trusts_leaves(self) -> bool:
        """Whether the leaf list proves the file without its whole digest."""

    def start(self) -> bool:
        """Bring it without a connection if that can be; returns whether it is in its place."""

    def copy(self) -> C | None:
        """The next copy, which nobody may have looked at; None when the file came to its place on the way to it."""

    def passed_over(self, copy: C, error: ModelCacheError) -> None:
        """*copy* cannot give the file because of *error*; raises it when that is no reason to go on."""

    def require_size(self, copy: C) -> None:
        """Raise `ObjectNotFound` or `SizeMismatch` when *copy*, which ended too soon, has no more."""

    def leaf_digests(self) -> Sequence[bytes]:
        """The SHA-256 of each leaf; nothing for a file without them, or when they cannot be had."""

    def landing(self) -> Landing:
        """Where to write the bytes."""

    def landed(self, target: Path, seen: Fingerprint, copy: C, *, by_its_leaves: bool) -> None:
        """It is in its place, at *target*; *copy* is where the last of it came from. *by_its_leaves*: nobody has hashed the whole."""

    def lost(self, failure: ModelCacheError) -> None:
        """No copy is right: bring it in another way, or raise."""
