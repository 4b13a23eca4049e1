"""The only module that hands a stream of bytes to whatever hashes it in a thread of its own, while it goes on elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.transfer.parallel import Behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ci_modelcache.model.digest import Expected

_SPAN = 2 * 1024 * 1024
"""Bytes that are handed over together, and bound what is held: twice as much for each lane."""


def verified_beside(chunks: Iterable[bytes], expected: Expected, what: str) -> Iterator[bytes]:
    """As `model.digest.verified`, hashing while others do what they do with *chunks*; of these there must not be more than *expected*."""
    hasher = expected.fingerprinter(leaves=False)
    lane = Lane(hasher.update)
    for chunk in chunks:
        lane.give(chunk)
        yield chunk
    lane.wait()
    expected.check(hasher.finish(), what)


class Lane:
    """Has *take* called with all bytes, in their order, behind whoever gives them; those must not change afterwards."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._behind = Behind()
        self._held: list[bytes] = []
        self._size = 0

    def give(self, data: bytes) -> None:
        """Take the next bytes; what *take* raised about earlier ones is raised here."""
        self._held.append(data)
        self._size += len(data)
        if self._size >= _SPAN:
            self._hand_over()

    def wait(self) -> None:
        """Return when *take* has had all of it; raise what it raised."""
        self._hand_over()
        self._behind.wait()

    def _hand_over(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held:
            self._behind.run(lambda: self._take_all(held))

    def _take_all(self, held: Sequence[bytes]) -> None:
        for data in held:
            self._take(data)
