"""The only module that sends parts of uploads while the next ones are being filled."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from ci_modelcache.stores.s3_memory import PartMemory
    from ci_modelcache.transfer.deadline import Deadline

SENDERS = 3
"""Parts on their way at once; one more is filled meanwhile."""


class Senders:
    """Threads that send parts, and wake whoever waits for room in *memory* when one of them fails."""

    def __init__(self, deadline: Deadline, memory: PartMemory, doing: str) -> None:
        self.failure: BaseException | None = None
        self._deadline, self._memory, self._doing = deadline, memory, doing
        self._changed = threading.Condition()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], ExitStack] | None] = queue.SimpleQueue()
        self._left = 0
        self._crew = Crew(self._work, deadline=deadline, changed=self._changed)

    def start(self) -> None:
        for _ in range(SENDERS):
            self._crew.grow()

    def stop(self) -> None:
        """Begin nothing any more, and wait a little for what is on its way."""
        self._crew.stopping.set()
        for _ in range(SENDERS):
            self._jobs.put(None)
        self._crew.__exit__()

    def add(self, job: Callable[[], None], held: ExitStack) -> None:
        """Have *job* done, and then let go of what is *held* for it."""
        self.check()
        with self._changed:
            self._left += 1
        self._jobs.put((job, held))

    def check(self) -> None:
        """Raise what the first job that failed has raised."""
        if self.failure is not None:
            raise self.failure

    def drain(self) -> None:
        """Wait until every job is done."""
        seconds = self._deadline.remaining()
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failure is not None or not self._left,
                timeout=None if seconds > threading.TIMEOUT_MAX else seconds,
            )
        self.check()
        if not done:
            raise self._deadline.exceeded(self._doing)

    def _work(self) -> None:
        for job, held in iter(self._jobs.get, None):
            with held:
                if self._crew.stopping.is_set():
                    continue
                try:
                    job()
                except BaseException as error:
                    self.failure = self.failure or error
                    self._memory.wake()
                    raise
            with self._changed:
                self._left -= 1
                self._changed.notify_all()
