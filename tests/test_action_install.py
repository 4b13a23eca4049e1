"""``actions/ci-modelcache`` installs the CLI away from everybody's Python, whole or not at all, and once."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import evolve, field, frozen

from tests.parts.act import publish
from tests.parts.documents import ROOT
from tests.parts.servers import program

SCRIPT = ROOT / "actions" / "ci-modelcache"
PINS = (ROOT / "actions" / "requirements.txt").read_text()
TOOLS = ("bash", "dirname", "env", "find", "mkdir", "mktemp", "mv", "rm", "sed", "sleep", "touch", "uname")
MONTH = 31 * 24 * 3600  # seconds

# Installing needs a package index, on a machine that others use too.
pytestmark = pytest.mark.timeout(400)


def _shim(folder: Path, name: str, target: str) -> None:
    """A command *name* that runs *target*: as those of pyenv, it is a script."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(target)} "$@"\n')
    (folder / name).chmod(0o755)


@frozen
class Machine:
    """A runner with a Python and a tool cache below *folder*; *path* is what its PATH has."""

    folder: Path
    path: str
    environ: Mapping[str, str] = field(factory=dict)
    script: Path = SCRIPT

    @property
    def tools(self) -> Path:
        """The folder of our environments."""
        return self.folder / "tool cache" / f"ci-modelcache-{os.geteuid()}"

    @property
    def installed(self) -> list[str]:
        """The names of all that is in it."""
        return sorted(each.name for each in self.tools.iterdir()) if self.tools.exists() else []

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start our script with *environ* in its environment, in a process group of its own."""
        index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
        variables = {"PATH": self.path, "HOME": str(self.folder), "LANG": "C.UTF-8", "GITHUB_ACTIONS": "true", **index}
        variables |= {"RUNNER_TOOL_CACHE": str(self.folder / "tool cache"), **self.environ, **environ}
        return subprocess.Popen(
            [str(self.script), *arguments],
            cwd=self.folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr."""
        running = self.start(*arguments, **environ)
        out, err = running.communicate(timeout=380)
        return running.returncode, out, err


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with uv."""
    _shim(tmp_path / "bin", "python3", sys.executable)
    _shim(tmp_path / "bin", "uv", program("uv"))
    return Machine(tmp_path, f"{tmp_path / 'bin'}:{os.defpath}")


VERSION = f"ci-modelcache {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n"


def test_with_a_bare_python_pip_installs_into_an_environment_that_no_setting_of_the_user_reaches(
    machine: Machine,
) -> None:
    (machine.folder / "bin" / "uv").unlink()
    _spoil(machine.folder / "theirs")
    theirs = str(machine.folder / "theirs")
    settings = {
        "PIP_TARGET": theirs,
        "PIP_USER": "1",
        "PIP_PREFIX": theirs,
        "PIP_CONSTRAINT": "/none",
        "PYTHONPATH": theirs,
    }
    settings |= {"PYTHONHOME": theirs, "PYTHONSTARTUP": theirs, "VIRTUAL_ENV": theirs, "PIP_REQUIRE_VIRTUALENV": "1"}
    before = sorted((machine.folder / "theirs").rglob("*"))

    status, out, err = machine.run("--version", **settings)
    again, out_again, err_again = machine.run("--version", **settings)

    assert (status, out) == (again, out_again) == (0, VERSION), err
    version = ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(rf"ci-modelcache: installed for Python {re.escape(version)} by pip, .* in \d+ s\n", err)
    assert err_again == ""
    assert sorted((machine.folder / "theirs").rglob("*")) == before
    (name,) = machine.installed
    environment = machine.tools / name
    checked = subprocess.run([environment / "bin" / "python", "-I", "-m", "pip", "check"], check=False)
    assert checked.returncode == 0, "the pins are incomplete"
    assert not {path.name for path in machine.folder.iterdir()} - {"bin", "theirs", "tool cache", ".cache"}


def _spoil(folder: Path) -> None:
    """Packages of the user, which break whoever imports them."""
    folder.mkdir()
    for name in ("click", "pip", "ci_modelcache", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the user was imported')\n")


def test_where_there_is_uv_it_installs_whatever_uv_is_set_to_elsewhere(machine: Machine) -> None:
    _spoil(machine.folder / "theirs")
    (machine.folder / "uv.toml").write_text('[pip]\nsystem = true\ntarget = "theirs"\n')
    settings = {
        "UV_SYSTEM_PYTHON": "1",
        "UV_PYTHON": "3.4",
        "UV_CONSTRAINT": "/none",
        "PYTHONPATH": str(machine.folder / "theirs"),
    }

    status, out, err = machine.run("--version", **settings)

    assert (status, out) == (0, VERSION), err
    assert re.fullmatch(r"ci-modelcache: installed for Python \S+ by uv, .* in \d+ s\n", err)


def test_two_jobs_at_once_on_one_runner_use_one_environment_that_is_whole(machine: Machine) -> None:
    jobs = [machine.start("--version") for _ in range(2)]

    ended = [job.communicate(timeout=380) for job in jobs]

    assert [(job.returncode, out) for job, (out, _) in zip(jobs, ended, strict=True)] == [(0, VERSION)] * 2, ended
    (name,) = machine.installed
    assert not name.startswith("new.")
    assert not (machine.tools / name / "environment").exists(), "one within the other"


def test_an_installation_that_was_killed_is_not_taken_for_one(machine: Machine) -> None:
    job = machine.start("--version")
    while not list(machine.tools.glob("new.*/environment/bin/python")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.001)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    (half,) = machine.installed
    assert half.startswith("new.")

    assert machine.run("--version")[:2] == (0, VERSION)

    assert len(machine.installed) == 2, "what was killed a moment ago might be alive"


def test_another_source_has_another_environment_and_those_unused_for_a_month_go(machine: Machine) -> None:
    assert machine.run("--version")[0] == 0
    (first,) = machine.installed
    for old in (machine.tools / first, machine.tools / "new.killed"):
        old.mkdir(exist_ok=True)
        os.utime(old, (time.time() - MONTH, time.time() - MONTH))
    other = publish(machine.folder / "other")
    with (other / "ci_modelcache" / "__main__.py").open("a") as file:
        file.write("# Another version.\n")

    assert evolve(machine, script=other / "actions" / "ci-modelcache").run("--version")[:2] == (0, VERSION)

    (second,) = machine.installed
    assert second != first


def test_without_a_writable_tool_cache_it_is_the_temporary_folder_and_never_a_link_of_somebody_else(
    machine: Machine,
) -> None:
    elsewhere, temporary = machine.folder / "elsewhere", machine.folder / "temp"
    for folder in (machine.tools.parent, temporary, elsewhere):
        folder.mkdir()
    machine.tools.symlink_to(elsewhere)

    status, out, err = machine.run("--version", RUNNER_TEMP="/dev/null/none", TMPDIR=str(temporary))

    assert (status, out) == (0, VERSION), err
    assert list(elsewhere.iterdir()) == []
    (home,) = temporary.iterdir()
    assert home.stat().st_mode & 0o777 == 0o700


# --- failures


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine with the usual commands alone."""
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (tmp_path / "bin" / name).symlink_to(found)
    return Machine(tmp_path, str(tmp_path / "bin"), {"GITHUB_OUTPUT": str(tmp_path / "outputs")})


