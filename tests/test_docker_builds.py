"""
Images with models in them, built by a real engine and by buildah: layers that change when bytes do, and at no other time.

What a build asks of the store is counted by a relay before it.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.baking import EXAMPLES, PLACE, context_tar, fresh
from tests.parts.engine import PYTHON, Engine

if TYPE_CHECKING:
    from tests.parts.baking import Project
    from tests.parts.buildah import Buildah, Builder

# An engine, a program and base images are made by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)


def change(project: Project) -> None:
    """One small file of the model is another one, and the lock says so."""
    project.publish({**project.files, "config.json": fresh()["config.json"]})


def built(project: Project, builder: Builder, style: str, layout: str = "plain") -> str:
    """The digest of the model's layer in an image that is built from scratch."""
    python = ["--python-image", PYTHON] if style == "run" else []
    dockerfile = project.cli("dockerfile", "--style", style, "--base", PYTHON, "--layout", layout, *python)
    given: dict[str, Any] = {"no_cache": True, "layers": False}
    if style == "copy" and isinstance(builder, Engine):
        # Of a folder this BuildKit takes the files with their times, but not the folders with theirs.
        given["context"] = context_tar(project, dockerfile, "--layout", layout)
    elif style == "copy":
        project.cli("docker", "context", ".", "--layout", layout)
    return project.build(builder, dockerfile, **given).layer_of("models").diff_id


@pytest.mark.parametrize("layout", ["plain", "hub"])
def test_all_builds_from_scratch_give_one_layer_in_both_styles_and_one_changed_file_another(
    builder: Builder, project: Project, layout: str
) -> None:
    before = {built(project, builder, style, layout) for style in ("run", "run", "copy", "copy")}
    change(project)
    after = {built(project, builder, style, layout) for style in ("run", "copy")}

    assert len(before) == len(after) == 1
    assert before != after


def test_a_model_layer_has_nothing_but_the_model(builder: Builder, project: Project) -> None:
    dockerfile = project.cli("dockerfile", "--base", PYTHON, "--python-image", PYTHON)
    layer = project.build(builder, dockerfile, layers=False).layer_of()

    folders = {"models", "models/acme", PLACE, f"{PLACE}/onnx"}
    assert set(layer.members) == {f"{PLACE}/{name}" for name in project.files} | folders
    assert {(each.uid, each.gid, each.mtime) for each in layer.members.values()} == {(0, 0, 0)}
    assert {each.mode & 0o7777 for each in layer.members.values() if each.kind == "folder"} == {0o755}
    assert {each.mode & 0o7777 for each in layer.members.values() if each.kind == "file"} == {0o644}


def test_a_step_in_the_final_image_gives_one_layer_too(engine: Engine, project: Project) -> None:
    direct = EXAMPLES / "direct.Dockerfile"
    first, second = (project.build(engine, direct, no_cache=True).layer_of() for _ in range(2))

    assert first == second
    assert {name.partition("/")[0] for name in first.members} == {"models"}


def test_in_buildah_a_step_in_the_final_image_differs_by_folders_of_its_mounts_alone(
    buildah: Buildah, project: Project
) -> None:
    """Buildah 1.28 gives them the time of the build: docs/docker.md says so."""
    direct = EXAMPLES / "direct.Dockerfile"
    first, second = (project.build(buildah, direct, no_cache=True).layer_of().members for _ in range(2))

    different = {name for name in {*first, *second} if first.get(name) != second.get(name)}
    secret = {"root", "root/.aws", "root/.aws/.wh.credentials"}  # made for the mount, and removed again
    assert different <= {"run", "var/cache"} | secret
    assert PLACE in first


@pytest.mark.parametrize("example", ["run", "direct"])
def test_an_unchanged_lock_is_built_from_the_cache_without_a_request(
    builder: Builder, project: Project, example: str
) -> None:
    dockerfile = EXAMPLES / f"{example}.Dockerfile"
    first = project.build(builder, dockerfile)
    asked = len(project.asked)
    project.forget()
    # As a fresh checkout has it.
    for path in project.folder.iterdir():
        os.utime(path, (1, 1))

    second = project.build(builder, dockerfile)

    assert asked > 0
    assert project.asked == []
    assert project.hub.requests() == []
    assert second.layers == first.layers
    change(project)
    assert project.build(builder, dockerfile).layer_of("models") != first.layer_of("models")
    assert project.asked != []


def test_with_the_cache_mount_one_changed_file_is_all_that_is_downloaded(builder: Builder, project: Project) -> None:
    dockerfile = EXAMPLES / "run.Dockerfile"
    project.build(builder, dockerfile, layers=False)
    assert len(project.blobs) == len([data for data in project.files.values() if data])
    change(project)

    second = project.build(builder, dockerfile, layers=False)

    (downloaded,) = project.blobs
    assert downloaded.endswith(hashlib.sha256(project.files["config.json"]).hexdigest())
    hashes = {hashlib.sha256(data).hexdigest() for data in project.files.values()}
    assert set(second.layer_of("models").files.values()) >= hashes
