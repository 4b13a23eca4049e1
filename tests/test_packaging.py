"""What users install is complete, pure Python and quick to start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.source_rules import Module

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Building needs a package index, and this may be the first to ask it.
pytestmark = pytest.mark.timeout(400)


def _run(*command: str) -> str:
    """What *command* prints; the test fails with all that it said when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _plain(name: str) -> str:
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


def test_what_is_imported_is_what_is_declared_as_a_dependency() -> None:
    """The environment of the tests has much more, and would hide that a user lacks something."""
    imported: set[str] = set()
    providers = packages_distributions()
    for file in (ROOT / "ci_modelcache").rglob("*.py"):
        for _, name in Module.of(file, ROOT).imports:
            found = {_plain(each) for each in providers.get(name.partition(".")[0], [])}
            # Several share a namespace such as backports; each is named by what it has there.
            imported |= found & {_plain(".".join(name.split(".")[:2]))} if len(found) > 1 else found
    # mypy-boto3-s3 is for type checkers alone.
    imported -= {_plain(PROJECT["name"]), "mypy-boto3-s3"}
    required = {_plain(each) for each in PROJECT["dependencies"]}
    extras = [
        needs for extra, needs in PROJECT["optional-dependencies"].items() if extra not in {"bench", "test", "dev"}
    ]
    assert required <= imported <= required | {_plain(each) for needs in extras for each in needs}


def test_the_module_runs_and_tells_the_version_of_the_package() -> None:
    assert _run(sys.executable, "-m", "ci_modelcache", "--version") == f"ci-modelcache {PROJECT['version']}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_help_pays_for_no_library_that_only_work_needs(arguments: list[str]) -> None:
    code = (
        "import sys; from ci_modelcache.cli.main import main; main(sys.argv[1:]); "
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = _run(sys.executable, "-c", code, *arguments).rpartition("loaded:")[2].split()
    assert "click" in loaded
    heavy = {"boto3", "botocore", "requests", "urllib3", "rich", "cattrs", "sqlite3", "tenacity", "ssl", "asyncio"}
    assert heavy.isdisjoint(loaded)


def _metadata(single_file: Path) -> dict[str, dict[str, str]]:
    """Every text that wheels say about themselves: by distribution, then by file name."""
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(single_file) as archive:
        for name in archive.namelist():
            folder, inside, file = name.partition(".dist-info/")
            if inside:
                texts = found.setdefault(_plain(folder.rpartition("-")[0]), {})
                texts[file] = archive.read(name).decode(errors="replace")
    return found


def test_the_wheel_holds_every_module_and_its_types_and_nothing_else(single_file: Path) -> None:
    with zipfile.ZipFile(single_file) as archive:
        names = set(archive.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ci_modelcache").rglob("*.py")}
    assert {name for name in names if name.startswith("ci_modelcache/")} == ours | {"ci_modelcache/py.typed"}
    owners, known = packages_distributions(), set(_metadata(single_file))
    others = {name.partition("/")[0].removesuffix(".py") for name in names if ".dist-info/" not in name}
    # What begins the single file, and else only what one of the others has brought.
    own = {"__main__", "ci_modelcache_pyz", "ci_modelcache"}
    assert own == {name for name in others if name in own or known.isdisjoint(map(_plain, owners.get(name, [])))}


def test_the_wheel_carries_its_licence(single_file: Path) -> None:
    assert _metadata(single_file)[PROJECT["name"]]["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()


def test_every_dependency_comes_as_pure_python(single_file: Path) -> None:
    """pip was told to refuse all else (``--platform any --abi none``), and nothing compiled is inside."""
    wheels = {name: texts["WHEEL"] for name, texts in _metadata(single_file).items()}
    assert {_plain(each) for each in PROJECT["dependencies"]} <= set(wheels)
    tags = {name: re.findall(r"(?m)^Tag: (\S+)", wheel) for name, wheel in wheels.items()}
    assert {
        name for name, each in tags.items() if not each or not all(tag.endswith("-none-any") for tag in each)
    } == set()
    compiled = (".so", ".pyd", ".dylib")
    assert not [name for name in zipfile.ZipFile(single_file).namelist() if name.endswith(compiled)]
