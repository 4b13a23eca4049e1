"""The label of an image says which models are in it: in one way, within limits, and never something that cannot be read again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.docker.labels import (
    LABEL,
    MAX_LABEL,
    ImageLayout,
    ImageModel,
    label_of,
    models_in,
    snapshot_folder,
)
from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.ref import RepoType
from tests.parts.golden import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Callable


HEX = "0123456789abcdef"


def golden_models() -> list[ImageModel]:
    """The models of the golden lock: one in a plain folder, the other in a Hub cache."""
    whole, part = Lock.from_toml((GOLDEN / "modelcache.lock").read_text(), where="modelcache.lock").models
    return [
        ImageModel.of_locked(whole, root="/models"),
        ImageModel.of_locked(part, root="/opt/hub", layout=ImageLayout.HUB),
    ]


def test_the_text_of_the_label_never_changes() -> None:
    text = (GOLDEN / "label.json").read_text().rstrip("\n")
    assert label_of(golden_models()) == text
    assert list(models_in(text)) == golden_models()


def test_the_order_in_which_models_are_named_changes_nothing() -> None:
    assert label_of(reversed(golden_models())) == label_of(golden_models())


def test_an_image_may_have_no_models() -> None:
    assert (label_of([]), models_in("[]")) == ("[]", ())


def test_a_model_without_a_lock_has_the_same_label_as_the_locked_one() -> None:
    (locked, _) = Lock.from_toml((GOLDEN / "modelcache.lock").read_text(), where="modelcache.lock").models
    model = ImageModel.of(locked.to_manifest(), revision=locked.revision, root="/models/")
    assert model == golden_models()[0]
    assert model.path == model.root == "/models/org/name"


def test_in_a_hub_cache_the_path_is_what_a_program_opens_and_the_root_what_holds_it_all() -> None:
    model = golden_models()[1]
    assert model.path == f"/opt/hub/datasets--org--name/snapshots/{model.commit}"
    assert model.root == "/opt/hub/datasets--org--name"


def test_a_dataset_is_named_with_its_type() -> None:
    assert [model.ref for model in golden_models()] == ["org/name@main", "dataset:org/name@^1.2"]


commits = st.text(HEX, min_size=40, max_size=40)
digests = st.text(HEX, min_size=64, max_size=64).map(Digest)
names = st.from_regex(r"[A-Za-z0-9]{1,20}(/[A-Za-z0-9]([._]?[A-Za-z0-9]){0,20})?", fullmatch=True).filter(
    lambda name: not name.endswith(".git")
)
roots = st.lists(
    st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=9).filter(
        lambda segment: segment not in {".", ".."}
    ),
    max_size=3,
).map(lambda segments: "".join(f"/{segment}" for segment in segments))


@st.composite
def models(draw: st.DrawFn) -> ImageModel:
    repo, type_, commit = draw(names), draw(st.sampled_from(RepoType)), draw(commits)
    layout = draw(st.sampled_from(ImageLayout))
    return ImageModel(
        repo=repo,
        type=type_,
        revision=draw(st.one_of(st.just("main"), st.just("^1.2"), st.just("it's/größe"), commits)),
        commit=commit,
        selection=draw(st.one_of(st.just("all"), st.text(HEX, min_size=16, max_size=16))),
        manifest=draw(digests),
        digest=draw(digests),
        path=snapshot_folder(repo, type_, commit, root=draw(roots), layout=layout),
        layout=layout,
    )


@given(st.lists(models(), max_size=5, unique_by=lambda model: model.path))
def test_what_was_written_is_read_again_whatever_it_is(given_models: list[ImageModel]) -> None:
    text = label_of(given_models)
    assert "\n" not in text
    assert sorted(models_in(text), key=repr) == sorted(given_models, key=repr)
    assert label_of(models_in(text)) == text


@given(st.text())
def test_a_text_that_is_no_label_is_refused_by_its_name(text: str) -> None:
    if text.strip() != "[]":
        with pytest.raises(ManifestInvalid, match=LABEL):
            models_in(text)


def _with(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda model: model.update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with(commit="main"), "commit is no git object name: 'main'"),
        (_with(repo="org//name"), "not a repository name: 'org//name'"),
        (_with(revision=""), "not a revision: ''"),
        (_with(revision="a\nb"), "not a revision: "),
        (_with(revision="a" * 256), "not a revision: "),
        (_with(selection="some"), "selection is malformed: 'some'"),
        (_with(manifest="0" * 63), "not a SHA-256"),
        (_with(path="models/org/name"), "not a folder of an image: 'models/org/name'"),
        (_with(path="/models/../etc"), "not a folder of an image: '/models/../etc'"),
        (_with(path="/models/"), "not a folder of an image: '/models/'"),
        (_with(path="/models/\x1b[2J"), "not a folder of an image: "),
        (_with(path="/" + "a" * 1024), "not a folder of an image: "),
        (_with(layout="flat"), "expected one of plain, hub, got 'flat'"),
        (_with(layout="hub"), r"in a Hub cache org/name lies at \.\.\./models--org--name/snapshots/0123456789abcdef"),
        (_with(size=1), "unknown field size"),
        (lambda model: model.pop("digest"), r"\$\[0\].digest: missing"),
    ],
)
def test_a_label_that_somebody_altered_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    plain = json.loads(label_of(golden_models()[:1]))
    change(plain[0])
    with pytest.raises(ManifestInvalid, match=said) as caught:
        models_in(json.dumps(plain))
    assert LABEL in caught.value.message


def test_spaces_that_somebody_wrote_into_a_label_change_nothing() -> None:
    assert list(models_in(json.dumps(json.loads(label_of(golden_models())), indent=2))) == golden_models()


def test_two_models_in_one_plain_folder_are_refused() -> None:
    model = golden_models()[0]
    other = evolve(model, revision="v1.0")
    with pytest.raises(ManifestInvalid, match=r"two models at /models/org/name: org/name@main and org/name@v1\.0"):
        label_of([model, other])
    with pytest.raises(ManifestInvalid, match="two models at /models/org/name"):
        models_in(json.dumps([json.loads(label_of([each]))[0] for each in (model, other)]))


def test_two_parts_of_one_commit_may_share_its_folder_in_a_hub_cache() -> None:
    model = golden_models()[1]
    both = [model, evolve(model, selection="all")]
    assert len(models_in(label_of(both))) == 2


def test_a_label_that_no_command_line_could_hold_is_neither_written_nor_read() -> None:
    many = [evolve(golden_models()[0], path=f"/models/{number}") for number in range(400)]
    with pytest.raises(ManifestInvalid, match=f"of 400 models has [0-9]+ bytes, at most {MAX_LABEL} are read"):
        label_of(many)
    with pytest.raises(ManifestInvalid, match=f"has {MAX_LABEL + 1} bytes, at most {MAX_LABEL} are read"):
        models_in(f"[{' ' * (MAX_LABEL - 1)}]")
