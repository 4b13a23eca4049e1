"""Keys of format 1: everything that can be named has one, nobody shares one, and what is no key is not followed."""

from __future__ import annotations

import hashlib
import re
import string
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import assume, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from ci_modelcache.cache import keys
from ci_modelcache.errors import InvalidRef, ManifestInvalid
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
from ci_modelcache.stores.keys import MAX_KEY, check_key

if TYPE_CHECKING:
    from collections.abc import Callable

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = Digest.of(b"")
ALPHABET = re.compile(r"[A-Za-z0-9._/-]+")
LONGEST_HOST = "[" + "f" * 252 + "]:"
HEX = "0123456789abcdef"


def given(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same examples in every run."""
    return lambda test: settings(derandomize=True, database=None, deadline=None)(given_any(*strategies)(test))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=96)
hosts = st.from_regex(r"[a-z0-9.\[\]:-]{1,255}", fullmatch=True)
commits = st.text(HEX, min_size=40, max_size=40)
selections = st.just("all") | st.text(HEX, min_size=16, max_size=16)


def is_repository(repo: str) -> bool:
    try:
        ModelRef(repo)
    except InvalidRef:
        return False
    return True


repositories = (names | st.tuples(names, names).map("/".join)).filter(is_repository)
snapshots = st.builds(SnapshotId, hosts, st.sampled_from(RepoType), repositories, commits, selections)


# One segment


@given(texts)
def test_an_encoded_text_is_one_safe_segment(text: str) -> None:
    segment = keys.encode(text)
    assert ALPHABET.fullmatch(segment)
    assert "/" not in segment
    assert segment not in {".", ".."}
    assert len(segment) <= 120


@given(texts)
def test_decoding_gives_back_what_was_encoded_unless_it_was_too_long(text: str) -> None:
    segment = keys.encode(text)
    if segment.startswith("_h"):
        assert segment == f"_h{hashlib.sha256(text.encode()).hexdigest()}"
        with pytest.raises(ManifestInvalid):
            keys.decode(segment)
    else:
        assert keys.decode(segment) == text


@given(texts, texts)
def test_two_texts_never_share_a_segment(one: str, other: str) -> None:
    assume(one != other)
    assert keys.encode(one) != keys.encode(other)


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("huggingface.co", "huggingface.co"),
        ("feature/x", "feature_2Fx"),
        ("my_model", "my_5Fmodel"),
        ("localhost:8080", "localhost_3A8080"),
        ("é", "_C3_A9"),
        (".", "_2E"),
        ("..", "_2E."),
        ("_h", "_5Fh"),
        ("a" * 120, "a" * 120),
        ("a" * 121, f"_h{hashlib.sha256(b'a' * 121).hexdigest()}"),
    ],
)
def test_the_encoding_is_that_of_the_format(text: str, segment: str) -> None:
    assert keys.encode(text) == segment


@pytest.mark.parametrize(
    "segment",
    [
        "",
        ".",
        "..",
        ".hidden",
        "_",
        "_2",
        "_2f",
        "_2F_",
        "a_41",
        "_FF",
        "_C3",
        "é",
        "Ã©",
        "a/b",
        "a b",
        "_h" + "0" * 64,
        "a" * 121,
    ],
)
def test_a_segment_that_the_encoding_never_makes_is_refused(segment: str) -> None:
    with pytest.raises(ManifestInvalid, match="not an encoded key segment"):
        keys.decode(segment)


# Whole keys


@given(snapshots)
def test_the_snapshot_of_a_ref_can_be_read_from_its_key_unless_a_name_was_too_long(snapshot: SnapshotId) -> None:
    key = keys.ref(snapshot)
    if keys.is_hashed(key):
        with pytest.raises(ManifestInvalid):
            keys.snapshot_of(key)
    else:
        assert keys.snapshot_of(key) == snapshot


@given(snapshots)
def test_every_key_is_one_that_every_store_takes(snapshot: SnapshotId) -> None:
    check_key(keys.ref(snapshot))
    check_key(keys.lease(snapshot))
    for key in (keys.head, keys.answer):
        check_key(key(snapshot.host, snapshot.type, snapshot.repo, "refs/pr/7"))


def test_the_longest_names_of_all_fit_into_a_key() -> None:
    worst = "_" * 96
    longest_kept = "_" * 40
    for part in (worst, longest_kept, "a" * 96):
        snapshot = SnapshotId(LONGEST_HOST, RepoType.DATASET, f"{part}/{part}", COMMIT, "0123456789abcdef")
        assert len(check_key(keys.ref(snapshot))) <= MAX_KEY
        assert len(check_key(keys.lease(snapshot))) <= MAX_KEY
        for revision in ("/".join("x" * 100), "_" * 40, "_" * 255, "\U0001f917" * 63):
            for key in (keys.head, keys.answer):
                longest = key(snapshot.host, snapshot.type, snapshot.repo, ModelRef("o/n", revision).revision)
                assert len(check_key(longest)) <= MAX_KEY


def test_names_without_long_runs_of_underscores_are_never_hashed() -> None:
    repo = f"{'o' * 96}/{'my_model_' * 9}m"
    assert not keys.is_hashed(keys.ref(SnapshotId("h" * 100, RepoType.MODEL, repo, COMMIT, "all")))


@given(snapshots, snapshots)
def test_two_snapshots_never_share_a_ref_and_none_is_a_folder_of_the_other(one: SnapshotId, other: SnapshotId) -> None:
    assume(one != other)
    assert keys.ref(one) != keys.ref(other)
    assert keys.lease(one) != keys.lease(other)
    assert not keys.ref(one).startswith(f"{keys.ref(other)}/")


@given(texts, texts)
def test_no_head_is_a_folder_of_another(one: str, other: str) -> None:
    first, second = (keys.head("h", RepoType.MODEL, "o/n", revision) for revision in (one, other))
    assert not first.startswith(f"{second}/")
    assert (first == second) == (one == other)


def test_no_kind_of_key_is_a_folder_of_another_kind() -> None:
    snapshot = SnapshotId("h", RepoType.MODEL, "o/n", COMMIT, "all")
    ulid = "0" * 26
    named = [keys.blob(DIGEST), keys.leaves(DIGEST), keys.manifest(DIGEST)]
    every = [
        keys.MARKER,
        keys.ref(snapshot),
        keys.ref(evolve(snapshot, repo="n")),
        keys.lease(snapshot),
        keys.head("h", RepoType.MODEL, "o/n", "main"),
        keys.head("h", RepoType.MODEL, "n", "main"),
        keys.answer("h", RepoType.MODEL, "o/n", "main"),
        keys.intent(ulid, 1),
        f"{keys.COLLECTIONS}{ulid}{keys.CONDEMNED}",
        *named,
        *(keys.generation(each, ulid) for each in named),
    ]
    assert len(set(every)) == len(every)
    assert not [(a, b) for a in every for b in every if b.startswith(f"{a}/")]


def test_a_canonical_name_has_a_dash_for_its_organisation() -> None:
    snapshot = SnapshotId("huggingface.co", RepoType.MODEL, "gpt2", COMMIT, "all")
    assert keys.ref(snapshot) == f"refs/v1/huggingface.co/model/-/gpt2/{COMMIT}/all.json"
    assert keys.snapshot_of(keys.ref(snapshot)) == snapshot


GOOD = f"refs/v1/huggingface.co/model/org/name/{COMMIT}/all.json"


@pytest.mark.parametrize(
    "key",
    [
        "refs/v1/x",
        GOOD.removesuffix(".json"),
        f"{GOOD}.json",
        f"{GOOD}/more.json",
        GOOD.removeprefix("refs/v1/"),
        f"refs/v1/{GOOD}",
        GOOD.replace("/model/", "/models/"),
        GOOD.replace("/org/", "/org/team/"),
        GOOD.replace("/org/", "/_2E_2E/"),
        GOOD.replace("/org/", "/a_2Fb/"),
        GOOD.replace("/org/", "/.org/"),
        GOOD.replace("/org/", "/or_67/"),
        GOOD.replace("/name/", "/-name/"),
        GOOD.replace("/name/", "/na--me/"),
        GOOD.replace("/name/", "/name.git/"),
        GOOD.replace("/huggingface.co/", "/../"),
        GOOD.replace(COMMIT, "main"),
        GOOD.replace(COMMIT, COMMIT.upper()),
        GOOD.replace(COMMIT, COMMIT[:-1]),
        GOOD.replace("all", "most"),
        GOOD.replace("all", "0123456789ABCDEF"),
        GOOD.replace("all", "0123456789abcde"),
        GOOD.replace("/org/", f"/_h{'0' * 64}/"),
    ],
)
def test_a_key_below_refs_that_is_no_ref_is_refused(key: str) -> None:
    assert keys.snapshot_of(GOOD).repo == "org/name"
    with pytest.raises(ManifestInvalid):
        keys.snapshot_of(key)


def test_generations_are_told_from_encodings_that_begin_with_a_g() -> None:
    canonical = keys.blob(DIGEST)
    ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert keys.is_generation(keys.generation(canonical, ulid), canonical)
    for suffix in (".gzip", f".g{ulid.lower()}", f".g{ulid}.e-zstd", ".e-zstd", f".e-gz.g{ulid}", f".g{ulid}0", ""):
        assert not keys.is_generation(canonical + suffix, canonical)


def test_the_prefix_of_a_writers_intents_is_nobody_elses() -> None:
    ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert keys.intent(ulid, 12).startswith(keys.intents(ulid))
    assert not keys.intent(f"{ulid[:-1]}W", 12).startswith(keys.intents(ulid))
    assert not keys.intent(f"{ulid}0", 12).startswith(keys.intents(ulid))
