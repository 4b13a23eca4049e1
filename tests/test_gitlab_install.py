"""The script by which a GitLab job gets ci-modelcache: in the smallest shell, whatever the image has, and touching none of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.parts.gitlab_runner import REQUIREMENT, VERSION, parts
from tests.parts.servers import program

# Each makes a virtual environment.
pytestmark = pytest.mark.timeout(300)

INSTALLING, RESTORING = parts()
PYTHON = str(Path(sys.base_prefix) / "bin")
SYSTEM = os.defpath


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that is called as ours, needs nothing, and prints what it is told."""
    info = f"ci_modelcache-{VERSION}.dist-info"
    files = {
        "ci_modelcache/__init__.py": "",
        "ci_modelcache/__main__.py": "import sys; print('called with', sys.argv[1:])",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: ci-modelcache\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    path = tmp_path_factory.mktemp("wheel") / f"ci_modelcache-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, content)
    return path


def job(folder: Path, script: str, *, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A job in *folder* whose image has *path* as PATH; first it installs, then it runs *script*."""
    environ = {"PATH": path, "HOME": str(folder), "CI_PROJECT_DIR": str(folder), **variables}
    command = ["dash", "-e", "-u", "-c", f"{INSTALLING}\n{script}"]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PATH of an image with Python and uv."""
    folder = tmp_path_factory.mktemp("uv")
    (folder / "uv").symlink_to(program("uv"))
    return f"{folder}:{PYTHON}:{SYSTEM}"


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_what_is_installed_is_found_last_and_the_image_stays_as_it_is(
    by: str, wheel: Path, image: str, tmp_path: Path
) -> None:
    """By uv where it is, unless pip alone was told of an index."""
    variables = {"PIP_INDEX_URL": "http://127.0.0.1:9"} if by == "pip" else {}
    (tmp_path / "click.py").write_text("raise SystemExit('the job has a module of its own')")
    done = job(
        tmp_path,
        'command -v ci-modelcache; ci-modelcache restore "a b"; echo "$PATH"',
        path=image,
        MODELCACHE_INSTALL=str(wheel),
        PYTHONPATH=str(tmp_path),
        PIP_TARGET=str(tmp_path / "elsewhere"),
        PIP_USER="1",
        **variables,
    )
    assert done.returncode == 0, done.stderr
    *section, found, called, searched = done.stdout.splitlines()
    assert found == f"{tmp_path}/.modelcache/bin/ci-modelcache"
    assert called == "called with ['restore', 'a b']"
    assert searched == f"{image}:{tmp_path}/.modelcache/bin"
    assert ["section_start:" in line for line in section][:1] == [True]
    assert not (tmp_path / "elsewhere").exists()
    has_pip = (tmp_path / ".modelcache" / "venv" / "bin" / "pip").exists()
    assert has_pip is (by == "pip"), "uv makes environments without it"


def test_what_is_there_already_is_used_again(wheel: Path, image: str, tmp_path: Path) -> None:
    """With no uv and no Python on the PATH, so that nothing could be installed; and what is meant by default is this version."""
    venv, path = tmp_path / "venv", bare(tmp_path)
    variables = {"MODELCACHE_INSTALL": str(wheel), "MODELCACHE_VENV": str(venv)}
    assert job(tmp_path, "true", path=image, **variables).returncode == 0
    again = job(tmp_path, "ci-modelcache again", path=path, **variables)
    assert again.stdout == "called with ['again']\n"
    del variables["MODELCACHE_INSTALL"]
    assert job(tmp_path, "true", path=path, **variables).returncode == 2
    (venv / ".ci-modelcache").write_text(f"{REQUIREMENT}\n")
    assert job(tmp_path, "true", path=path, **variables).returncode == 0


def bare(folder: Path) -> str:
    """A PATH with neither Python nor uv."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("cat", "chmod", "date", "dash", "mkdir", "rm"):
        (tools / name).symlink_to(shutil.which(name, path=SYSTEM) or name)
    return str(tools)


def test_an_image_without_python_is_told_what_it_needs(tmp_path: Path) -> None:
    done = job(tmp_path, "echo not reached", path=bare(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs Python 3.11 or newer, or uv" in done.stderr


def test_what_cannot_be_installed_fails_the_job_with_11_and_the_reason_outside_of_the_section(
    image: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing-1.0-py3-none-any.whl")
    done = job(tmp_path, "echo not reached", path=image, MODELCACHE_INSTALL=missing)
    assert done.returncode == 11
    assert "not reached" not in done.stdout
    assert "missing-1.0" not in done.stdout
    assert "missing-1.0" in done.stderr
    assert "could not be installed; the lines above say why" in done.stderr
    assert done.stdout.count("section_end:") == 1


@pytest.mark.parametrize("has", [True, False])
def test_an_image_may_bring_ci_modelcache_itself(has: bool, tmp_path: Path) -> None:  # noqa: FBT001  # the example
    path = bare(tmp_path)
    if has:
        (tmp_path / "tools" / "ci-modelcache").write_text('#!/bin/dash\necho "the image\'s: $@"\n')
        (tmp_path / "tools" / "ci-modelcache").chmod(0o755)
    done = job(tmp_path, '"$modelcache_command" restore', path=path, MODELCACHE_INSTALL="none")
    assert (done.returncode, done.stdout) == ((0, "the image's: restore\n") if has else (2, ""))


def test_the_job_goes_on_with_what_the_command_has_said_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    """A file that an earlier job has left there says nothing."""
    path = bare(tmp_path)
    program_of_image = tmp_path / "tools" / "ci-modelcache"
    left = tmp_path / ".modelcache" / "environment.sh"
    left.parent.mkdir()
    left.write_text("export HF_HUB_OFFLINE=1\n")
    program_of_image.write_text("#!/bin/dash\nexit ${STATUS:-0}\n")
    program_of_image.chmod(0o755)
    script = f'{RESTORING}\necho "offline: ${{HF_HUB_OFFLINE:-no}} $CI_MODELCACHE_OFFLINE $CI_MODELCACHE_OFFLINE_ENV"'
    variables = {"MODELCACHE_INSTALL": "none"}
    assert job(tmp_path, script, path=path, **variables).stdout == "offline: no false auto\n"
    for status in (10, 12):
        assert job(tmp_path, script, path=path, STATUS=str(status), **variables).returncode == status
    program_of_image.write_text(f"#!/bin/dash\necho 'export HF_HUB_OFFLINE=1' > {left}\n")
    assert job(tmp_path, script, path=path, **variables).stdout == "offline: 1 false auto\n"
