"""The action files hold no logic: every input is one variable of one flag, every output one that the CLI writes, all documented."""

from __future__ import annotations

import re
import subprocess
from textwrap import indent
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from ci_modelcache.ci.outcome import OUTPUTS
from ci_modelcache.cli.command import SettingOption
from ci_modelcache.settings import PREFIX
from tests.parts.actions import FILE, RENEW, ROOT_ACTION, Action, actions, renewed
from tests.parts.documents import ROOT, blocks
from tests.parts.reference import command_of
from tests.parts.servers import program

if TYPE_CHECKING:
    from pathlib import Path

ACTIONS = actions()
FILES = [action.folder / "action.yml" for action in ACTIONS]
EXAMPLES = sorted((ROOT / "examples" / "github").glob("*.yml"))
COMMON = {"store", "endpoint-url", "region", "role-to-assume", "mode", "deadline", "include", "exclude"}
RESTORING = {
    "models",
    "lock-file",
    "mirrors",
    "limit-rate",
    "offline",
    "fail-on-cache-miss",
    "lookup-only",
    "path",
    "offline-env",
}
FLAGS = {"fail-on-cache-miss": "--fail-on-miss", "path": "--to", "mirrors": "--mirror", "models": "refs"}
"""The flags (or arguments) that have another name than the input."""

each_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)


def _flags(command: str) -> dict[str, str]:
    """The flags and arguments of *command* that a variable can set, by the variable."""
    found = {}
    for param in command_of(command).params:
        name = param.opts[-1] if isinstance(param, click.Option) else str(param.name)
        variable = param.setting.variable if isinstance(param, SettingOption) else param.envvar
        if isinstance(variable, str):
            found[variable] = name
    return found


@each_action
def test_every_input_is_put_into_the_variable_of_the_flag_of_its_name(action: Action) -> None:
    known = _flags(action.command)
    assert set(action.variables) == set(action.inputs)
    for name, variable in action.variables.items():
        if variable.startswith(PREFIX):
            assert known[variable] == FLAGS.get(name, f"--{name}")
        else:
            assert f'"${variable}"' in action.step["run"], "neither a variable of ours nor an argument"


@each_action
def test_a_variable_that_the_job_has_set_is_not_emptied_by_an_input_that_is_not_given(action: Action) -> None:
    for name, given in action.inputs.items():
        expression = action.step["env"][action.variables[name]]
        ours = action.variables[name].startswith(PREFIX)
        assert (" || " in expression) == (ours and given.get("default") == ""), name


@each_action
def test_every_output_is_one_that_the_cli_writes(action: Action) -> None:
    assert set(action.outputs) <= set(OUTPUTS)
    for name, output in action.outputs.items():
        assert output["value"] == f"${{{{ steps.{action.step['id']}.outputs.{name} }}}}"


def test_restoring_has_all_inputs_and_outputs_that_there_are_and_reads_only_where_it_says_so() -> None:
    whole, reading = ACTIONS[0], next(action for action in ACTIONS if action.name == "restore")
    for action in (whole, reading):
        assert set(action.inputs) == COMMON | RESTORING
        assert tuple(action.outputs) == OUTPUTS
    assert (whole.inputs["mode"]["default"], reading.inputs["mode"]["default"]) == ("auto", "read")


def test_there_is_an_action_for_each_command_of_the_name() -> None:
    assert {action.name: action.command for action in ACTIONS} == {
        ROOT_ACTION: "restore",
        **{name: name for name in ("export", "restore", "save", "warm")},
    }


@each_action
def test_a_required_input_has_no_default_and_every_other_one_says_it(action: Action) -> None:
    for name, given in action.inputs.items():
        assert given["required"] is not ("default" in given), name


def test_what_has_the_same_name_in_two_actions_means_the_same() -> None:
    for action in ACTIONS:
        for other in ACTIONS:
            for name in set(action.inputs) & set(other.inputs):
                assert action.inputs[name]["description"] == other.inputs[name]["description"]
                assert action.variables[name] == other.variables[name]
            for name in set(action.outputs) & set(other.outputs):
                assert action.outputs[name] == other.outputs[name]


@pytest.mark.parametrize("file", [*FILES, *EXAMPLES], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_expression_stands_in_a_shell_script(file: Path) -> None:
    """There it would be pasted into the script before any quoting."""
    said = yaml.safe_load(file.read_text())
    jobs = said["jobs"].values() if "jobs" in said else [said["runs"]]
    steps = [step for job in jobs for step in job["steps"]]
    assert steps
    for step in steps:
        assert "${{" not in step.get("run", "")


# --- documents


def test_the_guide_has_the_inputs_and_outputs_of_the_action_files() -> None:
    text = FILE.read_text()
    assert text == renewed(text), f"docs/github.md is behind the action files; renew it with: {RENEW}"
    for action in ACTIONS:
        for name in (*action.inputs, *action.outputs):
            assert f"| `{name}` |" in text


def test_the_eight_lines_of_the_readme_and_of_the_guide_are_those_of_the_first_example() -> None:
    """Which tests/test_action_runs.py runs."""
    (start,) = re.findall(
        r"^<!-- workflow: start -->\n```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(start.splitlines()) == 8
    assert blocks(FILE.read_text(), "yaml")[0] == start
    assert (ROOT / "examples" / "github" / "restore.yml").read_text().endswith(indent(start, "      "))


def test_every_example_is_explained_by_the_guide_and_every_one_that_it_names_exists() -> None:
    named = re.findall(r"\]\(\.\./examples/github/([\w-]+\.yml)\)", FILE.read_text())
    assert sorted(set(named)) == [file.name for file in EXAMPLES]


# --- linters


ZIZMOR = """
rules:
  unpinned-uses:
    config:
      policies:
        "ci-modelcache/*": ref-pin  # the commit of a release is not known before it
        "*": hash-pin
"""


def test_zizmor_finds_nothing_in_the_action_files_and_examples(tmp_path: Path) -> None:
    (tmp_path / "zizmor.yml").write_text(ZIZMOR)
    command: list[str | Path] = [program("zizmor"), "--offline", "--no-progress", "--config", tmp_path / "zizmor.yml"]
    command += [*FILES, *EXAMPLES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_sees_an_injection(tmp_path: Path) -> None:
    """It runs, and it would find one."""
    text = FILES[0].read_text().replace(" restore'", " restore ${{ inputs.models }}'")
    (tmp_path / "action.yml").write_text(text)
    done = subprocess.run(
        [program("zizmor"), "--offline", tmp_path / "action.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "template-injection" in done.stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-actions", FILES), ("vendor.github-workflows", EXAMPLES)],
    ids=["actions", "workflows"],
)
def test_the_files_have_the_form_that_github_publishes(schema: str, files: list[Path]) -> None:
    command = [program("check-jsonschema"), "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_takes_no_more_rights_than_it_needs(file: Path) -> None:
    said = yaml.safe_load(file.read_text())
    assert said["permissions"] == {"contents": "read"}
    for job in said["jobs"].values():
        takes_role = any("role-to-assume" in step.get("with", {}) for step in job["steps"])
        wanted = {"contents": "read", "id-token": "write"} if takes_role else None
        assert job.get("permissions") == wanted
