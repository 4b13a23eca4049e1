"""The cache folder of `huggingface_hub`: what its own clients find in it, and what we respect of theirs."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    IntegrityError,
    InvalidRef,
    ManifestInvalid,
    NoSpace,
    RevisionNotFound,
    SnapshotNotFound,
    UnsafePath,
)
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.transfer.place import Linking, Placed, place
from ci_modelcache.transfer.receipts import FORGETFUL, check_file
from tests.parts.snapshots import COMMIT, CONTENTS, REPO, entry, fill, manifest_of
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from ci_modelcache.layouts.protocol import Layout
    from tests.parts.hub_clients import HubClient

MAIN = ModelRef(REPO)
TAG = ModelRef(REPO, "release/1.0")
OTHER_COMMIT = "f" * 40
PARTIAL = {path: CONTENTS[path] for path in ("config.json", "model.safetensors")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def layout(cache: Path) -> HubCacheLayout:
    return HubCacheLayout(cache, REPO)


@pytest.fixture
def published(layout: HubCacheLayout) -> HubCacheLayout:
    """A full snapshot on main and on a tag."""
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    layout.publish(manifest_of(), TAG, full=True)
    return layout


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """What would show any change below *folder*: inode, mtime and link of everything."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_ino,
            path.lstat().st_mtime_ns if not path.is_dir() else 0,
            str(path.readlink()) if path.is_symlink() else "",
        )
        for path in folder.rglob("*")
    }


# What the clients of four generations see


LOOK_EVERYWHERE = """
import warnings
warnings.simplefilter("error")
from pathlib import Path
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
scan = scan_cache_dir()
(repo,) = scan.repos
result = {
    "main": snapshot_download(REPO, revision="main"),
    "default": snapshot_download(REPO),
    "tag": snapshot_download(REPO, revision="release/1.0"),
    "commit": snapshot_download(REPO, revision=COMMIT),
    "nested": Path(hf_hub_download(REPO, "onnx/model.onnx")).read_bytes().decode(),
    "by tag": Path(hf_hub_download(REPO, "config.json", revision="release/1.0")).read_bytes().decode(),
    "loaded": try_to_load_from_cache(REPO, "onnx/quantised/run.sh"),
    "unknown": try_to_load_from_cache(REPO, "adapter_config.json"),
    "warnings": [str(warning) for warning in scan.warnings],
    "repo": [repo.repo_id, repo.repo_type, repo.nb_files, repo.size_on_disk, sorted(repo.refs)],
}
"""


def test_every_client_finds_a_published_snapshot_offline(
    published: HubCacheLayout, cache: Path, hub_client: HubClient
) -> None:
    """By branch, by default, by a tag with a slash and by commit; and its cache scan has nothing to complain about."""
    seen = hub_client.run(LOOK_EVERYWHERE, cache=cache, REPO=REPO, COMMIT=COMMIT)
    snapshot = str(published.snapshot_path(COMMIT))
    assert [seen[how] for how in ("main", "default", "tag", "commit")] == [snapshot] * 4
    assert seen["nested"].encode() == CONTENTS["onnx/model.onnx"]
    assert seen["by tag"].encode() == CONTENTS["config.json"]
    assert seen["loaded"] == f"{snapshot}/onnx/quantised/run.sh"
    assert seen["unknown"] is None
    assert seen["warnings"] == []
    size = sum(map(len, CONTENTS.values()))
    assert seen["repo"] == [REPO, "model", len(CONTENTS), size, ["main", "release/1.0"]]


OPEN_WHOLE = """
from huggingface_hub import snapshot_download
try:
    result = snapshot_download(REPO)
except Exception as error:
    result = type(error).__name__
"""


def test_a_client_takes_a_partial_snapshot_for_complete(
    layout: HubCacheLayout, cache: Path, hub_client: HubClient
) -> None:
    """Without a listing no version can know better, as with a partial download of its own; we write none, so it works."""
    fill(layout, manifest_of(PARTIAL), PARTIAL)
    snapshot = layout.publish(manifest_of(PARTIAL, selection="0" * 16), MAIN, full=False)
    assert hub_client.run(OPEN_WHOLE, cache=cache, REPO=REPO) == str(snapshot)


def test_a_listing_left_by_a_client_makes_a_partial_snapshot_incomplete_since_1_22(
    layout: HubCacheLayout, cache: Path, hub_client: HubClient
) -> None:
    """It tells the truth about the commit, so it stays: asking for everything offline is an error, not a silent lack."""
    tree = layout.root / "trees" / f"{COMMIT}.json"
    tree.parent.mkdir(parents=True)
    files = {path: {"size": len(data), "blob_id": "0" * 40} for path, data in CONTENTS.items()}
    tree.write_text(json.dumps({"format_version": 1, "files": files}))
    before = tree.read_bytes()
    fill(layout, manifest_of(PARTIAL), PARTIAL)
    snapshot = layout.publish(manifest_of(PARTIAL, selection="0" * 16), MAIN, full=False)
    assert tree.read_bytes() == before
    expected = "IncompleteSnapshotError" if hub_client.version == "2.4.0" else str(snapshot)
    assert hub_client.run(OPEN_WHOLE, cache=cache, REPO=REPO) == expected


