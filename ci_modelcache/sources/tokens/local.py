"""The only module that finds tokens on this machine: in a variable, in a file, or by running a program."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import AccessDenied, ConfigError, Unavailable
from ci_modelcache.model.hidden import Secrets
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.token import Token
from ci_modelcache.sources.tokens.endpoint import parse_answer
from ci_modelcache.sources.tokens.issued import Issued, end_of, issued, token_of

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.transfer.deadline import Deadline

COMMAND_SECONDS = 30.0
"""The longest that a program may take to print a token."""
TEMPORARY = 75
"""The exit code by which a program says "not now" (EX_TEMPFAIL of sysexits.h): it is run again. Any other is a refusal."""

_MAX_FILE = 64 * 1024
_MAX_SAID = 200
_MAX_HIDDEN = 16
_ALONE = "it has to hold the token alone"


@frozen
class AtHand:
    """A token that lies here: `find` looks at it each time, as others may put a new one there (`Provider`)."""

    name: str
    find: Callable[[], Token] = field(repr=False)
    now: Callable[[], float]

    def identity(self) -> str:
        return self.find().secret

    def issue(self, *, deadline: Deadline) -> Issued:
        del deadline
        token = self.find()
        return Issued(token, self.now(), end_of(token.secret))


def from_variable(variable: str, environ: Mapping[str, str], now: Callable[[], float]) -> AtHand:
    """The token in the *variable*."""
    name = f"env:{variable}"

    def find() -> Token:
        value = environ.get(variable, "")
        if not value.strip():
            msg = f"{name}: the variable {variable} is not set"
            raise ConfigError(
                msg, hint="set it; a CI system keeps secrets from jobs of forks, and from unprotected branches"
            )
        return token_of(value, name=name, hint=_ALONE)

    return AtHand(name, find, now)


def from_file(path: Path, now: Callable[[], float]) -> AtHand:
    """The token in the file at *path*."""
    name = f"file:{path}"

    def find() -> Token:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MAX_FILE)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a text"
            msg = f"{name}: cannot be read: {why}"
            raise ConfigError(msg, hint="check the path, and who may read it") from error
        return token_of(text, name=name, hint=_ALONE)

    return AtHand(name, find, now)


@frozen
class FromCommand:
    """
    The token that a program prints, by itself or as a token endpoint would, in JSON (`Provider`).

    No shell is involved. It gets `COMMAND_SECONDS`. What it says on stderr is shown, without secrets, when it fails.
    """

    arguments: tuple[str, ...] = field(repr=False)
    secrets: Secrets
    now: Callable[[], float]

    @classmethod
    def parse(cls, text: str, *, secrets: Secrets, now: Callable[[], float]) -> FromCommand:
        """The command line *text*, split as a shell would."""
        try:
            arguments = tuple(shlex.split(text))
        except ValueError as error:
            msg = f"command: a quote is not closed: {redact(text)!r:.200}"
            raise ConfigError(msg) from error
        if not arguments:
            raise ConfigError("command: names no program", hint="write command:PROGRAM ARGUMENTS")
        return cls(arguments, secrets, now)

    @property
    def name(self) -> str:
        # Without the arguments: people put secrets there.
        return f"command:{self.arguments[0]}"

    def identity(self) -> str:
        return shlex.join(self.arguments)

    def issue(self, *, deadline: Deadline) -> Issued:
        out = self._run(deadline)
        doing = f"the output of {self.name}"
        if out.startswith("{"):
            try:
                document = json.loads(out)
            except (ValueError, RecursionError) as error:
                msg = f"{doing}: neither a token nor JSON"
                raise ConfigError(
                    msg, hint="it has to print the token alone, or access_token and expires_in"
                ) from error
            return parse_answer(document, now=self.now(), doing=doing)
        token = token_of(
            out, name=doing, hint="it has to print the token alone, or JSON with access_token and expires_in"
        )
        return issued(token, since=self.now(), until=end_of(token.secret), doing=doing)

    def _run(self, deadline: Deadline) -> str:
        deadline.check(f"asking {self.name} for a token")
        seconds = deadline.at_most(COMMAND_SECONDS)
        try:
            # A session of its own, so that what it starts can be ended with it.
            process = subprocess.Popen(  # noqa: S603  # the command is the user's own setting
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"{self.name}: cannot be run: {error.strerror}"
            raise ConfigError(msg, hint="check the name, and PATH; no shell is involved") from error
        with process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as error:
                _end(process)
                deadline.check(f"asking {self.name} for a token")
                msg = f"{self.name}: printed no token within {seconds:g} s, and was ended"
                raise Unavailable(msg) from error
            except BaseException:
                _end(process)
                raise
        text = out.decode("utf-8", "replace").strip()
        if process.returncode != 0:
            raise self._failure(process.returncode, text, err.decode("utf-8", "replace"))
        return text

    def _failure(self, code: int, out: str, err: str) -> AccessDenied | Unavailable:
        # What it printed before it failed may be the token, and be quoted on stderr. Not all words of a page: each
        # costs time in every line that is told from now on.
        for word in sorted(set(out.split()), key=len)[-_MAX_HIDDEN:]:
            self.secrets.add(word)
        said = " ".join(redact(err, secrets=self.secrets).split())[-_MAX_SAID:]
        msg = f"{self.name}: ended with exit code {code}" + (f": {said}" if said else "")
        if code == TEMPORARY:
            return Unavailable(msg)
        return AccessDenied(msg, hint=f"run it by hand; exit code {TEMPORARY} would mean: try again")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
