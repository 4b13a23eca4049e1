"""The documents tell the truth: what they show runs, what they name exists, and what they list is complete."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from ci_modelcache import errors
from ci_modelcache.cli.main import COMMANDS, commands, main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.docker.labels import LABEL, ImageModel, label_of
from ci_modelcache.model.mirror_table import TOKEN_OF
from ci_modelcache.settings import OPTIONS, PREFIX, SETTINGS, variable
from ci_modelcache.verbs.locked import read_lock
from tests.parts.documents import ROOT, blocks, rows, shape
from tests.parts.messages import Message, messages
from tests.parts.reference import DOCUMENTS, FAILURE, FILE, NAMES, RENEW, called, command_of, fields, renewed
from tests.parts.servers import ADMIN, BUCKET, REGION, S3Server, login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.parts.engine import Engine
    from tests.parts.reference import Shape

README = (ROOT / "README.md").read_text()
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
OURS = (
    "README.md",
    "CHANGELOG.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))),
)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 4000, "onnx/model.onnx": b"onnx"}


def _marked(name: str) -> str:
    """The block of the README below the comment that names it, found as .ci/run finds it."""
    found = re.search(rf"^<!-- command: {name} -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no block directly below <!-- command: {name} -->"
    return found[1]


# --- the reference


def test_the_reference_is_what_the_code_says() -> None:
    text = FILE.read_text()
    assert text == renewed(text), f"docs/reference.md is behind the code; renew it with: {RENEW}"


def test_a_change_of_the_code_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_of("restore").params[1], "help", "Something else.")
    assert "Something else." in renewed(FILE.read_text())


def test_the_reference_has_every_command_variable_and_class_of_failure() -> None:
    text = FILE.read_text()
    assert re.findall(r"^### ([a-z][a-z ]*)$", text, re.MULTILINE) == list(NAMES)
    for setting in SETTINGS:
        assert f"`{setting.variable}`" in text
        for alias in (*setting.aliases, *setting.ambient):
            assert alias.variable in text
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.ModelCacheError):
            assert re.search(rf"^\| {kind.exit_code} \| [&nbsp;]*`{name}` \| \S", text, re.MULTILINE), name


# --- JSON


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        for name in ("org/name", MINILM):
            repository = hub.add_repo(name, {"main": FILES})
            repository.tags["v1.0"] = repository.branches["main"]
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def run_json(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Any]:
    """The JSON of a command line, in a project with a model, a lock and something stored, restored and saved."""
    del hub
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_MODELCACHE_TOKENS", "hub.internal=keep")
    monkeypatch.setattr(sys, "stdin", io.StringIO("token-for-a-mirror"))
    (tmp_path / "modelcache.toml").write_text('[[models]]\nrepo = "org/name"\n')
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.safetensors").write_bytes(bytes(3_000_000))

    def run(line: str) -> Any:
        capsys.readouterr()
        main([*shlex.split(line), "--json"])
        return json.loads(capsys.readouterr().out)

    for line in ("restore org/name", "save trained me/mine@v1", "lock"):
        assert "error" not in run(line)
    return run


@pytest.fixture
def image(run_json: Callable[[str], Any], docker_environment: Engine, tmp_path: Path) -> str:
    """An image whose label says that it has the locked model, one file of which is wrong in it."""
    del run_json
    locked = read_lock(tmp_path / "modelcache.lock").models
    for path, data in {**FILES, "config.json": b"wrong"}.items():
        file = tmp_path / "context" / "org" / "name" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nCOPY org/ /models/org/\n")
    label = label_of(ImageModel.of_locked(model, root="/models") for model in locked)
    name = docker_environment.image("docs")
    assert docker_environment.build(tmp_path / "context", f"--label={LABEL}={label}", tag=name).code == 0
    return name


@pytest.fixture
def damaged(run_json: Callable[[str], Any]) -> str:
    """The store, in which the model that was saved has a wrong file, and the fetched one is right."""
    store = Path(run_json("config")["settings"]["store"]["value"])
    (blob,) = (path for path in store.glob("blobs/sha256/*/*/*") if path.stat().st_size == 3_000_000)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * 3_000_000)
    return str(store)


@pytest.fixture
def app(run_json: Callable[[str], Any], tmp_path: Path) -> str:
    """A build context; it lacks the model, and the store has it."""
    del run_json
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch\nCOPY modelcache/ /\n")
    return "app"


@pytest.fixture
def tag(docker_environment: Engine) -> str:
    """The name of an image that is to be built."""
    return docker_environment.image("docs")


@pytest.fixture
def bucket(run_json: Callable[[str], Any], moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The options that name a store in S3, which has the model."""
    login(monkeypatch)
    options = f"--store s3://{BUCKET}/docs --endpoint-url {moto_server.endpoint}"
    assert "error" not in run_json(f"fetch org/name {options}")
    return options


