"""`ci-modelcache dockerfile`: what it prints is the same every time, is read by Docker as it is meant, and has no secret."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from ci_modelcache.cli.main import main
from ci_modelcache.docker.dockerfile import MAX_FILES, Recipe, Secret, Style, dockerfile
from ci_modelcache.docker.labels import LABEL, ImageLayout, ImageModel, label_of, models_in
from ci_modelcache.errors import ConfigError, ManifestInvalid, UnsafePath
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.path import check_path
from ci_modelcache.model.selection import Selection
from tests.parts.golden import GOLDEN
from tests.parts.servers import program
from tests.parts.snapshots import CONTENTS, manifest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ci_modelcache.model.manifest import FileEntry
    from tests.parts.engine import Engine

STRANGE = {
    "config.json": b"{}",
    'a b/it\'s $HOME "quoted".bin': b"1",
    "a b/<<EOF": b"2",
    "a b/[x]*?.bin": b"3",
    "a b/# syntax=evil": b"4",
    "a b/模型 é🤗.bin": b"5",
    "a b/${PATH}`id`.bin": b"6",
}
"""Names that `model.path` lets through."""


def lock_of(contents: Mapping[str, bytes] = CONTENTS, *, revision: str = "main") -> Lock:
    return Lock((LockedModel.of(manifest_of(contents), revision=revision, selection=Selection.everything()),))


def hub(model: LockedModel, file: FileEntry) -> str:
    return f"https://hub.example/{model.repo}/resolve/{model.commit}/{file.path.encode().hex()}"


def written(style: str = "run", lock: Lock | None = None, **options: Any) -> str:
    options = {"base": "debian:12", "secret": Secret.AWS, **options}
    return dockerfile(lock or lock_of(), Recipe(Style(style), **options), address=hub)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    command = [program("hadolint"), "--no-fail", "--format", "json", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def label_in(text: str) -> str:
    """The text of the label, as a frontend reads it: lines joined, and then nothing but quotes taken off."""
    (found,) = re.findall(rf"^LABEL {re.escape(LABEL)}='(.*)'$", text.replace("\\\n", ""), re.MULTILINE)
    assert "'" not in found
    return str(found)


def instructions(text: str) -> list[str]:
    """The first word of every instruction."""
    joined = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [line.split()[0] for line in joined.splitlines() if line]


# --- what is printed


GOLDEN_RECIPES: dict[str, dict[str, Any]] = {
    "run": {"settings": ("--store", "s3://bucket/models", "--region", "eu-west-1")},
    "run-hub-urls": {
        "style": "run",
        "layout": ImageLayout.HUB,
        "secret": Secret.URLS,
        "variables": (("SOURCE_DATE_EPOCH", "1700000000"),),
    },
    "copy": {},
    "add": {},
}


@pytest.mark.parametrize("name", GOLDEN_RECIPES)
def test_the_text_is_that_of_the_golden_file(name: str) -> None:
    options = dict(GOLDEN_RECIPES[name])
    text = written(options.pop("style", name), **options)
    assert text == (GOLDEN / "dockerfile" / f"{name}.Dockerfile").read_text()


@pytest.mark.parametrize("style", list(Style))
def test_hadolint_accepts_what_every_style_prints_also_with_strange_names(style: Style) -> None:
    # It does not read \u003c, as JSON does.
    strange = {path: data for path, data in STRANGE.items() if "<" not in path}
    for lock in (lock_of(), lock_of(strange)):
        done = hadolint(written(style, lock))
        assert (done.returncode, done.stderr) == (0, "")
        assert [found for found in json.loads(done.stdout) if found["level"] == "error"] == []


@pytest.mark.parametrize("change", ["--checksum/--cheksum", "--link/--lnik", "ADD/ADDD"])
def test_hadolint_refuses_what_docker_would_not_know(change: str) -> None:
    """Else the test above would say nothing about the style that the engine of the tests cannot build."""
    right, wrong = change.split("/")
    done = hadolint(written("add").replace(right, wrong))
    assert [found for found in json.loads(done.stdout) if found["level"] == "error"]


def test_a_program_that_is_no_secret_is_all_that_a_stage_without_secrets_is_lent() -> None:
    text = written(secret=Secret.NONE)
    assert "type=secret" not in text
    assert "AWS" not in text


@pytest.mark.parametrize("style", list(Style))
def test_the_label_says_what_the_lock_does(style: Style) -> None:
    lock = lock_of(revision="it's/$HOME\"x\\y")
    models = models_in(label_in(written(style, lock)))
    assert models == (ImageModel.of_locked(lock.models[0], root="/models"),)
    assert label_of(models) == label_of([ImageModel.of_locked(lock.models[0], root="/models")])


def test_a_label_of_many_models_has_no_long_line() -> None:
    """An old frontend reads no line over 64 KiB."""
    manifests = [evolve(manifest_of(), repo=f"org/name-{number}") for number in range(250)]
    lock = Lock(tuple(LockedModel.of(one, revision="main", selection=Selection.everything()) for one in manifests))
    text = written("copy", lock)
    assert len(models_in(label_in(text))) == 250
    assert max(map(len, text.splitlines())) < 1000


def test_added_files_can_be_read_by_everybody_and_run_when_they_could_be() -> None:
    modes = re.findall(r"^ADD --link --chmod=(\d+) .*/(\S+)$", written("add"), re.MULTILINE)
    assert {name: mode for mode, name in modes} == {
        name.rpartition("/")[2]: "755" if name.endswith(".sh") else "644" for name in CONTENTS
    }


# --- what is refused


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"base": "a b"}, "not the name of an image"),
        ({"base": "x\nRUN evil"}, "not the name of an image"),
        ({"python_image": "--evil"}, "not the name of an image"),
        ({"base": "Models"}, "the name of the stage"),
        ({"to": "models"}, "not a folder"),
        ({"to": "/"}, "not a folder"),
        ({"to": "/a/../b"}, "not a folder"),
        ({"to": "/a b"}, "not a folder"),
        ({"to": "/a;evil"}, "not a folder"),
        ({"lock_file": "*.lock"}, "as a pattern"),
        ({"settings": ("--store", "s3://b/x\nRUN evil")}, "another control character"),
        ({"variables": (("SOURCE_DATE_EPOCH", "1\n"),)}, "another control character"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        written(**options)


def test_too_many_files_to_add_name_the_other_styles() -> None:
    contents = {f"{number}.bin": b"%d" % number for number in range(MAX_FILES + 1)}
    assert written("add", lock_of(dict(list(contents.items())[1:])))
    with pytest.raises(ConfigError, match="has 101 files") as caught:
        written("add", lock_of(contents))
    assert "--style run or --style copy" in str(caught.value.hint)


def test_a_hub_cache_has_links_which_add_cannot_make() -> None:
    with pytest.raises(ConfigError, match="--layout plain only"):
        written("add", layout=ImageLayout.HUB)


def test_two_models_in_one_folder_are_refused() -> None:
    both = [
        LockedModel.of(manifest_of(commit=commit), revision=commit, selection=Selection.everything())
        for commit in ("0" * 40, "1" * 40)
    ]
    with pytest.raises(ManifestInvalid, match="two models at /models/tiny/model"):
        written(lock=Lock(tuple(both)))
    assert written(lock=Lock(tuple(both)), layout=ImageLayout.HUB)


# --- quoting


def is_allowed(path: str) -> bool:
    try:
        check_path(path)
    except UnsafePath:
        return False
    return True


def read_word(text: str) -> str:
    """One word of ADD as Docker reads it: a backslash takes the meaning of what comes next; quotes and $ must not be left."""
    read, rest = "", iter(text)
    for char in rest:
        assert char not in "$'\""
        read += next(rest) if char == "\\" else char
    return read


PATHS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.text("$'\"<>\\[]#` \n=-{}", min_size=1)


@given(path=PATHS)
@example(path="a <<EOF")
@example(path='"')
@example(path="$(id)")
@example(path="# escape=`")
@example(path="a'")
def test_no_name_of_a_file_breaks_out_of_its_line(path: str) -> None:
    if not is_allowed(path):
        return
    text = written("add", lock_of({path: b"x"}))
    (line,) = [line for line in text.split("\n") if line.startswith("ADD ")]
    assert len(text.splitlines()) == len(text.split("\n")) - 1
    assert instructions(text) == ["FROM", "ADD", "LABEL", "ENV"]
    *flags, words = re.split(r" (?=--|\[|http)", line, maxsplit=4)
    assert [flag.partition("=")[0] for flag in flags] == ["ADD", "--link", "--chmod", "--checksum"]
    assert "<<" not in words
    source, target = json.loads(words) if words.startswith("[") else words.split(" ")
    assert read_word(target) == f"/models/tiny/model/{path}"
    assert read_word(source) == hub(lock_of().models[0], lock_of({path: b"x"}).models[0].files[0])


@given(value=st.text(st.characters(codec="utf-8"), max_size=30) | st.text("'\"\\$`#<> \n;&|"))
@example(value="# x")
@example(value="\\")
@example(value="<<EOF")
def test_no_setting_breaks_out_of_its_line(value: str) -> None:
    try:
        text = written(settings=("--store", value))
    except ConfigError:
        assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value)
        return
    assert instructions(text) == ["FROM", "COPY", "COPY", "RUN", "FROM", "COPY", "LABEL", "ENV"]
    lines = text.split("\n")
    begin = next(number for number, line in enumerate(lines) if line.startswith("RUN"))
    end = next(number for number in range(begin, len(lines)) if not lines[number].endswith("\\"))
    for line in lines[begin + 1 : end + 1]:
        assert not line.lstrip().startswith("#")
    words = shlex.split(" ".join(line.removesuffix("\\") for line in lines[begin : end + 1]))
    assert words[-2:] == ["--store", value]
    assert not any(re.match(r"\d*<<", word) for word in text.split() if not word.startswith("'"))


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.text("$'\" <a"))
def test_no_path_of_the_lock_breaks_out_of_its_line(name: str) -> None:
    try:
        text = written(lock_file=f"x/{name}")
    except ConfigError:
        return
    _, line = [line for line in text.split("\n") if line.startswith("COPY ") and "--from" not in line]
    words = line.removeprefix("COPY ")
    source, target = json.loads(words) if words.startswith("[") else words.split(" ")
    assert (read_word(source), target) == (f"x/{name}", "/modelcache.lock")


# --- the command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modelcache.lock").write_text(lock_of().to_toml())
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = main(["dockerfile", *shlex.split(line)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_settings_that_are_in_force_are_written_and_no_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_MODELCACHE_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    (project / "modelcache.toml").write_text('store = "s3://bucket/models"\ndeadline = "15m"\n')
    code, out, _ = run(capsys, "--base debian:12 --mirror https://hub.internal --endpoint-url http://127.0.0.1:9000")
    assert code == 0
    assert "secret" not in out.replace("type=secret", "").replace("run/secrets", "").replace("--secret", "")
    (command,) = re.findall(r"--to /out/models \\\n(.*)\n", out)
    assert shlex.split(command) == [
        *("--mirror", "https://hub.internal", "--deadline", "900s"),
        *("--store", "s3://bucket/models", "--endpoint-url", "http://127.0.0.1:9000", "--region", "eu-west-1"),
    ]


def test_without_any_setting_the_stage_asks_the_hub_and_is_lent_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del project
    code, out, _ = run(capsys, "--base debian:12")
    assert code == 0
    assert "--store" not in out
    assert "type=secret" not in out


def test_with_presigned_urls_no_store_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del project
    _, out, _ = run(capsys, "--base debian:12 --secret urls --store s3://bucket/models")
    assert "--mount=type=secret,id=urls,target=/run/secrets/urls" in out
    assert "--from-urls /run/secrets/urls" in out
    assert "bucket" not in out


def test_a_store_that_a_build_cannot_see_is_an_error_for_run_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, f"--base debian:12 --store {project}/store")
    assert (code, out) == (2, "")
    assert "a folder of this machine" in err
    assert run(capsys, f"--base debian:12 --store {project}/store --style copy")[0] == 0


def test_a_setting_with_a_secret_in_it_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del project
    code, out, err = run(capsys, "--base debian:12 --mirror https://hub.internal/hf_abcdefghijklmnopqrstuvwxyz012345")
    assert (code, out) == (2, "")
    assert "hf_abc" not in err


@pytest.mark.parametrize(
    ("mirror", "begins"),
    [("", "https://huggingface.co/"), ("--mirror s3://b/p --mirror https://hub.internal", "https://hub.internal/")],
)
def test_add_downloads_at_the_commit_from_the_hub_or_the_first_mirror_that_is_one(
    mirror: str, begins: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del project
    _, out, _ = run(capsys, f"--base debian:12 --style add {mirror}")
    found = re.findall(r" (https://\S+) ", out)
    commit = lock_of().models[0].commit
    assert found == [f"{begins}tiny/model/resolve/{commit}/{path}" for path in sorted(CONTENTS)]


def test_add_takes_presigned_urls_by_digest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lock_of().models[0]
    objects = {
        f"blobs/sha256/{file.sha256.hex[:2]}/{file.sha256.hex[2:4]}/{file.sha256.hex}": {
            "size": file.size,
            "url": f"https://s3.example/{file.path}?X-Amz-Signature=ab%2Fcd&X-Amz-Date=1",
        }
        for file in model.files
    }
    listed = {"format": 1, "store": "s3://b/p", "expires": "2030-01-01T00:00:00Z", "models": [], "objects": objects}
    (project / "urls.json").write_text(json.dumps(listed))
    code, out, err = run(capsys, "--base debian:12 --style add --urls urls.json")
    assert code == 0, err
    for file in model.files:
        assert (
            f" https://s3.example/{file.path}?X-Amz-Signature=ab%2Fcd&X-Amz-Date=1 /models/tiny/model/{file.path}\n"
            in out
        )
    listed["objects"] = dict(list(objects.items())[1:])
    (project / "urls.json").write_text(json.dumps(listed))
    assert run(capsys, "--base debian:12 --style add --urls urls.json")[0] == 10
    assert run(capsys, "--base debian:12 --urls urls.json")[0] == 2


def test_a_lock_below_the_context_is_copied_from_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "ci").mkdir()
    (project / "modelcache.lock").rename(project / "ci/my.lock")
    _, out, _ = run(capsys, "--base debian:12 --lock-file ci/my.lock")
    assert "COPY ci/my.lock /modelcache.lock" in out


def test_there_is_no_dockerfile_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "--base debian:12")
    assert code == 2
    assert "ci-modelcache lock" in err


def test_another_time_for_the_files_is_given_to_the_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del project
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "SOURCE_DATE_EPOCH=1700000000 PYTHONDONTWRITEBYTECODE=1" in run(capsys, "--base debian:12")[1]


@pytest.mark.timeout(900)
def test_the_engine_reads_names_and_the_label_as_they_are_meant(engine: Engine, tmp_path: Path) -> None:
    """The lines for the lock and the label out of what is printed, with a name that has all that could be read otherwise."""
    names = ['it\'s a "lock" $HOME <<EOF.toml', "${x}`id`", "é 模型 #"]
    lock = lock_of(revision="it's/$HOME\"x\\y<<EOF")
    lines, text = ["FROM scratch"], ""
    for number, name in enumerate(names):
        (tmp_path / name).write_text(name)
        text = written("run", lock, lock_file=name)
        _, line = [line for line in text.split("\n") if line.startswith("COPY ") and "--from" not in line]
        lines.append(line.replace("/modelcache.lock", f"/{number}"))
    lines.append(text[text.index("LABEL") :])
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    image = engine.image("names")
    done = engine.build(tmp_path, tag=image)
    assert done.code == 0, done
    with engine.saved(image) as saved:
        found = {path: digest for layer in saved.layers for path, digest in layer.files.items()}
        (model,) = models_in(saved.config["config"]["Labels"][LABEL])
    assert found == {str(number): Digest.of(name.encode()).hex for number, name in enumerate(names)}
    assert model.revision == lock.models[0].revision
