"""
The only module that reads blobs for those who cannot take a byte back: a pipe, an upload.

A large blob is read in the stretches of its leaf list, each held in memory until its digest is right.
"""

from __future__ import annotations

import logging
import threading
from copy import copy
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from ci_modelcache.errors import IntegrityError, ManifestInvalid, ModelCacheError, ObjectNotFound
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected, verified
from ci_modelcache.transfer.retry import once_more
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.tier import Tier
    from ci_modelcache.model.manifest import FileEntry

_log = logging.getLogger(__name__)


class ProvenBlob:
    """
    The bytes of *file* as *cache* has them, in any of its copies; those of *tiers* are asked first. Methods may be called from any thread.

    What cannot be had raises `ObjectNotFound` when there is no copy, `IntegrityError` when none is right, and as the store does.
    """

    def __init__(self, file: FileEntry, cache: ModelCache, *, tiers: Iterable[Tier] = ()) -> None:
        self.file = file
        self.stretches = -(-file.size // LEAF_SIZE)
        """How many there are: each has `LEAF_SIZE` bytes, the last one what is left."""
        self._cache = cache
        self._lock = threading.Lock()
        self._known: list[BlobCopy] = []
        near = chain.from_iterable(tier.copies(file.sha256, file.size) for tier in tiers)
        self._others = chain(near, cache.blob_copies(file.sha256, file.size))
        self._failure: ModelCacheError | None = None
        self._leaves: tuple[Digest, ...] = ()

    def find(self) -> None:
        """Raise `ObjectNotFound` or `SizeMismatch` unless there is a copy of the right size."""
        for _ in self._copies():
            return
        raise self._miss()

    def read(self, number: int, *, proven: bool = True) -> list[bytes]:
        """
        The pieces of stretch *number* (from 0), proven; a copy that is wrong there is passed over for the next one.

        Where nobody is to have them *proven* those of a file that has several are only as many as they should be: for who proves the file.
        """
        start = number * LEAF_SIZE
        stop = min(start + LEAF_SIZE, self.file.size)
        expected = Expected(stop - start, sha256=self.digest(number))
        failure: ModelCacheError = self._miss()
        for one in self._copies():
            what = str(one) if self.stretches == 1 else f"{one}, bytes {start} to {stop}"
            try:
                if self.stretches > 1 and not proven:
                    return list(self._pieces(one, start, expected.size, what))
                return once_more(partial(self._read, one, start, expected, what), doing=f"reading {what}")
            except (ObjectNotFound, IntegrityError) as error:
                failure = error
        raise failure

    def leaf_list(self) -> bytes:
        """
        The leaf list of a file larger than `LEAF_SIZE`, proven; one that the store has lost is made again, for which the blob is read.

        Raises `ManifestInvalid` when the manifest's is none of such a file.
        """
        name = self.file.leaves
        assert name is not None  # noqa: S101  # narrows the type, as the contract says
        found = self._leaf_list(name)
        if Digest.of(found) != name:
            msg = f"{self.file.path}: its leaf list is {Digest.of(found)}, and the manifest says {name}"
            raise ManifestInvalid(msg)
        return found

    def digest(self, number: int) -> Digest:
        """What stretch *number* hashes to; raises as `read` when its leaf list cannot be had."""
        return self._digests()[number]

    def _read(self, one: BlobCopy, start: int, expected: Expected, what: str) -> list[bytes]:
        return list(verified(self._pieces(one, start, expected.size, what), expected, what))

    def _pieces(self, one: BlobCopy, start: int, size: int, what: str) -> Iterator[bytes]:
        def open_at(offset: int) -> AbstractContextManager[Iterator[bytes]]:
            return one.open(start + offset, start + size)

        return read_through(open_at, size, self._cache.retry, what=what)

    def _miss(self) -> ObjectNotFound:
        return ObjectNotFound(self.file.sha256.hex, self._cache.url)

    def _copies(self) -> Iterator[BlobCopy]:
        """Every copy; the store is asked once for each, and only when those before it did not do."""
        number = 0
        while True:
            with self._lock:
                found = self._known[number : number + 1] or self._next()
            if not found:
                return
            yield found[0]
            number += 1

    def _next(self) -> list[BlobCopy]:
        """One more copy, or none; a store that failed once about that is not taken for one that has no more."""
        if self._failure is not None:
            raise copy(self._failure)
        try:
            found = list(islice(self._others, 1))
        except ModelCacheError as error:
            self._failure = error
            raise
        self._known += found
        return found

    def _digests(self) -> tuple[Digest, ...]:
        """The digest of each stretch."""
        if self.file.leaves is None:
            return (self.file.sha256,)
        with self._lock:
            known = self._leaves
        if not known:
            known = tuple(map(Digest, self._leaf_list(self.file.leaves).decode("ascii", "replace").split()))
            with self._lock:
                self._leaves = known
        return known

    def _leaf_list(self, name: Digest) -> bytes:
        found = self._stored_leaf_list(name)
        if (leaves := len(found.split())) != self.stretches:
            msg = f"{self.file.path}: its leaf list has {leaves} leaves, and its size makes {self.stretches}"
            raise ManifestInvalid(msg)
        return found

    def _stored_leaf_list(self, name: Digest) -> bytes:
        """As the store has it, or as the blob makes it."""
        try:
            return self._cache.leaf_list(name)
        except (ObjectNotFound, IntegrityError) as error:
            _log.warning("%s; making it again", error)
            failure: ModelCacheError = error
        for one in self._copies():
            hasher = self.file.expected.fingerprinter()
            chunks = read_through(one.open, self.file.size, self._cache.retry, what=str(one))
            try:
                for _ in verified(chunks, self.file.expected, str(one), into=hasher):
                    pass
            except (ObjectNotFound, IntegrityError) as error:
                failure = error
                continue
            return hasher.finish().leaf_list or b""
        raise failure
