"""gitlab/ and examples/gitlab/ are what their source says, valid by GitLab's own schema, wired to flags that exist, and documented."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ci_modelcache.settings import OPTIONS, SETTINGS, Mode, OfflineEnv, variable
from tests.parts.documents import ROOT, blocks, rows
from tests.parts.gitlab_runner import COMPONENT, EXAMPLES, PUBLISHED, TEMPLATE, VERSION, parts
from tests.parts.servers import program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

GUIDE = (ROOT / "docs" / "gitlab.md").read_text()
PIPELINES = sorted(EXAMPLES.glob("*.gitlab-ci.yml"))
KNOWN = {each.variable for each in SETTINGS} | set(map(variable, OPTIONS))


@cache
def generator() -> ModuleType:
    """gitlab/generate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "gitlab" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs() -> dict[str, Mapping[str, Any]]:
    """The inputs of the component by name, as their source has them."""
    return {each["name"]: each for each in generator().inputs()}


class Loader(yaml.SafeLoader):
    """Reads what GitLab adds to YAML."""

    def reference(self, node: yaml.SequenceNode) -> tuple[str, ...]:
        """What ``!reference`` refers to."""
        return ("!reference", *self.construct_sequence(node))


Loader.add_constructor("!reference", Loader.reference)


def documents(text: str) -> list[Any]:
    return list(yaml.load_all(text, Loader))


def rendered(given: Mapping[str, object]) -> str:
    """The jobs of the component, with the inputs *given* and the defaults of the others, as GitLab makes them."""
    header, body = COMPONENT.read_text().split("\n---\n")
    declared = yaml.safe_load(header)["spec"]["inputs"]
    values = {**{name: each["default"] for name, each in declared.items()}, **given}
    used: set[str] = set()

    def value(found: re.Match[str]) -> str:
        used.add(found[1])
        shown = values[found[1]]
        return str(shown).lower() if isinstance(shown, bool) else str(shown)

    text = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", value, body)
    assert used == set(declared), "an input that nothing uses, or a use of none"
    return text


# --- the source, and what is made of it


def test_what_is_committed_is_what_the_generator_makes() -> None:
    how = "run: python gitlab/generate.py"
    assert TEMPLATE.read_text() == generator().template(), how
    assert COMPONENT.read_text() == generator().component(), how
    assert generator().guide(GUIDE) == GUIDE, how


def test_the_component_is_the_template_with_inputs_for_variables() -> None:
    (template,) = documents(TEMPLATE.read_text())
    (component,) = documents(rendered({}))
    for job in component.values():
        said = job.pop("variables")
        assert said == {
            each["variable"]: str(each.get("default", "")).lower()
            if isinstance(each.get("default"), bool)
            else each.get("default", "")
            for each in inputs().values()
            if "variable" in each
        }
    assert template[".modelcache:export"].pop("variables") == {
        "CI_MODELCACHE_OUTPUT": inputs()["output"]["default"],
        "CI_MODELCACHE_FORMAT": inputs()["format"]["default"],
    }
    assert component == template


def test_an_input_is_never_part_of_a_script() -> None:
    """Whoever may choose one could otherwise run what he likes: the shell sees variables alone."""
    _, body = documents(COMPONENT.read_text())
    scripts = [line for job in body.values() for key in ("before_script", "script") for line in job.get(key, [])]
    assert len(scripts) == 2 + 2 + 2
    assert not [line for line in scripts if "$[[" in line]


def test_nothing_is_said_about_jobs_of_others() -> None:
    """A component must not have global keywords, and neither has the template; and no job runs that was not asked for."""
    (template,) = documents(TEMPLATE.read_text())
    _, component = documents(COMPONENT.read_text())
    assert [name for file in (template, component) for name in file if not name.startswith(".")] == []


def test_every_input_is_a_setting_or_a_flag_and_offers_what_that_knows() -> None:
    wired = [each["variable"] for each in inputs().values() if "variable" in each]
    assert len(set(wired)) == len(wired)
    assert {name for name in wired if name.startswith("CI_")} <= KNOWN
    assert {name for name in wired if not name.startswith("CI_")} == {"MODELCACHE_INSTALL", "MODELCACHE_VENV"}
    assert inputs()["mode"]["options"] == list(Mode)
    assert inputs()["offline-env"]["options"] == list(OfflineEnv)
    assert all(len(str(each.get("default", ""))) <= 1024 for each in inputs().values()), "GitLab's limit"


