"""The only module that reads the bytes of a store whether or not somebody needs them: all, or so many from where the last sample ended."""

from __future__ import annotations

import heapq
import math
import threading
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.copies import BlobCopy
from ci_modelcache.cache.inventory import Kind, Stored, contents
from ci_modelcache.cache.records import ScrubRecord
from ci_modelcache.cache.scrub import FIRST, Cursor, after
from ci_modelcache.errors import IntegrityError, NotDecodable, ObjectNotFound, Unavailable
from ci_modelcache.model.digest import Digest, Expected, verified
from ci_modelcache.transfer.parallel import in_order
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.findings import BESIDE, ITS_MANIFEST, SPARE, WRONG, Flaw, unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.verbs.step import Count, Step

KEEP_EVERY = 60.0
"""Seconds after which it is noted how far a sample has come: what a kill costs."""
_ON_END = 3
"""Objects one after the other that cannot be read: then it is the store that fails."""
_ROUND = 1 << 256

Name = tuple[Kind, Digest]


@frozen
class _Group:
    """All that one digest names, which may be two kinds of things, to be read in *round* number so and so."""

    round: int
    digest: Digest
    stored: tuple[Stored, ...]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.stored)

    @property
    def reading(self) -> int:
        return sum(one.reading for one in self.stored)


@frozen
class _Seen:
    """What became of the reading of *stored*: how many copies are *right*, what is *wrong* with others, the leaf list if it has one."""

    stored: Stored
    right: int = 0
    wrong: tuple[tuple[BlobCopy, str], ...] = ()
    first_right: bool = False
    undecodable: str = ""
    """Why nobody can say here whether a copy is right, or nothing."""
    failure: Unavailable | None = None
    """Why a copy could not be read at all, if it was so."""
    made: tuple[Digest, ...] = field(factory=tuple)


