"""A path that could harm a disk is refused, whatever document it stands in; the strange names of real repositories are not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ci_modelcache.errors import UnsafePath
from ci_modelcache.model.path import MAX_PATH, MAX_SEGMENT, check_path, check_paths
from ci_modelcache.transfer.land import PREFIX

if TYPE_CHECKING:
    from pathlib import Path

ATTACKS = {
    "nothing-at-all": "",
    "absolute": "/etc/passwd",
    "network-share": "//server/share",
    "parent-of-the-root": "..",
    "climbing-out": "../../etc/passwd",
    "climbing-out-inside": "a/../../etc/passwd",
    "climbing-out-at-the-end": "a/..",
    "here": "./a",
    "only-a-dot": ".",
    "empty-segment": "a//b",
    "folder-instead-of-a-file": "a/",
    "windows-separator": "a\\b",
    "windows-climbing-out": "..\\..\\evil",
    "windows-drive": "C:/evil",
    "windows-drive-relative": "C:evil",
    "windows-stream": "model.bin:hidden",
    "windows-device": "CON",
    "windows-device-with-extension": "data/nul.txt",
    "windows-device-with-a-space": "aux .txt",
    "windows-device-port": "Com1",
    "windows-device-superscript": "LPT¹",
    "windows-trailing-dot": "a./b",
    "windows-trailing-space": "config.json ",
    "windows-three-dots": "a/...",
    "nul-byte": "a\0b",
    "newline": "a\nb",
    "carriage-return": "a\rb",
    "terminal-escape": "a\x1b[2Jb",
    "delete": "a\x7f",
    "c1-control": "a\x85b",
    "right-to-left-override": "model\u202egpj.exe",
    "zero-width-space": "a\u200bb",
    "byte-order-mark": "\ufeffconfig.json",
    "line-separator": "a\u2028b",
    "invisible-tag": "a\U000e0041",
    "decomposed": "cafe\u0301.json",
    "lone-surrogate": "a\ud800",
    "bytes-that-are-no-utf-8": os.fsdecode(b"a\xff"),
    "git-config": ".git/config",
    "git-folder-by-case": ".GIT/hooks/post-checkout",
    "git-file": ".git",
    "nested-git-config": "sub/folder/.git/config",
    "git-short-name": "GIT~1/config",
    "git-behind-a-joiner": ".g\u200cit/config",
    "git-behind-a-selector": ".git\ufe0f/config",
    "nothing-but-a-joiner": "a/\u200d",
    "our-own-folder": ".ci-modelcache/receipts",
    "our-own-folder-by-case": ".CI-ModelCache",
    "file-that-a-sweep-would-remove": ".landing-abc",
    "nested-file-that-a-sweep-would-remove": "a/.Landing-abc",
    "segment-too-long": "a" * (MAX_SEGMENT + 1),
    "segment-too-long-in-bytes": "é" * 128,
    "path-too-long": "/".join(["a" * 200] * 6),
}

REAL = (
    "config.json",
    ".gitattributes",
    ".gitignore",
    ".github/workflows/ci.yml",
    "a.git",
    "git",
    "model-00001-of-00002.safetensors",
    "onnx/model_O3.onnx",
    "My Model (v2) [final].bin",
    "a+b=c&d.txt",
    "100%.json",
    "%2e%2e%2fetc",
    "#1.txt",
    "what?.txt",
    "q*.txt",
    'he said "hi".txt',
    "<s>.txt",
    "a|b",
    "~/.ssh",
    "-rf",
    "...a",
    "..a/b..c",
    ".a/.b",
    "café.json",
    "模型/权重.bin",
    "日本語.txt",
    "кот.jpg",
    "👩\u200d💻.png",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
    "❤\ufe0f.png",
    "console.py",
    "auxiliary/common.py",
    "null",
    "com10.txt",
    "file~1.txt",
    "data/.ci-modelcache",
    "a" * MAX_SEGMENT,
    "é" * 127,
    "/".join(["a" * 203] * 5) + "/abcd",
)


@pytest.mark.parametrize("path", ATTACKS.values(), ids=ATTACKS)
def test_the_attack_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath, match=r"^unsafe path ") as caught:
        check_path(path)
    message = str(caught.value)
    assert message.isprintable(), "a message must not carry the attack to a terminal"
    assert len(message) < 700
    assert caught.value.hint


@pytest.mark.parametrize("path", REAL)
def test_a_name_that_real_repositories_have_passes_unchanged(path: str) -> None:
    assert check_path(path) is path


def test_the_longest_path_passes_and_one_byte_more_does_not() -> None:
    longest = "/".join(["a" * 204] * 5)
    assert len(longest) == MAX_PATH
    check_path(longest)
    with pytest.raises(UnsafePath, match="1025 bytes, at most 1024"):
        check_path(longest + "a")


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["README.md", "readme.MD"],
        ["straße", "STRASSE"],
        ["É", "é"],
        ["D/x", "d/X"],
        ["💙\ufe0f", "💙"],
    ],
    ids=["twice", "case", "sharp-s", "accent", "case-of-folder-and-file", "selector"],
)
def test_two_files_that_would_meet_on_a_folding_disk_are_refused(paths: list[str]) -> None:
    with pytest.raises(UnsafePath, match="two files at one path"):
        check_paths(paths)


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b", "a"], ["A", "a/b"], ["x/y/z/w", "x/Y"]])
def test_a_file_that_is_a_folder_of_another_is_refused(paths: list[str]) -> None:
    with pytest.raises(UnsafePath, match="is a file, and a folder of"):
        check_paths(paths)


def test_folders_that_differ_by_case_are_harmless(tmp_path: Path) -> None:
    """On a disk that folds they are one folder, in which no two files have one name: so written, nothing is lost."""
    files = {"Data/x": b"1", "data/y": b"2", "data/deep/z": b"3", "DATA/deep/w": b"4"}
    check_paths(files)
    for path, data in files.items():
        folded = tmp_path / path.casefold()
        folded.parent.mkdir(parents=True, exist_ok=True)
        assert not folded.exists()
        folded.write_bytes(data)
    assert {path: (tmp_path / path.casefold()).read_bytes() for path in files} == files


def test_each_path_of_a_set_is_checked() -> None:
    with pytest.raises(UnsafePath, match="backslash"):
        check_paths(["fine", "a\\b"])
    check_paths([])


def test_the_name_that_sweep_looks_for_is_the_one_that_is_refused() -> None:
    with pytest.raises(UnsafePath, match="reserved"):
        check_path(f"{PREFIX}x")


@given(st.text())
def test_what_passes_stays_below_the_folder_it_is_joined_to(path: str) -> None:
    try:
        check_path(path)
    except UnsafePath:
        assume(False)  # noqa: FBT003  # Hypothesis' own signature
    joined = os.path.normpath(os.path.join("/destination", path))  # noqa: PTH118  # a string, as an attacker wrote it
    assert joined == f"/destination/{path}"


@given(st.text(alphabet=st.sampled_from(list("./\\ :~aA\0é\u0301\u200d")), max_size=12))
def test_what_passes_could_be_written_to_this_disk(path: str) -> None:
    try:
        check_path(path)
    except UnsafePath:
        return
    assert all(0 < len(os.fsencode(segment)) <= MAX_SEGMENT for segment in path.split("/"))
    assert not path.startswith("/")
    assert {".", "..", ""}.isdisjoint(path.split("/"))
