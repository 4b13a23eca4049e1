"""What `.dockerignore` leaves out of a streamed context is what the engine leaves out of a folder."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.docker.ignore import Rules
from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.engine import Engine

FILES = (
    "README.md",
    "app.py",
    "docs/a.md",
    "docs/deep/b.md",
    "docs/keep.txt",
    "node_modules/x/index.js",
    "src/main.py",
    "src/node_modules/y.js",
    "src/test.tmp",
    "temp/a",
    "tempa",
)
CASES = {
    "nothing": "",
    "comments and space": "# *\n\n   docs   \n",
    "a folder": "docs",
    "slashes at both ends": "/docs/",
    "dots": "./docs/../src",
    "one level": "*.md\n*/*.md",
    "any depth": "**/*.md",
    "a name at any depth": "**/node_modules",
    "one letter": "temp?",
    "letters": "temp/[a-c]",
    "all but": "*\n!src",
    "all but below": "*\n!docs/deep/b.md",
    "the last one counts": "!docs\ndocs\n!docs/deep\ndocs/deep/*.md\n",
    "capital letters": "readme.MD\nSRC",
    "folder left out, file taken back": "docs\n!docs/keep.txt",
    "nothing taken back": "docs\n!other",
    "a mark of bytes": "\ufeffdocs",
    "an unknown name": "nowhere/**",
    "everything": "**",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    for name in FILES:
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    return context


def staying(folder: Path) -> set[str]:
    """The files that stay in."""
    found = Rules.of(folder, folder / "Dockerfile").walk(folder)
    return {os.path.relpath(entry.path, folder) for entry in found if entry.is_file()} & set(FILES)


@pytest.mark.timeout(900)
def test_the_engine_leaves_out_the_same(engine: Engine, folder: Path, tmp_path: Path) -> None:
    for number, (name, text) in enumerate(CASES.items()):
        (folder / ".dockerignore").write_text(text)
        out = tmp_path / f"out-{number}"
        done = engine.build(folder, f"--output=type=local,dest={out}")
        assert done.code == 0, done
        taken = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert staying(folder) == taken & set(FILES), name


def test_a_line_can_take_back_what_is_deep_in_a_folder_that_is_left_out(folder: Path) -> None:
    """As the engine documents it; that of the tests is of 2020, and does not look into such a folder."""
    (folder / ".dockerignore").write_text("**\n!**/*.py")
    assert staying(folder) == {"app.py", "src/main.py"}


def test_the_file_beside_the_dockerfile_comes_before_the_one_of_the_folder(folder: Path) -> None:
    (folder / ".dockerignore").write_text("docs")
    (folder / "Dockerfile.dockerignore").write_text("src")
    assert {path.partition("/")[0] for path in staying(folder)} >= {"docs"}
    assert not any(path.startswith("src/") for path in staying(folder))


def test_what_is_left_out_and_cannot_come_back_is_not_even_listed(folder: Path) -> None:
    (folder / ".dockerignore").write_text("docs\n!src/main.py")
    (folder / "docs").chmod(0)
    try:
        found = {entry.name for entry in Rules.of(folder, folder / "Dockerfile").walk(folder)}
    finally:
        (folder / "docs").chmod(0o755)
    assert "keep.txt" not in found


def test_a_folder_stays_for_what_is_in_it(folder: Path) -> None:
    (folder / ".dockerignore").write_text("*\n!docs/deep/b.md")
    found = [os.path.relpath(entry.path, folder) for entry in Rules.of(folder, folder / "Dockerfile").walk(folder)]
    assert found == ["docs", "docs/deep", "docs/deep/b.md"]


def test_a_link_is_no_folder_to_look_into(folder: Path) -> None:
    shutil.rmtree(folder / "docs")
    (folder / "docs").symlink_to(folder)
    found = [entry.name for entry in Rules.of(folder, folder / "Dockerfile").walk(folder)]
    assert found.count("docs") == 1
    assert found.count("main.py") == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("*", ".dockerignore:1: *"),
        ("# models\n\n**/*.bin", ".dockerignore:3: **/*.bin"),
        ("*\n!modelcache\nmodelcache/models/org", ".dockerignore:3: modelcache/models/org"),
    ],
)
def test_the_line_that_leaves_a_model_out_is_named_with_the_remedy(text: str, line: str) -> None:
    path = "modelcache/models/org/name/model.bin"
    with pytest.raises(ConfigError) as caught:
        Rules.read(text).require([path])
    assert caught.value.message == f"{line} leaves {path} out of the context"
    assert caught.value.hint == "add a line !modelcache/ below it"
    Rules.read(f"{text}\n!modelcache/").require([path])


@pytest.mark.parametrize("text", ["a\\*b", "[!a]", "[^a]"])
def test_a_line_that_would_be_read_otherwise_than_by_the_engine_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not understood here"):
        Rules.read(text)


def test_without_the_sdk_the_extra_is_named_where_there_are_rules(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docker.utils.build", None)
    assert staying(folder) == set(FILES)
    (folder / ".dockerignore").write_text("docs")
    with pytest.raises(ConfigError) as caught:
        staying(folder)
    assert "ci-modelcache[docker]" in str(caught.value.hint)
