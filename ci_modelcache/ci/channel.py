"""The only module that says what a CI system can be told: groups of lines, notes, secrets to hide, and an outcome."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ci_modelcache.ci.outcome import Outcome


class Level(StrEnum):
    """How much a note matters."""

    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"


@frozen
class Place:
    """A line of a file of the repository; *path* is relative to the checkout's root, and the first *line* is 1."""

    path: str
    line: int


@frozen
class Note:
    """Something that people should see without reading the log, at the *place* that it is about, if there is one."""

    level: Level
    title: str
    message: str
    place: Place | None = None


class Channel(Protocol):
    """How one CI system is told. None of it may fail a job whose models are right: what cannot be told is logged."""

    def guarded(self) -> AbstractContextManager[None]:
        """Whatever is written within the block, by whomever, is text and no command, but for what this channel says."""

    def group(self, title: str) -> AbstractContextManager[None]:
        """Let the lines that are written within the block be folded away below *title*."""

    def hide(self, secret: str) -> None:
        """From now on let *secret* be shown as ``***`` in the job's log."""

    def note(self, note: Note) -> None:
        """Let people see *note*."""

    def finish(self, outcome: Outcome) -> None:
        """Tell the *outcome*: outputs, variables for the next commands, and a summary for people."""
