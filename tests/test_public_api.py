"""What other programs may import from the package: all of it is there, and none of it is paid for before it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ci_modelcache

SOURCE = Path(str(ci_modelcache.__file__)).read_text()


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ci_modelcache.__all__)
def test_every_public_name_can_be_imported_by_itself(name: str) -> None:
    """In a process of its own: another import could have brought it along."""
    done = _python(f"from ci_modelcache import {name}; print(getattr({name}, '__name__'))")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().rpartition(".")[2] == name


@pytest.mark.parametrize("name", ci_modelcache.__all__)
def test_every_public_name_says_what_it_promises(name: str) -> None:
    assert inspect.getdoc(getattr(ci_modelcache, name))


def test_importing_the_package_loads_nothing_but_its_errors() -> None:
    code = "import sys, ci_modelcache; print(*sorted(n for n in sys.modules if n.partition('.')[0] in {names}))"
    names = {"ci_modelcache", "attr", "attrs", "boto3", "botocore", "cattrs", "click", "logging", "requests", "urllib3"}
    done = _python(code.replace("{names}", repr(names)))
    assert done.stdout.split() == ["ci_modelcache", "ci_modelcache.errors"], done.stderr


def test_a_name_is_looked_up_once_and_is_the_very_object() -> None:
    from ci_modelcache.verbs.restore import restore  # noqa: PLC0415  # what the other one is compared with

    assert ci_modelcache.restore is restore
    assert vars(ci_modelcache)["restore"] is restore


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    (block,) = (
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    typed = {
        alias.name: str(each.module).removeprefix("ci_modelcache.")
        for each in block.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert typed == ci_modelcache._HOMES
    assert {*typed, "errors"} == set(ci_modelcache.__all__)
    assert set(ci_modelcache.__all__) <= set(dir(ci_modelcache))


def test_a_name_that_is_not_there_is_an_ordinary_mistake() -> None:
    assert not hasattr(ci_modelcache, "Restorer")
    with pytest.raises(ImportError, match="cannot import name 'Restorer' from 'ci_modelcache'"):
        exec("from ci_modelcache import Restorer", {})


def test_on_windows_the_import_says_where_it_runs() -> None:
    done = _python("import sys; sys.platform = 'win32'; import ci_modelcache")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: ci-modelcache runs on Linux and macOS; on Windows ")
