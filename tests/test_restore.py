"""What `restore` does when nothing is broken: from where bytes come, how many, and what the report says of it."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import ConfigError, FileNotFound, RevisionNotFound, SnapshotNotFound
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import LEAF_SIZE
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.empty import EmptyStore
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.verbs import ingest as ingest_module
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import Status, api
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, login
from tests.parts.verbs import REPO, files_in, pinned, spoil, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.stores.protocol import Store
    from tests.parts.servers import S3Server
    from tests.parts.verbs import Bench

SIZE = sum(map(len, TINY.values()))
HOUR = 3600


@pytest.fixture(params=["plain", "hub cache"])
def layout(request: pytest.FixtureRequest, bench: Bench) -> Layout:
    """Each layout in turn."""
    return bench.plain() if request.param == "plain" else bench.hub_cache()


@pytest.fixture(params=["disk", "elsewhere"])
def placed(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A bench whose store is a folder of this disk, or seems to be elsewhere."""
    if request.param == "elsewhere":
        bench.remotely()
    return bench


def snapshot(layout: Layout, commit: str) -> dict[str, bytes]:
    return files_in(layout.snapshot_path(commit))


def test_a_miss_is_fetched_verified_and_saved_and_then_it_is_a_hit_without_the_hub(
    placed: Bench, layout: Layout, tmp_path: Path
) -> None:
    report = placed.restore(layout=layout)
    assert (report.result, report.anchor, report.saved, report.warnings) == ("miss", "authority", True, ())
    assert (report.files, report.size, report.files_restored) == (len(TINY), SIZE, len(TINY))
    assert report.bytes_downloaded == SIZE
    assert report.bytes_downloaded == placed.hub.sent
    assert snapshot(layout, placed.commit) == TINY
    placed.ledger.check()
    placed.check_invariants()

    placed.hub.forget()
    other = type(layout)(tmp_path / "again", REPO) if isinstance(layout, HubCacheLayout) else placed.plain("again")
    again = placed.restore(layout=other)
    assert (again.result, again.anchor, again.source) == ("hit", "store", str(tmp_path / "store"))
    assert placed.hub.requests() == []
    assert snapshot(other, placed.commit) == TINY
    assert again.files_restored == len(TINY)
    assert (again.digest, again.manifest) == (report.digest, report.manifest)
    placed.ledger.check()


def test_bytes_of_a_hit_are_told_by_how_they_came(bench: Bench) -> None:
    bench.fetch()
    linked = bench.restore(layout=bench.hub_cache())
    assert (linked.bytes_linked, linked.bytes_copied, linked.bytes_downloaded) == (SIZE, 0, 0)
    copied = bench.restore(layout=bench.plain())
    assert copied.bytes_linked + copied.bytes_copied == SIZE  # a disk with clones clones
    assert copied.bytes_downloaded == 0
    bench.remotely()
    downloaded = bench.restore(layout=bench.plain("elsewhere"))
    assert (downloaded.bytes_linked, downloaded.bytes_copied, downloaded.bytes_downloaded) == (0, 0, SIZE)


def test_what_is_complete_here_needs_no_blob_and_for_a_commit_nobody_at_all(bench: Bench, layout: Layout) -> None:
    bench.restore(pinned(bench), layout)
    store = bench.remotely()
    bench.hub.forget()
    report = bench.restore(pinned(bench), layout)
    assert (report.result, report.anchor, report.source) == ("local", "local", str(layout.root))
    assert (report.files_restored, report.bytes_downloaded) == (0, 0)
    assert store.operations == []
    assert bench.hub.requests() == []
    by_branch = bench.restore(REPO, layout)
    assert by_branch.result == "local"
    assert store.keys("read", "blobs/") == store.keys("stat", "blobs/") == []


