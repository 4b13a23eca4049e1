"""The only module that keeps the books of one file which comes in ranges: what is to be asked for, what has come, what was hashed."""

from __future__ import annotations

from bisect import insort

from ci_modelcache.model.digest import LEAF_SIZE


class Ranges:
    """
    The bytes of a file of *size* bytes, by pairs of start and stop. Not for several threads at a time: its owner holds a lock.

    Each byte is wanted, then taken, then arrived, then hashed; what was taken or has arrived may be wanted again.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.hashed = 0
        """The frontier: everything before it was hashed, in order."""
        self._wanted: list[tuple[int, int]] = []
        self._arrived: dict[int, int] = {}
        self.want(0, size)

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to take."""
        return bool(self._wanted)

    @property
    def arrived(self) -> int:
        """Up to where everything has come that was not hashed yet; the frontier when nothing has."""
        while (stop := self._arrived.get(self.hashed, 0)) and (further := self._arrived.pop(stop, None)) is not None:
            self._arrived[self.hashed] = further
        return stop or self.hashed

    def take(self, span: int) -> tuple[int, int]:
        """The first bytes that are wanted, *span* at most, ending with a leaf or with the file; there must be some."""
        start, stop = self._wanted.pop(0)
        end = min(stop, start - start % LEAF_SIZE + max(LEAF_SIZE, span))
        if end < stop:
            self._wanted.insert(0, (end, stop))
        return start, end

    def want(self, start: int, stop: int) -> None:
        """These are to be taken (again)."""
        if start < stop:
            insort(self._wanted, (start, stop))

    def arrive(self, start: int, stop: int) -> None:
        """These have come."""
        if start < stop:
            self._arrived[start] = stop

    def hash_to(self, stop: int) -> None:
        """Everything up to *stop* was hashed, too."""
        further = self._arrived.pop(self.hashed, 0)
        self.hashed = stop
        self.arrive(stop, further)

    def again(self, wrong: list[tuple[int, int]]) -> None:
        """Everything has come and *wrong* is: that is wanted once more, and hashing begins anew."""
        self.hashed = 0
        self._arrived.clear()
        offset = 0
        for start, stop in [*wrong, (self.size, self.size)]:
            self.arrive(offset, start)
            self.want(start, stop)
            offset = stop
