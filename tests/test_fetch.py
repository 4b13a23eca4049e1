"""`fetch`: fills the store, moves it forward, resumes, and believes bytes rather than records."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat

import pytest

from ci_modelcache.errors import AccessDenied, DigestMismatch, FileNotFound, SnapshotNotFound, Unavailable
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprinter
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.transfer.partial import Partial
from ci_modelcache.verbs.fetch import fetch
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import Flipped, ResetAtShare, Status, api, naming
from tests.parts.stores import Failing, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import REPO, Bench, files_in, flipped, pinned, swap

SIZE = sum(map(len, TINY.values()))
LFS = [data for path, data in TINY.items() if path.endswith((".safetensors", ".onnx"))]


def test_a_miss_fills_the_store_and_the_second_time_only_the_branch_is_asked_for(bench: Bench) -> None:
    report = bench.fetch()
    assert (report.result, report.source, report.files, report.size) == ("miss", bench.hub.url, len(TINY), SIZE)
    assert report.bytes_downloaded == bench.hub.sent == SIZE
    bench.ledger.check()
    bench.check_invariants()
    bench.hub.forget()
    again = bench.fetch()
    assert (again.result, again.bytes_downloaded, again.source) == ("hit", 0, str(bench.disk.root))
    assert (again.manifest, again.digest) == (report.manifest, report.digest)
    assert len(bench.hub.requests()) == 1
    bench.hub.forget()
    assert bench.fetch(pinned(bench)).result == "hit"
    assert bench.hub.requests() == []
    assert not (bench.folder / "model").exists()


def test_fetch_moves_the_store_forward_however_fresh_it_is(bench: Bench) -> None:
    bench.fetch()
    bench.repository.commit({**TINY, "config.json": b"{}"})
    bench.hub.forget()
    report = bench.fetch()
    assert report.commit == bench.commit
    assert bench.hub.sent == report.bytes_downloaded < len(WEIGHTS)
    assert bench.restore(upstream=bench.offline).commit == bench.commit


def test_an_old_word_about_a_branch_is_not_taken_for_a_new_one(bench: Bench) -> None:
    """A nightly job that says "up to date" because the Hub is down would let the store grow old in silence."""
    bench.fetch()
    bench.hub.faults.append(Status(when=api))
    with pytest.raises(Unavailable):
        bench.fetch()
    with pytest.raises(SnapshotNotFound):
        bench.fetch(upstream=bench.offline)


def test_what_an_interrupted_fetch_stored_is_not_downloaded_again(bench: Bench) -> None:
    bench.hub.faults.append(Flipped(at=0, when=naming("config.json")))
    with pytest.raises(DigestMismatch):
        bench.fetch()
    assert all(bench.blob(data).exists() for data in LFS)
    assert not (bench.disk.root / "refs").exists()
    bench.check_invariants()
    bench.hub.faults.clear()
    bench.hub.forget()
    report = bench.fetch()
    assert report.bytes_downloaded == bench.hub.sent == len(TINY["config.json"])
    bench.ledger.check()
    assert files_in_offline(bench) == TINY


def test_a_file_becomes_a_blob_of_a_store_on_this_disk_without_being_written_twice(bench: Bench) -> None:
    """What an earlier run received, all of it here, is the very inode of the blob, and nobody is asked for it."""
    (data, *_) = LFS
    name = hashlib.sha256(data).hexdigest()
    with Partial.opened(bench.step().state / "partial", name, len(data)) as partial:
        with partial.writing(0, "http://earlier.example") as pen:
            pen.write(data)
        inode = partial.path.stat().st_ino
    report = bench.fetch()
    assert bench.blob(data).stat().st_ino == inode
    assert stat.S_IMODE(bench.blob(data).stat().st_mode) == 0o444
    assert report.bytes_downloaded == SIZE - len(data)
    assert report.mirrors["http://earlier.example"] == len(data)
    assert list((bench.step().state / "partial").iterdir()) == []
    bench.check_invariants()


def test_what_finds_no_room_in_the_state_folder_goes_through_without_being_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner with a small disk fills a bucket with a large model; cuts are gone on from, wrong bytes fetched again."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(10**9, 10**9, 100))
    bench.hub.faults += [
        ResetAtShare(share=0.5, when=naming("/cdn/"), times=1),
        Flipped(at=7, when=naming(hashlib.sha256(LFS[1]).hexdigest()), times=1),
    ]
    report = bench.fetch()
    assert (report.result, report.bytes_downloaded) == ("miss", SIZE)
    assert list((bench.step().state / "partial").iterdir()) == []
    bench.ledger.check()
    bench.check_invariants()
    monkeypatch.undo()
    assert files_in_offline(bench) == TINY


def files_in_offline(bench: Bench) -> dict[str, bytes]:
    bench.restore(upstream=bench.offline)
    return files_in(bench.folder / "model")


def test_a_blob_that_vanished_is_fetched_again_alone(bench: Bench) -> None:
    bench.fetch()
    bench.blob(WEIGHTS).unlink()
    bench.hub.forget()
    report = bench.fetch()
    assert report.result == "miss"
    assert [seen.target for seen in bench.hub.requests() if "/cdn/" in seen.target and WEIGHTS] != []
    assert bench.hub.sent == SIZE - len(WEIGHTS)  # the weights and the small files; the other LFS file is there
    assert files_in_offline(bench) == TINY


def test_a_leaf_list_is_made_of_proven_bytes_and_never_taken_from_a_record(bench: Bench) -> None:
    large = os.urandom(LEAF_SIZE + 100)
    bench.repository.commit({"large.bin": large})
    honest = bench.fetch(pinned(bench))
    hasher = Fingerprinter(len(large), git=False)
    hasher.update(large)
    leaf_list = hasher.finish().leaf_list
    assert leaf_list is not None

    bench.ref_file().unlink()
    (listed,) = (path for path in (bench.disk.root / "leaves").rglob("*") if path.is_file())
    swap(listed, Digest.of(b"lie").hex.encode() + b"\n" + leaf_list[65:])
    bench.hub.forget()
    report = bench.fetch(pinned(bench))
    assert report.manifest == honest.manifest
    assert listed.read_bytes() == leaf_list
    assert bench.hub.sent == 0
    bench.ledger.check()
    bench.check_invariants()


def test_a_large_blob_that_is_wrong_in_the_store_is_fetched_again(bench: Bench) -> None:
    large = os.urandom(LEAF_SIZE + 100)
    bench.repository.commit({"large.bin": large})
    bench.fetch(pinned(bench))
    bench.ref_file().unlink()
    swap(bench.blob(large), flipped(large))
    report = bench.fetch(pinned(bench))
    assert report.bytes_downloaded == len(large)
    assert bench.blob(large).read_bytes() == large
    bench.ledger.check()


def test_a_selection_is_stored_beside_the_whole(bench: Bench) -> None:
    some = Selection(include=("*.json",))
    part = bench.fetch(selection=some)
    assert (part.selection, part.files) == (some.id, 1)
    whole = bench.fetch()
    assert (whole.selection, whole.result, whole.files) == ("all", "miss", len(TINY))
    with pytest.raises(FileNotFound):
        bench.fetch(selection=Selection(include=("nothing",)))


def test_a_store_that_refuses_fails_the_fetch(bench: Bench) -> None:
    bench.store = Failing(bench.disk, lambda: AccessDenied("denied"), touching("", "write"))
    with pytest.raises(AccessDenied):
        bench.fetch()


def test_more_small_files_than_go_at_once(bench: Bench) -> None:
    many = {f"{number:03}.txt": str(number % 90).encode() for number in range(200)}
    bench.hub.add_repo(REPO, {"main": many})
    report = bench.fetch()
    assert report.bytes_downloaded == sum(len(str(number)) for number in range(90))
    bench.ledger.check()
    assert files_in_offline(bench) == many


def test_a_small_file_too_large_for_memory_goes_by_the_state_folder_and_leaves_nothing_there(bench: Bench) -> None:
    large = os.urandom(3 << 20)
    bench.hub.add_repo(REPO, {"main": {"vocab.txt": large}})
    bench.fetch()
    bench.ledger.check()
    assert [path for path in (bench.folder / "state").rglob("*") if path.is_file()] == []
    assert files_in_offline(bench) == {"vocab.txt": large}


def test_a_state_folder_that_may_not_be_written_is_told_with_the_way_out(bench: Bench) -> None:
    (bench.folder / "locked").mkdir()
    step = bench.step(state="locked/state")
    with unprivileged(bench.folder / "locked"), pytest.raises(AccessDenied, match="state folder") as caught:
        fetch(ModelRef(REPO), selection=Selection(), cache=bench.cache(), upstream=bench.upstream(), step=step)
    assert "CI_MODELCACHE_STATE" in str(caught.value.hint)
    bench.ledger.check(complete=False)
