"""The only module that puts bytes aside on this disk for as long as one command lasts: under no name, so that nothing can stay behind."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from ci_modelcache.transfer.kept_file import pieces
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType


class Stash:
    """Bytes in *folder*, called *name*; a `transfer.inlet.Inlet` that one thread adds to, and the file is made when it first does."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.size = 0
        self._folder = folder
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, chunks: Iterable[bytes]) -> int:
        """Keep *chunks*; the result is the offset at which they begin. Raises `NoSpace`, `AccessDenied`."""
        begin = self.size
        with explaining_refusal(self._folder), explaining_full_disk(self._folder):
            if self._descriptor < 0:
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    self._descriptor = os.dup(file.fileno())
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                with explaining_full_disk(self._folder):
                    written = os.pwrite(self._descriptor, rest, self.size)
                self.size, rest = self.size + written, rest[written:]
        return begin

    @contextmanager
    def open(self, start: int, /) -> Iterator[Iterator[bytes]]:
        yield pieces(self._descriptor, start)