def test_every_variable_that_a_file_names_is_known() -> None:
    ours = {"MODELCACHE_INSTALL", "MODELCACHE_VENV", "MODELCACHE_ID_TOKEN"}
    outputs = set(_outputs())
    for file in (TEMPLATE, COMPONENT, ROOT / "docs" / "gitlab.md", *PIPELINES):
        named = set(re.findall(r"\b(?:CI_)?MODELCACHE_[A-Z_]+\b(?!\*)", file.read_text()))
        assert named <= KNOWN | ours | outputs, file.name


def test_what_is_installed_is_the_version_of_the_package() -> None:
    assert inputs()["install"]["default"] == f"ci-modelcache=={VERSION}"
    for file in (TEMPLATE, COMPONENT):
        assert set(re.findall(r"ci-modelcache==([\w.]+)", file.read_text())) == {VERSION}, file.name


# --- by other people's rules


def check(*files: Path) -> None:
    """Check *files* against the schema of GitLab's own editor."""
    command = [program("check-jsonschema"), "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_of_gitlab_accepts_every_file(tmp_path: Path) -> None:
    """Of the component its header and, rendered, its jobs; hidden jobs are checked as others are, without their dot."""
    header, _ = COMPONENT.read_text().split("\n---\n")
    (tmp_path / "spec.yml").write_text(header)
    (tmp_path / "component.yml").write_text(rendered({"models": "a/b@c", "lookup-only": True}))
    (tmp_path / "template.yml").write_text(
        re.sub(r'(?m)^"\.', '"', TEMPLATE.read_text()).replace(
            '"modelcache:restore":', '"modelcache:restore":\n  script: ["true"]'
        )
    )
    for number, block in enumerate(blocks(GUIDE, "yaml")):
        (tmp_path / f"guide-{number}.yml").write_text(block)
    check(TEMPLATE, *PIPELINES, *tmp_path.glob("*.yml"))


def test_the_scripts_are_plain_posix_shell() -> None:
    for script in parts():
        command = [program("shellcheck"), "--shell=sh", "--severity=style", "--exclude=SC1091,SC2154", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout


# --- the examples and the guide


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.name.partition(".")[0])
def test_an_example_includes_what_is_published_for_this_version_and_extends_a_job_of_it(file: Path) -> None:
    (pipeline,) = documents(file.read_text())
    included = pipeline["include"]
    include: dict[str, Any] = {"remote": included} if isinstance(included, str) else included[0]
    place = include.get("remote", "").removeprefix("https://")
    if "component" in include:
        name, _, version = include["component"].replace("$CI_SERVER_FQDN", "gitlab.example.com").partition("@")
        place = f"{name.rpartition('/')[0]}/{version}/templates/{name.rpartition('/')[2]}/template.yml"
        assert set(include["inputs"]) <= set(inputs())
    assert place in PUBLISHED
    prefix = include.get("inputs", {}).get("job-prefix", "modelcache")
    extended = {job["extends"] for job in pipeline.values() if isinstance(job, dict) and "extends" in job}
    assert extended
    assert extended <= {f".{prefix}:{name}" for name in ("restore", "warm", "export")}


def test_every_example_is_in_the_guide_and_the_first_is_shown_there() -> None:
    assert [file.name for file in PIPELINES if f"examples/gitlab/{file.name}" not in GUIDE] == []
    first, *_ = blocks(GUIDE, "yaml")
    assert first in (EXAMPLES / "restore.gitlab-ci.yml").read_text()
    assert len(list(filter(None, first.splitlines()))) == 8


def test_the_hash_that_the_guide_pins_is_that_of_the_template() -> None:
    digest = base64.b64encode(hashlib.sha256(TEMPLATE.read_bytes()).digest()).decode()
    assert re.findall(r"integrity: sha256-(\S+)", GUIDE) == [digest]


def test_the_guide_lists_every_input_and_variable_with_its_default_and_no_other() -> None:
    listed = {_word(row[0]): row for row in rows(_section("Variables and inputs"))}
    assert list(listed) == list(inputs())
    for name, each in inputs().items():
        _, shown, default, meaning = listed[name]
        assert _word(shown) == each.get("variable", "")
        assert _word(default) == str(each.get("default", "")).lower()
        assert meaning == each["description"]


def test_the_guide_lists_every_output_and_no_other() -> None:
    assert [_word(row[0]) for row in rows(_section("Outputs"))] == _outputs()


def _outputs() -> list[str]:
    from ci_modelcache.ci.gitlab import PREFIX  # noqa: PLC0415  # beside what it is put together with
    from ci_modelcache.ci.outcome import OUTPUTS  # noqa: PLC0415  # as above

    return [PREFIX + name.upper().replace("-", "_") for name in OUTPUTS]


def _section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    return str(found)


def _word(cell: str) -> str:
    return cell.strip("`")