def test_the_newest_client_misses_a_file_that_the_listing_names(
    published: HubCacheLayout, cache: Path, hub_clients: dict[str, HubClient]
) -> None:
    """That is what the listing of a full snapshot is for: a file that got lost is noticed."""
    (published.snapshot_path(COMMIT) / "config.json").unlink()
    assert hub_clients["2.4.0"].run(OPEN_WHOLE, cache=cache, REPO=REPO) == "IncompleteSnapshotError"


def test_a_remembered_absence_does_not_hide_a_published_file(
    layout: HubCacheLayout, cache: Path, hub_clients: dict[str, HubClient]
) -> None:
    """A mirror's 404 of yesterday makes transformers load another tokenizer without a word."""
    for absent in ("onnx/model.onnx", "adapter_config.json"):
        marker = layout.root / ".no_exist" / COMMIT / absent
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    look = """
from huggingface_hub import try_to_load_from_cache
result = [str(try_to_load_from_cache(REPO, name)) for name in ("onnx/model.onnx", "adapter_config.json")]
"""
    there, absent = hub_clients["2.4.0"].run(look, cache=cache, REPO=REPO)
    assert there == str(layout.snapshot_path(COMMIT) / "onnx/model.onnx")
    assert absent.startswith("<object object")


def test_a_client_reads_datasets_and_repositories_without_a_namespace(
    cache: Path, hub_clients: dict[str, HubClient]
) -> None:
    for repo, kind in (("squad", RepoType.DATASET), ("gpt2", RepoType.MODEL), ("org/app", RepoType.SPACE)):
        layout = HubCacheLayout(cache, repo, kind)
        fill(layout, manifest_of())
        layout.publish(manifest_of(), ModelRef(repo, type=kind), full=True)
    look = """
from huggingface_hub import snapshot_download
result = [snapshot_download(r, repo_type=t) for r, t in (("squad", "dataset"), ("gpt2", "model"), ("org/app", "space"))]
"""
    names = ("datasets--squad", "models--gpt2", "spaces--org--app")
    assert hub_clients["2.4.0"].run(look, cache=cache) == [str(cache / name / "snapshots" / COMMIT) for name in names]


# What lies on the disk


def test_the_layout_is_a_layout(layout: HubCacheLayout) -> None:
    as_protocol: Layout = layout
    assert as_protocol.linkable
    assert as_protocol.mode(entry("run.sh", b"", executable=True)) == 0o644


def test_paths_are_relative_links_to_blobs_named_by_etag(published: HubCacheLayout) -> None:
    """The etag of an LFS file is its sha256, of another the name that git gives it; the links survive a move."""
    snapshot = published.snapshot_path(COMMIT)
    for file in manifest_of().files:
        goal = Path(str((snapshot / file.path).readlink()))
        assert goal.name == (file.sha256.hex if file.path.endswith((".onnx", ".safetensors")) else file.git_oid)
        assert goal.parts[:-1] == ("..",) * (2 + file.path.count("/")) + ("blobs",)
        assert (snapshot / file.path).read_bytes() == CONTENTS[file.path]
        assert stat.S_IMODE(published.content(file).stat().st_mode) == 0o644


def test_refs_are_the_commit_without_a_newline(published: HubCacheLayout) -> None:
    assert (published.root / "refs/main").read_bytes() == COMMIT.encode()
    assert (published.root / "refs/release/1.0").read_bytes() == COMMIT.encode()


def test_a_pinned_revision_writes_no_ref(layout: HubCacheLayout) -> None:
    fill(layout, manifest_of())
    layout.publish(manifest_of(), ModelRef(REPO, COMMIT), full=True)
    assert not (layout.root / "refs").exists()


def test_the_listing_has_lfs_fields_for_lfs_files_only(published: HubCacheLayout) -> None:
    tree = json.loads((published.root / "trees" / f"{COMMIT}.json").read_text())
    assert tree["format_version"] == 1
    assert sorted(tree["files"]) == sorted(CONTENTS)
    for file in manifest_of().files:
        promised = {"size": file.size, "blob_id": file.git_oid}
        if file.lfs:
            promised |= {"lfs_sha256": file.sha256.hex, "lfs_size": file.size}
        assert tree["files"][file.path] == promised


