"""What becomes the layer of an image: equal snapshots are equal to the last bit, whoever restores them, where and when."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.transfer.holding import acquired
from ci_modelcache.transfer.land import replacing
from ci_modelcache.transfer.receipts import Receipts, check_file
from tests.parts.snapshots import COMMIT, REPO, fill, manifest_of
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = ModelRef(REPO)
EPOCH = 1_700_000_000
SOMEBODY = 12345
NESTED = ModelRef(REPO, "refs/pr/1")


@frozen
class Kind:
    """One layout, by its *name*."""

    name: str

    def at(self, folder: Path, *, mtime: int | None = EPOCH) -> HubCacheLayout | PlainLayout:
        """The layout that makes *folder*."""
        if self.name == "hub":
            return HubCacheLayout(folder, REPO, normalize_mtime=mtime)
        return PlainLayout(folder, normalize_mtime=mtime)

    def restore(self, folder: Path, ref: ModelRef = NESTED) -> HubCacheLayout | PlainLayout:
        """As the verb does."""
        layout = self.at(folder)
        fill(layout, manifest_of())
        layout.publish(manifest_of(), ref, full=True)
        return layout


@pytest.fixture(params=["plain", "hub"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


@pytest.fixture
def hub() -> Kind:
    return Kind("hub")


@pytest.fixture
def private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def tar_of(folder: Path) -> bytes:
    """The stream that GNU tar makes of *folder*, in the order of names as builders walk."""
    command = ["tar", "--create", "--numeric-owner", "--sort=name", f"--directory={folder.parent}", folder.name]
    return subprocess.run(command, check=True, capture_output=True).stdout


def everything(folder: Path) -> dict[Path, os.stat_result]:
    return {path: path.lstat() for path in (folder, *folder.rglob("*"))}


def facts(seen: os.stat_result) -> tuple[int, ...]:
    """All that shows that somebody was here."""
    return seen.st_ino, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, seen.st_ctime_ns


@pytest.mark.usefixtures("private_umask")
def test_two_restores_into_different_folders_give_the_same_tar(kind: Kind, tmp_path: Path) -> None:
    """One of them under a folder that hands its group down, and into folders that an older run has left in disorder."""
    group = tmp_path / "group"
    group.mkdir()
    os.chown(group, SOMEBODY, SOMEBODY)
    group.chmod(0o2777)
    first, second = tmp_path / "one" / "models", group / "models"
    kind.restore(first)
    os.umask(0o022)
    kind.restore(second)
    assert tar_of(first) == tar_of(second)


def test_files_that_were_there_in_disorder_do_not_show(tmp_path: Path) -> None:
    """As long as the root is new: what was chosen for that is kept."""
    kind = Kind("plain")
    fresh, used = tmp_path / "one" / "model", tmp_path / "two" / "model"
    kind.restore(fresh)
    kind.restore(used)
    os.chown(used / "config.json", SOMEBODY, SOMEBODY)
    os.chown(used / "onnx", SOMEBODY, SOMEBODY)
    (used / "onnx").chmod(0o2700)
    os.utime(used / "onnx/model.onnx", (1, 1))
    (used / "empty.txt").chmod(0o600)
    kind.at(used).publish(manifest_of(), NESTED, full=True)
    assert tar_of(fresh) == tar_of(used)


@pytest.mark.usefixtures("private_umask")
def test_all_that_was_made_has_one_time_one_owner_and_plain_modes(kind: Kind, tmp_path: Path) -> None:
    """The folders above the root too, which are in the layer as well."""
    top = tmp_path / "srv"
    kind.restore(top / "images" / "models")
    seen = everything(top)
    assert {each.st_mtime_ns for each in seen.values()} == {EPOCH * 10**9}
    assert {(each.st_uid, each.st_gid) for each in seen.values()} == {(0, 0)}
    modes = {stat.S_IMODE(each.st_mode) for each in seen.values() if not stat.S_ISLNK(each.st_mode)}
    assert modes <= {0o644, 0o755}
    assert all(stat.S_IMODE(each.st_mode) == 0o755 for each in seen.values() if stat.S_ISDIR(each.st_mode))


def test_the_folder_in_which_the_first_was_made_gets_its_time_back(kind: Kind, tmp_path: Path) -> None:
    """Else it would be in the layer, with the time of the build."""
    home = tmp_path / "home"
    home.mkdir()
    os.utime(home, ns=(1, 1_600_000_000_123_456_789))
    kind.restore(home / "new" / "models")
    assert home.stat().st_mtime_ns == 1_600_000_000_123_456_789
    kind.restore(home / "second")
    assert home.stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_two_models_side_by_side_share_a_folder_that_keeps_its_time(kind: Kind, tmp_path: Path) -> None:
    kind.restore(tmp_path / "models" / "org" / "one")
    kind.restore(tmp_path / "models" / "org" / "two")
    assert {(tmp_path / "models" / name).stat().st_mtime for name in ("", "org")} == {EPOCH}


def test_nothing_of_ours_is_left(kind: Kind, tmp_path: Path) -> None:
    layout = kind.restore(tmp_path / "models")
    names = {path.name for path in everything(tmp_path)}
    assert ".ci-modelcache" not in names
    assert not [name for name in names if "landing" in name or "partial" in name or name.endswith(".lock")]
    assert not layout.staging.exists()


def test_what_a_killed_run_has_left_in_the_cache_goes_too(hub: Kind, tmp_path: Path) -> None:
    layout = hub.at(tmp_path / "models")
    layout.staging.mkdir(parents=True)
    for name in (".landing-x", ".partial-y", ".partial-y.log"):
        (layout.staging / name).write_bytes(b"half")
    hub.restore(tmp_path / "models")
    assert not layout.staging.exists()


def test_restoring_again_changes_nothing_at_all(kind: Kind, tmp_path: Path) -> None:
    """No inode, mode, owner, mtime or ctime; of folders neither."""
    kind.restore(tmp_path / "srv" / "models")
    before = {path: facts(seen) for path, seen in everything(tmp_path).items()}
    again = kind.at(tmp_path / "srv" / "models")
    again.publish(manifest_of(), NESTED, full=True)
    again.prune(again.extra(manifest_of()))  # a layout, not Django
    assert {path: facts(seen) for path, seen in everything(tmp_path).items()} == before


def test_pruning_leaves_it_as_a_layer_needs_it(kind: Kind, tmp_path: Path) -> None:
    layout = kind.restore(tmp_path / "models")
    clean = tar_of(tmp_path / "models")
    snapshot = layout.snapshot_path(COMMIT)
    (snapshot / "a/b").mkdir(parents=True)
    for path in ("a/b/c.txt", "onnx/old.onnx", "top.txt", "snapshots/x/y"):
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_bytes(b"")
    layout.prune(layout.extra(manifest_of()))  # as above
    assert tar_of(tmp_path / "models") == clean


def test_without_it_times_and_owners_are_nobodys_business(kind: Kind, tmp_path: Path) -> None:
    os.utime(tmp_path, (1, 1))
    layout = kind.at(tmp_path / "models", mtime=None)
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    assert min(seen.st_mtime for seen in everything(tmp_path).values()) > EPOCH


def test_receipts_are_kept(kind: Kind, tmp_path: Path) -> None:
    """Otherwise every second restore into a build context would hash everything."""
    receipts = Receipts(tmp_path / "receipts.sqlite")
    layout = kind.at(tmp_path / "models")
    fill(layout, manifest_of())
    for file in manifest_of().files:
        receipts.remember(layout.content(file), file.sha256)
    layout.publish(manifest_of(), MAIN, full=True, receipts=receipts)
    states = {check_file(layout.content(file), file.expected, receipts).status for file in manifest_of().files}
    assert states == {"proven"}
    receipts.close()


def test_a_further_name_of_a_file_is_parted_from_it_only_if_it_is_otherwise(kind: Kind, tmp_path: Path) -> None:
    """A blob of a tier is as a normalized file is, and may stay one with it; one of a store is read-only, and stays that."""
    layout = kind.restore(tmp_path / "models")
    file = next(each for each in manifest_of().files if each.path == "model.safetensors")
    theirs, tier = tmp_path / "theirs", tmp_path / "tier"
    os.link(layout.content(file), tier)
    kind.at(tmp_path / "models").publish(manifest_of(), NESTED, full=True)
    assert layout.content(file).samefile(tier)

    shutil.copyfile(tier, theirs)
    theirs.chmod(0o444)
    os.utime(theirs, (1, 1))
    layout.content(file).unlink()
    os.link(theirs, layout.content(file))
    kind.at(tmp_path / "models").publish(manifest_of(), NESTED, full=True)
    assert not layout.content(file).samefile(theirs)
    assert (stat.S_IMODE(theirs.stat().st_mode), theirs.stat().st_mtime) == (0o444, 1)
    assert stat.S_IMODE(layout.content(file).stat().st_mode) == 0o644
    assert layout.content(file).stat().st_mtime == EPOCH


def test_the_cache_takes_read_only_links_only_where_modes_and_times_do_not_matter(hub: Kind, tmp_path: Path) -> None:
    """Else each would be copied after all, when the snapshot is published."""
    assert hub.at(tmp_path / "models", mtime=None).linkable
    assert not hub.at(tmp_path / "models").linkable


def test_what_is_another_users_stays_with_a_warning_that_names_it(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    kind.restore(models)
    for path in everything(models):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    before = {path: facts(seen) for path, seen in everything(models).items()}
    with unprivileged():
        kind.at(models, mtime=EPOCH + 1).publish(manifest_of(), NESTED, full=True)
    (message,) = caplog.messages
    assert "mode, owner or mtime of" in message
    assert str(models) in message
    assert message.endswith(": Operation not permitted")
    assert {path: facts(seen) for path, seen in everything(models).items()} == before


def test_a_folder_above_that_is_another_users_cannot_get_its_time_back(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a user restores into a folder of root's that everybody may write: all below it is right."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, SOMEBODY, SOMEBODY)
    with unprivileged():
        kind.restore(shared / "models")
    assert [f"{shared}: Operation not permitted" in message for message in caplog.messages] == [True]
    assert {seen.st_mtime for seen in everything(shared / "models").values()} == {EPOCH}


def test_on_a_read_only_disk_nothing_is_put_in_order_and_nobody_warned(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is complete, and no part of what is being built."""
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "ci-modelcache-test", mount], check=True)
    try:
        kind.restore(mount / "models")
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        kind.at(mount / "models", mtime=EPOCH + 1).publish(manifest_of(), NESTED, full=True)
    finally:
        subprocess.run(["umount", mount], check=True)
    assert caplog.messages == []


