"""`ci-modelcache docker build`: one step from models and a folder to an image; however it ends, docker ends with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.docker.labels import LABEL, models_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import Engine

pytestmark = pytest.mark.timeout(900)
NAME = {"config.json": b'{"a": 1}', "model.safetensors": os.urandom(3_000_000)}
COPY = "FROM scratch\nCOPY modelcache/ /\nCOPY app.py /\n"


@frozen
class Done:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.rstrip().rpartition("\n")[2]


@frozen
class Place:
    """A project with a lock and a build context ``app`` in it; *environ* is what the command is given."""

    root: Path
    environ: dict[str, str]

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ci_modelcache", "docker", "build", *arguments],
            cwd=self.root,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environ: str) -> Done:
        process = self.start(*arguments, **environ)
        out, err = process.communicate(timeout=500)
        return Done(process.returncode, out, err)

    def dockerfile(self, text: str) -> None:
        (self.root / "app" / "Dockerfile").write_text(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": NAME})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (tmp_path / "modelcache.toml").write_text('[[models]]\nrepo = "org/name"\n')
        assert main(["lock"]) == 0
        found = Place(tmp_path, dict(os.environ))
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "app.py").write_text("print()\n")
        found.dockerfile(COPY)
        yield found


@pytest.fixture
def real(place: Place, engine: Engine) -> Place:
    """The same, with the engine."""
    place.environ.update({name: engine.environ[name] for name in ("PATH", "DOCKER_HOST")})
    return place


def program(place: Place, text: str) -> None:
    """Let *text* be the docker on PATH: for what the real one does not do here."""
    folder = place.root / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{text}")
    (folder / "docker").chmod(0o755)
    place.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def version(number: str = "24.0.1") -> str:
    said = json.dumps({"Client": {"Version": number}, "Server": None})
    return f"if sys.argv[1] == 'version':\n    print({said!r})\n    sys.exit(0)\n"


# --- with the engine


def test_the_image_has_the_models_and_says_so(real: Place, engine: Engine) -> None:
    image = engine.image("built")
    done = real.run("-t", image, "app")
    assert (done.code, done.out) == (0, f"{image}\n"), done.err
    with engine.saved(image) as saved:
        files = {path for layer in saved.layers for path in layer.files}
        (model,) = models_in(saved.config["config"]["Labels"][LABEL])
    assert files == {"models/org/name/config.json", "models/org/name/model.safetensors", "app.py"}
    assert (model.ref, model.path) == ("org/name@main", "/models/org/name")
    assert not (real.root / "app" / "modelcache").exists()


def test_the_result_is_one_object_on_stdout_with_the_id_of_the_image(real: Place, engine: Engine) -> None:
    one, two = engine.image("built"), engine.image("built")
    done = real.run("-t", one, "-t", two, "app", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    shown = engine.docker("image", "inspect", "--format", "{{.Id}}", two)
    assert (report["tags"], report["image"]) == ([one, two], shown.output.strip())
    assert [model["ref"] for model in report["context"]["models"]] == ["org/name@main"]


def test_what_follows_two_dashes_is_given_to_docker(real: Place, engine: Engine) -> None:
    image = engine.image("built")
    real.dockerfile("FROM scratch\nARG VALUE\nLABEL value=$VALUE\nCOPY modelcache/ /\n")
    (real.root / "modelcache.toml").rename(real.root / "app" / "modelcache.toml")
    (real.root / "modelcache.lock").rename(real.root / "app" / "modelcache.lock")
    inside = Place(real.root / "app", real.environ)
    for words in (["--"], [".", "--", "--no-cache"]):
        done = inside.run("-t", image, *words, "--build-arg", "VALUE=x y")
        assert done.code == 0, done.err
        shown = engine.docker("image", "inspect", "--format", "{{.Config.Labels.value}}", image)
        assert shown.output.strip() == "x y"


def test_a_failure_of_docker_is_1_with_its_reason_as_the_last_line(real: Place, engine: Engine) -> None:
    real.dockerfile("FROM scratch\nCOPY nowhere /\n")
    done = real.run("-t", engine.image("built"), "app")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"error: docker build failed with exit code 1: .*nowhere.*not found.*", done.last), done.err
    assert "load remote build context" in done.err  # what docker said is passed on


def test_a_dockerfile_that_docker_cannot_read_is_its_failure_too(real: Place, engine: Engine) -> None:
    real.dockerfile("FORM scratch\n")
    done = real.run("-t", engine.image("built"), "app")
    assert done.code == 1
    assert "unknown instruction" in done.last


def test_another_dockerfile_of_the_context(real: Place, engine: Engine) -> None:
    (real.root / "app" / "docker").mkdir()
    (real.root / "app" / "docker" / "gpu").write_text("FROM scratch\nLABEL gpu=yes\nCOPY modelcache/ /\n")
    image = engine.image("built")
    done = real.run("-t", image, "-f", "app/docker/gpu", "app")
    assert done.code == 0, done.err
    shown = engine.docker("image", "inspect", "--format", "{{.Config.Labels.gpu}}", image)
    assert shown.output.strip() == "yes"


def test_no_secret_is_in_the_command_line_of_docker(place: Place) -> None:
    program(
        place,
        f"{version()}open('seen', 'w').write(' '.join(sys.argv) + open('/proc/self/cmdline').read())\nsys.stdin.buffer.read()\n",
    )
    done = place.run("-t", "app", "app", HF_TOKEN="hf_0123hidden", AWS_SECRET_ACCESS_KEY="0123hidden")
    assert done.code == 0, done.err
    assert "0123hidden" not in (place.root / "seen").read_text()


# --- what can be in the way


def test_without_docker_the_way_to_do_without_it_is_named(place: Place) -> None:
    done = place.run("-t", "app", "app", PATH="/nowhere")
    assert done.code == 2
    assert "there is no docker on PATH" in done.err
    assert "docker context --tar -" in done.err


def test_an_engine_that_is_not_running_is_11_before_anything_is_fetched(real: Place) -> None:
    done = real.run("-t", "app", "app", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.code == 11
    assert "docker has no engine to build with" in done.err
    assert "/nowhere/docker.sock" in done.err


def test_a_client_without_buildkit_is_a_clear_error(place: Place) -> None:
    program(place, version("17.12.1-ce"))
    done = place.run("-t", "app", "app")
    assert done.code == 2
    assert "version 17.12, which has no BuildKit" in done.err


def test_a_socket_that_is_not_for_this_user_is_12(place: Place) -> None:
    program(place, "print('permission denied while trying to connect', file=sys.stderr)\nsys.exit(1)\n")
    done = place.run("-t", "app", "app")
    assert done.code == 12


def test_a_context_without_a_dockerfile_names_the_generator(place: Place) -> None:
    (place.root / "app" / "Dockerfile").unlink()
    done = place.run("-t", "app", "app")
    assert done.code == 2
    assert "ci-modelcache dockerfile --style copy" in done.err


# --- ends


def children(place: Place) -> list[int]:
    """The stand-ins for docker that still run, or that nobody has waited for."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(place.root / "bin" / "docker").encode() in words:
            found.append(int(entry.name))
    return found


