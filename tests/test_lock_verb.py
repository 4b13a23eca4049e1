"""`lock`: promises made of what the authority lists and bytes prove; and ranges of versions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    LockStale,
    ManifestInvalid,
    ModelCacheError,
    RevisionNotFound,
    SnapshotConflict,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.project import ProjectModel
from ci_modelcache.model.ref import RepoType
from ci_modelcache.sources.protocol import RefName
from ci_modelcache.verbs.lock import newest
from ci_modelcache.verbs.locked import check_lock, read_lock
from tests.parts.hub import TINY
from tests.parts.hub_faults import Status, api
from tests.parts.users import unprivileged
from tests.parts.verbs import REPO, files_in, flipped, swap, write_files

if TYPE_CHECKING:
    from tests.parts.verbs import Bench

MAIN = ProjectModel(REPO)
TAG = ProjectModel(REPO, "v1.0")
JSON = ProjectModel(REPO, include=("*.json",))


def test_a_lock_is_written_filled_and_read_back(bench: Bench) -> None:
    report = bench.lock([MAIN, TAG, JSON])
    assert [(change.ref, change.change, change.commit) for change in report.models] == [
        (f"{REPO}@main", "added", bench.commit),
        (f"{REPO}@v1.0", "added", bench.commit),
        (f"{REPO}@main", "added", bench.commit),
    ]
    assert report.removed == ()
    lock = read_lock(bench.lock_path)
    assert [(model.revision, len(model.files)) for model in lock.models] == [
        ("main", len(TINY)),
        ("v1.0", len(TINY)),
        ("main", 1),
    ]
    check_lock([MAIN, TAG, JSON], lock)
    bench.check_invariants()
    text = bench.lock_path.read_bytes()
    bench.hub.forget()
    assert [change.change for change in bench.lock([MAIN, TAG, JSON]).models] == ["kept"] * 3
    assert bench.hub.requests() == []
    assert bench.lock_path.read_bytes() == text


def test_a_branch_stays_until_it_is_upgraded(bench: Bench) -> None:
    bench.lock([MAIN])
    before = bench.commit
    bench.repository.commit({**TINY, "config.json": b"{}"})
    assert bench.lock([MAIN]).models[0].commit == before
    report = bench.lock([MAIN], upgrade=True)
    assert (report.models[0].change, report.models[0].before, report.models[0].commit) == (
        "moved",
        before,
        bench.commit,
    )
    assert bench.lock([MAIN], upgrade=True).models[0].change == "kept"


def test_what_the_project_no_longer_names_goes(bench: Bench) -> None:
    bench.lock([MAIN, TAG])
    report = bench.lock([TAG])
    assert report.removed == (f"{REPO}@main",)
    assert [model.revision for model in read_lock(bench.lock_path).models] == ["v1.0"]


def test_an_old_word_about_a_branch_never_gets_into_a_lock(bench: Bench) -> None:
    bench.fetch()
    bench.hub.faults.append(Status(when=api))
    with pytest.raises(Unavailable):
        bench.lock([MAIN])
    with pytest.raises(SnapshotNotFound):
        bench.lock([MAIN], upstream=bench.offline)
    assert not bench.lock_path.exists()


def test_a_lie_in_the_store_does_not_become_a_promise(bench: Bench) -> None:
    """Whoever may write to the bucket must not be able to get a digest of theirs into the lock, which stands above the bucket."""
    bench.fetch()
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    honest = next(file for file in stored.files if file.path == "config.json")
    evil = b'{"auto_map": {"AutoModel": "evil.Model"}}\n'[: honest.size].ljust(honest.size)
    lie = stored.to_json().replace(honest.sha256.hex.encode(), Digest.of(evil).hex.encode())
    bench.cache().put_document(keys.manifest(Digest.of(lie)), lie)
    blob = bench.blob(evil)
    write_files(blob.parent, {blob.name: evil})
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(stored.digest.hex.encode(), Digest.of(lie).hex.encode()))
    with pytest.raises(SnapshotConflict) as caught:
        bench.lock([MAIN])
    assert caught.value.exit_code == 13
    assert not bench.lock_path.exists()


def test_leaf_lists_in_a_lock_are_of_the_bytes_themselves(bench: Bench) -> None:
    large = os.urandom(LEAF_SIZE + 1)
    bench.hub.add_repo(REPO, {"main": {"large.bin": large}})
    bench.fetch()
    bench.hub.forget()
    bench.lock([MAIN])
    assert bench.hub.sent == 0
    (file,) = read_lock(bench.lock_path).models[0].files
    leaf = [Digest.of(large[:LEAF_SIZE]), Digest.of(large[LEAF_SIZE:])]
    assert file.leaves == Digest.of("".join(f"{one}\n" for one in leaf).encode())


def test_what_was_saved_can_be_locked_without_the_hub(bench: Bench) -> None:
    saved = bench.save(write_files(bench.folder / "source", {"config.json": b"{}"}), "acme/own@v2")
    report = bench.lock([ProjectModel("acme/own", "v2")], upstream=bench.offline)
    assert report.models[0].commit == saved.commit
    report_of_restore = bench.restore("acme/own@v2", upstream=bench.offline, locks=(read_lock(bench.lock_path),))
    assert report_of_restore.anchor == "lock"
    assert files_in(bench.folder / "model") == {"config.json": b"{}"}


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ([MAIN, TAG], "it lacks acme/tiny@v1.0"),
        ([], "it still has acme/tiny@main"),
        ([TAG], "it lacks acme/tiny@v1.0 and it still has acme/tiny@main"),
        ([JSON], "it has other patterns for acme/tiny@main"),
        (
            [ProjectModel(REPO, type=RepoType.DATASET)],
            "it lacks dataset:acme/tiny@main and it still has acme/tiny@main",
        ),
    ],
)
def test_a_stale_lock_says_in_what(bench: Bench, project: list[ProjectModel], said: str) -> None:
    bench.lock([MAIN])
    with pytest.raises(LockStale, match=said) as caught:
        check_lock(project, read_lock(bench.lock_path))
    assert caught.value.exit_code == 2


def test_one_model_twice_is_a_mistake_that_is_told_before_anything_is_fetched(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="twice"):
        bench.lock([MAIN, MAIN])
    assert bench.hub.requests() == []


def test_a_failure_leaves_the_lock_as_it_was(bench: Bench) -> None:
    bench.lock([MAIN])
    before = bench.lock_path.read_bytes()
    with pytest.raises(ModelCacheError):
        bench.lock([MAIN, ProjectModel(REPO, "none")])
    assert bench.lock_path.read_bytes() == before
    with unprivileged(bench.folder), pytest.raises(AccessDenied, match=r"modelcache\.lock"):
        bench.lock([MAIN])
    assert bench.lock_path.read_bytes() == before


@pytest.mark.parametrize("broken", ["<<<<<<< ours\n", "version = 1\nmodels = 7\n"])
def test_a_broken_lock_moves_nothing_unless_everything_is_to_move(bench: Bench, broken: str) -> None:
    bench.lock_path.write_text(broken)
    with pytest.raises(ManifestInvalid) as caught:
        bench.lock([MAIN])
    assert caught.value.exit_code == 13
    assert "from git" in str(caught.value.hint)
    assert bench.lock_path.read_text() == broken
    assert bench.lock([MAIN], upgrade=True).models[0].change == "added"
    check_lock([MAIN], read_lock(bench.lock_path))


def test_a_lock_whose_files_were_edited_is_refused(bench: Bench) -> None:
    bench.lock([MAIN])
    lock = read_lock(bench.lock_path)
    digest = lock.models[0].files[0].sha256.hex
    bench.lock_path.write_text(bench.lock_path.read_text().replace(digest, flipped(bytes.fromhex(digest)).hex()))
    with pytest.raises(ManifestInvalid):
        read_lock(bench.lock_path)


@pytest.mark.parametrize("what", ["missing", "folder", "bytes"])
def test_a_lock_that_cannot_be_read_is_a_usage_error(bench: Bench, what: str) -> None:
    if what == "folder":
        bench.lock_path.mkdir()
    elif what == "bytes":
        bench.lock_path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        read_lock(bench.lock_path)
    assert caught.value.exit_code == 2
    assert str(bench.lock_path) in caught.value.message


# Ranges

TAGS = ("1.0.0", "v1.2.0", "1.2.9", "v1.3", "1.4.0-rc.1", "2", "v2.1.0", "latest", "v0.9-beta", "release-9.9.9")


def best(range_: str, tags: tuple[str, ...] = TAGS) -> str:
    return newest(range_, [RefName(name, f"{number:040x}") for number, name in enumerate(tags)], repo=REPO).name


@pytest.mark.parametrize(
    ("range_", "tag"),
    [
        ("^1.2", "v1.3"),
        ("~1.2.3", "1.2.9"),
        (">=1 <2", "v1.3"),
        ("^2", "v2.1.0"),
        (">=0", "v2.1.0"),
        ("<1.2", "1.0.0"),
        ("=2.0.0", "2"),
        ("=2", "v2.1.0"),
        (">=1.4.0-rc.0 <1.5", "1.4.0-rc.1"),
        ("~1.2 || ^2.1", "v2.1.0"),
    ],
)
def test_a_range_means_its_newest_version(range_: str, tag: str) -> None:
    assert best(range_) == tag


@pytest.mark.parametrize("tags", [("v1.2.0", "1.2.0"), ("1.2.0", "v1.2.0"), ("1.2", "v1.2.0", "1.2.0")])
def test_several_tags_of_one_version_give_the_same_whatever_their_order(tags: tuple[str, ...]) -> None:
    assert best("^1", tags) == "v1.2.0"


@pytest.mark.parametrize("range_", ["^3", "^1.4", "~0.9"])
def test_a_range_without_a_tag_is_a_miss_that_lists_what_there_is(range_: str) -> None:
    with pytest.raises(RevisionNotFound, match=r"1\.2\.9") as caught:
        best(range_)
    assert caught.value.exit_code == 10
    with pytest.raises(RevisionNotFound, match="its tags: none"):
        best(range_, ())


@pytest.mark.parametrize("range_", ["^", ">=one", "^1.2.3.4", "~~1"])
def test_a_range_that_cannot_be_read_is_a_usage_error(range_: str) -> None:
    with pytest.raises(ConfigError, match="not a range of versions"):
        best(range_)


def test_a_range_is_locked_kept_and_moved_when_upgraded(bench: Bench) -> None:
    model = ProjectModel(REPO, "^1")
    first = bench.commit
    assert bench.lock([model]).models[0].commit == first
    bench.repository.tags["v1.1"] = bench.repository.commit({**TINY, "config.json": b"{}"})
    assert bench.lock([model]).models[0].change == "kept"
    report = bench.lock([model], upgrade=True)
    assert (report.models[0].ref, report.models[0].before) == (f"{REPO}@^1", first)
    assert report.models[0].commit == bench.commit
