"""The only module that knows how a long stream is cut into parts: their names, their sums, and the files that they become."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.kept_file import finish, growing, is_own, pieces, prepared, put
from ci_modelcache.transfer.land import replacing
from ci_modelcache.transfer.lane import Lane
from ci_modelcache.transfer.outlet import Keeping, Written

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.transfer.outlet import Begin, Take

MOST = 1000
"""Parts; a name has three digits, so that a shell puts them into their order."""

_LANDING = b"landing"
"""What the file that stands for all parts holds while they get their names."""


def part_name(whole: str, number: int) -> str:
    """The name of part *number* (from 0) of *whole*."""
    return f"{whole}.{number:03}"


def sums_name(whole: str) -> str:
    """The name of the sums of *whole*, which ``[0-9]*`` after the dot does not match."""
    return f"{whole}.sha256s"


def part_of(whole: str) -> re.Pattern[str]:
    """Matches the names of parts of *whole*."""
    return re.compile(rf"{re.escape(whole)}\.[0-9]{{3}}")


def require_parts(size: int, part: int) -> None:
    """Raise `ConfigError` when *size* bytes make too many parts of *part* bytes."""
    if size > MOST * part:
        msg = f"parts of {part} bytes are too small: {size} bytes would be more than {MOST} parts"
        raise ConfigError(msg, hint="split into larger parts")


class Sums:
    """What each part of *split* bytes of a stream hashes to, and all of it."""

    def __init__(self, split: int) -> None:
        self._split = split
        self._whole = hashlib.sha256()
        self._part = hashlib.sha256()
        self._parts: list[tuple[int, str]] = []
        self._seen = 0
        self._lanes = Lane(self._whole.update), Lane(self._update)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        for lane in self._lanes:
            lane.give(data)

    def _update(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            piece = rest[: self._split - self._seen % self._split]
            self._part.update(piece)
            self._seen += len(piece)
            rest = rest[len(piece) :]
            if self._seen % self._split == 0:
                self._end(self._split)

    def _end(self, size: int) -> None:
        self._parts.append((size, self._part.hexdigest()))
        self._part = hashlib.sha256()

    def finish(self, whole: str) -> tuple[Written, ...]:
        """The parts of *whole*. To be called once, at the end."""
        for lane in self._lanes:
            lane.wait()
        if self._seen % self._split:
            self._end(self._seen % self._split)
        return tuple(Written(part_name(whole, number), *each) for number, each in enumerate(self._parts))

    def document(self, whole: str, parts: Iterable[Written]) -> bytes:
        """The lines of *parts*, and of *whole* that they make together, as sha256sum prints them; names are without folders."""
        lines = [(each.sha256, each.name) for each in parts] + [(self._whole.hexdigest(), whole)]
        return "".join(f"{sha256}  {name.rpartition('/')[2]}\n" for sha256, name in lines).encode()


class PartFiles(Keeping):
    """
    Files of *split* bytes each beside *path*, and their sums, as a `Keeping` outlet: ``cat PATH.[0-9]*`` is the stream.

    They get their names when all are there, the sums last. Until then they grow at ``PATH.partial.000`` and so on.
    """

    goes_on = True

    def __init__(self, path: Path, split: int) -> None:
        self.path = path
        self._split = split
        self._written: tuple[Written, ...] = ()

    @property
    def name(self) -> str:
        return str(self.path)

    def written(self, sha256: str) -> tuple[Written, ...]:
        del sha256  # that of the whole, which is nowhere
        return self._written

    @contextmanager
    def resume(self, size: int, begin: Begin) -> Iterator[Take]:
        require_parts(size, self._split)
        with prepared(self.path), growing(self.path, others=_parts_of) as (descriptor, base):
            if os.pread(descriptor, len(_LANDING), 0) == _LANDING:
                self._take_back(base)
            put_whole(descriptor, b"parts")
            parts = _Growing(base, self._split)
            start = begin(parts.kept)
            sums = Sums(self._split)
            for data in parts.kept(0, start):
                sums.update(data)
            require_space(self.path.parent, size - start)
            with parts.opened(start):

                def take(data: bytes) -> None:
                    parts.write(data)
                    sums.update(data)

                yield take
            put_whole(descriptor, _LANDING)
            self._land(base, sums)

    def _land(self, base: Path, sums: Sums) -> None:
        document = self.path.with_name(sums_name(self.path.name))
        document.unlink(missing_ok=True)
        self._written = sums.finish(self.name)
        for old in _parts_of(self.path, len(self._written)):
            old.unlink()
        for number in range(len(self._written)):
            self._part(base, number).replace(self._part(self.path, number))
        with replacing(document) as file:
            file.write(sums.document(self.name, self._written))
        base.unlink()

    def _take_back(self, base: Path) -> None:
        """Give parts their old names when a process was killed while they got new ones."""
        if self.path.with_name(sums_name(self.path.name)).exists():
            return
        for number in range(MOST):
            new, old = self._part(self.path, number), self._part(base, number)
            if old.exists() or not new.exists():
                return
            new.replace(old)

    @staticmethod
    def _part(whole: Path, number: int) -> Path:
        return whole.with_name(part_name(whole.name, number))


def put_whole(descriptor: int, data: bytes) -> None:
    """Have a small file hold *data*."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _parts_of(whole: Path, first: int = 0) -> list[Path]:
    """The parts of *whole* that are there, from number *first* on."""
    name = part_of(whole.name)
    found = (each for each in whole.parent.iterdir() if name.fullmatch(each.name))
    return sorted(each for each in found if int(each.suffix[1:]) >= first)


class _Growing:
    """The parts at *base* while they grow: one is open at a time."""

    def __init__(self, base: Path, split: int) -> None:
        self._base = base
        self._split = split
        self._descriptor = -1
        self._at = 0

    def kept(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        """What they have from *offset* on, up to *stop*, or to the first part that is missing or has another size."""
        for number in count(offset // self._split):
            path = self._path(number)
            if not os.path.lexists(path) or not is_own(path.lstat()):
                return
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                start = number * self._split
                for data in pieces(descriptor, offset - start):
                    piece = data if stop is None else data[: max(0, stop - offset)]
                    if not piece or offset + len(piece) > start + self._split:
                        return
                    yield piece
                    offset += len(piece)
            finally:
                os.close(descriptor)
            if offset < start + self._split:
                return

    @contextmanager
    def opened(self, start: int) -> Iterator[None]:
        """Keep *start* bytes and write the next ones after them; at the end of the block all is on the disk."""
        number, size = divmod(start, self._split)
        for each in _parts_of(self._base, number + (1 if size else 0)):
            each.unlink()
        self._at = start
        try:
            if size:
                self._open(number, os.O_APPEND)
                os.ftruncate(self._descriptor, size)
            yield
            self._close()
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            number, size = divmod(self._at, self._split)
            if self._descriptor < 0:
                self._open(number, os.O_CREAT | os.O_EXCL)
            piece = rest[: self._split - size]
            put(self._descriptor, piece)
            self._at += len(piece)
            rest = rest[len(piece) :]
            if self._at % self._split == 0:
                self._close()

    def _open(self, number: int, flags: int) -> None:
        flags |= os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path(number), flags, 0o600)

    def _close(self) -> None:
        if self._descriptor >= 0:
            finish(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _path(self, number: int) -> Path:
        return self._base.with_name(part_name(self._base.name, number))
