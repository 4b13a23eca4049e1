"""The only module that tells the CI system what became of one command, and what a reader should see of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import evolve

from ci_modelcache.ci.channel import Channel, Level, Note
from ci_modelcache.ci.outcome import Failure, ModelOutcome, Outcome
from ci_modelcache.ci.places import places
from ci_modelcache.errors import ModelCacheError
from ci_modelcache.settings import System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci_modelcache.model.ref import ModelRef

TITLE = "ci-modelcache"
_NOTES = 10
"""Notes of one level that GitHub shows for a step."""


def _say(text: str) -> None:
    # Else the marks of GitLab's sections would be taken out, as a log is no terminal.
    click.echo(text, err=True, color=True)


def channel_to(system: System, environ: Mapping[str, str], *, pages: str) -> Channel:
    """The channel to *system*; *pages* is the address of the Hub, for links."""
    if system is System.GITHUB:
        from ci_modelcache.ci.github import GitHub  # noqa: PLC0415  # the one that is there

        return GitHub(environ, _say)
    if system is System.GITLAB:
        from ci_modelcache.ci.gitlab import GitLab  # noqa: PLC0415  # as above

        return GitLab(environ, _say, clock=time.time, pages=pages)
    from ci_modelcache.ci.silent import Silent  # noqa: PLC0415  # as above

    return Silent()


def surroundings(environ: Mapping[str, str]) -> System:
    """The CI system that *environ* is of: who is told that the settings, which could say otherwise, cannot be read."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return System.GITHUB
    return System.GITLAB if environ.get("GITLAB_CI") == "true" else System.OFF


def checkout_of(environ: Mapping[str, str]) -> Path:
    """The folder into which the CI system of *environ* has checked out the repository; elsewhere the working directory."""
    return Path(environ.get("GITHUB_WORKSPACE") or environ.get("CI_PROJECT_DIR") or ".")


def loading_from(hub_cache: Path) -> dict[str, str]:
    """
    The variables that let libraries load from *hub_cache*, and ask no Hub.

    To be given only when every file of every model there is proven: with HF_HUB_OFFLINE an incomplete cache fails builds.
    (huggingface_hub docs, "Environment variables".)
    """
    home = {"HF_HOME": str(hub_cache.parent)} if hub_cache.name == "hub" else {}
    return {**home, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}


class Telling:
    """
    What is told of one command, which began at *clock*'s now; *root* is the checkout's folder, and *redact* takes secrets out.

    *named_in* is the file of the repository that names the models, as far as one does.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        root: Path,
        redact: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.channel = channel
        self.named_in: tuple[Path, ...] = ()
        self.environment: dict[str, str] = {}
        """Variables for the next commands of the job, which get them when this command succeeds."""
        self._root = root
        self._redact = redact
        self._clock = clock
        self._started = clock()
        self._models: list[ModelOutcome] = []
        self._current: ModelRef | None = None
        self._failed: ModelRef | None = None
        """The first that did: what the error is about that ends the command."""

    @contextmanager
    def command(self, *, finishing: bool) -> Iterator[None]:
        """Tell how the block ends; *finishing*: it is about models, and has an outcome."""
        try:
            with self.channel.guarded():
                yield
        except ModelCacheError as error:
            notes = getattr(error, "__notes__", [])
            message = self._redact("; ".join([error.message, *notes]))
            failure = Failure(error.exit_code, message, self._redact(error.hint or ""))
            self._note(Level.ERROR, failure.message + (f"\nhint: {failure.hint}" if failure.hint else ""))
            if finishing:
                self._finish(failure)
            raise
        if finishing:
            self._finish(None)

    @contextmanager
    def model(self, ref: ModelRef, doing: str) -> Iterator[None]:
        """The block is about *ref*, and *doing* is its title."""
        self._current = ref
        try:
            with self.channel.group(f"{doing} {ref}"):
                yield
        except ModelCacheError:
            self._failed = self._failed or ref
            raise
        finally:
            self._current = None

    def warn(self, message: str) -> None:
        """Something that is wrong although the command goes on."""
        self._note(Level.WARNING, message)

    def notice(self, message: str) -> None:
        """Something that the reader of a pull request should know."""
        self._note(Level.NOTICE, message)

    def add(self, outcome: ModelOutcome) -> None:
        """What became of a model; warn of what it warns of."""
        outcome = evolve(outcome, warnings=tuple(map(self._redact, outcome.warnings)))
        self._models.append(outcome)
        for warning in outcome.warnings[:_NOTES]:
            self.warn(warning)

    def _note(self, level: Level, message: str) -> None:
        about = self._failed if level is Level.ERROR else self._current
        found = [place for file in self.named_in for place in places(file, about, root=self._root)]
        self.channel.note(Note(level, TITLE, message, next(iter(found), None)))

    def _finish(self, failure: Failure | None) -> None:
        environment = {} if failure else self.environment
        seconds = self._clock() - self._started
        self.channel.finish(Outcome(tuple(self._models), seconds, failure, environment))
