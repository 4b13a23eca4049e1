"""What a user types to name a model means one thing, or is refused with a way out."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import InvalidRef
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId

COMMIT = "0123456789abcdef0123456789abcdef01234567"

READS = {
    "org/name": ModelRef("org/name", "main"),
    "gpt2": ModelRef("gpt2", "main"),
    "org/name@v1.0": ModelRef("org/name", "v1.0"),
    "org/name@refs/pr/1": ModelRef("org/name", "refs/pr/1"),
    "org/name@feature/x@y": ModelRef("org/name", "feature/x@y"),
    f"org/name@{COMMIT}": ModelRef("org/name", COMMIT),
    "model:org/name": ModelRef("org/name", "main"),
    "dataset:org/name@main": ModelRef("org/name", "main", RepoType.DATASET),
    "space:org/name": ModelRef("org/name", "main", RepoType.SPACE),
    "Org_1/na.me-2": ModelRef("Org_1/na.me-2", "main"),
}


@pytest.mark.parametrize(("text", "ref"), READS.items(), ids=READS)
def test_a_reference_is_read(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/b/c",
        "org/",
        "/name",
        "org/name ",
        " org/name",
        "org//name",
        "-org/name",
        "org/.name",
        "org/name.",
        "org/na--me",
        "org/na..me",
        "org/name.git",
        "../etc",
        "org/na\nme",
        "org/na%2fme",
        "örg/name",
        "o" * 97,
        os.fsdecode(b"org/\xff"),
    ],
)
def test_what_is_no_repository_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRef, match="not a repository name") as caught:
        ModelRef.parse(text)
    assert caught.value.hint == "write it as org/name, org/name@revision or dataset:org/name@revision"


BAD_REVISIONS = [
    *(
        "",
        " ",
        "a b",
        "a..b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "@{u}",
        "/a",
        "a/",
        "a//b",
        "a.",
        ".a",
        "a/.b",
    ),
    *("-a", "a.lock", "a.lock/b", "a\nb", "a\x7f", "a\x00", "a\x85", "a" * 256, "é" * 128, os.fsdecode(b"\xff")),
]


@pytest.mark.parametrize("revision", BAD_REVISIONS)
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(InvalidRef, match="not a revision"):
        ModelRef("org/name", revision)


@given(st.text(alphabet="ab1./@{}~^:?*[\\- -_lock\x7f\x01é", max_size=12))
def test_no_revision_that_git_refuses_is_accepted(revision: str) -> None:
    try:
        ModelRef("org/name", revision)
    except InvalidRef:
        return
    git = subprocess.run(["git", "check-ref-format", f"refs/heads/{revision}"], check=False)
    assert git.returncode == 0, revision


def test_an_empty_revision_is_not_taken_for_main() -> None:
    """`--revision "$UNSET"` must not test another model."""
    for text, revision in (("org/name", ""), ("org/name@", None)):
        with pytest.raises(InvalidRef, match="not a revision: ''") as caught:
            ModelRef.parse(text, revision=revision)
        assert "unset variable" in str(caught.value.hint)


def test_a_url_is_told_apart_from_a_type() -> None:
    with pytest.raises(InvalidRef, match=r"^a URL instead of a repository name: 'https://huggingface.co/org/name'$"):
        ModelRef.parse("https://huggingface.co/org/name")


def test_an_unknown_type_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidRef, match="unknown repository type 'kernel'") as caught:
        ModelRef.parse("kernel:org/name")
    assert caught.value.hint == "the types are model, dataset, space"


def test_revision_and_type_may_be_given_beside_the_text_but_not_contradict_it() -> None:
    assert ModelRef.parse("org/name", revision="v1", type=RepoType.DATASET) == ModelRef(
        "org/name", "v1", RepoType.DATASET
    )
    assert ModelRef.parse("dataset:org/name@v1", revision="v1", type=RepoType.DATASET).revision == "v1"
    with pytest.raises(InvalidRef, match="two revisions: 'v1' in 'org/name@v1', and 'v2'"):
        ModelRef.parse("org/name@v1", revision="v2")
    with pytest.raises(InvalidRef, match="two types: 'dataset' in 'dataset:org/name', and 'model'"):
        ModelRef.parse("dataset:org/name", type=RepoType.MODEL)


@pytest.mark.parametrize("ref", READS.values(), ids=str)
def test_the_text_of_a_reference_reads_back_as_it(ref: ModelRef) -> None:
    assert ModelRef.parse(str(ref)) == ref


def test_only_a_full_commit_is_pinned() -> None:
    assert ModelRef("a/b", COMMIT).is_pinned
    assert not ModelRef("a/b", COMMIT[:39]).is_pinned
    assert not ModelRef("a/b", COMMIT.upper()).is_pinned
    assert ModelRef("a/b", "main", RepoType.SPACE).at(COMMIT) == ModelRef("a/b", COMMIT, RepoType.SPACE)


def test_a_partial_snapshot_says_that_it_is_one() -> None:
    whole = SnapshotId("huggingface.co", RepoType.DATASET, "a/b", COMMIT, "all")
    assert str(whole) == f"dataset:a/b@{COMMIT}"
    part = SnapshotId("huggingface.co", RepoType.MODEL, "a/b", COMMIT, "0" * 16)
    assert str(part) == f"a/b@{COMMIT} (selection {'0' * 16})"