def test_a_branch_that_the_store_saw_lately_is_believed_and_later_the_hub_is_asked_once(bench: Bench) -> None:
    bench.restore()
    bench.hub.forget()
    bench.time += HOUR - 1
    assert bench.restore(layout=bench.plain("fresh")).stale is False
    assert bench.hub.requests() == []
    bench.time += 2
    assert bench.restore(layout=bench.plain("late")).stale is False
    assert len(bench.hub.requests()) == 1
    bench.hub.forget()
    bench.restore(layout=bench.plain("seen again"))
    assert bench.hub.requests() == []


def test_a_destination_that_is_complete_tells_the_store_too_what_the_branch_means_now(bench: Bench) -> None:
    bench.restore()
    bench.time += HOUR + 1
    bench.hub.forget()
    results = [bench.restore().result for _ in range(3)]
    assert results == ["local"] * 3
    assert len(bench.hub.requests()) == 1


def test_more_files_than_a_manifest_can_name_are_refused_before_a_byte_moves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "MAX_FILES", len(TINY) - 1)
    with pytest.raises(ConfigError, match=f"has {len(TINY)} files, and a snapshot has at most") as raised:
        bench.restore()
    assert "--include" in str(raised.value.hint)
    assert bench.hub.sent == 0


def test_a_branch_that_moved_is_restored_in_its_new_state_once_the_store_is_too_old(bench: Bench) -> None:
    bench.restore()
    bench.repository.commit({**TINY, "config.json": b"{}\n"})
    assert (bench.folder / "model/config.json").read_bytes() == TINY["config.json"]
    bench.time += HOUR + 1
    report = bench.restore()
    assert report.commit == bench.commit
    assert report.replaced == ("config.json",)
    assert files_in(bench.folder / "model") == {**TINY, "config.json": b"{}\n"}


def test_a_large_file_that_stayed_the_same_in_the_next_commit_is_taken_from_the_store(placed: Bench) -> None:
    placed.restore()
    placed.repository.commit({**TINY, "config.json": b"{}\n"})
    placed.hub.forget()
    report = placed.restore(pinned(placed), placed.plain("next"))
    assert report.result == "miss"
    assert [seen for seen in placed.hub.requests() if "/cdn/" in seen.target] == []
    assert placed.hub.sent < len(WEIGHTS)
    placed.check_invariants()


def test_when_the_hub_is_down_the_branch_is_what_the_store_saw_last_and_the_report_says_so(bench: Bench) -> None:
    bench.restore()
    bench.time += 30 * HOUR
    bench.hub.faults.append(Status(when=api))
    report = bench.restore(layout=bench.plain("again"))
    assert (report.result, report.stale) == ("hit", True)


def test_a_revision_that_the_hub_denies_is_a_miss_although_the_store_knew_it(bench: Bench) -> None:
    bench.restore(f"{REPO}@v1.0")
    del bench.repository.tags["v1.0"]
    bench.time += 2 * HOUR
    with pytest.raises(RevisionNotFound):
        bench.restore(f"{REPO}@v1.0")


def test_offline_is_offline(bench: Bench, layout: Layout) -> None:
    with pytest.raises(SnapshotNotFound, match=r"not in the store, and .* may not be asked: --offline") as caught:
        bench.restore(layout=layout, upstream=bench.offline)
    assert caught.value.exit_code == 10
    assert caught.value.hint is not None
    bench.fetch()
    bench.hub.forget()
    bench.time += 100 * HOUR
    report = bench.restore(layout=layout, upstream=bench.offline)
    assert (report.result, report.stale) == ("hit", True)
    assert bench.hub.requests() == []


def test_fail_on_miss_fetches_nothing(placed: Bench) -> None:
    with pytest.raises(SnapshotNotFound, match="--fail-on-miss is set") as caught:
        placed.restore(fail_on_miss=True)
    assert caught.value.exit_code == 10
    assert placed.hub.sent == 0
    assert files_in(placed.folder / "model") == {}
    placed.fetch()
    assert placed.restore(fail_on_miss=True).result == "hit"


