"""A plain folder: what people, git and Docker see, and what we never touch."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_modelcache.errors import AccessDenied, ConfigError, IntegrityError, UnsafePath
from ci_modelcache.layouts.inside import inside
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef
from tests.parts.snapshots import COMMIT, CONTENTS, REPO, entry, fill, manifest_of
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.layouts.protocol import Layout

MAIN = ModelRef(REPO)
EPOCH = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def layout(root: Path) -> PlainLayout:
    return PlainLayout(root)


@pytest.fixture
def published(layout: PlainLayout) -> PlainLayout:
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    return layout


@pytest.fixture
def private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_layout_is_a_layout(layout: PlainLayout, root: Path) -> None:
    as_protocol: Layout = layout
    assert not as_protocol.linkable
    assert as_protocol.snapshot_path(COMMIT) == root


def test_the_files_are_at_their_paths_and_nothing_else_is(layout: PlainLayout, root: Path) -> None:
    """The folder may become a layer of an image: no lock, no marker, no empty folder of ours stays."""
    fill(layout, manifest_of())
    assert layout.publish(manifest_of(), MAIN, full=True) == root
    assert files_below(root) == CONTENTS
    folders = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()}
    assert folders == {"onnx", "onnx/quantised"}


@pytest.mark.usefixtures("private_umask")
def test_the_umask_does_not_decide_who_may_read(tmp_path: Path) -> None:
    """An image is often built by root and run by somebody else."""
    root = tmp_path / "new" / "folder" / "model"
    layout = PlainLayout(root)
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    folders = (root, root / "onnx", root / "onnx/quantised", root.parent, root.parent.parent)
    assert {mode_of(folder) for folder in folders} == {0o755}
    assert {path: mode_of(root / path) for path in CONTENTS} == {
        path: 0o755 if path.endswith(".sh") else 0o644 for path in CONTENTS
    }


def test_a_root_that_was_there_keeps_its_mode(root: Path) -> None:
    """Somebody made it private on purpose."""
    root.mkdir(mode=0o700)
    layout = PlainLayout(root)
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    assert mode_of(root) == 0o700


def test_files_that_were_there_get_the_right_mode(published: PlainLayout, root: Path) -> None:
    (root / "config.json").chmod(0o600)
    (root / "onnx/quantised/run.sh").chmod(0o600)
    published.publish(manifest_of(), MAIN, full=True)
    assert mode_of(root / "config.json") == 0o644
    assert mode_of(root / "onnx/quantised/run.sh") == 0o755


def test_normalised_times_are_the_same_everywhere(root: Path) -> None:
    layout = PlainLayout(root, normalize_mtime=EPOCH)
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    assert {path.stat().st_mtime for path in (root, *root.rglob("*"))} == {EPOCH}
    (root / "onnx/stale.bin").write_bytes(b"old")
    layout.prune(layout.extra(manifest_of()))
    assert {path.stat().st_mtime for path in (root, *root.rglob("*"))} == {EPOCH}


def test_other_names_of_a_file_keep_their_mode_and_time(published: PlainLayout, root: Path, tmp_path: Path) -> None:
    """A hard link shares both with files that are not ours."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(CONTENTS["config.json"])
    theirs.chmod(0o444)
    os.utime(theirs, (1, 1))
    (root / "config.json").unlink()
    (root / "config.json").hardlink_to(theirs)
    published.publish(manifest_of(), MAIN, full=True)
    assert mode_of(root / "config.json") == 0o644
    assert (mode_of(theirs), theirs.stat().st_mtime) == (0o444, 1)
    assert theirs.read_bytes() == (root / "config.json").read_bytes()


def test_publishing_again_changes_nothing(published: PlainLayout, root: Path) -> None:
    def everything() -> dict[Path, int]:
        return {path: path.stat().st_ctime_ns for path in root.rglob("*") if path.is_file()}

    before = everything()
    published.publish(manifest_of(), MAIN, full=True)
    assert everything() == before


