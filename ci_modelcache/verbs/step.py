"""What every verb is given besides its source and destination: the budget, the patience and the witnesses of one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.transfer.progress import Progress, Silent
from ci_modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline


@frozen
class Step:
    """
    One run of one verb.

    *state* is the folder of this user's own notes (receipts, locks, small files on their way); it may be lost at
    any time without harm. *workers* bounds parallel transfers. *now* is wall time in epoch seconds.
    """

    state: Path
    retry: RetryPolicy = field(factory=RetryPolicy)
    progress: Progress = field(factory=Silent)
    workers: int = 8
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic

    @property
    def deadline(self) -> Deadline:
        """The end of the step's time budget."""
        return self.retry.deadline