def test_without_a_store_it_restores_and_saves_nothing(bench: Bench, layout: Layout) -> None:
    bench.store = EmptyStore()
    report = bench.restore(layout=layout, save=False)
    assert (report.result, report.saved, report.warnings) == ("miss", False, ())
    assert snapshot(layout, bench.commit) == TINY
    assert list(bench.disk.scan("")) == []
    bench.ledger.check()


def test_mode_read_takes_from_the_store_and_puts_nothing_into_it(placed: Bench) -> None:
    report = placed.restore(save=False)
    assert (report.result, report.saved) == ("miss", False)
    assert files_in(placed.folder / "model") == TINY
    assert list(placed.disk.scan("")) == []


def s3(server: S3Server, prefix: str, bench: Bench) -> Store:
    return S3Store(BUCKET, prefix, endpoint_url=server.endpoint, region=REGION, retry=bench.retry())


def test_a_store_that_only_reads_gives_a_warning_and_the_files(
    bench: Bench, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch, READER)
    bench.store = s3(seaweedfs_server, "read-only", bench)
    report = bench.restore()
    assert (report.result, report.saved) == ("miss", False)
    assert any("restored but not saved" in warning for warning in report.warnings)
    assert ADMIN[1] not in str(report)
    assert READER[1] not in str(report)
    assert files_in(bench.folder / "model") == TINY
    bench.ledger.check(complete=False)


