"""A tier spares downloads and nothing else: what is in it is proven, what is wrong there is passed over, and its loss costs time."""

from __future__ import annotations

import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache.tier import Tier
from ci_modelcache.errors import NoSpace
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import Digest
from ci_modelcache.verbs import near as near_module
from ci_modelcache.verbs.near import Near
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.users import unprivileged
from tests.parts.verbs import files_in, spoil

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.verbs.restore import RestoreReport
    from tests.parts.verbs import Bench

SIZE = sum(map(len, TINY.values()))


class Scene:
    """A store elsewhere that has the snapshot, and a tier on this disk."""

    def __init__(self, bench: Bench) -> None:
        bench.fetch()
        self.bench = bench
        self.tier = Tier(bench.folder / "tier")
        self.store = bench.remotely()

    def restore(self, name: str, *, linked: bool = False) -> RestoreReport:
        layout = PlainLayout(self.folder(name), normalize_mtime=0)
        report = self.bench.restore(layout=layout, near=Near((self.tier,), linked=linked))
        assert files_in(self.folder(name)) == TINY
        assert list(self.bench.folder.rglob(".landing-*")) == []
        return report

    def read(self) -> int:
        """How many blobs were read from the store since last asked."""
        count = len(self.store.keys("read", "blobs/"))
        self.store.operations.clear()
        return count

    def folder(self, name: str) -> Path:
        return self.bench.folder / name

    def blob(self, data: bytes) -> Path:
        return self.tier.path(Digest.of(data))


@pytest.fixture
def scene(bench: Bench) -> Scene:
    return Scene(bench)


def test_what_was_downloaded_once_is_taken_from_the_tier_the_next_time(scene: Scene) -> None:
    first = scene.restore("one")
    assert (first.bytes_downloaded, first.bytes_from_tier) == (SIZE, 0)
    assert scene.read() == len(TINY) - 1  # one is empty
    again = scene.restore("two")
    assert (again.result, again.bytes_downloaded, again.bytes_from_tier) == ("hit", 0, SIZE)
    assert scene.read() == 0


def test_blobs_of_a_tier_have_the_mode_and_time_of_normalized_files(scene: Scene) -> None:
    scene.restore("one")
    blobs = [path for path in scene.tier.root.rglob("*") if path.is_file()]
    assert {path.name for path in blobs} == {Digest.of(data).hex for data in TINY.values()}
    assert {(stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns) for path in blobs} == {(0o644, 0)}


def test_files_are_names_of_blobs_where_the_user_writes_into_none_of_them(scene: Scene) -> None:
    scene.restore("one", linked=True)
    report = scene.restore("two", linked=True)
    assert report.bytes_linked == report.bytes_from_tier == SIZE
    for path, data in TINY.items():
        inodes = {(scene.folder(name) / path).stat().st_ino for name in ("one", "two")}
        assert inodes == {scene.blob(data).stat().st_ino}, path
    assert {(scene.folder("two") / path).stat().st_mtime_ns for path in TINY} == {0}


def test_files_share_nothing_with_the_tier_where_the_user_may_write(scene: Scene) -> None:
    scene.restore("one")
    scene.restore("two")
    weights = [scene.folder(name) / "model.safetensors" for name in ("one", "two")]
    assert len({path.stat().st_ino for path in (*weights, scene.blob(WEIGHTS))}) == 3


def test_a_file_that_was_edited_where_it_is_linked_is_found_out_and_the_tier_is_mended(scene: Scene) -> None:
    scene.restore("one", linked=True)
    edited = scene.folder("one") / "model.safetensors"
    with edited.open("r+b") as file:
        file.write(b"edited")
    scene.read()
    report = scene.restore("two", linked=True)
    assert report.bytes_downloaded == len(WEIGHTS)
    assert scene.read() == 1
    assert scene.blob(WEIGHTS).read_bytes() == WEIGHTS
    assert scene.restore("three", linked=True).bytes_from_tier == SIZE


