"""The Dockerfiles of examples/docker are built as they are, on both builders, and what they make does what they say."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.parts.baking import EXAMPLES, PLACE, context_tar
from tests.parts.engine import NO_PYTHON, Engine
from tests.parts.servers import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.baking import Built, Project
    from tests.parts.buildah import Builder

# An engine, a program and base images are made by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)

ALL = sorted(EXAMPLES.glob("*.Dockerfile"))


def example(name: str) -> Path:
    return EXAMPLES / f"{name}.Dockerfile"


def digests(project: Project) -> set[str]:
    """The SHA-256 of the model's files."""
    return {hashlib.sha256(data).hexdigest() for data in project.files.values()}


def seen_by(built: Built, *, user: str | None = None) -> set[str]:
    """What a program in a container of the image reads below /models."""
    assert isinstance(built.builder, Engine)
    command = "find /models -path '*/snapshots/*' -o -path '/models/acme/*' | xargs sha256sum 2>/dev/null | cut -c1-64"
    done = built.builder.run(built.image, "sh", "-c", command, user=user)
    assert done.code == 0, done
    return set(done.output.split())


def test_they_are_what_this_file_builds() -> None:
    assert {path.stem for path in ALL} == {"context", "direct", "no-python", "nonroot", "run", "urls"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([program("hadolint"), path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_image_without_python_has_the_model(builder: Builder, project: Project) -> None:
    built = project.build(builder, example("no-python"), args={"BASE": NO_PYTHON}, layers=False)

    assert set(built.layer_of().files.values()) == digests(project)
    assert built.find("usr/bin/python3") is None
    assert built.find("usr/local/bin/ci-modelcache") is None
    if isinstance(builder, Engine):
        assert seen_by(built) == digests(project)


def test_a_user_who_is_not_root_restores_and_reads(builder: Builder, project: Project) -> None:
    built = project.build(builder, example("nonroot"), no_cache=True, layers=False)

    members = built.layer_of("models").members
    below = {path: member for path, member in members.items() if path.partition("/")[0] == "models"}
    assert {member.sha256 for member in below.values()} >= digests(project)
    assert {(member.uid, member.gid, member.mtime) for member in below.values()} == {(10001, 10001, 0)}
    if isinstance(builder, Engine):
        assert members == below
        assert project.build(builder, example("nonroot"), no_cache=True).layer_of("models") == built.layer_of("models")
        assert builder.run(built.image, "id", "-u").last == "10001"
        assert seen_by(built) >= digests(project)


def test_presigned_urls_are_all_that_a_build_needs(builder: Builder, project: Project) -> None:
    urls = project.outside / "urls.json"
    project.cli("presign", "--expires", "2h", "--output", urls)

    built = project.build(builder, example("urls"), secrets={"urls": urls}, layers=False)

    assert set(built.layer_of().files.values()) == digests(project)


def test_models_in_the_context_need_no_network(builder: Builder, project: Project) -> None:
    if isinstance(builder, Engine):
        tar = context_tar(project, example("context").read_text())
        project.forget()
        built = project.build(builder, example("context"), context=tar, secrets={}, network="none")
    else:
        project.cli("docker", "context", ".")
        project.forget()
        built = project.build(builder, example("context"), secrets={}, layers=False)

    assert set(built.layer_of().files.values()) == digests(project)
    assert project.asked == []


def test_one_command_builds_and_labels(docker_environment: Engine, project: Project) -> None:
    """As the example with the context says."""
    image = docker_environment.image("labelled")
    shutil.copy(example("context"), project.folder / "context.Dockerfile")
    environ = docker_environment.environ
    project.cli(
        "docker",
        "build",
        "-t",
        image,
        "-f",
        "context.Dockerfile",
        ".",
        "--",
        f"--build-arg=BASE={NO_PYTHON}",
        environ=environ,
    )

    with docker_environment.saved(image) as saved:
        assert f"/{PLACE}" in saved.config["config"]["Labels"]["io.ci-modelcache.models"]
    assert "ok" in project.cli("docker", "verify", image, environ=environ)