def test_s3_is_filled_by_a_miss_and_gives_a_hit(
    bench: Bench, layout: Layout, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    large = os.urandom(LEAF_SIZE + 1)
    bench.repository.commit({**TINY, "large.safetensors": large})
    bench.store = s3(seaweedfs_server, f"round-trip-{type(layout).__name__}", bench)
    missed = bench.restore(layout=layout)
    assert (missed.result, missed.saved, missed.warnings) == ("miss", True, ())
    bench.hub.forget()
    hit = bench.restore(layout=bench.plain("hit"))
    assert (hit.result, hit.bytes_downloaded) == ("hit", SIZE + len(large))
    assert bench.hub.requests() == []
    assert files_in(bench.folder / "hit") == {**TINY, "large.safetensors": large}
    assert [entry.leaves is not None for entry in bench.cache().manifest(next(bench.cache().snapshots())).files] == [
        size > LEAF_SIZE
        for _, size in sorted((path, len(data)) for path, data in ({**TINY, "large.safetensors": large}).items())
    ]


def test_a_file_of_several_leaves_gets_the_same_manifest_by_every_way(bench: Bench) -> None:
    """Into a store of this disk, to a store elsewhere, and to one elsewhere from files that were in place before."""
    large = os.urandom(2 * LEAF_SIZE + 5)
    bench.repository.commit({"large.bin": large})
    on_disk = bench.restore(pinned(bench), bench.plain("disk"))
    for path in list(bench.disk.root.iterdir()):
        path.rename(bench.folder / f"old-{path.name}")
    bench.remotely()
    elsewhere = bench.restore(pinned(bench), bench.plain("elsewhere"))
    for path in list(bench.disk.root.iterdir()):
        path.rename(bench.folder / f"older-{path.name}")
    bench.hub.forget()
    in_place = bench.restore(pinned(bench), bench.plain("elsewhere"), step=bench.step(state="new"))
    assert (in_place.result, in_place.bytes_downloaded, bench.hub.sent) == ("miss", 0, 0)
    assert on_disk.manifest == elsewhere.manifest == in_place.manifest
    bench.check_invariants()


def test_a_selection_is_its_own_snapshot_and_says_of_itself_that_it_is_not_all(bench: Bench) -> None:
    some = Selection(include=("*.json", "onnx/"), exclude=("*.txt",))
    report = bench.restore(layout=bench.hub_cache(), selection=some)
    assert report.selection == some.id
    snapshot_folder = bench.hub_cache().snapshot_path(bench.commit)
    assert sorted(files_in(snapshot_folder)) == ["config.json", "onnx/model.onnx"]
    assert not (bench.hub_cache().root / "trees").exists()
    assert bench.ref_file().name == f"{some.id}.json"
    full = bench.restore(layout=bench.hub_cache())
    assert full.result == "miss"
    assert files_in(snapshot_folder) == TINY
    tree = json.loads((bench.hub_cache().root / f"trees/{bench.commit}.json").read_text())
    assert sorted(tree["files"]) == sorted(TINY)


def test_a_part_of_a_snapshot_that_is_stored_in_full_is_a_hit_without_the_hub(bench: Bench) -> None:
    bench.restore(layout=bench.plain("full"))
    bench.hub.forget()
    some = Selection(include=("*.json",))
    report = bench.restore(layout=bench.plain("part"), selection=some)
    assert (report.result, report.selection, report.files) == ("hit", some.id, 1)
    assert files_in(bench.plain("part").root) == {"config.json": TINY["config.json"]}
    assert bench.hub.requests() == []


def test_a_selection_of_nothing_is_a_miss_that_says_why(bench: Bench) -> None:
    with pytest.raises(FileNotFound, match="--include"):
        bench.restore(selection=Selection(include=("*.gguf",)))


@pytest.mark.parametrize("type_", [RepoType.DATASET, RepoType.SPACE])
def test_datasets_and_spaces_are_not_models(bench: Bench, type_: RepoType) -> None:
    other = bench.hub.add_repo(REPO, {"main": {"data.bin": b"data"}}, type=type_)
    ref = ModelRef(REPO, type=type_)
    report = bench.restore(ref, bench.hub_cache(ref=ref))
    assert report.ref == f"{type_}:{REPO}@main"
    assert report.commit == other.branches["main"]
    assert bench.hub_cache(ref=ref).root.name == f"{type_}s--acme--tiny"
    assert bench.restore(ref, bench.hub_cache("again", ref=ref), upstream=bench.offline).result == "hit"


def test_a_repository_without_an_organisation(bench: Bench, layout: Layout) -> None:
    bench.hub.add_repo("gpt0", {"main": {"config.json": b"{}"}})
    target = HubCacheLayout(bench.folder / "hf", "gpt0") if isinstance(layout, HubCacheLayout) else layout
    bench.restore("gpt0", target)
    report = bench.restore("gpt0", bench.plain("again"), upstream=bench.offline)
    assert report.result == "hit"
    assert files_in(bench.folder / "again") == {"config.json": b"{}"}


def test_equal_files_come_once_and_stand_twice(placed: Bench, layout: Layout) -> None:
    twins = {"a.safetensors": WEIGHTS, "sub/b.safetensors": WEIGHTS, "c.txt": b"same", "d.txt": b"same"}
    placed.hub.add_repo(REPO, {"main": twins})
    report = placed.restore(layout=layout)
    assert snapshot(layout, placed.commit) == twins
    placed.ledger.check()
    once = len(WEIGHTS) + len(b"same")
    if placed.store is placed.disk or isinstance(layout, HubCacheLayout):
        assert report.bytes_downloaded == placed.hub.sent == once
    else:
        assert report.bytes_downloaded == placed.hub.sent == 2 * once  # two places, each proven by its own bytes


def test_executable_bits_of_what_was_saved_come_back(placed: Bench) -> None:
    source = write_files(placed.folder / "source", {"run.sh": b"#!/bin/sh\n", "config.json": b"{}"})
    (source / "run.sh").chmod(0o755)
    placed.save(source)
    placed.restore("acme/saved@v1", upstream=placed.offline)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (placed.folder / "model").iterdir()}
    assert modes == {"run.sh": 0o755, "config.json": 0o644}


def test_a_second_run_skips_what_is_finished_and_repairs_what_is_not_alone(placed: Bench, layout: Layout) -> None:
    placed.restore(layout=layout)
    folder = layout.snapshot_path(placed.commit)
    store = placed.remotely()
    truncated = folder / "onnx/model.onnx"
    (folder / "README.md").resolve().unlink()
    real = truncated.resolve()
    real.unlink()
    real.write_bytes(TINY["onnx/model.onnx"][:-1])
    placed.hub.forget()
    report = placed.restore(layout=layout)
    assert snapshot(layout, placed.commit) == TINY
    assert report.result == "hit"
    assert report.replaced == ("onnx/model.onnx",)
    assert report.bytes_downloaded == len(TINY["README.md"]) + len(TINY["onnx/model.onnx"])
    assert len(store.keys("read", "blobs/")) == 2
    assert placed.hub.requests() == []


