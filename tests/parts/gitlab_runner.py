"""
The only module that runs GitLab pipelines: by gitlab-ci-local, each job in a checkout of its own, with the shell of this machine.

A pipeline is read as its users have it: what it includes from the published project is found where gitlab-ci-local keeps what
it has fetched. One thing is taken out: ``image:``, as it would move CI_PROJECT_DIR into a container that is not there.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from attrs import field, frozen

from tests.parts.documents import ROOT

INSTALL = "npm install --prefix DIR gitlab-ci-local@4.60.0; PATH=DIR/node_modules/.bin:$PATH; apt-get install rsync"
EXAMPLES = ROOT / "examples" / "gitlab"
TEMPLATE = ROOT / "gitlab" / "ci-modelcache.gitlab-ci.yml"
COMPONENT = ROOT / "gitlab" / "templates" / "modelcache" / "template.yml"
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
HOST = "gitlab.example.com"
PUBLISHED = {
    f"raw.githubusercontent.com/ci-modelcache/ci-modelcache/v{VERSION}/gitlab/{TEMPLATE.name}": TEMPLATE,
    f"{HOST}/ci-modelcache/ci-modelcache/{VERSION}/templates/modelcache/template.yml": COMPONENT,
}
"""Where gitlab-ci-local looks for what the examples include."""
REQUIREMENT = f"ci-modelcache=={VERSION}"
USUAL = {
    "GITLAB_CI": "true",  # which gitlab-ci-local says is false
    "CI_COMMIT_REF_PROTECTED": "true",
    "XDG_CACHE_HOME": "$CI_PROJECT_DIR/.cache",  # no job sees what another has restored
}
"""Variables of a job of the protected branch main."""
_SECONDS = 400
"""How long a pipeline may take on a busy machine."""
_STATE = ".gitlab-ci-local"
_ENDED = re.compile(r"^(?P<name>\S.*?) +finished in [\d.]+ \w+ *(?:(?:FAIL|WARN) (?P<code>\d+) *)?$", re.MULTILINE)


@frozen
class Ran:
    """A job that has ended: its exit *code*, the *log*, and the *folder* of its checkout."""

    code: int
    log: str
    folder: Path

    def report(self, name: str) -> str:
        """The text of the file *name* of .modelcache."""
        return (self.folder / ".modelcache" / name).read_text()

    @property
    def commit(self) -> str:
        """The commit that was checked out."""
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    @property
    def outputs(self) -> dict[str, str]:
        """The variables that later jobs get."""
        return dict(line.split("=", 1) for line in self.report("outputs.env").splitlines())


@frozen
class Pipeline:
    """A pipeline that has ended: its *jobs* by name, and all that was *printed*."""

    jobs: Mapping[str, Ran]
    printed: str

    def __getitem__(self, name: str) -> Ran:
        assert name in self.jobs, self.printed
        return self.jobs[name]

    def passed(self, name: str) -> Ran:
        """The job *name*, which must have succeeded."""
        job = self[name]
        assert job.code == 0, self.printed
        return job


def parts() -> tuple[str, str]:
    """The two scripts of the template: what installs, and what restores."""
    installing, restoring = yaml.safe_load(TEMPLATE.read_text())[".modelcache:restore"]["before_script"]
    return installing, restoring


def example(name: str) -> str:
    """The pipeline examples/gitlab/NAME.gitlab-ci.yml."""
    return (EXAMPLES / f"{name}.gitlab-ci.yml").read_text()


@frozen
class Project:
    """A GitLab project in *folder*, whose settings say *variables*."""

    folder: Path
    variables: Mapping[str, str] = field(factory=USUAL.copy)

    def commit(self, pipeline: str, files: Mapping[str, str | bytes]) -> None:
        """Let the project have *files* and the *pipeline*, with git knowing them."""
        for name, content in {**files, ".gitlab-ci.yml": _without_images(pipeline)}.items():
            self._write(self.folder / name, content)
        for place, file in PUBLISHED.items():
            self._write(self.folder / _STATE / "includes" / place, _without_images(file.read_text()))
        author = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
        url = f"https://{HOST}/acme/project.git"
        for command in (
            ["init", "-b", "main"],
            ["remote", "add", "origin", url],
            ["add", "-A"],
            ["commit", "-m", "All"],
        ):
            subprocess.run(["git", *author, *command], cwd=self.folder, check=True, capture_output=True)

    def _write(self, path: Path, content: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, *jobs: str, **variables: str) -> Pipeline:
        """Run *jobs*, or without any all of them; *variables* come before those of the project, and those before what jobs say."""
        said = {**self.variables, **variables}
        command = [_program(), "--force-shell-executor", "--shell-isolation", "--no-color"]
        # Half a second each time; tests/test_gitlab_files.py asks the same schema once.
        command += ["--no-json-schema-validation", *jobs]
        command += [word for name, value in said.items() for word in ("--variable", f"{name}={value}")]
        done = subprocess.run(
            command, cwd=self.folder, env=_machine(), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        printed = f"{done.stdout}\n{done.stderr}"
        ended = {found["name"]: int(found["code"] or 0) for found in _ENDED.finditer(printed)}
        ended.pop("pipeline", None)  # which is no job
        return Pipeline({name: self._ran(name, code) for name, code in ended.items()}, printed)

    def artifact(self, job: str, path: str) -> Path:
        """The file *path* that *job* has left for others."""
        return self.folder / _STATE / "artifacts" / job / path

    def _ran(self, name: str, code: int) -> Ran:
        safe = re.sub(
            r"[^\w-]+",
            lambda found: base64.urlsafe_b64encode(found[0].encode()).decode().rstrip("="),
            name,
            flags=re.ASCII,
        )
        state = self.folder / _STATE
        return Ran(code, (state / "output" / f"{safe}.log").read_text(errors="replace"), state / "builds" / safe)


def _without_images(pipeline: str) -> str:
    return re.sub(r"(?m)^ +image: .*\n", "", pipeline)


def _program() -> str:
    for name in ("gitlab-ci-local", "rsync"):
        if shutil.which(name) is None:
            pytest.fail(f"{name} is missing; run: {INSTALL}")
    return "gitlab-ci-local"


def _machine() -> dict[str, str]:
    """The variables of a runner's machine: our Python and its packages, and nothing of ours besides."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "LANG": "C.UTF-8", "GIT_CONFIG_GLOBAL": os.devnull, "NO_COLOR": "1"}