class Reading:
    """
    Bytes of *cache*, proven object by object in the order of digests.

    *needed* is the length of all that is needed, -1 where nobody says it, and *leaves* the leaf list that each large blob should have.
    """

    def __init__(
        self, cache: ModelCache, step: Step, *, needed: Mapping[Name, int], leaves: Mapping[Digest, Digest]
    ) -> None:
        self._cache = cache
        self._step = step
        self._needed = needed
        self._leaves = leaves
        self._lock = threading.Lock()
        self.flaws: dict[Name, Flaw] = {}
        """What is wrong with what is needed."""
        self.garbage: list[tuple[str, str]] = []
        """Wrong bytes that nobody needs yet, and why."""
        self.vanished: set[Name] = set()
        """What was needed and is not there any more, or never was."""
        self.blobs = 0
        self._alive = False
        self._failures: list[Unavailable] = []
        self.bytes_read = 0
        self.position = ScrubRecord(FIRST, 0)
        """Where the next sample begins; round 0 when this was none."""

    def all(self) -> None:
        """Read everything."""
        for group in self._read(ScrubRecord(FIRST, 0), math.inf):
            self._take(group)
        self._end()

    def sample(self, budget: float, cursor: Cursor) -> None:
        """
        Read the next *budget* bytes, and at least one object, from where *cursor* stands; it is moved on, whatever ends this.

        At the end of the store a new round begins; nothing is read twice in one sample.
        """
        self.position = kept = cursor.load()
        noted = self._step.clock()
        try:
            for group in self._read(kept, max(1.0, budget)):
                self._take(group)
                number, following = group[0], after(group[1])
                self.position = ScrubRecord(following, number) if following else ScrubRecord(FIRST, number + 1)
                if self._step.clock() - noted >= KEEP_EVERY:
                    cursor.keep(self.position)
                    kept, noted = self.position, self._step.clock()
            self._end()
        finally:
            if self.position != kept:
                cursor.keep(self.position)

    @property
    def covered(self) -> float:
        """How far the round is, from 0 to 1: digests are spread evenly."""
        return int(self.position.following, 16) / _ROUND

    # --- reading

    def _read(self, start: ScrubRecord, budget: float) -> Iterator[tuple[int, Digest, tuple[_Seen, ...]]]:
        step, doing = self._step, f"reading {self._cache.url}"
        groups = _groups(self._cache, start, budget)
        # Listed twice: a store may have more objects than fit into memory.
        step.progress.start(doing, sum(group.reading for group in _groups(self._cache, start, budget)))
        try:
            with closing(
                in_order(groups, self._look, workers=step.workers, deadline=step.deadline, doing=doing)
            ) as read:
                yield from read
        finally:
            step.progress.finish()

    def _look(self, group: _Group) -> tuple[int, Digest, tuple[_Seen, ...]]:
        return group.round, group.digest, tuple(map(self._prove, group.stored))

    def _prove(self, stored: Stored) -> _Seen:
        needed = self._needed.get((stored.kind, stored.digest), -1)
        seen = _Seen(stored)
        for number, copy in enumerate(stored.copies):
            if needed not in {-1, copy.size}:
                continue  # its length says already that it is wrong
            try:
                made = self._step.receive(partial(self._hash, stored, copy), doing=f"reading {copy}")
            except IntegrityError as error:
                seen = evolve(seen, wrong=(*seen.wrong, (copy, error.message)))
            except Unavailable as error:
                # A disk with a bad sector is damage; one that is gone is none. `_take` tells the two apart.
                why = f"it cannot be read: {error.message}"
                seen = evolve(seen, wrong=(*seen.wrong, (copy, why)), failure=error)
            except NotDecodable as error:
                seen = evolve(seen, undecodable=error.message)
            except ObjectNotFound:
                continue  # it went since it was listed: `_take` looks whether it is missed
            else:
                first = seen.first_right or number == 0
                seen = evolve(seen, right=seen.right + 1, made=made, first_right=first)
        return seen

    def _hash(self, stored: Stored, copy: BlobCopy, count: Count) -> tuple[Digest, ...]:
        expected = Expected(copy.size, sha256=stored.digest)
        hasher = expected.fingerprinter(leaves=stored.digest in self._leaves)
        for chunk in verified(
            count(read_through(copy.open, copy.size, self._step.retry, what=str(copy))),
            expected,
            str(copy),
            into=hasher,
        ):
            with self._lock:
                self.bytes_read += len(chunk)
        leaves = hasher.finish().leaves
        return () if leaves is None else (leaves,)

    def _take(self, read: tuple[int, Digest, tuple[_Seen, ...]]) -> None:
        for seen in read[2]:
            self._require_alive(seen)
            name = seen.stored.kind, seen.stored.digest
            self.blobs += seen.stored.kind is Kind.BLOB
            if name not in self._needed:
                self.garbage += [(str(copy), why) for copy, why in seen.wrong]
            elif seen.wrong and seen.right:
                stays = BESIDE if seen.first_right and seen.stored.plain else ""
                self.flaws[name] = Flaw(SPARE, seen.wrong[0][1], stays=stays)
            elif seen.wrong:
                self.flaws[name] = Flaw(WRONG, seen.wrong[0][1])
            elif not seen.right and seen.undecodable:
                self.flaws[name] = unread(seen.undecodable)
            elif not seen.right:
                self.vanished.add(name)
            elif seen.made and name[0] is Kind.BLOB and seen.made[0] != self._leaves[name[1]]:
                why = f"the leaf list {self._leaves[name[1]]} of {name[1]} is that of another blob"
                self.flaws[name] = Flaw(WRONG, why, leaves=True, stays=ITS_MANIFEST)

    def _require_alive(self, seen: _Seen) -> None:
        """Raise the failure of *seen* when others on end have failed, too: then it is one of the store, and not of an object."""
        if seen.right:
            self._alive, self._failures = True, []
        if seen.failure is not None:
            self._failures.append(seen.failure)
            if len(self._failures) >= _ON_END:
                raise seen.failure

    def _end(self) -> None:
        """Raise the failure of the store from which nothing at all could be read."""
        if self._failures and not self._alive:
            raise self._failures[-1]


def _groups(cache: ModelCache, start: ScrubRecord, budget: float) -> Iterator[_Group]:
    """Everything that is named by a digest, from *start* on, round the end and up to *start* again, until there are *budget* bytes."""
    taken = 0
    for number in (start.number, start.number + 1):
        everything = heapq.merge(*(contents(cache, kind) for kind in Kind), key=lambda one: one.digest.hex)
        for digest, same in groupby(everything, key=lambda one: one.digest):
            if (digest.hex >= start.following) is not (number == start.number):
                continue
            if taken >= budget:
                return
            group = _Group(number, digest, tuple(same))
            taken += group.size
            yield group
