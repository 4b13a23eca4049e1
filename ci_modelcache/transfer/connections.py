"""The only module that brings many files at a time: one scheduler for the ranges of all of them, over as many connections as help."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Generic

from ci_modelcache.transfer.errand import C
from ci_modelcache.transfer.flight import Flight
from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ci_modelcache.transfer.adapting import Adapting
    from ci_modelcache.transfer.errand import Errand
    from ci_modelcache.transfer.progress import Progress
    from ci_modelcache.transfer.retry import RetryPolicy

_LOOK = 0.1
"""Seconds between two looks at whether more connections would help."""


def bring_all(
    errands: Iterable[Errand[C]], *, retry: RetryPolicy, progress: Progress, adapting: Adapting, doing: str
) -> None:
    """
    Carry out all *errands*, over as many connections as *adapting* allows; raise the first failure.

    Each connection takes the next range of the earliest file that has one left. After a failure nothing new is begun; that, and what happens
    at the deadline of *retry* and on Ctrl-C, is as with `parallel.for_each`. What has not landed then is removed.
    """
    work = _Connections(errands, retry=retry, progress=progress, adapting=adapting)
    try:
        work.run(doing)
    finally:
        work.discard()


class _Connections(Generic[C]):
    def __init__(
        self, errands: Iterable[Errand[C]], *, retry: RetryPolicy, progress: Progress, adapting: Adapting
    ) -> None:
        self._deadline = retry.deadline
        self._adapting = adapting
        self._changed = threading.Condition()
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._flight: Callable[[Errand[C]], Flight[C]] = partial(
            Flight,
            changed=self._changed,
            stopping=self._stopping,
            retry=retry,
            progress=progress,
            adapting=adapting,
        )
        # Begun as connections come free for them: a snapshot may have a hundred thousand files.
        self._errands = iter(errands)
        self._all_begun = False
        self._begun: list[Flight[C]] = []
        self._at_work = 0

    def run(self, doing: str) -> None:
        crew = Crew(self._work, deadline=self._deadline, changed=self._news)
        with crew:
            try:
                while not self._is_done():
                    self._deadline.check(doing)
                    if crew.failures:
                        raise crew.failures[0]
                    self._adapting.look()
                    for _ in range(self._adapting.limit - crew.size):
                        crew.grow()
                    with self._news:
                        if not crew.failures and not self._is_done():
                            self._news.wait(self._deadline.at_most(_LOOK))
            finally:
                self._stop()

    def discard(self) -> None:
        for flight in self._begun:
            flight.discard()

    def _is_done(self) -> bool:
        with self._changed:
            return self._all_begun and all(flight.is_done for flight in self._begun)

    def _stop(self) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        """One connection."""
        with self._changed:
            self._at_work += 1
        try:
            while (task := self._next()) is not None:
                task()
        except BaseException:
            # Here and not by the caller: until that wakes up another would have begun something new.
            self._stop()
            raise
        finally:
            with self._changed:
                self._at_work -= 1

    def _next(self) -> Callable[[], None] | None:
        """What to do next, waited for; None when there is nothing any more, or when there are too many at work."""
        with self._changed:
            while not self._stopping.is_set() and self._at_work <= self._adapting.limit:
                self._begun = [flight for flight in self._begun if not flight.is_done]
                for flight in self._begun:
                    if flight.is_wanted:
                        return partial(flight.bring, *flight.take())
                for errand in self._errands:
                    self._begun.append(self._flight(errand))
                    return partial(_begin, self._begun[-1])
                self._all_begun = True
                if not self._begun:
                    return None
                self._changed.wait()
            return None


def _begin(flight: Flight[C]) -> None:
    first = flight.open()
    if first is not None:
        flight.bring(*first)
