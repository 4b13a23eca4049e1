"""The only module that makes processes of one machine wait for one another."""

from __future__ import annotations

import hashlib
import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.transfer.deadline import Deadline

_log = logging.getLogger(__name__)


@contextmanager
def exclusive(name: str, *, folder: Path, deadline: Deadline, patience: float = math.inf) -> Iterator[None]:
    """
    Hold the lock called *name* (any text), whose file lies in *folder*; the kernel frees it when its holder dies.

    Waits for another holder until *deadline*, then raises `DeadlineExceeded`. The lock saves work, it protects nothing: files
    come to be by renaming. So where no lock file can be made, or another holder has not gone on within *patience* seconds (it
    may be stopped), that is logged and the block runs without.
    """
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
    lock = filelock.FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.warning("waiting for another process that works on %s", name)
        _wait(lock, name, deadline, patience)
    except (OSError, NotImplementedError) as error:  # the latter is how filelock says that a disk knows no locks
        _log.warning("working on %s without a lock: %s", name, error)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: filelock.BaseFileLock, name: str, deadline: Deadline, patience: float) -> None:
    left = deadline.remaining()
    seconds = min(left, patience)
    try:
        lock.acquire(timeout=-1 if math.isinf(seconds) else seconds, poll_interval=0.1)
    except filelock.Timeout:
        if patience < left:
            _log.warning("working on %s without a lock: its holder has not gone on for %g s", name, patience)
            return
        doing = f"waiting for another process that works on {name}"
        raise deadline.exceeded(doing) from None
