"""The order of the layers and the house rules hold in the whole checkout, and every check of them can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.servers import program
from tests.source_rules import EVERYWHERE, PACKAGE_RULES, TEST_RULES, Module, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PACKAGE = "ci_modelcache"

APPLIED = (
    *((rule, PACKAGE) for rule in PACKAGE_RULES),
    *((rule, folder) for rule in EVERYWHERE for folder in (PACKAGE, "tests", "benchmarks")),
    *((rule, "tests") for rule in TEST_RULES),
)
RULES = (*PACKAGE_RULES, *EVERYWHERE, *TEST_RULES)


def _modules(folder: str) -> Iterator[Module]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        yield Module.of(file, ROOT)


@pytest.mark.parametrize(("rule", "folder"), APPLIED, ids=lambda value: getattr(value, "name", value))
def test_the_house_rule_holds(rule: Rule, folder: str) -> None:
    modules = list(_modules(folder))
    assert modules, f"no module in {folder}"
    broken = [each for module in modules for each in rule.broken_by(module)]
    assert not broken, "\n".join([rule.demand, *broken])


@pytest.mark.parametrize(
    ("rule", "source"),
    [(rule, source) for rule in RULES for source in rule.bad],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_house_rule_sees_code_that_breaks_it(rule: Rule, source: str) -> None:
    assert rule.broken_by(Module(f"{PACKAGE}/verbs/new.py", source))


@pytest.mark.parametrize(
    ("rule", "source"),
    [(rule, source) for rule in RULES for source in rule.good],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_house_rule_lets_other_code_alone(rule: Rule, source: str) -> None:
    assert not rule.broken_by(Module(f"{PACKAGE}/verbs/new.py", source))


def test_a_module_with_a_vague_name_is_seen() -> None:
    (rule,) = (rule for rule in RULES if rule.name == "vague name")
    assert rule.broken_by(Module(f"{PACKAGE}/verbs/utils.py", ""))
    assert rule.broken_by(Module(f"{PACKAGE}/helpers/paths.py", ""))


@pytest.mark.parametrize(
    ("rule", "home"),
    [(rule, home) for rule in RULES for home in rule.homes],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_exception_to_a_rule_is_still_needed(rule: Rule, home: str) -> None:
    modules = [module for module in _modules(PACKAGE) if module.path.startswith(home)]
    assert any(list(rule.check(module)) for module in modules), f"{home} needs no exception to: {rule.demand}"


# What must not be in a file that others read: paths of the machine it was written on, addresses of package indexes.
# (The Hub's cache of root, as every image shows it, is no such path, nor is the place for root's credentials.)
_MACHINE = re.compile(r"(?<![\w.~}-])/(?:work|root(?!/\.(?:cache/huggingface|aws)\b))(?![\w-])")
_INDEX = re.compile(
    r"--(?:extra-)?index-url|(?:PIP|UV)_(?:EXTRA_)?INDEX_URL[\"']?\s*[=:]\s*[\"']?(?!https?://127\.)\w|(?:files\.pythonhosted|registry\.npmjs|proxy\.golang)\."
    r"|https?://[^\s/]+(?::\d+)?/(?:[\w./-]+/)?simple\b",
    re.IGNORECASE,
)
_FOLDERS = (".ci", ".github", "actions", "benchmarks", PACKAGE, "docs", "examples", "gitlab", "tests")
_MADE = {".mypy_cache", ".ruff_cache", "__pycache__"}
_BINARY = {".pyc", ".gz", ".tar", ".zip", ".safetensors", ".bin"}


def _texts() -> Iterator[tuple[str, str]]:
    files = [file for file in ROOT.iterdir() if file.is_file()]
    for folder in _FOLDERS:
        files += [file for file in (ROOT / folder).rglob("*") if file.is_file()]
    for file in sorted(files):
        if file.suffix not in _BINARY and _MADE.isdisjoint(file.parts):
            yield file.relative_to(ROOT).as_posix(), file.read_text(errors="replace")


@pytest.mark.parametrize("pattern", [_MACHINE, _INDEX], ids=["machine path", "package index"])
def test_no_file_tells_where_it_was_written(pattern: re.Pattern[str]) -> None:
    found = [f"{path}: {match.group()}" for path, text in _texts() for match in pattern.finditer(text)]
    assert not found


@pytest.mark.parametrize("text", ["cd {}work/main", "'{}root/.cache'", "at {}work", "a\n{}root\n"])
def test_a_machine_path_is_seen(text: str) -> None:
    assert _MACHINE.search(text.format("/"))
    assert not _MACHINE.search(text.format("/net"))


@pytest.mark.parametrize(
    "text",
    [
        "pip install -{}index-url x",
        "-{}extra-index-url=x",
        "https:/{}host:8080/a/simple/",
        "https:/{}h/simple",
        "registry.npmjs{}org",
    ],
)
def test_an_address_of_a_package_index_is_seen(text: str) -> None:
    assert _INDEX.search(text.format("/" if ":" in text else "." if "npm" in text else "-"))
    assert not _INDEX.search(text.format(" "))


def _contracts() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]]


FORBIDDEN_IMPORTS = (
    ("imports go down only", "cache/keys.py", "import ci_modelcache.verbs.restore"),
    ("imports go down only", "transfer/land.py", "import ci_modelcache.stores.protocol"),
    ("imports go down only", "stores/protocol.py", "from ci_modelcache.sources import protocol"),
    ("imports go down only", "sources/protocol.py", "from ci_modelcache.stores import protocol"),
    ("imports go down only", "layouts/plain.py", "def late():\n    import ci_modelcache.cache.modelcache"),
    ("imports go down only", "errors.py", "if False:\n    from ci_modelcache.model.digest import Digest"),
    ("imports go down only", "verbs/restore.py", "from ci_modelcache import config"),
    ("imports go down only", "extras.py", "'''A module that has no place among the layers.'''"),
    ("only sources/ speaks HTTP", "verbs/restore.py", "import requests"),
    ("only sources/ speaks HTTP", "cli/main.py", "from urllib3.util import Retry"),
    ("only stores/ speaks S3", "cache/modelcache.py", "def late():\n    import botocore.session"),
    ("only stores/ speaks S3", "verbs/restore.py", "from botocore.exceptions import ClientError"),
    ("only stores/ speaks S3", "settings.py", "from mypy_boto3_s3 import S3Client"),
    ("only docker/ speaks to an engine", "verbs/restore.py", "def late():\n    import docker"),
    ("only docker/ speaks to an engine", "cli/docker.py", "from docker.utils.build import exclude_paths"),
    ("one S3 engine: ours", "stores/protocol.py", "import s3transfer.manager"),
    ("one S3 engine: ours", "stores/s3.py", "def late():\n    import boto3"),
    (
        "a store never sees a digest, a manifest or a model",
        "stores/empty.py",
        "from ci_modelcache.model.digest import Digest",
    ),
    (
        "a store never sees a digest, a manifest or a model",
        "stores/empty.py",
        "from ci_modelcache.model import manifest",
    ),
    ("only transfer/retry.py decides how to try again", "transfer/land.py", "import tenacity"),
    ("only transfer/ keeps a database", "verbs/restore.py", "import sqlite3"),
    ("only cli/ knows terminals and flags", "verbs/restore.py", "from rich.progress import Progress"),
    ("only cli/ knows terminals and flags", "transfer/progress.py", "import click"),
    ("only cli/drawing.py draws", "verbs/stats.py", "from matplotlib.figure import Figure"),
    ("only cli/drawing.py draws", "cli/charts.py", "def late():\n    import matplotlib.pyplot"),
    ("only transfer/bytegroup.py packs with blosc2", "cache/encodings.py", "def late():\n    import blosc2"),
    ("only transfer/bytegroup.py packs with blosc2", "transfer/packing.py", "from blosc2 import compress2"),
    ("only sources/tokens/ encrypts", "sources/token.py", "import cryptography.fernet"),
    ("only sources/tokens/ encrypts", "verbs/auth.py", "def late():\n    import keyring"),
    ("only model/ turns values into documents", "cache/records.py", "import cattrs"),
)
"""Contract, module that breaks it, and the lines that do."""


def _lint(root: Path) -> tuple[int, str]:
    command = [program("lint-imports"), "--no-logo", "--no-cache"]
    # The copy comes before the installed package.
    environment = {"PYTHONPATH": str(root), "NO_COLOR": "1", "LANG": "C.UTF-8"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of all that the contracts are about."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contracts_hold(copy: Path) -> None:
    status, output = _lint(copy)
    assert status == 0, output
    assert re.findall(r"(?m)^(.+) KEPT\b", output) == _contracts()


@pytest.mark.parametrize(("contract", "module", "lines"), FORBIDDEN_IMPORTS)
def test_a_forbidden_import_breaks_its_contract(contract: str, module: str, lines: str, copy: Path) -> None:
    with (copy / PACKAGE / module).open("a") as file:
        file.write(f"\n\n{lines}\n")
    status, output = _lint(copy)
    assert status == 1, output
    assert re.findall(r"(?m)^(.+) BROKEN\b", output) == [contract]


def test_every_contract_is_shown_to_fail() -> None:
    assert {contract for contract, _, _ in FORBIDDEN_IMPORTS} == set(_contracts())
