"""What a store is: named bytes, five verbs, and nothing about models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


@frozen
class ObjectInfo:
    """One stored object: its key, its *size* in bytes, *modified* in seconds since the epoch (the store's clock)."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """
    Named bytes.

    Keys use ``[A-Za-z0-9._/-]``, are relative, and no key is a prefix folder of another. Every method
    raises only `ModelCacheError`: `ObjectNotFound` when the object is not there, `AccessDenied` when
    the store refuses (never taken for absence), `BucketMissing` when there is no such bucket or folder,
    `Unavailable` for what may pass, `NoSpace` for a full disk. All methods may be called from any thread.
    """

    @property
    def url(self) -> str:
        """The store as its user writes it, without credentials: ``s3://bucket/prefix`` or ``/path``."""

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[Iterator[bytes]]:
        """
        Yield an iterator over bytes *start* to *stop* (exclusive; None: to the end) of *key*.

        `ObjectNotFound` and `AccessDenied` are raised on entry. While iterating, a connection that breaks raises
        `Unavailable`; an iterator that ends early without an error is possible too, so a reader counts.
        A range that begins at the end of the object or after it is empty.
        """

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        """
        Make *key* hold exactly the *size* bytes of *chunks*, atomically: readers see all of it or the old state.

        *chunks* is consumed once. When iterating it raises, or yields another number of bytes than *size*
        (`SizeMismatch`), nothing becomes visible and the exception passes through: an iterator that
        verifies itself thereby guards the store. With *create_only* an existing key raises `AlreadyExists` where the store
        can tell; where it cannot (see the capability probe) the key is replaced. It may have been taken by this very
        call, when the answer to its first attempt was lost: read it back before calling it a conflict.

        *sums*: the raw SHA-256 of each 16 MiB of the bytes, and of what is left, as the caller has them from an earlier
        reading; of an empty object that of no bytes. Bytes with another one raise `DigestMismatch`, and nothing becomes visible.
        """

    def stat(self, key: str) -> ObjectInfo:
        """Size and age of *key*; raises `ObjectNotFound`."""

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with *prefix* (a plain string prefix), ordered by key."""

    def delete(self, key: str) -> None:
        """Remove *key*; that it is absent already is fine."""


@runtime_checkable
class OnDisk(Protocol):
    """A store whose objects are plain files of this machine, so that they can be linked instead of copied."""

    @property
    def root(self) -> Path:
        """The folder that the store is."""

    def path(self, key: str) -> Path:
        """The file that holds *key*, whether or not it exists; to be read or linked, never written."""

    def adopt(self, key: str, move: Callable[[Path, int], None]) -> None:
        """
        Make *key* a file that lies on this disk already: *move* is called with the path it is to be renamed to, and its mode.

        The caller has proven its bytes, and nobody writes it any more. Raises as `Store.write` does.
        """


@runtime_checkable
class OverNetwork(Protocol):
    """A store that is asked with credentials, or without."""

    @property
    def anonymous(self) -> bool:
        """Whether it is asked without credentials, since none were found."""


@frozen
class SignedUrls:
    """
    *urls* by key: whoever has one reads that object without credentials, until *ends* (seconds since the epoch, this machine's clock).

    *cut*: the credentials that signed them end before what was asked for, and all of them with those. *unsure*: the credentials
    are temporary, and do not tell when they end, which may be sooner.
    """

    urls: Mapping[str, str] = field(repr=False)
    ends: float
    cut: bool = False
    unsure: bool = False


@runtime_checkable
class Presigning(Protocol):
    """A store that can let others read single objects of it."""

    def presign(self, keys: Iterable[str], *, seconds: int) -> SignedUrls:
        """
        A URL to GET each of *keys* for *seconds* (1 to 604800), whether or not it is there; nothing else can be done with it.

        Raises `ConfigError` when there are no credentials to sign with, and what getting them raises.
        """
