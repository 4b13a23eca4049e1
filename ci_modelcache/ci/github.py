"""The only module that speaks to GitHub's runner: workflow commands on stderr, and the files that it names."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.ci.markdown import summary
from ci_modelcache.ci.outcome import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci_modelcache.ci.channel import Note
    from ci_modelcache.ci.outcome import Outcome

_log = logging.getLogger(__name__)

_SUMMARY_LIMIT = 1024 * 1024
"""Bytes that a step's summary may have, or none of it is shown (GitHub Docs, "Workflow commands": step isolation and limits)."""


def _data(value: str) -> str:
    """*value* as the message of a command (``escapeData`` of GitHub's toolkit): it cannot begin another command."""
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    """*value* as a property of a command (``escapeProperty``)."""
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def random_delimiter() -> str:
    """A line that no value contains."""
    return f"ghadelimiter_{os.urandom(16).hex()}"


class GitHub:
    """
    A step of a GitHub job, whose variables are *environ* (`Channel`).

    Commands are what *say* writes, a text of whole lines at a time, on stderr: the runner reads both, and stdout is for the result alone.
    """

    def __init__(
        self, environ: Mapping[str, str], say: Callable[[str], None], *, delimiter: Callable[[], str] = random_delimiter
    ) -> None:
        self._environ = environ
        self._write = say
        self._delimiter = delimiter
        self._pause = ""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        # The name of a file, or what a server says, could otherwise set an output of the step: the runner looks for
        # "::command::" at the beginning of lines, and for "##[command]" anywhere in them.
        self._pause = self._delimiter()
        self._write(f"::stop-commands::{self._pause}")
        try:
            yield
        finally:
            self._write(f"::{self._pause}::")
            self._pause = ""

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        self._say(f"::group::{_data(title)}")
        try:
            yield
        finally:
            self._say("::endgroup::")

    def hide(self, secret: str) -> None:
        for line in filter(None, secret.splitlines()):
            self._say(f"::add-mask::{_data(line)}")

    def note(self, note: Note) -> None:
        about = {"title": note.title}
        if note.place is not None:
            about |= {"file": note.place.path, "line": str(note.place.line)}
        properties = ",".join(f"{name}={_property(value)}" for name, value in about.items())
        self._say(f"::{note.level} {properties}::{_data(note.message)}")

    def finish(self, outcome: Outcome) -> None:
        self._append("GITHUB_OUTPUT", self._values(outputs_of(outcome)))
        self._append("GITHUB_ENV", self._values(outcome.environment))
        page = summary(outcome)
        if len(page.encode()) < _SUMMARY_LIMIT:
            self._append("GITHUB_STEP_SUMMARY", page)

    def _values(self, values: Mapping[str, str]) -> str:
        """*values* as the runner's files have them; the random delimiter keeps one value from setting another."""
        lines = []
        for name, value in values.items():
            end = self._delimiter()
            lines += [f"{name}<<{end}", value, end]
        return "".join(f"{line}\n" for line in lines)

    def _append(self, variable: str, text: str) -> None:
        path = self._environ.get(variable)
        if not path or not text:
            return
        try:
            with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            _log.warning("the runner's file %s (%s) cannot be written: %s", variable, path, error.strerror)

    def _say(self, command: str) -> None:
        if self._pause:
            command = f"::{self._pause}::\n{command}\n::stop-commands::{self._pause}"
        self._write(command)
