"""The only module that overlaps two kinds of work on the same items, such as hashing files and sending them."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ci_modelcache.transfer.deadline import Deadline

Item = TypeVar("Item")
Ready = TypeVar("Ready")

_LOOK = 0.5
"""Seconds between two looks at the clock while others work."""


class Stages(Generic[Item, Ready]):
    """
    Each of *items* is prepared, gathered with others, and finished, each of the three beside the other two.

    *prepare* is called for one item, in their order, and so is *finish* for what it returned: up to *workers* (1 or more)
    of each at a time. In between *gather* is called once for several, one call at a time: as soon as what was prepared weighs
    *worth*, by *weigh*, and when there is nothing more to come.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        prepare: Callable[[Item], Ready],
        gather: Callable[[Sequence[Ready]], object],
        finish: Callable[[Ready], object],
        weigh: Callable[[Ready], int],
        worth: int,
    ) -> None:
        self._changed = threading.Condition()
        self._waiting = deque(items)
        self._coming = len(self._waiting)
        """Items that are not prepared yet."""
        self._prepared: list[Ready] = []
        self._weight = 0
        self._gathering = False
        self._ready: deque[Ready] = deque()
        self._left = len(self._waiting)
        """Items that are not finished yet."""
        self._prepare, self._gather, self._finish, self._weigh = prepare, gather, finish, weigh
        self._worth = worth
        self._stop = threading.Event()

    def run(self, *, workers: int, deadline: Deadline, doing: str) -> None:
        """
        Return when all is finished; raise the first failure.

        After one nothing new is begun, and what runs gets two seconds to end. When the *deadline* passes, or on Ctrl-C,
        threads that do not end are left behind as by `parallel.for_each`.
        """
        first = Crew(self._prepare_all, deadline=deadline, changed=self._changed)
        second = Crew(self._finish_all, deadline=deadline, changed=self._changed)
        with first, second:
            try:
                for _ in range(min(workers, self._left)):
                    deadline.check(doing)
                    first.grow()
                    second.grow()
                with self._changed:
                    while self._left and not self._stop.is_set():
                        deadline.check(doing)
                        self._changed.wait(deadline.at_most(_LOOK))
            finally:
                with self._changed:
                    self._stop.set()
                    self._changed.notify_all()
        for failure in (*first.failures, *second.failures):
            raise failure
        if self._left:  # somebody failed just when the deadline passed, and was not waited for
            raise deadline.exceeded(doing)

    def _prepare_all(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                if not self._waiting:
                    return
                item = self._waiting.popleft()
            with self._stopping_on_failure():
                prepared = self._prepare(item)
                weight = self._weigh(prepared)
            with self._changed:
                self._prepared.append(prepared)
                self._weight += weight
                self._coming -= 1
                if self._is_due:  # or each of many small files would wake everybody
                    self._changed.notify_all()

    def _finish_all(self) -> None:
        while (work := self._next()) is not None:
            with self._stopping_on_failure():
                work()

    @contextmanager
    def _stopping_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # Here and not by `run`: until that wakes up the other threads would have begun something.
            self._stop.set()
            raise

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next behind the preparing; None when that is nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or not self._left or self._ready or self._is_due)
            if self._stop.is_set() or not self._left:
                return None
            if self._ready:
                return partial(self._finish_one, self._ready.popleft())
            batch, self._prepared, self._weight = self._prepared, [], 0
            self._gathering = True
            return partial(self._gather_all, batch)

    @property
    def _is_due(self) -> bool:
        enough = not self._coming or self._weight >= self._worth
        return enough and bool(self._prepared) and not self._gathering

    def _gather_all(self, batch: list[Ready]) -> None:
        self._gather(batch)
        with self._changed:
            self._gathering = False
            self._ready.extend(batch)
            self._changed.notify_all()

    def _finish_one(self, ready: Ready) -> None:
        self._finish(ready)
        with self._changed:
            self._left -= 1
            if not self._left:
                self._changed.notify_all()
