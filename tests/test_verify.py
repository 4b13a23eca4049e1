"""`verify`: reads everything, believes nothing, and goes on to the end."""

from __future__ import annotations

import gc
import os
import weakref
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.errors import Unavailable
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.verify import VerifyReport, verify
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.stores import Altering, Failing, touching
from tests.parts.verbs import REPO, Bench, flipped, swap

if TYPE_CHECKING:
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId

SIZE = sum(map(len, TINY.values()))


def verified(bench: Bench) -> VerifyReport:
    cache = bench.cache()
    report = verify(tuple(cache.snapshots()), cache=cache, step=bench.step())
    bench.ledger.check(complete=not report.problems)
    return report


def problems(report: VerifyReport) -> list[tuple[str, str]]:
    return sorted((problem.what, problem.kind) for problem in report.problems)


def test_a_store_that_is_right_is_read_once_however_many_snapshots_share_it(bench: Bench) -> None:
    bench.fetch()
    bench.fetch(selection=Selection(include=("*.json", "*.safetensors")))
    report = verified(bench)
    assert (report.snapshots, report.files, report.blobs) == (2, len(TINY) + 2, len(TINY))
    assert (report.bytes_read, report.problems, report.exit_code) == (SIZE, (), 0)


def test_each_snapshot_is_read_and_let_go_before_the_next_one_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fetch()
    for pattern in ("*.json", "*.safetensors"):
        bench.fetch(selection=Selection(include=(pattern,)))
    seen = bench.remotely()
    cache = bench.cache()
    manifests: list[weakref.ref[Manifest]] = []

    def manifest(snapshot: SnapshotId) -> Manifest:
        gc.collect()
        assert [one for one in manifests[:-1] if one() is not None] == []
        found = ModelCache.manifest(cache, snapshot)
        manifests.append(weakref.ref(found))
        return found

    monkeypatch.setattr(cache, "manifest", manifest)
    report = verify(cache.snapshots(), cache=cache, step=bench.step())
    bench.ledger.check()
    assert (report.snapshots, report.bytes_read, len(manifests)) == (3, SIZE, 3)
    kinds = [key.partition("/")[0] for key in seen.keys("read") if key.startswith(("refs/", "blobs/"))]
    assert [kind for kind, _ in groupby(kinds)].count("refs") > 1


def test_wrong_bytes_that_snapshots_share_are_a_problem_of_each_in_their_order(bench: Bench) -> None:
    bench.fetch()
    bench.fetch(selection=Selection(include=("*.json",)))
    bench.fetch(selection=Selection(include=("*.safetensors",)))
    for data in (WEIGHTS, TINY["config.json"]):
        swap(bench.blob(data), flipped(data))
    report = verified(bench)
    cache = bench.cache()
    wanted = [
        (str(snapshot), file.path)
        for snapshot in cache.snapshots()
        for file in cache.manifest(snapshot).files
        if file.path in {"config.json", "model.safetensors"}
    ]
    assert [(problem.snapshot, problem.what) for problem in report.problems] == wanted
    assert len(wanted) == 4
    assert report.bytes_read == SIZE + len(WEIGHTS) + len(TINY["config.json"])


@pytest.mark.parametrize(("damage", "kind"), [("altered", "wrong"), ("truncated", "wrong"), ("deleted", "missing")])
def test_every_damage_is_found_and_the_rest_still_looked_at(bench: Bench, damage: str, kind: str) -> None:
    bench.fetch()
    for data in (WEIGHTS, TINY["config.json"]):
        blob = bench.blob(data)
        if damage == "deleted":
            blob.unlink()
        else:
            swap(blob, flipped(data) if damage == "altered" else data[:-1])
    report = verified(bench)
    assert problems(report) == [("config.json", kind), ("model.safetensors", kind)]
    assert report.exit_code == 13
    spoiled = len(WEIGHTS) + len(TINY["config.json"])
    assert report.bytes_read == SIZE - spoiled + (2 * spoiled if damage == "altered" else 0)


def test_a_wrong_manifest_or_ref_or_leaf_list_is_found(bench: Bench) -> None:
    large = os.urandom(LEAF_SIZE + 1)
    bench.hub.add_repo(REPO, {"main": {"large.bin": large}})
    bench.fetch()
    assert verified(bench).problems == ()
    (leaves,) = (path for path in (bench.disk.root / "leaves").rglob("*") if path.is_file())
    right = leaves.read_bytes()
    swap(leaves, flipped(right))
    assert problems(verified(bench)) == [("large.bin", "wrong")]
    leaves.unlink()
    assert problems(verified(bench)) == [("large.bin", "missing")]
    (manifest,) = (path for path in (bench.disk.root / "manifests").rglob("*") if path.is_file())
    swap(manifest, flipped(manifest.read_bytes()))
    assert problems(verified(bench)) == [("manifest", "wrong")]
    manifest.unlink()
    report = verified(bench)
    assert problems(report) == [("manifest", "missing")]
    assert (report.snapshots, report.files, report.exit_code) == (1, 0, 13)
    swap(bench.ref_file(), b"{}")
    assert problems(verified(bench)) == [("manifest", "wrong")]


def test_a_leaf_list_of_another_blob_under_its_own_right_name_is_wrong(bench: Bench) -> None:
    large = os.urandom(LEAF_SIZE + 1)
    bench.hub.add_repo(REPO, {"main": {"large.bin": large}})
    bench.fetch()
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    (file,) = stored.files
    other = b"".join(b"%s\n" % Digest.of(part).hex.encode() for part in (b"a", b"b"))
    lie = stored.to_json().replace(str(file.leaves).encode(), Digest.of(other).hex.encode())
    bench.cache().put_document(keys.leaves(Digest.of(other)), other)
    bench.cache().put_document(keys.manifest(Digest.of(lie)), lie)
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(stored.digest.hex.encode(), Digest.of(lie).hex.encode()))
    report = verified(bench)
    assert problems(report) == [("large.bin", "wrong")]
    assert "of another blob" in report.problems[0].why


def test_a_manifest_of_a_later_version_does_not_hide_the_rest(bench: Bench) -> None:
    bench.fetch()
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    later = stored.to_json().replace(b'"required_features":[]', b'"required_features":["zstd"]')
    bench.cache().put_document(keys.manifest(Digest.of(later)), later)
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(stored.digest.hex.encode(), Digest.of(later).hex.encode()))
    bench.fetch(selection=Selection(include=("*.json",)))
    report = verified(bench)
    assert problems(report) == [("manifest", "unsupported")]
    assert (report.exit_code, report.blobs) == (2, 1)
    swap(bench.blob(TINY["config.json"]), flipped(TINY["config.json"]))
    assert verified(bench).exit_code == 13


def test_a_bit_that_flips_on_the_way_once_is_no_problem(bench: Bench) -> None:
    bench.fetch()
    bench.store = Altering(bench.disk, flipped, touching("blobs/"), times=1)
    assert verified(bench).problems == ()


def test_a_store_that_fails_is_no_damage(bench: Bench) -> None:
    bench.fetch()
    bench.store = Failing(bench.disk, lambda: Unavailable("out of order"), touching("blobs/", "read"))
    with pytest.raises(Unavailable):
        verified(bench)


def test_an_empty_store_is_right(bench: Bench) -> None:
    report = verified(bench)
    assert (report.snapshots, report.bytes_read, report.exit_code) == (0, 0, 0)
