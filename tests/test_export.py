"""`export`: the archive has what the store has, every byte proven before anybody gets it, or it is not there."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    ManifestInvalid,
    NoSpace,
    NotFound,
    ObjectNotFound,
    SizeMismatch,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.oci_archive import BLOBS, read_index
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.outlet import FileOutlet
from ci_modelcache.verbs.export import FORMATS, OCI, PLAIN, Exported, ExportOptions, ExportReport, export, held
from ci_modelcache.verbs.step import Step
from tests.parts.cached import cache_in, leaf_list, publish
from tests.parts.golden_store import COMMIT, FILES, GOLDEN_ARCHIVES, GOLDEN_STORE
from tests.parts.golden_store import HOST as GOLDEN_HOST
from tests.parts.golden_store import REPO as GOLDEN_REPO
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.snapshots import manifest_of
from tests.parts.stores import Altering, Failing, MemoryStore, Recording, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import REPO, Bench, Meanwhile, flipped, spoil, swap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ci_modelcache.transfer.outlet import Outlet, Take

GOLDEN = {
    OCI: "2b2ff9fc571faad4c0cb099ab62a2a9d466be876a9243d46207cf048401117ee",
    PLAIN: "164de848b32f0adeabf799ac47357ab400a23936994cf79457c2155489097492",
}
"""The archives of the golden store. They are a contract: whoever exports the same model gets these bytes, now and later."""
AS_OCI, AS_PLAIN = ExportOptions(OCI), ExportOptions(PLAIN)
BOTH = pytest.mark.parametrize("options", [AS_OCI, AS_PLAIN], ids=FORMATS)
LARGE = random.Random(3).randbytes(LEAF_SIZE + 1000)


class Pipe:
    """An outlet that keeps all it was given, as a pipe would."""

    name = "-"

    def __init__(self) -> None:
        self.data = bytearray()

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        self.size = size
        yield self.data.extend


def found(bench: Bench, refs: Sequence[str] = (REPO,), *, selection: Selection | None = None) -> list[Exported]:
    return [
        held(ModelRef.parse(ref), selection or Selection(), cache=bench.cache(), host=bench.offline) for ref in refs
    ]


def exported(
    bench: Bench, outlet: Outlet | None = None, *, step: Step | None = None, options: ExportOptions = AS_PLAIN
) -> ExportReport:
    """Export what `found` finds, by default to the file `at`."""
    outlet = outlet or FileOutlet(at(bench))
    return export(found(bench), outlet, cache=bench.cache(), step=step or bench.step(), options=options)


def at(bench: Bench) -> Path:
    return bench.folder / "out" / "model.tar"


def members(data: bytes) -> dict[str, bytes]:
    """Path to content of every member."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        opened = {each.name: archive.extractfile(each) for each in archive}
    return {path: file.read() for path, file in opened.items() if file}


def read_back(data: bytes) -> dict[str, bytes]:
    """Path to content of every file of a plain archive, without the folder that tells whose it is."""
    paths = {path: path.partition(f"/{REPO}/")[2].partition("/")[2] for path in members(data)}
    return {paths[path]: content for path, content in members(data).items()}


def blobs_in(data: bytes) -> set[bytes]:
    """The contents of all blobs of an OCI archive, each of which has its digest as its name."""
    found = {path: content for path, content in members(data).items() if path.startswith(BLOBS)}
    assert all(path == f"{BLOBS}{Digest.of(content)}" for path, content in found.items())
    return set(found.values())


def nothing_is_left(bench: Bench) -> None:
    """No archive, and nothing half made of one."""
    assert not at(bench).exists()
    assert list(bench.folder.rglob("*.landing-*")) == []


def with_large_file(bench: Bench) -> None:
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE, "config.json": b"{}"}})
    bench.fetch()