def test_a_second_restore_at_work_keeps_its_staged_files(published: PlainLayout) -> None:
    """Its folder goes when the last of them is done."""
    published.staging.mkdir()
    busy = published.staging / "busy"
    busy.write_bytes(b"")
    published.publish(manifest_of(), MAIN, full=True)
    assert busy.exists()


def test_a_content_that_vanished_before_publishing_is_an_error(layout: PlainLayout, root: Path) -> None:
    fill(layout, manifest_of())
    (root / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"config.json was complete with 23 bytes, and is missing now"):
        layout.publish(manifest_of(), MAIN, full=True)


def test_a_destination_that_may_not_be_written_says_so(published: PlainLayout, root: Path) -> None:
    (root / "config.json").chmod(0o600)
    (root / "onnx/extra").write_bytes(b"")
    with (
        unprivileged(root / "onnx"),
        pytest.raises(AccessDenied, match=r"cannot use .*model/onnx/extra: Permission denied") as raised,
    ):
        published.prune(published.extra(manifest_of()))
    assert raised.value.hint == "run as the user who owns it, or choose another destination"
    with unprivileged(root / "onnx", mode=0), pytest.raises(AccessDenied, match=r"cannot use .*onnx"):
        published.content(entry("onnx/model.onnx", b""))


@pytest.mark.usefixtures("published")
def test_a_complete_folder_of_another_user_is_complete_and_what_it_cannot_be_given_is_one_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two jobs of two users share a folder: nothing is to be written, so there is nothing to refuse."""
    (root / "config.json").chmod(0o444)
    os.link(root / "onnx/model.onnx", root.parent / "linked")
    for path in (root, *root.rglob("*")):
        os.chown(path, 12345, 12345)
    with unprivileged():
        PlainLayout(root).publish(manifest_of(), MAIN, full=True)
        assert len(caplog.messages) == 1
        assert "mode, owner or mtime of 1 paths" in caplog.messages[0]
        assert "config.json: Operation not permitted" in caplog.messages[0]
        PlainLayout(root, normalize_mtime=EPOCH).publish(manifest_of(), MAIN, full=True)
    assert len(caplog.messages) == 2
    assert mode_of(root / "config.json") == 0o444
    assert files_below(root) == CONTENTS


# Attacks and accidents


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a/../../evil", "a//b", "", "a\\..\\b", "C:/x", ".git/hooks/x"]
)
def test_a_path_that_leaves_the_root_is_refused(root: Path, path: str) -> None:
    """The zip-slip of model repositories."""
    with pytest.raises(UnsafePath):
        inside(root, path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(st.sampled_from("ab./\\:~\0 é"), max_size=12))
def test_whatever_path_is_accepted_is_below_the_root(tmp_path: Path, path: str) -> None:
    try:
        target = inside(tmp_path, path)
    except UnsafePath:
        return
    assert Path(os.path.normpath(target)) == target
    assert target.is_relative_to(tmp_path)
    assert target != tmp_path


@pytest.mark.parametrize("where", ["elsewhere", "inside"])
def test_a_linked_folder_at_the_destination_is_refused(
    published: PlainLayout, root: Path, tmp_path: Path, where: str
) -> None:
    """A cached or unpacked destination can hold ``onnx -> /etc``, and two paths of ours could become one by it."""
    goal = {"elsewhere": tmp_path / "elsewhere", "inside": root / "other"}[where]
    goal.mkdir()
    (root / "onnx").rename(tmp_path / "away")
    (root / "onnx").symlink_to(goal)
    with pytest.raises(
        UnsafePath, match=r"onnx is a symbolic link to .*: onnx/model.onnx would be written there"
    ) as raised:
        fill(published, manifest_of())
    assert raised.value.hint == "remove the link, or use an empty folder as the destination"
    assert not list(goal.iterdir())


def test_a_root_that_is_a_link_is_the_users_choice(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "big-disk")
    layout = PlainLayout(tmp_path / "model")
    fill(layout, manifest_of())
    layout.publish(manifest_of(), MAIN, full=True)
    assert files_below(tmp_path / "big-disk") == CONTENTS


def test_a_linked_file_at_the_destination_is_replaced_and_not_written_through(
    published: PlainLayout, root: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (root / "config.json").unlink()
    (root / "config.json").symlink_to(precious)
    with pytest.raises(IntegrityError, match="is no regular file now"):
        published.publish(manifest_of(), MAIN, full=True)
    fill(published, manifest_of())
    published.publish(manifest_of(), MAIN, full=True)
    assert not (root / "config.json").is_symlink()
    assert precious.read_bytes() == b"precious"


def test_a_folder_where_a_file_must_go_is_named_and_kept(layout: PlainLayout, root: Path) -> None:
    (root / "config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config.json is a folder, and a file must go there") as raised:
        layout.content(entry("config.json", b""))
    assert raised.value.hint == "remove the folder, or use an empty folder as the destination"
    assert (root / "config.json").is_dir()


def test_a_file_where_a_folder_must_go_is_named_and_kept(layout: PlainLayout, root: Path) -> None:
    root.mkdir()
    (root / "onnx").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"onnx is a file, and onnx/model.onnx needs a folder there") as raised:
        layout.content(entry("onnx/model.onnx", b""))
    assert raised.value.hint == "remove the file, or use an empty folder as the destination"
    assert (root / "onnx").read_bytes() == b"mine"


# Extra files


def test_extra_files_are_listed_sorted_without_what_belongs_to_others(
    published: PlainLayout, root: Path, tmp_path: Path
) -> None:
    for path in (
        "zz.txt",
        "onnx/old.onnx",
        "a/b/c.txt",
        ".git/config",
        ".cache/huggingface/download/x.lock",
        ".cache/y",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    published.staging.mkdir()
    (published.staging / ".landing-x").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"")
    (root / "linked").symlink_to(tmp_path / "outside")
    expected = (".cache/y", "a/b/c.txt", "linked", "onnx/old.onnx", "zz.txt")
    assert [str(path.relative_to(root)) for path in published.extra(manifest_of())] == list(expected)


def test_a_destination_that_is_not_there_has_no_extra_files(layout: PlainLayout) -> None:
    assert layout.extra(manifest_of()) == ()


def test_pruning_removes_the_files_then_the_folders_that_are_empty_without_them(
    published: PlainLayout, root: Path, tmp_path: Path
) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c.txt").write_bytes(b"")
    (root / "a/d.txt").write_bytes(b"")
    (root / "empty").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"")
    (root / "linked").symlink_to(tmp_path / "outside")
    published.prune(published.extra(manifest_of()))
    assert files_below(root) == CONTENTS
    assert not (root / "a").exists()
    assert (root / "empty").is_dir()
    assert (tmp_path / "outside/file").exists()


def test_pruning_again_what_somebody_else_has_pruned_is_fine(published: PlainLayout, root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c.txt").write_bytes(b"")
    extra = published.extra(manifest_of())
    published.prune(extra)
    published.prune(extra)
    assert files_below(root) == CONTENTS


def test_pruning_an_empty_snapshot_leaves_the_root(layout: PlainLayout, root: Path) -> None:
    layout.publish(manifest_of({}), MAIN, full=True)
    (root / "left").write_bytes(b"")
    layout.prune(layout.extra(manifest_of({})))
    assert list(root.iterdir()) == []


def test_pruning_never_leaves_the_root(published: PlainLayout, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    victim = tmp_path / "outside/file"
    victim.write_bytes(b"")
    (root / "linked").symlink_to(tmp_path / "outside")
    for path in (victim, root / "../outside/file", root / "linked/file"):
        with pytest.raises(UnsafePath, match="so it is left alone"):
            published.prune([path])
    assert victim.exists()