def test_publishing_again_changes_nothing(published: HubCacheLayout) -> None:
    before = listing(published.root)
    published.publish(manifest_of(), MAIN, full=True)
    assert listing(published.root) == before
    assert not list(published.staging.iterdir())


def test_a_moved_branch_shares_the_blobs_that_did_not_change(published: HubCacheLayout) -> None:
    newer = CONTENTS | {"config.json": b'{"model_type": "roberta"}\n'}
    manifest = manifest_of(newer, commit=OTHER_COMMIT)
    fill(published, manifest, newer)
    published.publish(manifest, MAIN, full=True)
    assert (published.root / "refs/main").read_text() == OTHER_COMMIT
    assert (published.root / "refs/release/1.0").read_text() == COMMIT
    assert len(list((published.root / "blobs").iterdir())) == len(CONTENTS) + 1
    old, new = (published.snapshot_path(commit) for commit in (COMMIT, OTHER_COMMIT))
    assert (old / "config.json").read_bytes() != (new / "config.json").read_bytes()
    assert (old / "model.safetensors").samefile(new / "model.safetensors")


def test_wrong_links_and_plain_files_in_a_snapshot_are_replaced(published: HubCacheLayout, tmp_path: Path) -> None:
    """Plain files are what a client leaves on a disk without links: nobody has proven them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    snapshot = published.snapshot_path(COMMIT)
    for path in ("config.json", "onnx/model.onnx"):
        (snapshot / path).unlink()
    (snapshot / "config.json").symlink_to(elsewhere)
    (snapshot / "onnx/model.onnx").write_bytes(b"unproven")
    published.publish(manifest_of(), MAIN, full=True)
    assert {path: (snapshot / path).read_bytes() for path in CONTENTS} == CONTENTS
    assert all((snapshot / path).is_symlink() for path in CONTENTS)
    assert elsewhere.read_bytes() == b"precious"


def test_a_clients_own_listing_of_the_same_files_stays_and_a_damaged_one_goes(published: HubCacheLayout) -> None:
    tree = published.root / "trees" / f"{COMMIT}.json"
    ours = tree.read_bytes()
    theirs = json.loads(ours)
    theirs["files"]["model.safetensors"]["xet_hash"] = "0" * 64
    tree.write_text(json.dumps(theirs))
    published.publish(manifest_of(), MAIN, full=True)
    assert json.loads(tree.read_text()) == theirs
    without_one = {"format_version": 1, "files": dict(list(theirs["files"].items())[:1])}
    for damaged in ("{", "[]", '{"format_version": 9, "files": {}}', '{"files": []}', json.dumps(without_one)):
        tree.write_text(damaged)
        published.publish(manifest_of(), MAIN, full=True)
        assert tree.read_bytes() == ours


def test_a_blob_that_links_into_a_shared_store_is_judged_by_its_bytes(published: HubCacheLayout, cache: Path) -> None:
    """Clients since 1.32 make such links. A right one stays; a wrong one is replaced and its goal is not written."""
    file = entry("model.safetensors", CONTENTS["model.safetensors"])
    blob, shared = published.content(file), cache / "blobs" / "ab" / "shared"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert check_file(blob, file.expected, FORGETFUL, links=published.follows_links).status == "verified"
    published.publish(manifest_of(), MAIN, full=True)
    assert blob.is_symlink()

    shared.write_bytes(b"garbage" * 1000)
    assert check_file(blob, file.expected, FORGETFUL, links=published.follows_links).status == "different"
    fill(published, manifest_of())
    assert not blob.is_symlink()
    assert shared.read_bytes() == b"garbage" * 1000


def test_a_read_only_hard_link_may_stand_for_a_blob(layout: HubCacheLayout, tmp_path: Path) -> None:
    file = entry("model.safetensors", CONTENTS["model.safetensors"])
    source = tmp_path / "stored"
    source.write_bytes(CONTENTS["model.safetensors"])
    source.chmod(0o444)
    placed = place(
        source,
        layout.content(file),
        expected=file.expected,
        link=Linking.READ_ONLY,
        mode=layout.mode(file),
        staging=layout.staging,
        receipts=FORGETFUL,
    )
    assert placed in {Placed.HARDLINK, Placed.REFLINK}
    contents = {"model.safetensors": CONTENTS["model.safetensors"]}
    snapshot = layout.publish(manifest_of(contents), MAIN, full=True)
    assert (snapshot / "model.safetensors").read_bytes() == contents["model.safetensors"]


def test_nothing_is_visible_when_a_content_is_missing_or_cut(layout: HubCacheLayout) -> None:
    manifest = manifest_of()
    fill(layout, manifest)
    victim = layout.content(manifest.files[0])
    for spoil in (lambda: victim.write_bytes(b""), victim.unlink):
        spoil()
        with pytest.raises(IntegrityError, match=r"was complete with 23 bytes, and is (0 bytes long|missing) now"):
            layout.publish(manifest, MAIN, full=True)
        assert not (layout.root / "refs").exists()


def test_what_stands_in_the_way_is_named_and_kept(published: HubCacheLayout) -> None:
    file = entry("config.json", CONTENTS["config.json"])
    published.content(file).unlink()
    published.content(file).mkdir()
    with pytest.raises(ConfigError, match="is a folder, and a file must go there"):
        published.content(file)
    with pytest.raises(ConfigError, match=r"refs/main is a file, and main/nested needs a folder there") as raised:
        published.resolve("main/nested")
    assert "remove the file" in str(raised.value.hint)


def test_a_linked_folder_in_a_snapshot_is_refused(published: HubCacheLayout, tmp_path: Path) -> None:
    """A snapshot folder that leads elsewhere would have our links written there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    snapshot = published.snapshot_path(COMMIT)
    (snapshot / "onnx").rename(tmp_path / "away")
    (snapshot / "onnx").symlink_to(outside)
    with pytest.raises(UnsafePath, match="onnx is a symbolic link to"):
        published.publish(manifest_of(), MAIN, full=True)
    assert not list(outside.iterdir())