def add_copy(bench: Bench, data: bytes, *, of: bytes) -> None:
    """Another copy of the blob *of*, as a collection leaves behind; its bytes are *data*."""
    canonical = keys.blob(Digest.of(of))
    key = keys.generation(canonical, new_ulid(0, bytes(10)))
    bench.disk.write(key, [data], size=len(data))


# --- what is in it


def test_everything_is_in_it_and_the_report_says_what(bench: Bench) -> None:
    bench.fetch()
    bench.hub.forget()
    report = exported(bench)
    bench.ledger.check()
    data = at(bench).read_bytes()
    files = {path: data for path, data in read_back(data).items() if path}
    assert files == TINY
    (model,) = report.models
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    assert (report.path, report.format, report.files) == (str(at(bench)), "plain", len(TINY))
    assert (report.size, report.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (model.ref, model.commit, model.selection) == (f"{REPO}@main", bench.commit, "all")
    assert (model.manifest, model.digest) == (stored.digest.hex, stored.set_digest.hex)
    assert (model.files, model.size) == (len(TINY), sum(map(len, TINY.values())))
    assert bench.hub.requests() == []
    bench.check_invariants()


@BOTH
def test_the_golden_store_makes_the_golden_archive(tmp_path: Path, options: ExportOptions) -> None:
    cache = cache_in(DirectoryStore(GOLDEN_STORE, create=False))
    manifest = next(cache.manifest(each) for each in cache.snapshots())
    model = Exported(ModelRef(GOLDEN_REPO, COMMIT), manifest)
    outlet = FileOutlet(tmp_path / "golden.tar")
    report = export([model], outlet, cache=cache, step=Step(tmp_path / "state"), options=options)
    assert (manifest.host, report.files, report.sha256) == (GOLDEN_HOST, len(FILES), GOLDEN[options.format])
    assert outlet.path.read_bytes() == GOLDEN_ARCHIVES[options.format].read_bytes()


def test_by_default_it_is_an_image_layout_that_has_every_file_as_it_is(bench: Bench) -> None:
    bench.hub.add_repo(REPO, {"main": {**TINY, "large.bin": LARGE}})
    bench.fetch()
    pipe = Pipe()
    report = export(found(bench), pipe, cache=bench.cache(), step=bench.step())
    (stored,) = map(bench.cache().manifest, bench.cache().snapshots())
    (indexed,) = read_index(members(bytes(pipe.data))["index.json"]).snapshots
    assert blobs_in(bytes(pipe.data)) >= {*TINY.values(), LARGE, leaf_list(LARGE), stored.to_json()}
    assert (indexed.id, indexed.manifest, indexed.revisions) == (stored.id, stored.digest, ("main",))
    assert (report.format, report.files, report.left_out, report.since) == ("oci", len(TINY) + 1, 0, None)


@BOTH
def test_again_and_in_another_order_the_bytes_are_the_same(bench: Bench, options: ExportOptions) -> None:
    bench.hub.add_repo("acme/other", {"main": {"config.json": b"{}", "run.sh": b"#!"}})
    for ref in (REPO, "acme/other"):
        bench.fetch(ref)
    first, second = Pipe(), Pipe()
    cache, alone = bench.cache(), evolve(bench.step(), workers=1)
    one = export(found(bench, [REPO, "acme/other"]), first, cache=cache, step=bench.step(), options=options)
    two = export(found(bench, ["acme/other", REPO]), second, cache=cache, step=alone, options=options)
    assert first.data == second.data
    assert (one.sha256, first.size) == (two.sha256, len(first.data))
    assert [model.ref for model in one.models] == [f"{REPO}@main", "acme/other@main"]


def test_an_archive_that_is_there_is_replaced_and_readable_for_all_whatever_the_umask(bench: Bench) -> None:
    bench.fetch()
    at(bench).parent.mkdir()
    at(bench).write_text("old")
    before = os.umask(0o077)
    try:
        report = exported(bench)
    finally:
        os.umask(before)
    assert hashlib.sha256(at(bench).read_bytes()).hexdigest() == report.sha256
    assert at(bench).stat().st_mode & 0o777 == 0o644


@BOTH
def test_a_part_of_a_model_is_taken_of_the_whole_one_as_if_it_had_been_fetched_alone(
    bench: Bench, options: ExportOptions
) -> None:
    selection = Selection(include=("*.json",))
    bench.fetch()
    of_whole = Pipe()
    export(found(bench, selection=selection), of_whole, cache=bench.cache(), step=bench.step(), options=options)
    bench.fetch(selection=selection)
    of_part = Pipe()
    export(found(bench, selection=selection), of_part, cache=bench.cache(), step=bench.step(), options=options)
    assert of_whole.data == of_part.data
    if options is AS_PLAIN:
        assert [path for path in read_back(bytes(of_part.data)) if path] == ["config.json"]


def test_of_a_lock_the_blobs_are_enough(bench: Bench) -> None:
    bench.fetch()
    manifest = bench.cache().manifest(next(bench.cache().snapshots()))
    lock = Lock((LockedModel.of(manifest, revision="main", selection=Selection()),))
    bench.ref_file().unlink()
    model = held(ModelRef.parse(REPO), Selection(), locks=(lock,), cache=bench.cache(), host=bench.offline)
    pipe = Pipe()
    export([model], pipe, cache=bench.cache(), step=bench.step(), options=AS_PLAIN)
    assert {path: data for path, data in read_back(bytes(pipe.data)).items() if path} == TINY


def test_an_empty_file_alone_needs_nothing_to_be_read(bench: Bench) -> None:
    bench.hub.add_repo(REPO, {"main": {"empty": b""}})
    bench.fetch()
    seen = bench.remotely()
    exported(bench)
    assert read_back(at(bench).read_bytes())["empty"] == b""
    assert seen.keys("read", "blobs/") == []


# --- what is not there


def test_a_model_that_the_store_lacks_is_a_miss_and_nobody_is_asked(bench: Bench) -> None:
    for ref in (REPO, f"{REPO}@{bench.commit}"):
        with pytest.raises(SnapshotNotFound) as caught:
            found(bench, [ref])
        assert caught.value.exit_code == 10
        assert f"ci-modelcache fetch {ref}" in str(caught.value.hint)
    assert bench.hub.requests() == []


def test_a_part_that_selects_nothing_is_a_miss(bench: Bench) -> None:
    bench.fetch()
    with pytest.raises(FileNotFound):
        found(bench, selection=Selection(include=("*.none",)))


@BOTH
def test_a_blob_that_is_missing_is_said_before_anything_is_written(bench: Bench, options: ExportOptions) -> None:
    bench.fetch()
    bench.blob(WEIGHTS).unlink()
    with pytest.raises(NotFound) as caught:
        exported(bench, options=options)
    assert caught.value.exit_code == 10
    assert "it is model.safetensors of acme/tiny@main" in caught.value.__notes__
    assert "ci-modelcache fetch acme/tiny@main" in str(caught.value.hint)
    assert not at(bench).parent.exists()


# --- wrong bytes


@BOTH
def test_wrong_bytes_are_corruption_and_what_was_there_stays(bench: Bench, options: ExportOptions) -> None:
    bench.fetch()
    spoil(bench.blob(WEIGHTS))
    with pytest.raises(DigestMismatch) as caught:
        exported(bench, options=options)
    assert caught.value.exit_code == 13
    bench.ledger.check(complete=False)
    nothing_is_left(bench)
    at(bench).write_text("old")
    with pytest.raises(IntegrityError):
        exported(bench)
    assert at(bench).read_text() == "old"


def test_a_blob_of_another_size_is_corruption_and_said_before_anything_is_written(bench: Bench) -> None:
    bench.fetch()
    swap(bench.blob(WEIGHTS), WEIGHTS[:-1])
    with pytest.raises(SizeMismatch):
        exported(bench)
    assert not at(bench).parent.exists()


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_a_wrong_copy_is_passed_over_for_a_right_one(bench: Bench, damage: str) -> None:
    bench.fetch()
    right = exported(bench).sha256
    add_copy(bench, WEIGHTS, of=WEIGHTS)
    if damage == "gone":
        bench.blob(WEIGHTS).unlink()
    else:
        swap(bench.blob(WEIGHTS), flipped(WEIGHTS) if damage == "flipped" else WEIGHTS[:-1])
    assert exported(bench).sha256 == right
    bench.ledger.check()


def test_a_bit_that_flips_on_the_way_once_is_no_problem(bench: Bench) -> None:
    bench.fetch()
    right = exported(bench).sha256
    bench.store = Altering(bench.disk, flipped, touching("blobs/"), times=1)
    assert exported(bench).sha256 == right


def test_a_blob_that_vanishes_after_it_was_found_is_a_miss_and_nothing_is_there(bench: Bench) -> None:
    bench.fetch()
    at(bench).parent.mkdir()
    bench.store = Failing(bench.disk, lambda: ObjectNotFound("x", "y"), touching("blobs/", "read"))
    with pytest.raises(ObjectNotFound):
        exported(bench)
    nothing_is_left(bench)


def test_a_store_that_fails_is_no_corruption_also_when_it_is_asked_for_other_copies(bench: Bench) -> None:
    bench.fetch()
    spoil(bench.blob(WEIGHTS))
    bench.store = Failing(bench.disk, lambda: Unavailable("out of order"), touching("blobs/", "scan"))
    with pytest.raises(Unavailable):
        exported(bench)
    nothing_is_left(bench)


# --- large files, in stretches


def test_a_large_file_is_the_same_from_a_folder_and_from_elsewhere(bench: Bench) -> None:
    with_large_file(bench)
    right = exported(bench)
    assert read_back(at(bench).read_bytes())["large.bin"] == LARGE
    bench.store = Recording(bench.disk)
    assert exported(bench).sha256 == right.sha256
    bench.ledger.check()


def test_of_two_wrong_copies_the_right_stretches_are_taken(bench: Bench) -> None:
    with_large_file(bench)
    right = exported(bench).sha256
    spoil(bench.blob(LARGE), at=5)
    add_copy(bench, LARGE[:-1] + flipped(LARGE[-1:]), of=LARGE)
    assert exported(bench).sha256 == right


def test_a_pipe_gets_no_wrong_byte(bench: Bench) -> None:
    """A reader who acts on what it has read so far is not misled."""
    with_large_file(bench)
    whole, cut = Pipe(), Pipe()
    exported(bench, whole)
    spoil(bench.blob(LARGE), at=LEAF_SIZE + 5)
    with pytest.raises(DigestMismatch, match=f"bytes {LEAF_SIZE} to {len(LARGE)}"):
        exported(bench, cut)
    assert LEAF_SIZE < len(cut.data) < LEAF_SIZE + 10_000
    assert whole.data.startswith(cut.data)


def leaf_list_of(bench: Bench) -> Path:
    (found,) = (path for path in (bench.disk.root / "leaves").rglob("*") if path.is_file())
    return found


@BOTH
@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_leaf_list_that_the_store_has_lost_is_made_again(bench: Bench, damage: str, options: ExportOptions) -> None:
    with_large_file(bench)
    right = exported(bench, options=options).sha256
    if damage == "gone":
        leaf_list_of(bench).unlink()
    else:
        swap(leaf_list_of(bench), flipped(leaf_list_of(bench).read_bytes()))
    assert exported(bench, options=options).sha256 == right
    spoil(bench.blob(LARGE))
    with pytest.raises(DigestMismatch):
        exported(bench, options=options)
    add_copy(bench, LARGE, of=LARGE)
    assert exported(bench, options=options).sha256 == right


def lying(**changes: Any) -> tuple[Exported, MemoryStore]:
    """A model with one large file, about which its manifest does not say the truth; and its store."""
    true = manifest_of({"large.bin": LARGE}, executable=())
    store = MemoryStore()
    publish(cache_in(store), true, {"large.bin": LARGE})
    (file,) = true.files
    lie = evolve(file, **changes)
    store.objects[keys.blob(lie.sha256)] = LARGE
    manifest = Manifest(true.host, true.type, true.repo, true.commit, true.selection, (lie,))
    return Exported(ModelRef(true.repo, true.commit), manifest), store


@BOTH
def test_leaves_that_are_right_do_not_excuse_a_digest_that_is_wrong(
    tmp_path: Path, bench: Bench, options: ExportOptions
) -> None:
    model, store = lying(sha256=Digest.of(b"something else"))
    with pytest.raises(DigestMismatch):
        export([model], FileOutlet(tmp_path / "x.tar"), cache=cache_in(store), step=bench.step(), options=options)
    assert list(tmp_path.glob("*.tar")) == []


@BOTH
def test_a_leaf_list_of_another_size_is_refused(tmp_path: Path, bench: Bench, options: ExportOptions) -> None:
    other = f"{Digest.of(b'').hex}\n".encode()
    model, store = lying(leaves=Digest.of(other))
    store.objects[keys.leaves(Digest.of(other))] = other
    with pytest.raises(ManifestInvalid, match="has 1 leaves, and its size makes 2"):
        export([model], FileOutlet(tmp_path / "x.tar"), cache=cache_in(store), step=bench.step(), options=options)


def test_a_leaf_list_that_is_none_of_its_file_is_in_no_archive(tmp_path: Path, bench: Bench) -> None:
    """The plain format has none, and is right without."""
    model, store = lying(leaves=Digest.of(b"nothing that anybody has"))
    export([model], FileOutlet(tmp_path / "x.tar"), cache=cache_in(store), step=bench.step(), options=AS_PLAIN)
    with pytest.raises(ManifestInvalid, match="and the manifest says"):
        export([model], FileOutlet(tmp_path / "y.tar"), cache=cache_in(store), step=bench.step())
    assert [path.name for path in tmp_path.glob("*.tar")] == ["x.tar"]


# --- deltas


@BOTH
def test_a_delta_has_all_but_what_is_known_and_needs_no_blob_of_that(bench: Bench, options: ExportOptions) -> None:
    bench.hub.add_repo(REPO, {"main": {**TINY, "large.bin": LARGE}})
    bench.fetch()
    bench.blob(LARGE).unlink()
    known = frozenset({Digest.of(LARGE), Digest.of(b"of nobody")})
    pipe = Pipe()
    report = exported(bench, pipe, options=evolve(options, without=known))
    contents = set(members(bytes(pipe.data)).values())
    assert contents >= set(TINY.values())
    assert LARGE not in contents
    assert (report.left_out, report.since) == (1, Digest.of(f"{Digest.of(LARGE)}\n".encode()).hex)
    assert report.files == len(TINY)
    if options.format == PLAIN:
        found = members(bytes(pipe.data))
        assert re.fullmatch(rf"{Digest.of(LARGE)}  \S+/large\.bin\n", found["SHA256SUMS.since"].decode())
        assert found["SHA256SUMS.since"] not in found["SHA256SUMS"]
        assert Digest.of(found["SHA256SUMS.since"]).hex.encode() in found["SHA256SUMS"]
    else:
        index = read_index(members(bytes(pipe.data))["index.json"])
        assert index.since is not None
        assert index.since.hex == report.since
        assert leaf_list(LARGE) in contents


def test_a_leaf_list_that_nothing_can_make_again_is_a_miss_that_names_the_file(bench: Bench) -> None:
    with_large_file(bench)
    bench.blob(LARGE).unlink()
    leaf_list_of(bench).unlink()
    with pytest.raises(ObjectNotFound) as caught:
        exported(bench, options=evolve(AS_OCI, without=frozenset({Digest.of(LARGE)})))
    assert "it is large.bin of acme/tiny@main" in caught.value.__notes__


@BOTH
def test_a_delta_to_what_knows_nothing_of_it_is_the_whole_archive(bench: Bench, options: ExportOptions) -> None:
    bench.fetch()
    whole = exported(bench, options=options)
    report = exported(bench, options=evolve(options, without=frozenset({Digest.of(b"of nobody")})))
    assert (report.sha256, report.since, report.left_out) == (whole.sha256, None, 0)


# --- where it goes


def test_a_disk_without_room_is_found_before_anything_is_read(bench: Bench, tmpfs: Path) -> None:
    with_large_file(bench)
    seen = bench.remotely()
    with pytest.raises(NoSpace) as caught:
        exported(bench, FileOutlet(tmpfs / "model.tar"))
    assert caught.value.exit_code == 14
    assert "-o -" in str(caught.value.hint)
    assert seen.keys("read", "blobs/") == []
    assert list(tmpfs.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_full_and_nothing_is_left(bench: Bench, tmpfs: Path) -> None:
    bench.hub.add_repo(REPO, {"main": {f"{n}.bin": random.Random(n).randbytes(200_000) for n in range(3)}})
    bench.fetch()

    def fill() -> None:
        if not (tmpfs / "filler").exists():
            (tmpfs / "filler").write_bytes(bytes(800_000))

    bench.store = Meanwhile(bench.disk, fill, touching("blobs/", "read"))
    with pytest.raises(NoSpace) as caught:
        exported(bench, FileOutlet(tmpfs / "model.tar"))
    assert "-o -" in str(caught.value.hint)
    assert [path.name for path in tmpfs.iterdir()] == ["filler"]


@pytest.mark.parametrize(("target", "said"), [("folder", "it is a folder"), ("pipe", "it is no regular file")])
def test_what_a_file_would_not_simply_replace_is_refused_before_anything_is_read(
    bench: Bench, target: str, said: str
) -> None:
    """As root a rename would put a file in the place of /dev/null."""
    bench.fetch()
    at(bench).parent.mkdir()
    if target == "folder":
        at(bench).mkdir()
    else:
        os.mkfifo(at(bench))
    seen = bench.remotely()
    with pytest.raises(ConfigError, match=said):
        exported(bench)
    assert seen.keys("read", "blobs/") == []


def test_a_folder_that_may_not_be_written_is_a_refusal(bench: Bench) -> None:
    bench.fetch()
    at(bench).parent.mkdir()
    with unprivileged(at(bench).parent), pytest.raises(AccessDenied) as caught:
        exported(bench)
    assert caught.value.exit_code == 12


def test_what_a_killed_export_left_beside_the_archive_is_removed(bench: Bench) -> None:
    bench.fetch()
    at(bench).parent.mkdir()
    (at(bench).parent / ".landing-left").write_bytes(b"half")
    exported(bench)
    assert [path.name for path in at(bench).parent.iterdir()] == ["model.tar"]


def test_a_store_that_does_not_answer_costs_no_more_than_the_deadline(bench: Bench) -> None:
    bench.fetch()
    released = threading.Event()
    bench.store = Meanwhile(bench.disk, lambda: released.wait(60), touching("blobs/", "read"))
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            exported(bench, step=bench.step(retry=bench.retry(seconds=1)))
    finally:
        released.set()
    assert caught.value.exit_code == 15
    assert "begins anew" in str(caught.value.hint)
    assert not at(bench).exists()


def test_gnu_tar_and_sha256sum_recover_the_model_without_us(bench: Bench, tmp_path: Path) -> None:
    bench.hub.add_repo(REPO, {"main": {**TINY, "sub/large.bin": LARGE}})
    bench.fetch()
    exported(bench)
    into = tmp_path / "without us"
    into.mkdir()
    subprocess.run(["tar", "xf", at(bench)], cwd=into, check=True)
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=into, capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == len(TINY) + 2
