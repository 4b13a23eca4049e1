"""The only module that runs the ``docker`` client: a build that is given its context as a stream, and ends when we do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import frozen

from ci_modelcache.docker.streamed import StreamReport
from ci_modelcache.errors import AccessDenied, ConfigError, ModelCacheError, Unavailable
from ci_modelcache.transfer.parallel import Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.outlet import Take

Say = Callable[[bytes], object]
"""Takes what docker writes for people."""

_OLDEST = (18, 9)
"""The first client that has BuildKit."""
_ANSWER = 30.0
"""Seconds for the engine to say its version."""
_GRACE = 10.0
"""Seconds for docker to end a build when it is told to."""
_TAIL = 65_536
"""Bytes of a line that may be docker's reason; the rest of a longer one is passed on and forgotten."""
_DOING = "docker build"
_VERSION = re.compile(r"(\d+)\.(\d+)")
_CHATTER = re.compile(r"^(?:View build details:|-+$|\s*$)")
"""Last lines that are no reason."""
_STYLED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@frozen
class Client:
    """The ``docker`` on PATH, at *path*; *environ* is what it is given."""

    path: str
    environ: Mapping[str, str]

    @classmethod
    def find(cls, environ: Mapping[str, str], *, deadline: Deadline) -> Self:
        """
        The client, which has reached its engine.

        Raises `ConfigError` when there is none or it is too old for BuildKit, `Unavailable` when no engine answers it, and `AccessDenied`.
        """
        path = shutil.which("docker", path=environ.get("PATH"))
        if path is None:
            msg = "there is no docker on PATH, which builds the image"
            raise ConfigError(
                msg, hint="install it; or give the context to another builder: ci-modelcache docker context --tar -"
            )
        client = cls(path, {**environ, "DOCKER_BUILDKIT": "1"})
        client._check(deadline.at_most(_ANSWER))
        return client

    def _check(self, seconds: float) -> None:
        command = [self.path, "version", "--format", "{{json .}}"]
        try:
            done = subprocess.run(  # noqa: S603  # the docker that its user has
                command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            msg = f"the engine of {self.path} did not say its version within {seconds:.0f} s"
            raise Unavailable(
                msg, hint="`docker version` asks the same; restart the engine, or look at DOCKER_HOST"
            ) from None
        except OSError as error:
            msg = f"{self.path} cannot be run: {error.strerror}"
            raise ConfigError(msg, hint="install the docker client again") from error
        version = _version(done.stdout)
        if version is not None and version < _OLDEST:
            msg = f"{self.path} is version {'.'.join(map(str, version))}, which has no BuildKit; 18.09 is the first that has"
            raise ConfigError(msg, hint="upgrade the docker client")
        if done.returncode != 0:
            raise _refusal(done.stderr.decode(errors="replace"))

    def build(self, order: Order, *, say: Say | None, deadline: Deadline) -> Build:
        """Begin the build of *order*, whose context is still to come; *say* as of `Build`."""
        return Build([self.path, "build", *order.arguments, "-"], self.environ, order=order, say=say, deadline=deadline)


@frozen
class Order:
    """
    What is to be built: an image with names (*tags*) and *labels*, by the Dockerfile of that path in the context; *more* is for docker.

    Its id is written to *id_file*. *mute*: docker's stdout goes where its stderr does, as ours is for a result.
    """

    tags: Sequence[str]
    labels: Mapping[str, str]
    dockerfile: str
    id_file: Path
    more: Sequence[str] = ()
    mute: bool = False

    @property
    def arguments(self) -> list[str]:
        return [
            *(f"--tag={tag}" for tag in self.tags),
            *(f"--label={name}={value}" for name, value in self.labels.items()),
            f"--iidfile={self.id_file}",
            f"--file={self.dockerfile}",
            *self.more,
        ]


class Build:
    """
    A ``docker build`` at work, as a context manager and as the outlet that its context goes into.

    However the block ends, docker has ended then. *say* is given what it writes to stderr, so that its reason can be named; with None docker
    writes there itself, as on a terminal, where it draws.
    """

    name = _DOING

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, order: Order, say: Say | None, deadline: Deadline
    ) -> None:
        self._deadline = deadline
        self._say = say
        self._last = b""
        self._changed = threading.Condition()
        self._reader = Crew(self._pass_on, deadline=deadline, changed=self._changed)
        own = None if say is None else subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603  # the docker that its user has
            command,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=own if order.mute else None,
            stderr=subprocess.STDOUT if order.mute else own,
        )
        self._reader.grow()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self._end()
        self._reader.__exit__(*why)
        self._close()

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        """The function that takes the context, of *size* bytes. What docker does not take any more is no error here: `wait` tells why."""
        del size
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101  # it was asked for
        try:
            yield pipe.write
        except BrokenPipeError as error:
            raise ContextRefused from error
        # Only now: an archive that was cut off must not look like a whole one.
        with suppress(BrokenPipeError):
            pipe.close()

    def wait(self) -> None:
        """Wait until docker has ended; raises `ModelCacheError` with its reason when it failed, and `DeadlineExceeded`."""
        try:
            code = self._process.wait(self._deadline.at_most(threading.TIMEOUT_MAX))
        except subprocess.TimeoutExpired:
            raise self._deadline.exceeded(_DOING) from None
        with self._changed:
            self._changed.wait_for(lambda: not self._reader.size, timeout=_GRACE)
        if code != 0:
            reason = _STYLED.sub("", self._last.decode(errors="replace")).strip()
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise ModelCacheError(
                f"docker build failed with {how}" + (f": {reason}" if reason else "; it says why above")
            )

    def _end(self) -> None:
        """End docker if it has not ended, and leave nothing of it."""
        process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def _close(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _pass_on(self) -> None:
        """What docker writes to stderr, as it comes; and which line was the last one."""
        source = self._process.stdout or self._process.stderr
        if source is None or self._say is None:
            return
        begun = b""
        with suppress(OSError, ValueError):  # closed when docker was ended
            while piece := os.read(source.fileno(), _TAIL):
                with suppress(OSError):  # nobody hears it; docker would wait for ever if nobody read it
                    self._say(piece)
                *lines, begun = (begun + piece).split(b"\n")
                begun = begun[-_TAIL:]
                for line in (*lines, begun):
                    if not _CHATTER.match(_STYLED.sub("", line.decode(errors="replace"))):
                        self._last = line[-_TAIL:]


@frozen
class BuildReport:
    """What `docker build` made. This is API: fields are added, never changed."""

    tags: tuple[str, ...]
    """The names of the image."""
    image: str
    """Its id, or empty when docker did not tell it."""
    context: StreamReport
    """What it was built from."""


class ContextRefused(ModelCacheError):
    """Docker takes no more of the context: it has ended, or is about to."""

    def __init__(self) -> None:
        super().__init__("docker did not take the whole context")


def _version(stdout: bytes) -> tuple[int, int] | None:
    """The client's version, or None when it says none that is understood."""
    with suppress(ValueError, TypeError, KeyError):
        match = _VERSION.match(json.loads(stdout)["Client"]["Version"])
        return None if match is None else (int(match[1]), int(match[2]))
    return None


def _refusal(said: str) -> ModelCacheError:
    """Why the client did not reach its engine."""
    text = " ".join(said.split())[:300] or "it said nothing"
    if "permission denied" in text.lower():
        return AccessDenied(
            f"this user may not use the engine: {text}", hint="let it belong to the group of the socket (often docker)"
        )
    return Unavailable(
        f"docker has no engine to build with: {text}", hint="start it, or say with DOCKER_HOST where it listens"
    )
