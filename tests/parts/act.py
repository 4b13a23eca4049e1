"""
The only module that runs GitHub workflows: by act, on this machine, with the work tree in place of the published action.

A step that says ``uses: ci-modelcache/ci-modelcache@v1`` gets what a user would get, unmodified. What the runner was told
(outputs, variables, annotations, summaries) is read from act's log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tests.parts.documents import ROOT
from tests.parts.servers import program

ACTION = "ci-modelcache/ci-modelcache@v1"
EXAMPLES = ROOT / "examples" / "github"
_PUBLISHED = ("action.yml", "actions", "ci_modelcache", "pyproject.toml", "README.md", "LICENSE")
_SECONDS = 300
"""How long act may take on a busy machine."""

Event = dict[str, Any]


@frozen
class Annotation:
    """What a person sees beside the code: *level* is notice, warning or error."""

    level: str
    message: str
    title: str = ""
    file: str = ""
    line: str = ""


@frozen
class Ran:
    """A run of act that has ended: its *status*, the *events* of its log, and all that it printed as *text*."""

    status: int
    events: tuple[Event, ...]
    text: str

    def outputs(self, step: str, job: str | None = None) -> dict[str, str]:
        """What the step with the id *step* has set; of a job alone, if one is named."""
        return {event["name"]: event["arg"] for event in self._told("set-output", job) if event["stepID"] == [step]}

    def results(self, step: str) -> list[str]:
        """How the step *step* ended in each job that has it: success or failure."""
        return [
            event["stepResult"]
            for event in self.events
            if event.get("stage") == "Main" and event.get("stepID") == [step] and "stepResult" in event
        ]

    @property
    def exit_codes(self) -> list[int]:
        """The exit codes of ci-modelcache wherever it failed."""
        ours = [event["msg"] for event in self.events if event.get("stepID", [])[1:] == ["run"]]
        return [int(found[1]) for each in ours if (found := re.fullmatch(r"exit status (\d+)", each))]

    @property
    def jobs(self) -> dict[str, str]:
        """How each job ended, by the name that act gives it."""
        return {event["job"]: event["jobResult"] for event in self.events if "jobResult" in event}

    @property
    def variables(self) -> dict[str, str]:
        """What was put into GITHUB_ENV."""
        return {event["name"]: event["arg"] for event in self._told("set-env")}

    @property
    def summaries(self) -> list[str]:
        """What was put into GITHUB_STEP_SUMMARY, by each step of a workflow."""
        return [event["content"] for event in self._told("summary") if len(event["stepID"]) == 1]

    @property
    def annotations(self) -> list[Annotation]:
        """All of them, in their order."""
        levels = ("notice", "warning", "error")
        return [
            Annotation(event["command"], event["arg"], **{key: event["kvPairs"].get(key, "") for key in _ABOUT})
            for event in self.events
            if event.get("command") in levels
        ]

    @property
    def groups(self) -> list[str]:
        """The titles of what can be folded away."""
        return [event["arg"] for event in self._told("group")]

    @property
    def printed(self) -> str:
        """What the steps themselves have printed, commands left out."""
        return "".join(event["msg"] for event in self.events if event.get("raw_output"))

    def _told(self, command: str, job: str | None = None) -> Iterator[Event]:
        for event in self.events:
            if event.get("command") == command and job in {None, event["jobID"]}:
                yield event


_ABOUT = ("title", "file", "line")


def publish(folder: Path) -> Path:
    """A copy, in *folder*, of what users of the action get."""
    for name in _PUBLISHED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder)
    return folder


@frozen
class Runner:
    """
    A self-hosted runner: below *folder* are its tool cache and its workspaces, *action* is what `publish` has made.

    *environ* are variables of the machine.
    """

    folder: Path
    action: Path
    environ: Mapping[str, str] = field(factory=dict)

    @property
    def tools(self) -> Path:
        """The folder that is RUNNER_TOOL_CACHE in a job."""
        return self.folder / "cache" / "tool_cache"

    def install(self) -> None:
        """Install ci-modelcache for all jobs to come, as the first of them would."""
        script = self.action / "actions" / "ci-modelcache"
        environ = {**_machine(self.folder), "RUNNER_TOOL_CACHE": str(self.tools)}
        subprocess.run([script, "--version"], env=environ, check=True, capture_output=True, timeout=_SECONDS)

    def run(
        self,
        repository: Path,
        event: str = "push",
        *,
        payload: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        home: Path,
    ) -> Ran:
        """
        Run the workflows of *repository* that *event* starts; *home* is the home folder of the jobs.

        *environ* is of the machine; *secrets* and *variables* are those of the repository's settings.
        """
        home.mkdir(parents=True, exist_ok=True)
        command = [program("act"), event, "--json", "--no-cache-server", "--platform", "ubuntu-latest=-self-hosted"]
        command += ["--action-cache-path", str(self.folder / "cache"), "--local-repository", f"{ACTION}={self.action}"]
        if payload is not None:
            (home / "event.json").write_text(json.dumps(payload))
            command += ["--eventpath", str(home / "event.json")]
        if secrets:
            # As variables of act they would be seen by every step.
            (home / "secrets").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
            command += ["--secret-file", str(home / "secrets")]
        for name, value in (variables or {}).items():
            command += ["--var", f"{name}={value}"]
        around = {**_machine(home), **self.environ, **(environ or {})}
        done = subprocess.run(
            command, cwd=repository, env=around, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        text = "".join(json.loads(line)["msg"].rstrip("\n") + "\n" for line in lines) + done.stderr
        return Ran(done.returncode, tuple(map(json.loads, lines)), text)


def _machine(home: Path) -> dict[str, str]:
    """What a runner's machine has in its environment: the packages of the tests, and nobody's files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTEST_", "GITHUB_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **kept,
        "PATH": path,
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def repository(folder: Path, workflow: str, files: Mapping[str, str] | None = None) -> Path:
    """A git repository in *folder* with *files* and one *workflow*, a text."""
    contents = {".github/workflows/workflow.yml": workflow, **(files or {})}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for arguments in (["init", "-b", "main"], ["add", "--all"], ["commit", "--message", "A commit"]):
        author = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
        environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
        subprocess.run(["git", *author, *arguments], cwd=folder, env=environ, check=True, capture_output=True)
    return folder