def test_a_root_that_is_a_link_is_in_order_where_it_leads(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "big-disk")
    kind.restore(tmp_path / "models")
    goal = tmp_path / "big-disk"
    below = [seen for path, seen in everything(goal).items() if path != goal]
    assert {seen.st_mtime for seen in below} == {EPOCH}


# The cache that others use, too


def test_folders_and_refs_of_the_cache_that_were_there_keep_mode_and_owner(hub: Kind, tmp_path: Path) -> None:
    """A group shares a cache: who may write into it, and what clients write in place, is not ours to change."""
    cache = tmp_path / "cache"
    root = hub.restore(cache, MAIN).root
    shared = (cache, root, root / "blobs", root / "refs", root / "refs/main", root / "snapshots")
    for path in shared:
        os.chown(path, SOMEBODY, SOMEBODY)
        path.chmod(0o664 if path.is_file() else 0o2775)
        os.utime(path, (1, 1))
    hub.at(cache).publish(manifest_of(), MAIN, full=True)
    for path in shared:
        seen = path.stat()
        assert (seen.st_uid, stat.S_IMODE(seen.st_mode) & 0o777) == (SOMEBODY, 0o664 if path.is_file() else 0o775)
        assert stat.S_IMODE(seen.st_mode) & 0o2000 == (0 if path.is_file() else 0o2000)
    assert {path.stat().st_mtime for path in shared if path != cache} == {EPOCH}