@pytest.mark.parametrize("how", ["flipped", "shorter", "longer", "a folder", "a link to nowhere"])
def test_a_blob_that_is_wrong_in_the_tier_comes_from_the_store(scene: Scene, how: str) -> None:
    scene.restore("one")
    blob = scene.blob(WEIGHTS)
    if how == "flipped":
        spoil(blob)
    elif how == "a folder":
        blob.unlink()
        blob.mkdir()
    elif how == "a link to nowhere":
        blob.unlink()
        blob.symlink_to("nowhere")
    else:
        blob.write_bytes(WEIGHTS[:-1] if how == "shorter" else WEIGHTS + b"!")
    scene.read()
    assert scene.restore("two").bytes_downloaded == len(WEIGHTS)
    assert scene.read() == 1


def test_a_tier_that_may_not_be_written_costs_nothing_but_time(scene: Scene) -> None:
    scene.tier.root.mkdir()
    with unprivileged(scene.tier.root, mode=0o555):
        assert scene.restore("one").bytes_downloaded == SIZE
    assert list(scene.tier.root.iterdir()) == []


def test_a_tier_on_a_disk_too_small_keeps_nothing_and_the_restore_succeeds(
    scene: Scene, tmpfs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene.tier = Tier(tmpfs / "tier")
    (tmpfs / "filler").write_bytes(bytes(shutil.disk_usage(tmpfs).free - SIZE // 2))
    assert scene.restore("one").bytes_downloaded == SIZE
    assert not scene.tier.root.exists()
    assert "nothing is kept in the tier" in caplog.text


def test_a_tier_whose_disk_fills_up_in_the_middle_keeps_no_half_blob(
    scene: Scene, tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check before the first byte is a guess: others write to that disk, too."""
    scene.tier = Tier(tmpfs / "tier")
    (tmpfs / "filler").write_bytes(bytes(shutil.disk_usage(tmpfs).free - len(WEIGHTS) // 2))
    monkeypatch.setattr(near_module, "require_space", lambda *_: None)
    assert scene.restore("one").bytes_downloaded == SIZE
    for path in (scene.tier.root / "blobs").rglob("*"):
        assert path.is_dir() or Digest.of(path.read_bytes()).hex == path.name


def test_a_disk_too_small_for_copies_has_room_for_names_of_blobs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.restore("one", linked=True)
    asked: list[int] = []

    def full(_folder: Path, need: int) -> None:
        asked.append(need)
        if need:
            msg = "full"
            raise NoSpace(msg)

    monkeypatch.setattr("ci_modelcache.verbs.placing.require_space", full)
    scene.restore("two", linked=True)
    assert asked == [0]


def test_a_mirror_s_bytes_are_kept_as_the_store_s_are(bench: Bench) -> None:
    tier = Tier(bench.folder / "tier")
    bench.remotely()
    near = Near((tier,))
    assert bench.restore(layout=bench.plain("one"), near=near, save=False).bytes_downloaded == SIZE
    bench.hub.forget()
    again = bench.restore(layout=bench.plain("two"), near=near, save=False)
    assert files_in(bench.folder / "two") == TINY
    lfs = len(WEIGHTS) * 2  # of the other files the Hub says no SHA-256, and only by that a tier can be asked
    assert (again.bytes_from_tier, again.bytes_downloaded) == (lfs, SIZE - lfs)


def test_a_restore_by_force_asks_no_tier_and_replaces_what_it_has(scene: Scene) -> None:
    scene.restore("one")
    layout = PlainLayout(scene.folder("one"))
    report = scene.bench.restore(layout=layout, near=Near((scene.tier,)), force=True)
    assert (report.bytes_from_tier, report.bytes_downloaded) == (0, SIZE)


def test_an_executable_file_is_a_copy_for_a_blob_has_one_mode(bench: Bench) -> None:
    """Two files of the same bytes can differ in it."""
    folder = bench.folder / "source"
    folder.mkdir()
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "same.txt").write_bytes(b"#!/bin/sh\n")
    bench.save(folder)
    bench.remotely()
    tier = Tier(bench.folder / "tier")
    for name in ("one", "two"):
        layout = PlainLayout(bench.folder / name, normalize_mtime=0)
        bench.restore("acme/saved@v1", layout, upstream=bench.offline, near=Near((tier,), linked=True))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (bench.folder / name).iterdir()}
        assert modes == {"run.sh": 0o755, "same.txt": 0o644}
