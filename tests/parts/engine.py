"""
The only module that starts a Docker engine for tests: by ``.ci/engine``, once for all workers, with two base images in it.

Where ``.ci/engine start`` was called before, as CI does, that engine is used (``TEST_ENGINE`` names its folder). Its networks
are none and that of the host: a build that needs the network says so, as `Engine.build` does by default.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import filelock
import pytest
from attrs import field, frozen

from tests.parts.documents import ROOT
from tests.parts.images import Layer, Saved, read_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

PYTHON = "ci-modelcache-test/python:local"
"""Debian with Python 3.11, as ``python:slim`` is."""
NO_PYTHON = "ci-modelcache-test/no-python:local"
"""The same without Python, as images of CUDA are."""
CLIENT = "/usr/bin/docker"
"""The client of the engine's age; another one on PATH may insist on plugins that are not there."""

_FOLDER = "TEST_ENGINE"
_SCRIPT = ROOT / ".ci" / "engine"
_SECONDS = 540
"""How long a command may take on a busy machine."""


@frozen
class Done:
    """How a command of a builder ended: *code*, and all that it printed, both streams mixed as a person sees them."""

    code: int
    output: str

    @property
    def last(self) -> str:
        """The last line."""
        return self.output.rstrip().rpartition("\n")[2]

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.output}"


@frozen
class Engine:
    """A running engine; what it started with is in *folder*, and what tests build is removed with it."""

    folder: Path
    host: str
    scratch: Path
    _images: list[str] = field(factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What a command needs to use this engine, and nothing of ours besides."""
        return {
            "PATH": f"/usr/bin:{os.environ['PATH']}",
            "HOME": str(self.scratch),
            "DOCKER_HOST": self.host,
            "DOCKER_BUILDKIT": "1",
        }

    @property
    def log(self) -> str:
        """What the engine itself has logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def docker(
        self, *arguments: str | Path, stdin: bytes | IO[bytes] | None = None, env: Mapping[str, str] | None = None
    ) -> Done:
        """Any command of the client; *stdin* are bytes, or a file that is read."""
        return run_builder([CLIENT, *map(str, arguments)], environ={**self.environ, **(env or {})}, stdin=stdin)

    def image(self, name: str = "image") -> str:
        """A new name for an image that is removed at the end."""
        self._images.append(f"ci-modelcache-test/{name}:{uuid.uuid4().hex[:12]}")
        return self._images[-1]

    def build(  # noqa: PLR0913  # the options of a command line
        self,
        context: Path | None,
        *arguments: str | Path,
        tag: str = "",
        dockerfile: Path | None = None,
        secrets: Mapping[str, Path] | None = None,
        no_cache: bool = False,
        network: str = "host",
        stdin: bytes | IO[bytes] | None = None,
        layers: bool = True,  # noqa: ARG002  # it always makes them; buildah need not
    ) -> Done:
        """``docker build`` with *context*, or with the tar that is *stdin* in its place; *secrets* are files by their ids."""
        command: list[str | Path] = ["build", "--progress=plain", f"--network={network}", *arguments]
        command += words(tag=tag, dockerfile=dockerfile, secrets=secrets, no_cache=no_cache)
        return self.docker(*command, "-" if context is None else context, stdin=stdin)

    def run(
        self,
        image: str,
        *argv: str,
        network: str = "none",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run *argv* in a new container, which is removed."""
        options = ["--rm", f"--network={network}"]
        options += [] if user is None else [f"--user={user}"]
        options += [f"--env={name}={value}" for name, value in (env or {}).items()]
        return self.docker("run", *options, image, *argv)

    def saved(self, image: str) -> AbstractContextManager[Saved]:
        """The image as a whole while the block runs."""
        return saving(self.scratch, lambda path: self.docker("save", "--output", path, image))

    def layers(self, image: str) -> tuple[Layer, ...]:
        """All its layers, from the base on."""
        with self.saved(image) as saved:
            return saved.layers

    def remove(self, image: str) -> None:
        """Remove an image, whether it is there or not."""
        self.docker("image", "rm", "--force", image)

    def close(self) -> None:
        """Remove what was built."""
        for image in self._images:
            self.remove(image)


@contextmanager
def saving(scratch: Path, save: Callable[[Path], Done]) -> Iterator[Saved]:
    """What *save* writes to the path that it is given, below *scratch*, while the block runs."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "image.tar"
        done = save(path)
        assert done.code == 0, done
        yield read_saved(path)


def words(*, tag: str, dockerfile: Path | None, secrets: Mapping[str, Path] | None, no_cache: bool) -> list[str]:
    """Options that ``docker build`` and ``buildah build`` write in the same way."""
    found = [f"--tag={tag}"] if tag else []
    found += [] if dockerfile is None else [f"--file={dockerfile}"]
    found += [f"--secret=id={name},src={path}" for name, path in (secrets or {}).items()]
    return [*found, *(["--no-cache"] if no_cache else [])]


def run_builder(command: list[str], *, environ: Mapping[str, str], stdin: bytes | IO[bytes] | None = None) -> Done:
    """Run *command* of a builder with *environ* alone."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
            **given,
        )
    except FileNotFoundError:
        pytest.fail(f"{command[0]} is missing; run: .ci/engine start")
    return Done(done.returncode, done.stdout.decode(errors="replace"))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine of this run: the one that is there, or one that the first worker starts and the last one stops."""
    scratch = tmp_path_factory.mktemp("engine")
    there = os.environ.get(_FOLDER)
    with _there(Path(there)) if there else _shared(_meeting_place(tmp_path_factory)) as (folder, host):
        running = Engine(folder, host, scratch)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def docker_environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine is the one that the variables of this process name, as they would for a user."""
    for name in ("PATH", "DOCKER_HOST", "DOCKER_BUILDKIT"):
        monkeypatch.setenv(name, engine.environ[name])
    return engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs an engine waits until it is there, which is none of its own time."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS + 60))


def _meeting_place(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def _there(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder, f"unix://{folder}/docker.sock"


@contextmanager
def _shared(place: Path) -> Iterator[tuple[Path, str]]:
    """Start it if nobody has; stop it if nobody is left."""
    lock, record = filelock.FileLock(place / "engine.lock"), place / "engine.json"
    with lock:
        known: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {"users": 0, **_start()}
        record.write_text(json.dumps({**known, "users": known["users"] + 1}))
    try:
        yield Path(known[_FOLDER]), known["DOCKER_HOST"]
    finally:
        with lock:
            left = json.loads(record.read_text())
            left["users"] -= 1
            record.write_text(json.dumps(left))
            if left["users"] == 0:
                record.unlink()
                _script("stop", known[_FOLDER])


def _start() -> dict[str, str]:
    """The variables that the script prints; nothing stays when starting fails or is interrupted."""
    # Sockets lie in it, and have short names only: not below the folder of the tests.
    folder = tempfile.mkdtemp(prefix="engine-", dir="/tmp")
    try:
        exported = shlex.split(_script("start", folder).removeprefix("export "))
    except BaseException:
        if Path(folder).exists():
            _script("stop", folder)
        raise
    return dict(each.split("=", 1) for each in exported)


def _script(*arguments: str) -> str:
    done = subprocess.run([_SCRIPT, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, f".ci/engine {arguments[0]}: {done.returncode}\n{done.stderr}"
    return done.stdout