def test_a_blob_that_is_a_link_is_in_order_itself_and_its_goal_is_left_alone(hub: Kind, tmp_path: Path) -> None:
    layout = hub.restore(tmp_path / "models")
    blob, goal = layout.content(manifest_of().files[0]), tmp_path / "goal"
    blob.rename(goal)
    os.utime(goal, (1, 1))
    blob.symlink_to(goal)
    hub.at(tmp_path / "models").publish(manifest_of(), NESTED, full=True)
    assert (blob.lstat().st_mtime, goal.stat().st_mtime) == (EPOCH, 1)


def test_a_remembered_absence_that_is_removed_leaves_its_folder_in_order(hub: Kind, tmp_path: Path) -> None:
    root = hub.at(tmp_path / "models").root
    absent = root / ".no_exist" / COMMIT / "config.json"
    absent.parent.mkdir(parents=True)
    absent.write_bytes(b"")
    hub.restore(tmp_path / "models")
    assert not absent.exists()
    assert absent.parent.stat().st_mtime == EPOCH


def test_when_a_file_was_last_used_is_still_known(kind: Kind, tmp_path: Path) -> None:
    """Tools that clear caches go by it."""
    layout = kind.at(tmp_path / "models")
    fill(layout, manifest_of())
    file = layout.content(manifest_of().files[0])
    os.utime(file, (EPOCH + 7, EPOCH + 8))
    layout.publish(manifest_of(), MAIN, full=True)
    assert (file.stat().st_atime, file.stat().st_mtime) == (EPOCH + 7, EPOCH)


# Others who have just finished in the same cache


def test_a_folder_for_staged_files_that_is_taken_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, calls = tmp_path / "staging", 0
    staging.mkdir()
    real = os.open

    def after_it_is_gone(path: str, *arguments: int, **options: int) -> int:
        nonlocal calls
        if Path(path).parent == staging and calls == 0:
            calls += 1
            staging.rmdir()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", after_it_is_gone)
    with replacing(tmp_path / "file", staging=staging) as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    calls = 0
    descriptor, path, _ = acquired(staging / ".partial-x")
    os.close(descriptor)
    assert path.exists()
