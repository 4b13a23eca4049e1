"""The only module that knows what takes a long stream of bytes in their order, and what becomes of it when the stream breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import frozen

from ci_modelcache.errors import ConfigError, NoSpace
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.land import explaining_refusal, replacing, sweep

Take = Callable[[bytes], object]
"""Takes the next bytes, all of them."""

Kept = Callable[[int], Iterator[bytes]]
"""What is left of a stream that broke, from an offset on: nobody has proven yet that it is right."""

Begin = Callable[[Kept], int]
"""Is given what is left, and returns how many bytes of it, from the first on, shall stay: the stream goes on there."""


@frozen
class Written:
    """A file or an object that an outlet has made: its *name* as its user writes it, its *size* in bytes and its *sha256* in hex."""

    name: str
    size: int
    sha256: str


class Outlet(Protocol):
    """Where a stream goes. It is given proven bytes alone, for what it took it need not be able to give back."""

    @property
    def name(self) -> str:
        """What its user calls it."""

    def open(self, size: int) -> AbstractContextManager[Take]:
        """
        The function that takes the *size* bytes of the stream.

        Raises `ConfigError`, `AccessDenied` or `NoSpace` on entry where the stream could not end well. What is there when the block
        raised is said by each outlet.
        """


@runtime_checkable
class Keeping(Outlet, Protocol):
    """An outlet that keeps what a broken stream has brought, for the next one that brings the same."""

    def open(self, size: int) -> AbstractContextManager[Take]:
        return self.resume(size, lambda _kept: 0)

    def resume(self, size: int, begin: Begin) -> AbstractContextManager[Take]:
        """
        As `open`, but *begin* is called once on entry, and the function takes what follows the bytes that it said.

        What was kept is kept again when the block is broken off by what may be gone the next time, a kill among it; when
        the bytes were wrong, or the disk is full, nothing is.
        """


@runtime_checkable
class Lasting(Outlet, Protocol):
    """An outlet that leaves something with a name."""

    @property
    def goes_on(self) -> bool:
        """Whether what a broken stream has brought is used by the next one that brings the same."""

    def written(self, sha256: str) -> tuple[Written, ...]:
        """What it has made, in its order, after a block that ended well; *sha256* (hex) is that of the whole stream."""


def refuse_others(path: Path) -> None:
    """Raise `ConfigError` for what a file would not simply replace: a folder, or a device such as /dev/null."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        msg = f"cannot write {path}: it is {what}"
        raise ConfigError(msg, hint="name a file in it" if path.is_dir() else "write to stdout instead: -o -")


@contextmanager
def advising() -> Iterator[None]:
    """Say of a full disk what helps an archive."""
    try:
        yield
    except NoSpace as error:
        error.hint = "free space there, choose another disk, or write to a pipe: -o -"
        raise


@frozen
class FileOutlet:
    """The file at *path*: it is there when the block has ended well, with *mode*, and as it was when not."""

    path: Path
    mode: int = 0o644
    goes_on = False

    @property
    def name(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        folder = self.path.parent
        with explaining_refusal(self.path), advising():
            refuse_others(self.path)
            if folder.is_dir():
                sweep(folder)
            require_space(folder, size)
            with replacing(self.path, mode=self.mode) as file:
                yield file.write

    def written(self, sha256: str) -> tuple[Written, ...]:
        return (Written(self.name, self.path.stat().st_size, sha256),)
