"""`list_snapshots` and `info`: they look, and ask no Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.errors import SnapshotNotFound
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.inspect import SnapshotInfo, info, list_snapshots
from tests.parts.hub import TINY
from tests.parts.verbs import REPO, flipped, swap, write_files

if TYPE_CHECKING:
    from tests.parts.verbs import Bench


def told(bench: Bench, ref: str = REPO, selection: Selection | None = None) -> SnapshotInfo:
    return info(ModelRef.parse(ref), selection=selection or Selection(), cache=bench.cache(), upstream=bench.offline)


def test_a_list_has_every_snapshot_with_its_names_and_sizes(bench: Bench) -> None:
    assert list_snapshots(bench.cache()) == ()
    fetched = bench.fetch()
    bench.fetch(f"{REPO}@v1.0")
    bench.fetch(selection=Selection(include=("*.json",)))
    bench.save(write_files(bench.folder / "source", {"a.json": b"{}"}), "acme/own@v2")
    bench.hub.forget()
    lines = {(line.repo, line.selection == "all"): line for line in list_snapshots(bench.cache())}
    assert len(lines) == 3
    whole = lines[REPO, True]
    assert whole.revisions == ("main", "v1.0")
    assert (whole.files, whole.size, whole.digest) == (len(TINY), fetched.size, fetched.digest)
    assert (whole.commit, whole.host, whole.type, whole.problem) == (bench.commit, bench.host, "model", "")
    assert (lines[REPO, False].files, lines["acme/own", True].revisions) == (1, ("v2",))
    assert bench.hub.requests() == []


def test_each_head_is_read_once_however_many_snapshots_its_repository_has(bench: Bench) -> None:
    bench.fetch()
    bench.fetch(f"{REPO}@v1.0")
    for pattern in ("*.json", "*.txt", "*.safetensors"):
        bench.fetch(selection=Selection(include=(pattern,)))
    bench.save(write_files(bench.folder / "source", {"a.json": b"{}"}), "acme/own@v2")
    seen = bench.remotely()
    lines = list_snapshots(bench.cache())
    assert sorted(line.revisions for line in lines) == [("main", "v1.0")] * 4 + [("v2",)]
    heads = sorted(info.key for info in bench.disk.scan(keys.HEADS))
    assert sorted(seen.keys("read", keys.HEADS)) == heads
    assert len(heads) == 3
    assert len(seen.keys("scan", keys.HEADS)) == 2


def test_a_broken_snapshot_is_a_line_with_its_problem_beside_the_others(bench: Bench) -> None:
    bench.fetch()
    bench.save(write_files(bench.folder / "source", {"a.json": b"{}"}), "acme/own@v2")
    manifest = bench.cache().manifest(next(bench.cache().snapshots_of(bench.host, ModelRef(REPO).type, REPO)))
    path = bench.disk.path(keys.manifest(manifest.digest))
    swap(path, flipped(path.read_bytes()))
    broken, whole = sorted(list_snapshots(bench.cache()), key=lambda line: not line.problem)
    assert (broken.repo, broken.files, broken.size) == (REPO, 0, 0)
    assert "expected digest" in broken.problem
    assert (whole.repo, whole.problem) == ("acme/own", "")


def test_a_snapshot_of_a_later_version_is_listed_as_one_that_cannot_be_read(bench: Bench) -> None:
    bench.fetch()
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    later = stored.to_json().replace(b'"required_features":[]', b'"required_features":["zstd"]')
    bench.cache().put_document(keys.manifest(Digest.of(later)), later)
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(stored.digest.hex.encode(), Digest.of(later).hex.encode()))
    (line,) = list_snapshots(bench.cache())
    assert "zstd" in line.problem


def test_info_tells_all_of_one_snapshot_however_old_the_name_is(bench: Bench) -> None:
    fetched = bench.fetch()
    bench.hub.forget()
    bench.time += 10_000 * 3600
    seen = told(bench)
    assert (seen.commit, seen.manifest, seen.digest, seen.size) == (
        bench.commit,
        fetched.manifest,
        fetched.digest,
        fetched.size,
    )
    assert [file.path for file in seen.files] == sorted(TINY)
    assert seen.provenance == {"source": bench.hub.url}
    assert told(bench, f"{REPO}@{bench.commit}").revisions == ("main",)
    assert bench.hub.requests() == []


def test_info_about_what_is_not_there_is_a_miss(bench: Bench) -> None:
    for ref in (REPO, f"{REPO}@{'1' * 40}"):
        with pytest.raises(SnapshotNotFound) as caught:
            told(bench, ref)
        assert caught.value.exit_code == 10
    bench.fetch()
    with pytest.raises(SnapshotNotFound):
        told(bench, selection=Selection(include=("*.json",)))
