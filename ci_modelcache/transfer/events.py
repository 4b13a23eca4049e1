"""
What happened during a step, as values: every attempt, every decision, every wait; who writes them down is somebody else.

Times are in seconds, sizes in bytes. No event holds a secret: errors are told in the words of `errors`, which have none.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from attrs import frozen


@frozen
class Attempt:
    """
    One request to *source* for bytes of *path*, or, where *path* is empty, for metadata.

    *cause* is ``ok`` or a word of `sources.health.Cause`; *error* says it in a sentence.
    """

    kind: ClassVar[str] = "attempt"

    source: str
    path: str
    start: int = 0
    stop: int | None = None
    """Exclusive; None: to the end."""
    received: int = 0
    first_byte: float | None = None
    """Until the first byte of the body; None when there was none."""
    seconds: float = 0.0
    cause: str = "ok"
    error: str = ""


@frozen
class Decision:
    """*source* was chosen, left or barred, for *reason*, in words."""

    kind: ClassVar[str] = "decision"

    source: str
    reason: str
    path: str = ""


@frozen
class Waited:
    """A pause of *seconds* for *reason*."""

    kind: ClassVar[str] = "wait"

    source: str
    seconds: float
    reason: str


@frozen
class TokenAsked:
    """A token for *host* was asked of *provider*; *cause* is ``ok``, ``cached`` or a word of `sources.health.Cause`."""

    kind: ClassVar[str] = "token"

    host: str
    provider: str
    seconds: float = 0.0
    cause: str = "ok"
    error: str = ""


@frozen
class FileDone:
    """The file *path* of *ref* was proven; *sources* are bytes by where they came from, the store included."""

    kind: ClassVar[str] = "file"

    ref: str
    path: str
    size: int
    seconds: float
    sources: dict[str, int]


@frozen
class SnapshotDone:
    """A verb is done with *ref*: *result* is ``local``, ``hit`` or ``miss``, or the class of the error that ended it."""

    kind: ClassVar[str] = "snapshot"

    ref: str
    result: str
    files: int = 0
    size: int = 0
    received: int = 0
    """Bytes that came over a network."""
    seconds: float = 0.0
    error: str = ""


Event = Attempt | Decision | Waited | TokenAsked | FileDone | SnapshotDone


class Events(Protocol):
    """Who is told; `record` may be called from any thread, and never fails."""

    def record(self, event: Event, /) -> None:
        """Take note of *event*."""


class Unrecorded:
    """Events that nobody wants to know about."""

    def record(self, event: Event, /) -> None:
        """Do nothing."""