@pytest.fixture
def archive(run_json: Callable[[str], Any]) -> str:
    """An archive of the model, as a whole and in parts."""
    for options in ("", "--split 1M"):
        assert "error" not in run_json(f"export org/name -o models.tar {options}")
    return "models.tar"


@pytest.fixture
def pinned(run_json: Callable[[str], Any]) -> str:
    """A model that is pinned."""
    assert "error" not in run_json("pin org/name")
    return "org/name"


@pytest.fixture
def dropped(run_json: Callable[[str], Any]) -> str:
    """A model that lies in the trash."""
    assert run_json("prune --max-size 3.5MB --min-age 0s --max-share 100% --yes")["in_trash"] == 1
    return "org/name"


LINES = {
    "restore": "restore org/name --to model",
    "restore --lookup-only": "restore org/name --lookup-only",
    "fetch": "fetch org/name",
    "warm": "warm org/name",
    "save": "save trained me/mine@v2",
    "export": "export org/name -o models.tar",
    "import": "import {archive} --store other",
    "import --part": "import {archive} --part 1 --store other",
    "presign": "presign org/name -o urls.json {bucket}",
    "docker context": "docker context {app}",
    "docker context --tar": "docker context {app} --tar context.tar --store other",
    "docker build": "docker build {app} -t {tag} --store other",
    "docker inspect": "docker inspect {image}",
    "docker verify": "docker verify {image}",
    "dockerfile": "dockerfile --base debian:12",
    "lock": "lock --upgrade",
    "lock --check": "lock --check",
    "ls": "ls",
    "info": "info org/name",
    "path": "path org/name",
    "verify": "verify",
    "replicate": "replicate {damaged} copy",
    "prune": "prune --max-size 3.5MB --min-age 0s",
    "undelete": "undelete {dropped}",
    "pin": "pin org/name",
    "unpin": "unpin {pinned}",
    "du": "du",
    "stats": f"stats {ROOT / 'tests' / 'golden' / 'report.jsonl'}",
    "mirrors": "mirrors",
    "mirrors bench": "mirrors bench org/name --downloads 1",
    "mirrors check": "mirrors check org/name",
    "auth status": "auth status --mirror https://hub.internal",
    "auth login": "auth login hub.internal",
    "auth logout": "auth logout hub.internal",
    "config": "config",
    "doctor": "doctor",
    "demo": "demo --model-dir trained",
    "completion": "completion bash",
}
_TYPES = {str: "text", int: "number", float: "number", bool: "true or false", type(None): "null"}


