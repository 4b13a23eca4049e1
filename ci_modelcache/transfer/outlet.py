"""The only module that knows what takes a long stream of bytes in their order, and what becomes of it when the stream breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from attrs import frozen

from ci_modelcache.errors import ConfigError, NoSpace
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.land import explaining_refusal, replacing, sweep

Take = Callable[[bytes], object]
"""Takes the next bytes, all of them."""


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


@frozen
class FileOutlet:
    """The file at *path*: it is there when the block has ended well, with *mode*, and as it was when not."""

    path: Path
    mode: int = 0o644

    @property
    def name(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        folder = self.path.parent
        with explaining_refusal(self.path), self._advising():
            self._refuse_others()
            if folder.is_dir():
                sweep(folder)
            require_space(folder, size)
            with replacing(self.path, mode=self.mode) as file:
                yield file.write

    def _refuse_others(self) -> None:
        """Raise `ConfigError` for what a file would not simply replace: a folder, or a device such as /dev/null."""
        if self.path.exists() and not self.path.is_file():
            what = "a folder" if self.path.is_dir() else "no regular file"
            msg = f"cannot write {self.path}: it is {what}"
            raise ConfigError(msg, hint="name a file in it" if self.path.is_dir() else "write to stdout instead: -o -")

    @contextmanager
    def _advising(self) -> Iterator[None]:
        try:
            yield
        except NoSpace as error:
            error.hint = "free space there, choose another disk, or write to a pipe: -o -"
            raise
