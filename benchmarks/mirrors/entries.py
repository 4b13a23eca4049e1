"""Who downloads, how it is sent, and what one download came to, as values."""

from __future__ import annotations

import statistics
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

MB = 1_000_000


class Client(StrEnum):
    """Who downloads."""

    THEIRS = "huggingface_hub"
    OURS = "ci-modelcache"


class End(StrEnum):
    """How a download ended; `CORRUPT` is a success with wrong bytes, `KILLED` one that had not ended when patience did."""

    OK = "ok"
    FAILED = "FAILED"
    CORRUPT = "CORRUPT"
    KILLED = "KILLED"


@frozen
class Entry:
    """
    One way to download: *client* is sent to the Hub number *asks*, ours also to *mirrors*, which come first in its order.

    *connections* of ours, at most; None: its default. *exits* is the exit code that ours has to end with; None: none is promised.
    """

    label: str
    client: Client = Client.OURS
    asks: int = 0
    mirrors: tuple[int, ...] = ()
    connections: int | None = None
    exits: int | None = 0


@frozen
class Run:
    """One download: seconds and CPU seconds of the whole process, its start included, and bytes of files that Hubs sent."""

    ended: End
    exit: int | None
    """The exit code; None when it was killed."""
    error: str
    """The class of the exception that ended it."""
    named: bool
    """Whether it said, anywhere, which Hub went wrong (the first one)."""
    seconds: float
    transfer: float | None
    """Seconds from the first request for the file to its proof, as our report has them."""
    cpu: float
    hubs_cpu: float
    busy: float
    """The share of all cores that was busy meanwhile, with whatever else runs on the machine."""
    sent: tuple[int, ...]
    """Bytes by Hub."""
    requests: int
    left: float | None = None
    """Seconds from the drop to a trickle until the last byte that the Hub that dropped could send."""
    again: int | None = None
    """Bytes that were sent a second time, after a kill."""

    @property
    def received(self) -> int:
        """Bytes that all Hubs sent."""
        return sum(self.sent)


@frozen
class Spread:
    """Median, least and most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """That of *figures*, of which there is at least one."""
        known = sorted(figures)
        return cls(statistics.median(known), known[0], known[-1])
