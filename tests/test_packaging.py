"""What users install is complete, pure Python, quick to start, and runs from a single file on every supported Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.servers import ADMIN, BUCKET, REGION, S3Server, program
from tests.source_rules import Module

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REF = "org/tiny@main"

# Building needs a package index, and this may be the first to ask it.
pytestmark = pytest.mark.timeout(400)


def _run(*command: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    """What *command* prints; the test fails with all that it said when it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
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
            imported.update(_plain(each) for each in providers.get(name.partition(".")[0], []))
    # mypy-boto3-s3 is for type checkers alone; botocore is whatever boto3 brings.
    imported -= {_plain(PROJECT["name"]), "mypy-boto3-s3", "botocore"}
    required = {_plain(each) for each in PROJECT["dependencies"]}
    extras = [needs for extra, needs in PROJECT["optional-dependencies"].items() if extra not in {"test", "dev"}]
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


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The single file, made by the command of docs/development.md."""
    text = (ROOT / "docs" / "development.md").read_text()
    found = re.search(r"<!-- command: zipapp -->\n```\w*\n(.+?)\n```", text, re.DOTALL)
    assert found, "docs/development.md does not say how to build the single file"
    output = "build/ci-modelcache.pyz"
    command = shlex.split(found[1].replace("\\\n", " "))
    assert command[0] == ".venv/bin/shiv"
    assert output in command
    target = tmp_path_factory.mktemp("single-file") / "ci-modelcache.pyz"
    _run(program("shiv"), *(str(target) if each == output else each for each in command[1:]))
    return target


def _metadata(single_file: Path) -> dict[str, dict[str, str]]:
    """Every text that wheels say about themselves: by distribution, then by file name."""
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(single_file) as archive:
        for name in archive.namelist():
            folder, inside, file = name.removeprefix("site-packages/").partition(".dist-info/")
            if inside:
                texts = found.setdefault(_plain(folder.rpartition("-")[0]), {})
                texts[file] = archive.read(name).decode(errors="replace")
    return found


def test_the_wheel_holds_every_module_and_its_types_and_nothing_else(single_file: Path) -> None:
    record = _metadata(single_file)[PROJECT["name"]]["RECORD"]
    files = {line.partition(",")[0] for line in record.splitlines()}
    installed = {name for name in files if ".dist-info/" not in name and "__pycache__" not in name}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ci_modelcache").rglob("*.py")}
    assert installed == ours | {"ci_modelcache/py.typed", "../../bin/ci-modelcache"}


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


def _pythons() -> list[Path]:
    """One Python of each version from 3.11 on that this machine has, this one first."""
    found = {sys.version_info[:2]: Path(sys.executable)}
    for minor in range(11, 16):
        name = f"python3.{minor}"
        for folder in os.get_exec_path():
            # A shim of pyenv exists for each version, and works for the chosen ones only.
            versions = sorted((Path(folder).parent / "versions").glob(f"3.{minor}*/bin/{name}"))
            file = versions[-1] if versions else Path(folder) / name
            if file.exists():
                found.setdefault((3, minor), file)
    return list(found.values())


def _bare(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}


@pytest.mark.parametrize("python", _pythons(), ids=lambda path: path.name)
def test_the_single_file_restores_from_a_folder(python: Path, single_file: Path, tmp_path: Path) -> None:
    """With nothing but a Python; ``-I`` and ``-S`` hide whatever else is installed."""
    model, store, target = tmp_path / "model", tmp_path / "store", tmp_path / "restored"
    (model / "weights").mkdir(parents=True)
    (model / "config.json").write_text('{"hidden_size": 8}')
    (model / "weights" / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    run = (python, "-I", "-S", single_file)
    bare = _bare(tmp_path) | {"SHIV_ROOT": str(single_file.parent / "unpacked")}  # by all of them, once
    assert "restore" in _run(*run, "--help", environment=bare)
    _run(*run, "save", model, REF, "--store", store, environment=bare)
    _run(*run, "restore", REF, "--store", store, "--offline", "--to", target, environment=bare)
    restored = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert restored == {path.relative_to(model): path.read_bytes() for path in model.rglob("*") if path.is_file()}


def test_the_single_file_speaks_s3(single_file: Path, moto_server: S3Server, tmp_path: Path) -> None:
    """botocore reads its data from a folder, and certifi its authorities: inside a plain zip neither is one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    access_key, secret = ADMIN
    environment = _bare(tmp_path) | {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "CI_MODELCACHE_STORE": f"s3://{BUCKET}/single-file",
        "CI_MODELCACHE_ENDPOINT_URL": moto_server.endpoint,
    }
    run = (sys.executable, "-I", "-S", single_file)
    _run(*run, "save", tmp_path / "model", REF, environment=environment)
    _run(*run, "restore", REF, "--offline", "--to", tmp_path / "restored", environment=environment)
    assert (tmp_path / "restored" / "config.json").read_text() == "{}"
