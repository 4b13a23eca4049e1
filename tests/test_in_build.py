"""
Restoring in a step of a real build: the layer has the models and nothing else, whoever builds and whatever may be written.

Conditions that need no builder are in tests/test_build_conditions.py, secrets and caches in tests/test_docker_builds.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.baking import baking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.baking import Built, Project
    from tests.parts.buildah import Builder
    from tests.parts.engine import Engine
    from tests.parts.images import Member
    from tests.parts.servers import S3Server

# An engine, a program and base images are made by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)

FILES = {
    "config.json": b'{"model_type": "bert"}\n',
    "empty.txt": b"",
    "model.safetensors": bytes(range(256)) * 64,
    "onnx/model.onnx": bytes(reversed(range(256))),
}
MOUNTS = "--mount=type=secret,id=aws,target=/run/secrets/aws,uid=1000"
BEGIN = f"""
FROM ci-modelcache-test/python:local
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
COPY modelcache.lock /w/modelcache.lock
WORKDIR /w
ARG CI_MODELCACHE_STORE
ARG CI_MODELCACHE_REGION
ARG CI_MODELCACHE_ENDPOINT_URL
RUN {MOUNTS} mkdir -m 0700 /home/other && mkdir -m 0777 /mine && touch -d @1500000000 /mine"""
"""With the mounts, so that what old builders leave of them is not in the layer that counts."""
RESTORE = "AWS_SHARED_CREDENTIALS_FILE=/run/secrets/aws ci-modelcache restore --locked --to"
NO_PLACE = " ".join(
    f"--mount=type=bind,source=nothing,target={folder}" for folder in ("/tmp", "/var/tmp", "/home/other")
)
"""Folders that nobody may write, not even root."""
STUBS = {"run", "run/secrets", "run/secrets/aws", "etc", "etc/hosts", "etc/resolv.conf"}
"""What old builders leave of mounts, some of it at each step."""


@pytest.fixture
def project(tmp_path: Path, seaweedfs_server: S3Server, single_file: Path) -> Iterator[Project]:
    with baking(tmp_path, seaweedfs_server, single_file, FILES) as made:
        (made.folder / "nothing").mkdir()
        (made.folder / "nothing" / "at-all").touch()
        yield made


def require_models_alone(built: Built, top: str = "mine") -> dict[str, Member]:
    """What the layer of the models has below *top*: all of them, in order. Nothing is elsewhere but what builders leave of mounts."""
    place = f"{top}/models"
    layer = built.layer_of(f"{place}/acme/tiny")
    found = {name: one for name, one in layer.members.items() if f"{name}/".startswith(f"{top}/")}
    assert set(layer.members) - set(found) <= STUBS
    made = {name: one for name, one in found.items() if name != top}
    assert sorted(name for name, one in made.items() if one.kind == "file") == sorted(
        f"{place}/acme/tiny/{each}" for each in FILES
    )
    assert {one.mtime for one in made.values()} == {0}
    assert {one.mode & 0o7777 for one in made.values() if one.kind == "file"} == {0o644}
    assert {one.mode & 0o7777 for one in made.values() if one.kind == "folder"} == {0o755}
    return found


def owners(members: dict[str, Member]) -> set[tuple[int, int]]:
    """Users and groups of all but the first."""
    return {(one.uid, one.gid) for name, one in members.items() if "/" in name}


def test_roots_layer_is_the_same_where_nothing_else_may_be_written_and_whatever_the_umask(
    engine: Engine, project: Project
) -> None:
    usual = project.build(engine, f"{BEGIN}\nRUN {MOUNTS} {RESTORE} /mine/models\n", no_cache=True)
    strict = project.build(
        engine,
        f"{BEGIN}\nRUN {MOUNTS} {NO_PLACE} umask 0077; export HOME=/home/other; unset TERM; {RESTORE} /mine/models\n",
        no_cache=True,
    )
    found = require_models_alone(usual)
    assert owners(found) == {(0, 0)}
    assert found["mine"].mtime == 1_500_000_000
    assert require_models_alone(strict) == found


def test_a_user_without_rights_and_with_a_closed_home_restores_into_a_folder_that_is_open_to_all(
    engine: Engine, project: Project
) -> None:
    """What that folder is like is root's to say: its time cannot be put back, and a warning says so."""
    text = f"{BEGIN}\nENV HOME=/home/other\nUSER 1000\nRUN {MOUNTS} {RESTORE} /mine/models\n"
    built = project.build(engine, text, no_cache=True)
    assert owners(require_models_alone(built)) == {(1000, 0)}
    assert "of 1 paths in /mine/models/acme/tiny stay as they are: /mine: Operation not permitted" in built.done.output


def test_a_user_restores_into_a_folder_of_their_own_where_nothing_else_may_be_written(
    builder: Builder, project: Project
) -> None:
    """Nor is there such a user in the passwd file; the folder keeps its time."""
    text = f"{BEGIN} && chown 1000 /mine && chmod 0555 /tmp /var/tmp\nUSER 1000\nRUN {MOUNTS} {RESTORE} /mine/models\n"
    built = project.build(builder, text)
    found = require_models_alone(built)
    assert owners(found) == {(1000, 0)}
    assert found["mine"].mtime == 1_500_000_000
    assert "warning" not in built.done.output


def test_where_no_folder_may_be_written_the_build_fails_and_says_what_to_set(engine: Engine, project: Project) -> None:
    mounts = f"{MOUNTS} {NO_PLACE} --mount=type=bind,source=nothing,target=/dev/shm"
    done = project.try_build(engine, f"{BEGIN}\nRUN {mounts} {RESTORE} /mine/models\n")
    assert done.code != 0
    assert "CI_MODELCACHE_STATE" in done.output
