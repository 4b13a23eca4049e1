"""The only module that starts threads for work; it bounds them, and never waits past the deadline."""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar

from ci_modelcache.transfer.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Item = TypeVar("Item")
Result = TypeVar("Result")

_Slot = queue.SimpleQueue[tuple[Result] | BaseException]
"""Where one result comes to lie: in a tuple, for it may be an exception itself."""

_GRACE = 2.0
"""Seconds that workers get to clean up after a failure elsewhere before they are abandoned."""

_LATE = 1.0
"""Seconds past the deadline in which a request that kept to it can still say what it waited for."""


def for_each(
    items: Iterable[Item],
    work: Callable[[Item], object],
    *,
    workers: int,
    deadline: Deadline,
    doing: str,
) -> None:
    """
    Call *work* on every item, in order, at most *workers* (1 or more) at a time; raise the first failure.

    All *items* are taken before the first is begun. After a failure nothing new is begun, and what runs gets two seconds
    to end. When the *deadline* passes, or on Ctrl-C, threads that do not end are left
    behind: they are daemons, and whatever they were writing is a staged file that the next run sweeps.
    """
    if workers < 1:
        msg = f"workers: expected 1 or more, got {workers}"
        raise ValueError(msg)
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    for item in items:
        waiting.put(item)
    total = waiting.qsize()
    arguments = (waiting, results, work, stop)
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(workers, total)):
            deadline.check(doing)
            thread = threading.Thread(target=_run, args=arguments, daemon=True)
            thread.start()
            threads.append(thread)
        for _ in range(total):
            error = _next(results, deadline, doing)
            if error is not None:
                raise error
    finally:
        stop.set()
        grace = Deadline(min(_GRACE, deadline.remaining()))
        for thread in threads:
            thread.join(grace.remaining())


def bounded(work: Callable[[], Result], *, deadline: Deadline, doing: str) -> Result:
    """
    The result of *work*, which is left behind as by `for_each` when *deadline* passes.

    For what is done on the main thread, where nobody else looks at the clock: a server that sends a byte now and then
    never lets a socket time out. A worker of `for_each` is bounded already, and runs *work* itself.
    """
    if threading.current_thread() is not threading.main_thread() or math.isinf(deadline.remaining()):
        return work()
    deadline.check(doing)
    results: list[Result] = []
    watch = deadline.watched(_LATE)
    for_each([work], lambda each: results.append(each()), workers=1, deadline=watch, doing=doing)
    return results[0]


def in_order(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, deadline: Deadline, doing: str
) -> Generator[Result, None, None]:
    """
    What *work* returns for each of *items*, in their order; up to *workers* (1 or more) of them are worked on ahead.

    Items are taken as room comes, so that no more than *workers* results are held besides the one that was yielded last. The first
    failure in that order is raised. Whoever stops early closes the generator: threads then end as those of `for_each`.
    """
    rest = iter(items)
    waiting: queue.SimpleQueue[tuple[Item, _Slot[Result]] | None] = queue.SimpleQueue()
    slots: deque[_Slot[Result]] = deque()
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin() -> None:
        for item in islice(rest, 1):
            slots.append(queue.SimpleQueue())
            waiting.put((item, slots[-1]))

    try:
        for _ in range(workers):
            begin()
        for _ in range(len(slots)):
            thread = threading.Thread(target=_run_in_order, args=(waiting, work, stop), daemon=True)
            thread.start()
            threads.append(thread)
        while slots:
            done = _next(slots.popleft(), deadline, doing)
            if isinstance(done, BaseException):
                raise done
            begin()
            yield done[0]
    finally:
        stop.set()
        grace = Deadline(min(_GRACE, deadline.remaining()))
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join(grace.remaining())


class Crew:
    """
    Threads that come and go while a block is at work; each calls *work* once, which ends when `stopping` is set.

    What one of them raises is in `failures`. At the end of the block they get two seconds to end, as those of `for_each`.
    *changed* is told whenever one of them ends.
    """

    def __init__(self, work: Callable[[], object], *, deadline: Deadline, changed: threading.Condition) -> None:
        self.stopping = threading.Event()
        self.failures: list[BaseException] = []
        self._work = work
        self._deadline = deadline
        self._changed = changed
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_why: object) -> None:
        self.stopping.set()
        grace = Deadline(min(_GRACE, self._deadline.remaining()))
        for thread in self._threads:
            thread.join(grace.remaining())

    @property
    def size(self) -> int:
        """How many are at work."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            return len(self._threads)

    def grow(self) -> None:
        """Let one more begin."""
        thread = threading.Thread(target=self._run, daemon=True)
        with self._lock:
            # In this order: nobody can wait for one that the system has refused to start.
            thread.start()
            self._threads.append(thread)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # handed to whoever looks at `failures`
            self.failures.append(error)
        with self._changed:
            self._changed.notify_all()


class Behind:
    """A thread that does one thing after another behind the thread that gives them to it, never more than one at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failures: list[BaseException] = []

    def run(self, work: Callable[[], object]) -> None:
        """Begin *work*, when what was given before is done; what that raised is raised here."""
        self.wait()
        # One for each piece of work: nobody has to end it when the giver gives up.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all is done; raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for failure in self._failures:
            raise failure

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # handed to whoever gave it
            self._failures.append(error)


def _run(
    waiting: queue.SimpleQueue[Item],
    results: queue.SimpleQueue[BaseException | None],
    work: Callable[[Item], object],
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            item = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            work(item)
        except BaseException as error:  # noqa: BLE001  # handed to the caller, which raises it
            # Here and not by the caller: until that wakes up this thread would have begun the next item.
            stop.set()
            results.put(error)
        else:
            results.put(None)


def _run_in_order(
    waiting: queue.SimpleQueue[tuple[Item, _Slot[Result]] | None], work: Callable[[Item], Result], stop: threading.Event
) -> None:
    for item, slot in iter(waiting.get, None):
        if stop.is_set():
            return
        try:
            result = work(item)
        except BaseException as error:  # noqa: BLE001  # handed to the caller, which raises it
            slot.put(error)
        else:
            slot.put((result,))


def _next(results: queue.SimpleQueue[Item], deadline: Deadline, doing: str) -> Item:
    seconds = deadline.remaining()
    try:
        # Above TIMEOUT_MAX, some 290 years, `get` raises.
        return results.get(timeout=None if seconds > threading.TIMEOUT_MAX else seconds)
    except queue.Empty:
        raise deadline.exceeded(doing) from None
