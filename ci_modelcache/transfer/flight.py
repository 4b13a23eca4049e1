"""
The only module that brings one file over several connections and proves it, from copies any of which may be missing or wrong.

A file is proven by its whole digest, hashed in order behind the frontier by whichever connection is free for it; or range by range by its
leaves, where its errand has them by a word that stands above the store's. What is wrong alone is fetched again: once more from the same copy,
as a bit that flipped on the way is right the second time, then from the next one.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic

from ci_modelcache.errors import (
    DeadlineExceeded,
    DigestMismatch,
    IntegrityError,
    ModelCacheError,
    ObjectNotFound,
    RateLimited,
    SizeMismatch,
)
from ci_modelcache.model.digest import LEAF_SIZE, Fingerprint
from ci_modelcache.transfer.errand import C
from ci_modelcache.transfer.land import Ended
from ci_modelcache.transfer.leafbyleaf import LeafByLeaf
from ci_modelcache.transfer.ranges import Ranges
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.transfer.adapting import Adapting
    from ci_modelcache.transfer.errand import Errand
    from ci_modelcache.transfer.land import Landing
    from ci_modelcache.transfer.progress import Progress
    from ci_modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger(__name__)

_TWICE = 2
"""Times that a copy may give the same wrong bytes before it is passed over."""


class Flight(Generic[C]):
    """
    The file of *errand* on its way. *stopping*: nobody waits for it any more. *changed* guards the books of all flights, and is told of news.

    `open`, then `take` and `bring` for as long as there `is_wanted` something, from any thread; `is_done` at the end.
    """

    def __init__(
        self,
        errand: Errand[C],
        *,
        changed: threading.Condition,
        stopping: threading.Event,
        retry: RetryPolicy,
        progress: Progress,
        adapting: Adapting,
    ) -> None:
        self.errand = errand
        self.size = errand.expected.size
        self.is_over = False
        """Whether nothing of it is to come over connections any more."""
        self.is_done = False
        """Whether it is in its place."""
        self._changed, self._stopping = changed, stopping
        self._retry, self._progress, self._adapting = retry, progress, adapting
        self._ranges = Ranges(self.size)
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._counted = 0
        self._is_hashing = False
        self._whole = not errand.trusts_leaves
        self._leaves: Sequence[bytes] = ()
        self._wrong: Counter[tuple[int, int]] = Counter()
        self._hasher = errand.expected.fingerprinter(leaves=errand.lists_leaves)
        self._copy: C | None = None
        self._landing: Landing | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is a range to take; the caller holds the lock."""
        return self._landing is not None and not self.is_over and self._ranges.is_wanted

    def take(self) -> tuple[int, int]:
        """The next range to `bring`; the caller holds the lock, and has seen that there is one."""
        return self._ranges.take(self._adapting.span)

    def open(self) -> tuple[int, int] | None:
        """Begin; returns the first range, which is taken for the caller, unless there is nothing to bring."""
        if self.errand.start():
            self._end()
            return None
        if not self._turn_to(None):
            return None
        if not self._whole:
            self._leaves = self.errand.leaf_digests()
            self._whole = not self._leaves
        landing = self.errand.landing()
        with self._changed:
            self._landing = landing
            first = self.take() if self._ranges.is_wanted else None
            self._changed.notify_all()
        if self._stopping.is_set():
            # This thread may have been left behind before there was something to discard.
            self.discard()
            return None
        if first is None:
            self._settle()
        return first

    def bring(self, start: int, stop: int) -> None:
        """Bring the bytes from *start* to *stop*, and prove what can be proven with them."""
        try:
            self._bring(start, stop)
            self._settle()
        except Ended:
            _log.debug("a range is not needed any more")

    def discard(self) -> None:
        """Give up what has not landed."""
        landing = self._landing
        if landing is not None:
            landing.discard()

    # --- one range

    def _bring(self, start: int, stop: int) -> None:
        copy, landing = self._copy, self._landing
        if copy is None or landing is None:
            raise Ended
        with self._changed:
            proof = LeafByLeaf(start, self._leaves, self.size) if self._leaves else None
            in_order = proof is None and not self._is_hashing and self._ranges.hashed == start
            self._is_hashing |= in_order
        offset = start
        failure: ModelCacheError | None = None
        pieces = read_through(partial(self._open_at, copy, start, stop), stop - start, self._retry, what=str(copy))
        with closing(pieces):
            try:
                while offset < stop and (proof is None or proof.wrong is None):
                    try:
                        piece = next(pieces)
                    except DeadlineExceeded:
                        raise
                    except ModelCacheError as error:
                        failure = error
                        break
                    landing.write(offset, piece)
                    offset += len(piece)
                    # Before it is counted, which may raise: what lies before the frontier was hashed, whatever happens.
                    if in_order:
                        self._hasher.update(piece)
                    elif proof is not None:
                        proof.update(piece)
                    self._count(len(piece))
            finally:
                good = self._note(start, offset, proof, in_order=in_order)
        # Before the rest is given to others, who would ask the same copy for it.
        if failure is not None:
            goes_on = self._turn_to(copy, failure)
        elif proof is not None and proof.wrong is not None:
            goes_on = self._found_wrong(copy, [proof.wrong], proof.mismatch(str(copy)))
        else:
            return
        if goes_on:
            with self._changed:
                self._ranges.want(good, stop)
                self._changed.notify_all()

    def _note(self, start: int, offset: int, proof: LeafByLeaf | None, *, in_order: bool) -> int:
        """What comes from *start* on has come as far as *offset*; returns as far as it is good."""
        good = offset if proof is None else proof.proven
        with self._changed:
            if in_order:
                self._ranges.hash_to(offset)
                self._is_hashing = False
            else:
                self._ranges.arrive(start, good)
        if good < offset:
            self._count(good - offset)
        return good

    @contextmanager
    def _open_at(self, copy: C, start: int, stop: int, offset: int) -> Iterator[Iterator[bytes]]:
        # The last range asks for all that there is, so that a copy that is too long does not look right.
        try:
            with copy.open(start + offset, None if stop == self.size else stop) as chunks:
                yield self._whole_range(chunks, copy, start + offset, stop)
        except RateLimited:
            self._adapting.refused()
            raise

    def _whole_range(self, chunks: Iterator[bytes], copy: C, offset: int, stop: int) -> Iterator[bytes]:
        for chunk in chunks:
            offset += len(chunk)
            extra = len(next(chunks, b"")) if offset == self.size else 0
            if offset + extra > self.size:
                raise SizeMismatch(str(copy), expected=self.size, actual=offset + extra)
            yield chunk
        if offset < stop:
            self.errand.require_size(copy)

    def _count(self, count: int) -> None:
        """That many bytes more are here; raises `Ended` when nobody wants them any more."""
        with self._counting:
            if self.is_over or self._stopping.is_set():
                raise Ended
            self._counted += count
            self._progress.advance(count)
        if count > 0:
            self._adapting.moved(count)

    # --- proving

    def _settle(self) -> None:
        """Hash what has come, unless somebody else is at it, and end when all is proven."""
        while True:
            with self._changed:
                start, stop = self._ranges.hashed, self._ranges.arrived
                if self.is_over or self._is_hashing or (start == stop < self.size):
                    return
                if stop == self.size and (start == stop or not self._whole):
                    self._is_hashing = True  # for good: the end is this thread's
                    break
                if not self._whole:
                    return
                self._is_hashing = True
            self._hash(start, stop)
        self._finish()

    def _hash(self, start: int, stop: int) -> None:
        assert self._landing is not None  # noqa: S101  # narrows the type: something has come
        try:
            for piece in self._landing.read(start, stop):
                self._hasher.update(piece)
                start += len(piece)
                if self._stopping.is_set():
                    raise Ended
        finally:
            with self._changed:
                self._ranges.hash_to(start)
                self._is_hashing = False

    def _finish(self) -> None:
        errand, copy, landing = self.errand, self._copy, self._landing
        assert copy is not None  # noqa: S101  # narrows the type, as does the next
        assert landing is not None  # noqa: S101  # as above
        if self._whole:
            seen = self._hasher.finish()
            try:
                errand.expected.check(seen, str(landing.target))
            except DigestMismatch as error:
                wrong = self._wrong_leaves(landing)
                if self._found_wrong(copy, wrong, error):
                    self._begin_again(wrong)
                return
        else:
            assert errand.expected.sha256 is not None  # noqa: S101  # a file with leaves has one
            seen = Fingerprint(self.size, errand.expected.sha256, None, None)
        landing.land()
        errand.landed(landing.target, seen, copy, by_its_leaves=not self._whole)
        self._end()

    def _wrong_leaves(self, landing: Landing) -> list[tuple[int, int]]:
        """What is wrong of a file whose digest is: by its leaf list, or all of it."""
        whole = [(0, self.size)]
        if self._leaves or self.size <= LEAF_SIZE:
            self._leaves = ()  # every leaf was right, and the whole is not: they are those of another file
            return whole
        leaves = self.errand.leaf_digests()
        wrong: list[tuple[int, int]] = []
        for number in range(len(leaves)):
            start = number * LEAF_SIZE
            proof = LeafByLeaf(start, leaves, self.size)
            for piece in landing.read(start, min(start + LEAF_SIZE, self.size)):
                proof.update(piece)
            if proof.wrong is not None:
                wrong.append(proof.wrong)
        if wrong:
            self._leaves = leaves
        return wrong or whole

    def _found_wrong(self, copy: C, wrong: list[tuple[int, int]], error: DigestMismatch) -> bool:
        """*copy* gave *wrong* stretches, which are to be fetched again; returns whether there is something to fetch them from."""
        for start, stop in wrong:
            self._wrong[id(copy), start] += 1
            _log.warning("%s; reading bytes %d to %d once more", error, start, stop)
        twice = any(self._wrong[id(copy), start] >= _TWICE for start, _ in wrong)
        return not twice or self._turn_to(copy, error)

    def _begin_again(self, wrong: list[tuple[int, int]]) -> None:
        """All has come, and *wrong* stretches of it are."""
        self._count(sum(start - stop for start, stop in wrong))
        self._hasher = self.errand.expected.fingerprinter(leaves=self.errand.lists_leaves)
        with self._changed:
            self._ranges.again(wrong)
            self._is_hashing = False
            self._changed.notify_all()

    # --- other copies, and the end

    def _turn_to(self, before: C | None, error: ModelCacheError | None = None) -> bool:
        """Go on with the copy after the one *before*, which has failed with *error*; returns whether there is something to go on with."""
        with self._turn:
            if self._copy is not before or self.is_over:
                return not self.is_over  # another connection has turned already
            if before is not None and error is not None:
                _log.info("%s is passed over: %s", before, error)
                self.errand.passed_over(before, error)
            lost: ModelCacheError | None = None
            try:
                self._copy = self.errand.copy()
            except (ObjectNotFound, IntegrityError) as failure:
                lost = failure
            if lost is None and self._copy is not None:
                self._wrong.clear()  # the next copy may be given the `id` of one that is gone
                return True
            self._give_back()
        if lost is not None:
            self.errand.lost(lost)
        self._end()
        return False

    def _give_back(self) -> None:
        """What came over connections counts for nothing, as the file comes in another way."""
        with self._counting:
            self.is_over = True
            self._progress.advance(-self._counted)
        self.discard()

    def _end(self) -> None:
        with self._changed:
            self.is_over = self.is_done = True
            self._changed.notify_all()
