"""
The only module that reads the action files, and writes the tables of docs/github.md from them.

``.venv/bin/python -m tests.parts.actions`` renews what stands between ``<!-- generated: ... -->`` and ``<!-- end -->`` there;
tests/test_action_files.py compares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from attrs import frozen

from tests.parts.documents import ROOT
from tests.parts.reference import code, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = ROOT / "docs" / "github.md"
RENEW = ".venv/bin/python -m tests.parts.actions"
"""The command that renews the file, in the root of the checkout."""
ROOT_ACTION = "the action itself"

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_READING = re.compile(r"\$\{\{ inputs\.(?P<input>[\w-]+)(?: \|\| env\.(?P<otherwise>\w+))? \}\}")


@frozen
class Action:
    """One action file: its *name* for people, its *folder* and what it says."""

    name: str
    folder: Path
    said: dict[str, Any]

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        return dict(self.said["inputs"])

    @property
    def outputs(self) -> dict[str, dict[str, str]]:
        return dict(self.said["outputs"])

    @property
    def step(self) -> dict[str, Any]:
        """The one step of it."""
        (step,) = self.said["runs"]["steps"]
        return dict(step)

    @property
    def command(self) -> str:
        """The command of ci-modelcache that it calls."""
        found = re.fullmatch(r'"\$GITHUB_ACTION_PATH/(\S+)" ([a-z]+)(?: -- .+)?', self.step["run"])
        assert found, self.step["run"]
        assert (self.folder / found[1]).resolve() == ROOT / "actions" / "ci-modelcache"
        return found[2]

    @property
    def variables(self) -> dict[str, str]:
        """The variable that each input is put into."""
        wired = {}
        for variable, expression in self.step["env"].items():
            found = _READING.fullmatch(expression)
            assert found, expression
            assert found["otherwise"] in {None, variable}, expression
            wired[found["input"]] = variable
        return wired


def actions() -> list[Action]:
    """All of them, the one at the root first."""
    files = [ROOT / "action.yml", *sorted((ROOT / "actions").glob("*/action.yml"))]
    return [
        Action(ROOT_ACTION if file.parent == ROOT else file.parent.name, file.parent, yaml.safe_load(file.read_text()))
        for file in files
    ]


def _shared(kind: str) -> dict[str, list[Action]]:
    """Who has each input or output."""
    found: dict[str, list[Action]] = {}
    for action in actions():
        for name in action.said[kind]:
            found.setdefault(name, []).append(action)
    return found


def _inputs() -> Iterator[str]:
    rows = []
    for name, having in _shared("inputs").items():
        defaults: dict[str, list[str]] = {}
        for action in having:
            given = action.inputs[name]
            default = "required" if given["required"] else code(given["default"]) if given["default"] else ""
            defaults.setdefault(default, []).append(action.name)
        shown = defaults if len(defaults) > 1 else {next(iter(defaults)): []}
        default = "; ".join(f"{value} ({', '.join(who)})" if who else value for value, who in shown.items())
        rows.append((code(name), _text(having[0].inputs[name]), default, _who(having)))
    return table(("input", "meaning", "default", "of"), rows)


def _outputs() -> Iterator[str]:
    rows = []
    for name, having in _shared("outputs").items():
        rows.append((code(name), _text(having[0].outputs[name]), _who(having)))
    return table(("output", "meaning", "of"), rows)


def _text(described: dict[str, Any]) -> str:
    return str(described["description"]).replace("|", r"\|")


def _who(having: list[Action]) -> str:
    return "all" if len(having) == len(actions()) else ", ".join(action.name for action in having)


_TABLES: dict[str, Callable[[], Iterator[str]]] = {"inputs": _inputs, "outputs": _outputs}


def renewed(text: str) -> str:
    """*text* with every table as the action files have it."""
    return _BLOCK.sub(lambda found: "\n".join([found[1], *_TABLES[found[2]](), "", found[3]]), text)


if __name__ == "__main__":
    FILE.write_text(renewed(FILE.read_text()))