def test_without_a_python_that_is_new_enough_the_remedy_is_told_and_the_outputs_are_set(bare: Machine) -> None:
    _shim(bare.folder / "bin", "python3.12", "/nowhere/python3.12")  # a shim that leads nowhere
    (bare.folder / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")  # what an old one answers
    (bare.folder / "bin" / "python3").chmod(0o755)

    status, out, err = bare.run("restore")

    assert (status, out) == (2, "")
    told = "ci-modelcache needs Python 3.11 or newer, and found none on the PATH; add a step with actions/setup-python"
    shim, first, second = err.splitlines()
    assert "/nowhere/python3.12" in shim
    assert first.startswith(f"error: {told}")
    assert second.startswith(f"::error title=No Python::{told}")
    assert (bare.folder / "outputs").read_text() == "cache-hit=false\nresult=error\n"


def test_an_index_that_cannot_be_reached_is_told_with_what_pip_said_and_leaves_nothing(bare: Machine) -> None:
    _shim(bare.folder / "bin", "python3", sys.executable)
    unreachable = {
        "PIP_INDEX_URL": "http://127.0.0.1:1/",
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }

    status, out, err = bare.run("restore", **unreachable)

    assert (status, out) == (11, "")
    *said, error, annotation = err.splitlines()
    assert said
    assert all(line.startswith("| ") for line in said), "a line of pip's could be a command"
    assert any("ERROR" in line for line in said)
    assert error.startswith("error: ci-modelcache could not be installed; the lines above say why.")
    assert annotation.startswith("::error title=Not installed::")
    assert (bare.folder / "outputs").read_text() == "cache-hit=false\nresult=error\n"
    assert bare.installed == []


def test_windows_is_refused_at_once(bare: Machine) -> None:
    status, _, err = bare.run("restore", RUNNER_OS="Windows")
    assert status == 2
    assert err.startswith("error: ci-modelcache runs on Linux and macOS, not on Windows\n")


# --- the script and its pins


def test_the_script_is_clean_executable_and_tells_no_secret() -> None:
    checked = subprocess.run([program("shellcheck"), SCRIPT], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert os.access(SCRIPT, os.X_OK)
    code = re.sub(r"(?m)^\s*#.*$", "", SCRIPT.read_text())
    assert not re.search(r"set -\w*x|xtrace", code)


@pytest.mark.parametrize(
    "newer", [r"declare -A", r"mapfile|readarray", r"\$\{\w+(?:,,|\^\^|@)", r"\|&|&>>", r"wait -n"]
)
def test_the_script_has_nothing_that_the_bash_of_macos_lacks(newer: str) -> None:
    assert not re.search(newer, SCRIPT.read_text())


def test_every_dependency_of_the_package_is_pinned_with_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needs = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+) (?:; .+ )?\\\n    --hash=sha256:[0-9a-f]{64}", PINS))
    assert len(pins) == PINS.count("==") - PINS.count("' == ")
    for need in needs:
        found = re.fullmatch(r"([\w-]+)>=([\d.]+)", need)
        assert found, f"{need} is not NAME>=VERSION, as this test expects"
        name, least = found.groups()
        assert _numbers(pins[name]) >= _numbers(least), f"{name} is pinned below {least}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
