"""What every verb is given besides its source and destination: the budget, the patience and the witnesses of one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, field, frozen

from ci_modelcache.cache.pace import Pace
from ci_modelcache.transfer.adapting import Adapting
from ci_modelcache.transfer.progress import Progress, Silent
from ci_modelcache.transfer.retry import RetryPolicy, once_more

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline

T = TypeVar("T")

Count = Callable[[Iterable[bytes]], Iterator[bytes]]
"""Passes chunks on and shows them as progress."""


@frozen
class Step:
    """
    One run of one verb.

    *state* is the folder of this user's own notes (receipts, locks, small files on their way); it may be lost at
    any time without harm. *workers* bounds parallel transfers, and *most* the connections of one restore to a store, which are
    as many as help; None: there are *workers*. *pace*: how jobs that want the same wait for each other.
    """

    state: Path
    retry: RetryPolicy = field(factory=RetryPolicy)
    progress: Progress = field(factory=Silent)
    workers: int = 8
    most: int | None = None
    clock: Callable[[], float] = time.monotonic
    pace: Pace = field(factory=Pace)

    @property
    def deadline(self) -> Deadline:
        """The end of the step's time budget."""
        return self.retry.deadline

    def adapting(self) -> Adapting:
        """How many connections a restore has."""
        return Adapting(self.workers, fixed=True) if self.most is None else Adapting(self.most)

    def silently(self) -> Step:
        """The same step for work that is no progress any more."""
        return evolve(self, progress=Silent())

    def receive(self, take: Callable[[Count], T], *, doing: str) -> T:
        """As `attempt`; wrong bytes are received once more from the start (`once_more`)."""
        return once_more(partial(self.attempt, take), doing=doing)

    def attempt(self, take: Callable[[Count], T]) -> T:
        """
        The result of *take*, which passes the bytes that it moves through the function that it is given.

        When it fails, they are taken back from the progress: only what was proven counts as done.
        """
        done = 0

        def count(chunks: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal done
            for chunk in chunks:
                done += len(chunk)
                self.progress.advance(len(chunk))
                yield chunk

        try:
            return take(count)
        except BaseException:
            self.progress.advance(-done)
            raise
