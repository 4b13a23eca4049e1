"""The only module that keeps objects as files of a folder: the key is the path."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ci_modelcache.errors import (
    AccessDenied,
    AlreadyExists,
    BucketMissing,
    ConfigError,
    ModelCacheError,
    ObjectNotFound,
    Unavailable,
)
from ci_modelcache.stores.keys import PIECE, STAGING, check_key, check_prefix, check_range, exactly, is_key
from ci_modelcache.stores.protocol import ObjectInfo
from ci_modelcache.stores.sums import summed
from ci_modelcache.transfer.land import replacing, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

MODE = 0o444
"""Nobody writes into an object, so that it can be hard-linked into other trees."""

_log = logging.getLogger(__name__)


class DirectoryStore:
    """
    A `Store` in the folder *root*, and `OnDisk`.

    Raises `BucketMissing` when *root* does not exist, unless *create* makes it. An object is staged in
    ``<root>/.staging`` and synced before it gets its name; what killed writers left there goes with the first write.
    """

    def __init__(self, root: Path, *, create: bool) -> None:
        self.root = root.absolute()
        self._staging = self.root / STAGING
        self._swept = False
        self._sweeping = threading.Lock()
        with _explaining(f"opening {self.url}"):
            if create:
                self.root.mkdir(parents=True, exist_ok=True)
            self._require_root()

    @property
    def url(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        path = self.path(key)
        check_range(start, stop)
        with self._finding(key):
            file = path.open("rb", buffering=0)
        with file:
            yield self._pieces(file, key, start, stop)

    def _pieces(self, file: BinaryIO, key: str, start: int, stop: int | None) -> Iterator[bytes]:
        offset = start
        while stop is None or offset < stop:
            with self._finding(key):
                file.seek(offset)
                piece = file.read(PIECE if stop is None else min(PIECE, stop - offset))
            if not piece:
                return
            offset += len(piece)
            yield piece

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        target = self.path(key)
        source = _Source(summed(exactly(chunks, size, key), sums, size=size, what=key))
        with _explaining(f"writing {key} to {self.url}", unless=source):
            self._require_root()
            self._sweep_once()
            try:
                with replacing(target, mode=MODE, staging=self._staging, create_only=create_only) as file:
                    for chunk in source:
                        file.write(chunk)
            except FileExistsError as error:
                if source.failure is None and create_only and target.is_file():
                    raise AlreadyExists(key, self.url) from error
                raise

    def adopt(self, key: str, move: Callable[[Path, int], None]) -> None:
        target = self.path(key)
        with _explaining(f"writing {key} to {self.url}"):
            self._require_root()
            target.parent.mkdir(parents=True, exist_ok=True)
            move(target, MODE)

    def _sweep_once(self) -> None:
        with self._sweeping:
            if self._swept:
                return
            self._swept = True
            try:
                sweep(self._staging)
            except OSError as error:
                # Another user's leftovers cost room, and are no reason to refuse this write.
                _log.warning("leftovers stay in %s: %s", self._staging, error)

    def stat(self, key: str) -> ObjectInfo:
        with self._finding(key):
            found = self.path(key).stat()
            if not stat.S_ISREG(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), key)
        return ObjectInfo(key, size=found.st_size, modified=found.st_mtime)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with _explaining(f"listing {self.url}"):
            self._require_root()
        folder, slash, start = prefix.rpartition("/")
        yield from self._scan_folder(folder + slash, start)

    def _scan_folder(self, folder: str, start: str) -> Iterator[ObjectInfo]:
        for name in self._names(folder, start):
            key = folder + name
            if name.endswith("/"):
                yield from self._scan_folder(key, "")
                continue
            with _explaining(f"listing {self.url}"):
                try:
                    found = (self.root / key).stat()
                except FileNotFoundError:
                    continue  # deleted since its folder was read
            if stat.S_ISREG(found.st_mode):
                yield ObjectInfo(key, size=found.st_size, modified=found.st_mtime)

    def _names(self, folder: str, start: str) -> list[str]:
        """Files and, with a slash at the end, folders in *folder* that keys can name and that begin with *start*."""
        # With its slash a folder sorts among the files as its keys do: "a-b" < "a.b" < "a/b".
        with _explaining(f"listing {self.url}"):
            try:
                with os.scandir(self.root / folder) as entries:
                    named = [each for each in entries if each.name.startswith(start) and is_key(folder + each.name)]
                    return sorted(f"{each.name}/" if each.is_dir() else each.name for each in named)
            except (FileNotFoundError, NotADirectoryError):
                return []  # deleted since its parent was read, or never there

    def delete(self, key: str) -> None:
        path = self.path(key)
        with _explaining(f"deleting {key} from {self.url}"):
            self._require_root()
            try:
                path.unlink(missing_ok=True)
            except (NotADirectoryError, IsADirectoryError) as error:
                _log.debug("%s is no object: %s", key, error)

    def _require_root(self) -> None:
        """Raise `BucketMissing` for a folder that is gone, such as a disk that is not mounted any more."""
        try:
            mode = self.root.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            msg = f"there is no folder {self.url}"
            hint = "check the path, and that its disk is mounted; ci-modelcache fetch and save make a new folder"
            raise BucketMissing(msg, hint=hint) from error
        if not stat.S_ISDIR(mode):
            msg = f"{self.url} is no folder"
            raise ConfigError(msg, hint="give the path of a folder as the store")

    @contextmanager
    def _finding(self, key: str) -> Iterator[None]:
        """Turn what the system says when *key* is not there into `ObjectNotFound`, and the rest as `_explaining` does."""
        with _explaining(f"reading {key} from {self.url}"):
            try:
                yield
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                self._require_root()
                raise ObjectNotFound(key, self.url) from error


class _Source:
    """Iterates over *chunks* and remembers what they raised: a failure of theirs is none of the store's disk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except BaseException as error:
            self.failure = error
            raise


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


@contextmanager
def _explaining(doing: str, *, unless: _Source | None = None) -> Iterator[None]:
    """Turn an `OSError` while *doing* something into what a store raises; what *unless* raised passes through."""
    try:
        yield
    except OSError as error:
        if unless is not None and error is unless.failure:
            raise
        raise _explained(error, doing) from error


def _explained(error: OSError, doing: str) -> ModelCacheError:
    reason = error.strerror or type(error).__name__
    if error.errno in _REFUSED:
        return AccessDenied(f"{doing}: {reason}", hint="check who owns the folder, and whether it is mounted read-only")
    if error.errno in _IN_THE_WAY:
        msg = f"{doing}: {reason} ({error.filename})"
        return ConfigError(
            msg, hint="something that is no object of this store is in the way; move it, or use a folder of its own"
        )
    return Unavailable(f"{doing}: {reason}", hint="check the disk, and if it is a network disk the connection to it")
