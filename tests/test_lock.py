"""A lock alone proves every byte, says nothing in two ways, and is refused when a hand or a merge changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.errors import ManifestInvalid, ModelCacheError, NotInLock, StoreUnsupported, UnsafePath
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from tests.parts.golden import COMMIT, GOLDEN, manifest_by_hand, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.model.manifest import Manifest

EVERYTHING = Selection.everything()
SOME = Selection(("*.json",), ("run.*",))
WHERE = "modelcache.lock"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifest_by_hand(write_snapshot(tmp_path_factory.mktemp("snapshot")))


def part_of(manifest: Manifest) -> Manifest:
    chosen = tuple(file for file in manifest.files if SOME.selects(file.path))
    return evolve(manifest, files=chosen, selection=SOME.id, type=RepoType.DATASET, commit=COMMIT[::-1])


@pytest.fixture(scope="module")
def lock(manifest: Manifest) -> Lock:
    return Lock(
        (
            LockedModel.of(manifest, revision="main", selection=EVERYTHING),
            LockedModel.of(part_of(manifest), revision="^1.2", selection=SOME),
        )
    )


def test_the_text_of_version_1_never_changes(lock: Lock) -> None:
    golden = (GOLDEN / WHERE).read_text()
    assert lock.to_toml() == golden
    assert Lock.from_toml(golden, where=WHERE) == lock


def test_the_manifest_is_rebuilt_byte_for_byte_from_the_lock_alone(manifest: Manifest) -> None:
    lock = Lock.from_toml((GOLDEN / WHERE).read_text(), where=WHERE)
    assert lock.models[0].to_manifest().to_json() == manifest.to_json()
    assert lock.models[0].manifest == manifest.digest
    assert lock.models[1].asked == SOME


def test_windows_line_ends_of_a_checkout_change_nothing(lock: Lock) -> None:
    assert Lock.from_toml(lock.to_toml().replace("\n", "\r\n"), where=WHERE) == lock


def test_an_empty_lock_reads_back() -> None:
    assert Lock.from_toml(Lock().to_toml(), where=WHERE) == Lock()


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("size = 9", "size = 8", ManifestInvalid, "manifest says .*, the files listed give "),
        ('path = "config.json"', 'path = "config.jsom"', ManifestInvalid, "manifest says "),
        (
            'path = "config.json"',
            'path = "../config.json"',
            UnsafePath,
            "modelcache.lock: unsafe path '../config.json'",
        ),
        ('selection = "all"', 'selection = "0123456789abcdef"', ManifestInvalid, "manifest says "),
        ("include = []", 'include = ["x"]', ManifestInvalid, "selection says all, the files listed give "),
        ("include = []", 'include = [""]', ManifestInvalid, "an empty pattern selects no file"),
        ("include = []", 'include = "x"', ManifestInvalid, r"\$.models\[0\].include: expected list, got str"),
        ('type = "model"', 'type = "Model"', ManifestInvalid, r"\$.models\[0\].type: expected one of model, dataset"),
        ('repo = "org/name"', 'repo = "org//name"', ManifestInvalid, "not a repository name"),
        ('revision = "main"', "", ManifestInvalid, r"\$.models\[0\].revision: missing"),
        (
            'revision = "main"',
            'revision = "main"\nbranch = "x"',
            ManifestInvalid,
            r"\$.models\[0\]: unknown field branch",
        ),
        (
            "version = 1",
            "version = 2\nnew = 1",
            StoreUnsupported,
            "modelcache.lock has version 2; this version reads 1",
        ),
        ("version = 1", "version = 0", StoreUnsupported, "modelcache.lock: lock version 0; this version reads 1"),
        ("version = 1", "version = true", ManifestInvalid, r"\$.version: expected int, got bool"),
        ("version = 1", "<<<<<<< ours\nversion = 1", ManifestInvalid, r"modelcache.lock is not TOML: .*line 4"),
    ],
)
def test_a_lock_that_somebody_edited_is_refused(
    old: str, new: str, error: type[ModelCacheError], said: str, lock: Lock
) -> None:
    text = lock.to_toml()
    assert old in text
    with pytest.raises(error, match=said) as caught:
        Lock.from_toml(text.replace(old, new, 1), where=WHERE)
    assert type(caught.value) is error
    assert WHERE in str(caught.value)


def test_what_the_lock_says_of_its_files_must_fit_them(lock: Lock) -> None:
    model, other = lock.models[0], Digest("0" * 64)
    changes: dict[str, Callable[[], LockedModel]] = {
        "manifest": lambda: evolve(model, manifest=other),
        "digest": lambda: evolve(model, digest=other),
        "size": lambda: evolve(model, size=1),
    }
    for what, change in changes.items():
        with pytest.raises(
            ManifestInvalid, match=f"^lock of org/name: {what} says .*, the files listed give "
        ) as caught:
            change()
        assert caught.value.hint == "run ci-modelcache lock again, or restore the file from git"


def test_a_model_that_a_merge_left_twice_is_refused(lock: Lock, manifest: Manifest) -> None:
    moved = LockedModel.of(evolve(manifest, commit="f" * 40), revision="main", selection=EVERYTHING)
    with pytest.raises(ManifestInvalid, match=r"^the lock has org/name@main twice$") as caught:
        Lock((*lock.models, moved))
    assert "run ci-modelcache lock again" in str(caught.value.hint)


def test_the_same_repository_may_be_locked_at_two_revisions(manifest: Manifest) -> None:
    main = LockedModel.of(manifest, revision="main", selection=EVERYTHING)
    both = Lock((main, evolve(main, revision="v1.0")))
    assert both.find(ModelRef("org/name", "v1.0"), EVERYTHING).revision == "v1.0"


def test_a_model_is_found_by_its_revision_and_by_its_commit(lock: Lock) -> None:
    assert lock.find(ModelRef("org/name", "main"), EVERYTHING) is lock.models[0]
    assert lock.find(ModelRef("org/name", COMMIT), EVERYTHING) is lock.models[0]
    dataset = ModelRef("org/name", COMMIT[::-1], RepoType.DATASET)
    assert lock.find(dataset, Selection(("*.json",), ("run.*",))) is lock.models[1]


@pytest.mark.parametrize(
    ("ref", "selection", "hint"),
    [
        (ModelRef("org/name", "v2"), EVERYTHING, "the lock has org/name@main"),
        (ModelRef("org/name", "main"), SOME, "the lock has org/name@main"),
        (ModelRef("org/name", "main", RepoType.DATASET), EVERYTHING, "the lock has org/name@main"),
        (ModelRef("org/other"), EVERYTHING, "add it to modelcache.toml and run ci-modelcache lock"),
    ],
)
def test_what_the_lock_does_not_name_is_not_in_it(ref: ModelRef, selection: Selection, hint: str, lock: Lock) -> None:
    with pytest.raises(NotInLock, match="is not in the lock") as caught:
        lock.find(ref, selection)
    assert hint in str(caught.value.hint)
