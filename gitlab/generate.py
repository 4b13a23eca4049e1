# ruff: noqa: INP001  # a script, run by its path: python gitlab/generate.py
"""
The only module that makes the include template and the component of jobs.yml and inputs.toml: ``python gitlab/generate.py``.

It renews what docs/gitlab.md says of them too: the table of inputs, and the template's hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from json import dumps
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "ci-modelcache.gitlab-ci.yml"
COMPONENT = FOLDER / "templates" / "modelcache" / "template.yml"
GUIDE = FOLDER.parent / "docs" / "gitlab.md"

Input = Mapping[str, Any]

_NOTICE = "# Made by gitlab/generate.py of gitlab/jobs.yml and gitlab/inputs.toml: change those. See docs/gitlab.md.\n"
_ANCHOR = "modelcache_variables"
_HEAD = "| input | variable | default | meaning |\n|---|---|---|---|\n"


def version() -> str:
    """The version of the package, which both files install unless told otherwise."""
    project: dict[str, Any] = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def inputs() -> list[Input]:
    """The inputs of inputs.toml, in order."""
    text = (FOLDER / "inputs.toml").read_text().replace("@version@", version())
    found: list[Input] = tomllib.loads(text)["inputs"]
    return found


def template() -> str:
    """The include template: parameters are variables, and what has none is as "template" says."""
    values = {each["name"]: each["template"] for each in inputs() if "template" in each}
    archive = [each for each in inputs() if each["name"] in {"output", "format"}]
    lines = {
        "variables": "",
        "same variables": "",
        "export variables": "  variables:\n"
        + "".join(f"    {each['variable']}: {dumps(each['default'])}\n" for each in archive),
    }
    return _NOTICE + "\n" + _jobs(values | {"version": version()}, lines)


def component() -> str:
    """The component: parameters are inputs, which become variables and never text of a script."""
    values = {each["name"]: f"$[[ inputs.{each['name']} ]]" for each in inputs() if "template" in each}
    variables = [each for each in inputs() if "variable" in each]
    lines = {
        "variables": f"  variables: &{_ANCHOR}\n" + "".join(map(_variable, variables)),
        "same variables": f"  variables: *{_ANCHOR}\n",
        "export variables": f"  variables: *{_ANCHOR}\n",
    }
    header = "spec:\n  inputs:\n" + "".join(line for each in inputs() for line in _spec(each))
    return _NOTICE + header + "---\n" + _jobs(values | {"version": version()}, lines)


def guide(text: str) -> str:
    """The guide *text* with its table of inputs and its hash renewed."""
    table = _HEAD + "".join(map(_row, inputs()))
    digest = base64.b64encode(hashlib.sha256(template().encode()).digest()).decode()
    text = re.sub(rf"{re.escape(_HEAD)}(?:\|.*\n)*", lambda _: table, text)
    return re.sub(r"(integrity: sha256-)\S+", lambda found: found[1] + digest, text)


def _row(each: Input) -> str:
    default = each.get("default", "")
    shown = str(default).lower() if isinstance(default, bool) else default
    cells = [f"`{text}`" if text else "" for text in (each["name"], each.get("variable"), shown)]
    return f"| {' | '.join([*cells, each['description']])} |\n"


def _jobs(values: Mapping[str, str], lines: Mapping[str, str]) -> str:
    text = (FOLDER / "jobs.yml").read_text()
    for name, replacement in lines.items():
        text = text.replace(f"@{name}@\n", replacement)
    return re.sub(r"@([\w-]+)@", lambda found: values[found[1]], text)


def _variable(each: Input) -> str:
    return f'    {each["variable"]}: "$[[ inputs.{each["name"]} ]]"\n'


def _spec(each: Input) -> Iterator[str]:
    default = each.get("default", "")
    yield f"    {each['name']}:\n"
    if isinstance(default, bool):
        yield "      type: boolean\n"
    yield f"      description: {dumps(each['description'])}\n"
    if "options" in each:
        yield f"      options: {dumps(each['options'])}\n"
    yield f"      default: {dumps(default)}\n"


def main() -> None:
    """Write both files, and renew the guide."""
    GUIDE.write_text(guide(GUIDE.read_text()))
    TEMPLATE.write_text(template())
    COMPONENT.parent.mkdir(parents=True, exist_ok=True)
    COMPONENT.write_text(component())


if __name__ == "__main__":
    main()
