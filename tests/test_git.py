"""The names that git gives, compared with git itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_modelcache.model.digest import Digest
from ci_modelcache.model.git import pointer_oid, tree_oid

if TYPE_CHECKING:
    from pathlib import Path

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""``git hash-object -t tree /dev/null``."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("git")
    git(folder, "init", "--quiet", "--bare")
    return folder


def git(folder: Path, *arguments: str, text: bytes = b"") -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, input=text, capture_output=True, check=True)
    return done.stdout.decode().strip()


def by_git(folder: Path, files: dict[str, tuple[str, bool]]) -> str:
    lines = b"".join(
        f"{'100755' if executable else '100644'} {oid}\t{path}\0".encode() for path, (oid, executable) in files.items()
    )
    git(folder, "read-tree", "--empty")
    git(folder, "update-index", "-z", "--index-info", text=lines)
    return git(folder, "write-tree", "--missing-ok")


def test_no_files_make_the_empty_tree() -> None:
    assert tree_oid({}) == EMPTY_TREE


_NAMES = st.text("abAB.-_ +é0", min_size=1, max_size=4).filter(lambda name: name.strip(".") != "")
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_OIDS = st.binary(min_size=20, max_size=20).filter(any).map(bytes.hex)  # git refuses an index entry of all zeros


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(_PATHS, st.tuples(_OIDS, st.booleans()), min_size=1, max_size=8))
def test_a_tree_is_named_as_git_names_it(repository: Path, files: dict[str, tuple[str, bool]]) -> None:
    folders = {path[:at] for path in files for at, char in enumerate(path) if char == "/"}
    sound = {path: entry for path, entry in files.items() if path not in folders}
    assert tree_oid(sound) == by_git(repository, sound)


def test_a_folder_is_ordered_as_if_it_ended_in_a_slash(repository: Path) -> None:
    files = dict.fromkeys(("a/x", "a.b", "a-b", "a0", "a/b/c"), ("1" * 40, False))
    assert tree_oid(files) == by_git(repository, files)


def test_a_pointer_is_named_as_git_names_what_git_lfs_writes(repository: Path) -> None:
    digest = Digest(hashlib.sha256(b"weights").hexdigest())
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 7\n".encode()
    assert pointer_oid(digest, 7) == git(repository, "hash-object", "--stdin", text=pointer)