def until_building(place: Place) -> None:
    end = time.monotonic() + 60
    while not (place.root / "building").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


SLEEPING = f"{version()}open('building', 'w').close()\nsys.stdin.buffer.read(1)\ntime.sleep(500)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_docker_too(place: Place, number: signal.Signals) -> None:
    program(place, SLEEPING)
    process = place.start("-t", "app", "app")
    until_building(place)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert children(place) == []


def test_the_deadline_ends_docker_too(place: Place) -> None:
    program(place, SLEEPING)
    done = place.run("-t", "app", "app", "--deadline", "8s")
    assert done.code == 15, done.err
    assert children(place) == []


def test_a_docker_that_does_not_listen_is_killed(place: Place) -> None:
    program(place, f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPING}")
    process = place.start("-t", "app", "app")
    until_building(place)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert children(place) == []


def test_a_failure_of_ours_ends_docker_and_is_the_exit_code(place: Place) -> None:
    program(place, f"{version()}data = sys.stdin.buffer.read()\nopen('whole', 'w').close()\n")
    store = place.root / "store"
    assert main(["fetch", "org/name", "--store", str(store)]) == 0
    for path in store.glob("blobs/sha256/*/*/*"):
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)
    done = place.run("-t", "app", "app", "--store", str(store), "--mode", "read")
    assert done.code == 13, done.err
    assert not (place.root / "whole").exists()
    assert children(place) == []


def test_a_docker_that_ends_early_is_asked_why(place: Place) -> None:
    program(
        place,
        f"{version()}print('ERROR: no space left', file=sys.stderr)\nprint('------', file=sys.stderr)\nsys.exit(3)\n",
    )
    done = place.run("-t", "app", "app")
    assert done.code == 1
    assert done.last == "error: docker build failed with exit code 3: ERROR: no space left"