def _seen(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Path and type of everything inside of *value*, in the words of the reference."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{at}{key}", _TYPES.get(type(inner), "list" if isinstance(inner, list) else "object")
            yield from _seen(inner, f"{at}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from _seen(inner, f"{at[:-1]}[].")


_FREE = {
    "config": r"settings\.[^.]+",
    "info": r"provenance\.[^.]+",
    "demo": r"steps\[\]\.report\..+",
    "mirrors": r"mirrors\[\]\.failures\..+",
    "mirrors bench": r"(?:.+\.)?(?:causes|sources)\.http.+",
    "docker context --tar": r"fetched\[\]\.mirrors\..+",
    "docker build": r"context\.fetched\[\]\.mirrors\..+",
    "stats": r"(?:.+\.)?(?:causes|cause_rates|failed|runs|skipped|received)\.[^\[\]]+",
}
"""What has names that are not the format's, or is described elsewhere."""


def _check(document: str, shape: Shape, value: object) -> set[str]:
    """Compare *value* with the fields of *shape* and return those that it does not have."""
    documented = {field.path: field.type for field in fields(document, shape)}
    free = _FREE.get(document)
    missing = set(documented)
    for path, kind in _seen(value):
        if document == "config":
            path = re.sub(r"^settings\.[^.]+", "settings.<name>", path)  # noqa: PLW2901  # the same one by its general name
        elif free is not None and re.fullmatch(free, path):
            continue
        assert path in documented, f"{document} has a field {path} that the reference lacks"
        assert re.match(rf"(?:.* or )?{kind}|any of these", documented[path]), f"{path} is {kind}"
        missing.discard(path)
    return missing


@pytest.mark.timeout(600)  # the first that needs an engine may have to start it
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_json_of_every_command_has_the_fields_of_the_reference_and_no_others(
    document: str, run_json: Callable[[str], Any], request: pytest.FixtureRequest
) -> None:
    line = LINES[document]
    for name in re.findall(r"{(\w+)}", line):  # what needs a real engine, or a real bucket
        line = line.replace(f"{{{name}}}", request.getfixturevalue(name))
    missing = _check(document, DOCUMENTS[document], run_json(line))
    # A healthy store has no problems whose fields could be seen; they are looked at in the next test.
    assert missing == ({path for path in missing if path.startswith("problems[]")} if document == "verify" else set())


def test_the_json_of_a_problem_and_of_a_failure_is_that_of_the_reference(run_json: Callable[[str], Any]) -> None:
    for blob in Path(run_json("config")["settings"]["store"]["value"]).glob("blobs/sha256/*/*/*"):
        blob.chmod(0o644)
        blob.write_bytes(b"wrong")
    report = run_json("verify")
    assert report["problems"]
    assert _check("verify", DOCUMENTS["verify"], report) == set()
    assert _check("failure", FAILURE, run_json("info org/none")) == set()


def test_every_command_has_its_json_in_the_reference() -> None:
    assert {called(document.split())[0] for document in DOCUMENTS} == set(NAMES)
    assert set(LINES) == set(DOCUMENTS)


# --- what all documents name


def _names_of_options() -> set[str]:
    params = [*commands.params, *(param for name in NAMES for param in command_of(name).params)]
    return {name for param in params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}


def _of_other_programs(text: str) -> str:
    """*text* without what is said to git, pip, aws, coreutils and the like, and to the engine in a Dockerfile."""
    kept = [
        line
        for line in text.splitlines()
        if not re.search(
            r"\.venv/bin/(?!ci-modelcache)|\b(?:sha256sum|aws s3|split|cut|pip|buildah|docker|skopeo) |^  --|--mount=|\b(?:FROM|COPY|ADD) --",
            line,
        )
    ]
    return "\n".join(kept)


@pytest.mark.parametrize("document", OURS)
def test_every_flag_and_variable_that_a_document_names_exists(document: str) -> None:
    text = _of_other_programs((ROOT / document).read_text())
    flags = set(re.findall(r"(?<![\w<!-])--[a-z][a-z-]+\b", text))
    assert flags <= _names_of_options()
    variables = {name for name in re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", text) if not name.startswith(TOKEN_OF)}
    assert variables <= {*(setting.variable for setting in SETTINGS), *map(variable, OPTIONS)}


@pytest.mark.parametrize("document", OURS)
def test_every_command_that_a_document_shows_can_be_parsed(document: str) -> None:
    text = (ROOT / document).read_text()
    lines = [line for block in blocks(text, "(?:sh|console)") for line in block.splitlines()]
    lines += re.findall(r"`(ci-modelcache [a-z][^`]*)`", text)
    for line in lines:
        for words in re.findall(r"(?:^|[ (/])ci-modelcache ([a-z][^|<>)#;…]*)", line):
            name, arguments = called(shlex.split(words))
            assert name in {*NAMES, *COMMANDS}, line
            if arguments and "[OPTIONS]" not in arguments:
                with command_of(name).make_context(name, list(arguments)):
                    pass


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of headings, and those written out."""
    text = path.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    named = re.findall(r'<a id="([^"]+)">', text)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(named)


@pytest.mark.parametrize("document", OURS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.is_file(), target
            assert not anchor or anchor in _anchors(linked), target


# --- the messages of the code


_OF_THE_ENGINE = {"--label", "--mount", "--secret"}


def test_the_commands_and_flags_that_messages_name_exist() -> None:
    options = _names_of_options() | _OF_THE_ENGINE
    for message in messages():
        for name in re.findall(r"(?<![\w/`])ci-modelcache ([a-z]+)(?= |$|,|;)", message.text):
            assert name in {*COMMANDS, "runs", "that"}, message
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w…-])", message.text):
            others = {
                "demo/model.py",
                "docker/client.py",
                "docker/dockerfile.py",
                "cli/docker_build.py",
            }  # of pip and Docker
            assert flag in options or message.module in others, message


# --- troubleshooting


@frozen
class Trouble:
    """A row of docs/troubleshooting.md."""

    exit_code: str
    message: str
    cause: str
    remedy: str


TROUBLE = [Trouble(row[0], row[1].strip("`"), *row[2:]) for row in rows(TROUBLES)]


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda trouble: trouble.message)
def test_a_message_is_explained_as_the_code_words_it_and_with_its_exit_code(trouble: Trouble) -> None:
    found: list[Message] = [message for message in messages() if message.could_be(trouble.message)]
    assert found, "no message of the code reads so"
    codes = {str(code) for message in found for code in message.exit_codes}
    assert trouble.exit_code in codes or (trouble.exit_code in {"-", "1", "10 to 13"} and not codes), codes
    assert trouble.cause
    assert trouble.remedy


def test_a_message_that_the_code_does_not_have_is_seen() -> None:
    assert not [message for message in messages() if message.could_be("the deadline of … went by while …")]
    assert not [message for message in messages() if message.could_be("… is not in this lock")]


# --- the README: what it lists


def test_the_readme_lists_every_command_and_no_other() -> None:
    (section,) = re.findall(r"^## Commands\n(.*?)^\| exit code", README, re.MULTILINE | re.DOTALL)
    shown = [name.split() for row in rows(section) for name in re.findall(r"`([^`]+)`", row[0])]
    listed = [" ".join(takewhile(str.islower, words)) for words in shown]
    assert sorted(listed) == sorted(NAMES)


def test_the_readme_lists_every_exit_code_and_no_other() -> None:
    (section,) = re.findall(r"^\| exit code(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    listed = [int(row[0]) for row in rows(section)]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.exit_code for kind in kinds if issubclass(kind, errors.ModelCacheError)}
    assert listed == sorted(known | {0})


# --- the README: what it shows


@pytest.mark.parametrize(("name", "last"), [("demo", "ci-modelcache demo"), ("test", "pytest")])
def test_the_two_commands_are_one_line_that_needs_nothing_but_python(name: str, last: str) -> None:
    """.ci/run runs them, word for word."""
    (line,) = _marked(name).splitlines()
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert line.endswith(f"&& .venv/bin/{last}")
    subprocess.run(["bash", "-n"], input=line, text=True, check=True)


@pytest.fixture
def reader(
    hub: LoopbackHub, moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """Somebody with a bucket called my-bucket, ci-modelcache on the path, and a Hub at the address of the real one."""
    import boto3  # noqa: PLC0415  # slow, and not needed by most tests here

    login(monkeypatch)
    client = boto3.session.Session().client("s3", endpoint_url=moto_server.endpoint, region_name=REGION)
    client.create_bucket(Bucket="my-bucket")
    for each in client.list_objects_v2(Bucket="my-bucket").get("Contents", []):
        client.delete_object(Bucket="my-bucket", Key=each["Key"])
    client.close()
    for folder in ("bin", ".venv/bin"):
        program = tmp_path / folder / "ci-modelcache"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ci_modelcache "$@"\n')
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HF_ENDPOINT": hub.url,
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": moto_server.endpoint,
        "PYTHONPATH": str(ROOT),
    }


def _run(command: list[str], environment: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _snippets() -> list[str]:
    """Without the one about mirrors, which tests/test_guides.py runs."""
    found = [
        block
        for block in blocks(README, "sh")
        if "ci-modelcache" in block and "pip install" not in block and "--mirror" not in block
    ]
    assert len(found) == 4, "the README has other snippets than this test knows"
    return found


def test_every_snippet_of_the_readme_runs_in_its_order(
    reader: Mapping[str, str], hub: LoopbackHub, tmp_path: Path
) -> None:
    """As a reader does who copies one after the other into a shell, with the project file in between."""
    alone, restoring, locking, saving = _snippets()
    (project,) = blocks(README, "toml")
    shell = ["bash", "-euo", "pipefail", "-c"]
    _run([*shell, alone], reader, tmp_path)
    _run([*shell, restoring], reader, tmp_path)
    assert (tmp_path / "model" / "config.json").read_bytes() == FILES["config.json"]

    (tmp_path / "modelcache.toml").write_text(project)
    for line in locking.splitlines():
        hub.forget()
        _run([*shell, line], reader, tmp_path)
    assert hub.requests() == [], "restore --locked needs no Hub"
    (locked,) = tomllib.loads((tmp_path / "modelcache.lock").read_text())["models"]
    assert [file["path"] for file in locked["files"]] == ["config.json", "model.safetensors"]

    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").write_text("{}")
    pin = _run([*shell, saving], reader, tmp_path)
    assert re.fullmatch(r"org/name@[0-9a-f]{40}\n", pin)
    listed = _run(["ci-modelcache", "ls", "--store", "s3://my-bucket/models"], reader, tmp_path)
    assert [tuple(line.split()[:2]) for line in listed.splitlines()] == [
        ("org/name", "2026-11-20"),
        ("org/name", "v1.0"),
        (MINILM, "main"),
    ]


def test_the_first_example_prints_a_path_as_shown(reader: Mapping[str, str], tmp_path: Path) -> None:
    (block,) = blocks(README, "console")
    command, shown = block.splitlines()
    real = _run(["bash", "-c", command.removeprefix("$ ")], reader, tmp_path)

    def below_the_home(path: str) -> str:
        return re.sub(r"[0-9a-f]{40}", "COMMIT", path[path.index("/.cache/") :].strip())

    assert below_the_home(real) == below_the_home(shown)


def test_the_demo_prints_what_the_readme_shows(reader: Mapping[str, str], tmp_path: Path) -> None:
    (shown,) = blocks(README, "text")
    model = tmp_path / "small"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(3_000_000))
    (model / "config.json").write_text("{}")
    real = shape(_run(["ci-modelcache", "demo", "--model-dir", str(model)], reader, tmp_path))
    assert real[0].startswith(f"{MINILM.replace('6', 'N').replace('2', 'N')} from a Hub on this machine (http://")
    assert real[1:] == shape(shown)


def test_the_python_program_of_the_readme_runs(reader: Mapping[str, str], hub: LoopbackHub, tmp_path: Path) -> None:
    (program,) = blocks(README, "python")
    assert "https://huggingface.co" in program
    local = program.replace("https://huggingface.co", hub.url)
    python = [sys.executable, "-W", "error", "-c", local]
    first = _run(python, reader, tmp_path)
    assert re.fullmatch(r"miss [0-9a-f]{64}\n", first)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert _run(python, reader, tmp_path) == first.replace("miss", "local")


def test_the_toml_of_the_reference_is_understood(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    (tmp_path / "modelcache.toml").write_text("".join(blocks(FILE.read_text(), "toml")))
    monkeypatch.chdir(tmp_path)
    assert main(["config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    models, mirrors = shown["models"], shown["settings"]["mirrors"]["value"]
    assert [mirror["url"] for mirror in mirrors] == ["https://hub.internal", "s3://my-bucket/models"]
    assert [(model["repo"], model["type"]) for model in models] == [("org/name", "model"), ("org/questions", "dataset")]


def test_the_changelog_has_one_section_that_is_not_released() -> None:
    assert re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE) == ["[Unreleased]"]


def test_no_python_file_of_the_tests_forgets_a_readme_block() -> None:
    """A new block in another language would be run by nobody; those in YAML are run by tests/test_action_runs.py and test_gitlab_runs.py, the Dockerfile by test_docker_builds.py."""
    known = {"console", "sh", "text", "toml", "python", "yaml", "dockerfile"}
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == known
    ast.parse(blocks(README, "python")[0])