def test_a_repository_name_that_leaves_the_cache_is_refused(cache: Path) -> None:
    for repo in ("../../etc", "a/b/c", "/etc"):
        with pytest.raises(InvalidRef):
            HubCacheLayout(cache, repo)


# Reading it back


def test_a_revision_is_resolved_without_any_network(published: HubCacheLayout) -> None:
    assert [published.resolve(name) for name in ("main", "release/1.0", COMMIT)] == [COMMIT] * 3


def test_an_unknown_revision_an_absent_snapshot_and_a_damaged_ref_are_three_errors(published: HubCacheLayout) -> None:
    with pytest.raises(RevisionNotFound, match="knows no revision v2") as raised:
        published.resolve("v2")
    assert raised.value.hint == f"run ci-modelcache restore {REPO}@v2"
    with pytest.raises(SnapshotNotFound, match=f"has no snapshot of {REPO}@{OTHER_COMMIT}"):
        published.resolve(OTHER_COMMIT)
    (published.root / "refs/main").write_text(f"{COMMIT}\n")
    with pytest.raises(ManifestInvalid, match="expected a commit of 40 hex digits and nothing else"):
        published.resolve("main")


def test_extra_files_are_those_that_the_whole_commit_does_not_have(published: HubCacheLayout) -> None:
    snapshot = published.snapshot_path(COMMIT)
    (snapshot / "old").mkdir()
    (snapshot / "old/notes.txt").write_text("mine")
    (snapshot / "dangling").symlink_to("../nowhere")
    partial = manifest_of(PARTIAL, selection="0" * 16)
    assert published.extra(partial) == ()
    extra = published.extra(manifest_of())
    assert extra == (snapshot / "dangling", snapshot / "old/notes.txt")
    published.prune(extra)
    assert published.extra(manifest_of()) == ()
    assert not (snapshot / "old").exists()
    assert {path: (snapshot / path).read_bytes() for path in CONTENTS} == CONTENTS
    with pytest.raises(UnsafePath, match="so it is left alone"):
        published.prune([published.root / "refs/main"])
    assert (published.root / "refs/main").exists()


def test_a_complete_cache_that_cannot_be_written_is_used_as_it_is(published: HubCacheLayout) -> None:
    """A cache baked into an image belongs to root: all that matters is there, so a job may run as anybody."""
    for nicety in ("CACHEDIR.TAG", f"trees/{COMMIT}.json"):
        (published.root / nicety).unlink()
    folders = [path for path in (published.root, *published.root.rglob("*")) if path.is_dir()]
    with unprivileged(*folders):
        assert published.publish(manifest_of(), MAIN, full=True) == published.snapshot_path(COMMIT)
        with pytest.raises(AccessDenied, match=r"cannot use .*Permission denied"):
            published.publish(manifest_of(), ModelRef(REPO, "new-branch"), full=True)


def test_a_disk_without_symbolic_links_is_said_to_be_one(
    layout: HubCacheLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and some network disks; a plain folder works there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    fill(layout, manifest_of())
    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(ConfigError, match="has no symbolic links") as raised:
        layout.publish(manifest_of(), MAIN, full=True)
    assert raised.value.hint == "put the cache on another disk, or restore to a plain folder with --to"
    assert not (layout.root / "refs").exists()


def test_a_full_disk_is_no_reason_to_leave_a_listing_out(
    layout: HubCacheLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a cache that may not be written is used as it is."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(layout, manifest_of())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace):
        layout.publish(manifest_of(), MAIN, full=True)
    assert not (layout.root / "refs").exists()
