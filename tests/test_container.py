"""Where this process runs is known by what builders and engines leave there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cli import main as cli
from ci_modelcache.container import in_build, in_container, mounted_tier
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from pathlib import Path

BUILDAH = 'engine="buildah-1.28.2"\nname="working-container"\nrootless=0\n'
PODMAN = 'engine="podman-4.3.1"\nname="ci"\nrootless=1\n'


def test_on_a_machine_there_is_neither(tmp_path: Path) -> None:
    assert not in_build(root=tmp_path, host="runner-1")
    assert not in_container(root=tmp_path, host="runner-1")


@pytest.mark.parametrize("mark", ["buildkit", "buildah", "kaniko"])
def test_a_step_of_a_build_is_known_by_its_builder_and_is_in_a_container(tmp_path: Path, mark: str) -> None:
    (tmp_path / "run").mkdir()
    if mark == "buildah":
        (tmp_path / "run/.containerenv").write_text(BUILDAH)
    if mark == "kaniko":
        (tmp_path / "kaniko").mkdir()
    host = "buildkitsandbox" if mark == "buildkit" else "runner-1"
    assert in_build(root=tmp_path, host=host)
    assert in_container(root=tmp_path, host=host)


@pytest.mark.parametrize("content", ["", PODMAN])
def test_a_container_of_podman_is_no_build(tmp_path: Path, content: str) -> None:
    """It says who made it only in privileged ones, and may show that to root alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").write_text(content)
    assert not in_build(root=tmp_path, host="runner-1")
    assert in_container(root=tmp_path, host="runner-1")
    (tmp_path / "run/.containerenv").chmod(0o000)
    os.chown(tmp_path / "run/.containerenv", 12345, 12345)
    with unprivileged():
        assert not in_build(root=tmp_path, host="runner-1")
        assert in_container(root=tmp_path, host="runner-1")


def test_a_container_of_docker_is_no_build(tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    assert not in_build(root=tmp_path, host="runner-1")
    assert in_container(root=tmp_path, host="runner-1")


def test_a_folder_that_is_no_mount_is_no_tier(tmp_path: Path) -> None:
    """It would become a part of the image."""
    assert mounted_tier(tmp_path) is None
    assert mounted_tier(tmp_path / "absent") is None


def test_a_mount_is_a_tier_for_whoever_may_write_it(tmpfs: Path) -> None:
    assert mounted_tier(tmpfs) == tmpfs
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    assert mounted_tier(tmpfs) is None


def test_a_folder_of_the_same_disk_that_is_mounted_is_a_tier_too(tmp_path: Path) -> None:
    """As buildah mounts its caches: by device and inode it looks like any folder."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "there").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "cache", tmp_path / "there"], check=True)
    try:
        assert mounted_tier(tmp_path / "there") == tmp_path / "there"
        assert mounted_tier(tmp_path / "cache") is None
    finally:
        subprocess.run(["umount", tmp_path / "there"], check=True)


@pytest.mark.parametrize("built", [True, False])
def test_in_a_build_python_writes_no_bytecode(monkeypatch: pytest.MonkeyPatch, *, built: bool) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(cli, "in_build", lambda: built)
    assert cli.main(["--version"]) == 0
    assert sys.dont_write_bytecode is built
