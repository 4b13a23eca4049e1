"""The only module that starts threads for work; it bounds them, and never waits past the deadline."""

from __future__ import annotations

import math
import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ci_modelcache.transfer.deadline import Deadline

Item = TypeVar("Item")

_GRACE = 2.0
"""Seconds that workers get to clean up after a failure elsewhere before they are abandoned."""


def for_each(
    items: Iterable[Item],
    work: Callable[[Item], object],
    *,
    workers: int,
    deadline: Deadline,
    doing: str,
) -> None:
    """
    Call *work* on every item, at most *workers* at a time; raise the first failure.

    After a failure nothing new is begun. When the *deadline* passes, or on Ctrl-C, the threads are left
    behind: they are daemons, and whatever they were writing is a staged file that the next run sweeps.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    for item in items:
        waiting.put(item)
    total = waiting.qsize()
    arguments = (waiting, results, work, stop)
    threads = [threading.Thread(target=_run, args=arguments, daemon=True) for _ in range(min(workers, total))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(total):
            error = _next(results, deadline, doing)
            if error is not None:
                raise error
    finally:
        stop.set()
        end = time.monotonic() + min(_GRACE, deadline.remaining())
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


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
            results.put(error)
        else:
            results.put(None)


def _next(results: queue.SimpleQueue[BaseException | None], deadline: Deadline, doing: str) -> BaseException | None:
    seconds = deadline.remaining()
    try:
        return results.get(timeout=None if math.isinf(seconds) else seconds)
    except queue.Empty:
        raise deadline.exceeded(doing) from None