def test_a_file_altered_in_place_is_seen_although_size_and_mtime_are_as_before(bench: Bench) -> None:
    bench.restore()
    spoil(bench.folder / "model/model.safetensors", at=1000)
    store = bench.remotely()
    report = bench.restore()
    assert report.replaced == ("model.safetensors",)
    assert report.bytes_downloaded == len(WEIGHTS)
    assert len(store.keys("read", "blobs/")) == 1
    assert files_in(bench.folder / "model") == TINY


def test_a_link_in_place_of_a_file_is_replaced_and_its_target_left_alone(placed: Bench) -> None:
    outside = write_files(placed.folder, {"elsewhere": WEIGHTS}) / "elsewhere"
    target = placed.folder / "model/model.safetensors"
    target.parent.mkdir()
    target.symlink_to(outside)
    report = placed.restore()
    assert report.replaced == ("model.safetensors",)
    assert not target.is_symlink()
    assert outside.read_bytes() == WEIGHTS
    assert files_in(placed.folder / "model") == TINY


def test_a_fifo_in_place_of_an_empty_file_hangs_nobody(placed: Bench) -> None:
    (placed.folder / "model").mkdir()
    os.mkfifo(placed.folder / "model/empty.txt")
    placed.restore()
    assert files_in(placed.folder / "model") == TINY


def test_extra_files_are_reported_and_removed_only_when_asked(bench: Bench) -> None:
    extra = write_files(bench.folder / "model", {"old/weights.bin": b"old", "notes.txt": b"mine"})
    report = bench.restore()
    assert report.extra == (str(extra / "notes.txt"), str(extra / "old/weights.bin"))
    assert report.pruned is False
    assert (extra / "notes.txt").read_bytes() == b"mine"
    pruned = bench.restore(prune_extra=True)
    assert (pruned.extra, pruned.pruned) == (report.extra, True)
    assert files_in(bench.folder / "model") == TINY
    assert bench.restore(prune_extra=True).pruned is False


def test_one_destination_is_one_by_whatever_path_it_is_called(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.restore(pinned(bench))
    (bench.folder / "link").symlink_to(bench.folder / "model")
    monkeypatch.chdir(bench.folder)
    from pathlib import Path as Here  # noqa: PLC0415  # the tests import it for types only

    bench.hub.forget()
    for name in ("model", "link", "./model"):
        assert bench.restore(pinned(bench), PlainLayout(Here(name))).result == "local"


def test_the_same_commit_of_another_hub_is_another_snapshot(bench: Bench) -> None:
    """What was proven here by the word of one Hub is not proven by that of another."""
    bench.restore(pinned(bench))
    other = bench.upstream()
    monkey = type("Other", (type(other),), {"host": property(lambda _: "elsewhere.example")})
    other.__class__ = monkey
    report = bench.restore(pinned(bench), upstream=other)
    assert report.result == "miss"


def test_a_hub_cache_on_the_disk_of_the_store_needs_no_room_of_its_own(bench: Bench) -> None:
    bench.fetch()
    bench.restore(layout=bench.hub_cache())
    blob = bench.hub_cache().snapshot_path(bench.commit) / "model.safetensors"
    assert blob.stat().st_ino == bench.blob(WEIGHTS).stat().st_ino


def test_pruning_never_takes_the_store_or_our_notes_with_it(bench: Bench) -> None:
    bench.restore(layout=bench.plain("elsewhere"))
    with pytest.raises(ConfigError, match="--prune-extra would remove"):
        bench.restore(layout=bench.plain("."), prune_extra=True)
    bench.check_invariants()
