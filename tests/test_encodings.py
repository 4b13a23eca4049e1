"""Packed copies in a store: whoever reads blobs knows nothing of them, and whoever sees objects does the right thing with them."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.blobsource import StoreSource
from ci_modelcache.cache.collection import CollectOptions, collect, survey
from ci_modelcache.cache.condemning import announce_names
from ci_modelcache.cache.inventory import Kind, Other, Rest, contents, everything
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.presigning import objects_of
from ci_modelcache.cache.proven import ProvenBlob
from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.trash import drop, undelete
from ci_modelcache.errors import (
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    NotDecodable,
    NotFound,
    ObjectNotFound,
    StoreUnsupported,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer import bytegroup
from ci_modelcache.transfer.bytegroup import FRAME
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.encoded import Index, index_size
from ci_modelcache.transfer.packing import Packer
from ci_modelcache.verbs.du import du
from ci_modelcache.verbs.fetch import fetch
from ci_modelcache.verbs.findings import SPARE, UNSUPPORTED, WRONG
from ci_modelcache.verbs.mend import Mender
from ci_modelcache.verbs.replicate import replicate
from ci_modelcache.verbs.restore import restore
from ci_modelcache.verbs.save import save
from ci_modelcache.verbs.scrub import ScrubOptions, scrub
from ci_modelcache.verbs.verify import verify
from ci_modelcache.verbs.wanted import RestoreOptions
from tests.parts.cached import MANIFEST, cache_in, publish
from tests.parts.snapshots import CONTENTS
from tests.parts.stores import MemoryStore, tree
from tests.parts.verbs import files_in, write_files
from tests.parts.weights import ITEM, model, safetensors, weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import _GeneratorContextManager

    from tests.parts.verbs import Bench

REF = "acme/packed@v1"
BIG = "model.safetensors"
WEIGHTS = model("BF16", 3 * FRAME // 2)
FILES = {
    BIG: WEIGHTS,
    **{f"{name}.safetensors": model(name, FRAME, seed=2) for name in ITEM if name != "BF16"},
    **{f"shard-{number}.safetensors": model("BF16", FRAME + number * 77, seed=number) for number in (3, 4)},
    "small.safetensors": model("BF16", 10_000),
    "noise.safetensors": safetensors({"a": ("I8", hashlib.shake_256(b"noise").digest(FRAME))}),
    "pytorch_model.bin": weights("F32", FRAME),
    "config.json": b"{}\n",
    "empty": b"",
}
RAW = {"small.safetensors", "noise.safetensors", "pytorch_model.bin", "config.json", "empty"}


def packing(bench: Bench) -> ModelCache:
    """The store of *bench*, for a writer that packs."""
    return ModelCache(
        bench.store, retry=bench.retry(), now=lambda: bench.time, packer=Packer(bench.folder / "state" / "packing")
    )


def stored(bench: Bench, files: dict[str, bytes] = FILES, *, ref: str = REF, cache: ModelCache | None = None) -> int:
    """Save *files*, packed; returns the bytes that were uploaded."""
    folder = write_files(bench.folder / f"source-{len(files)}", files)
    report = save(
        folder,
        ModelRef.parse(ref),
        host=bench.host,
        selection=Selection(),
        cache=cache or packing(bench),
        step=bench.step(),
    )
    return report.bytes_uploaded


def restored(bench: Bench, name: str = "model", *, ref: str = REF) -> dict[str, bytes]:
    bench.restore(ref, bench.plain(name), upstream=bench.offline, prune_extra=True)
    return files_in(bench.folder / name)


def key_of(data: bytes) -> str:
    """Where *data* lies when it is packed."""
    return keys.packed(Digest.of(data), len(data))


def spoilt(bench: Bench, data: bytes = WEIGHTS, *, at: int = -1000) -> Path:
    """Alter the packed copy of *data*, and return its file."""
    path = bench.disk.path(key_of(data))
    path.chmod(0o644)
    altered = bytearray(path.read_bytes())
    altered[at] ^= 0xFF
    path.write_bytes(altered)
    return path


def put(bench: Bench, data: bytes) -> None:
    """Store *data* packed, and nothing that names it."""
    with Publication(packing(bench)) as publication:
        publication.announce([Digest.of(data)])
        publication.put_blob(Expected(len(data), Digest.of(data)), Digest.of(data), [data], what="it")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which neither zstd nor blosc2 is installed."""
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)


@pytest.fixture(params=["disk", "elsewhere"])
def placed(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A bench whose store is a folder of this disk, or seems to be elsewhere."""
    if request.param == "elsewhere":
        bench.remotely()
    return bench


# --- what is stored


def test_files_of_tensors_are_stored_packed_and_all_others_raw_and_all_come_back(placed: Bench) -> None:
    stored(placed)
    names = {info.key for info in placed.disk.scan(keys.BLOBS)}
    assert names == {keys.blob(Digest.of(data)) if path in RAW else key_of(data) for path, data in FILES.items()}
    assert restored(placed) == FILES
    placed.ledger.check()
    (placed.folder / "model" / BIG).write_bytes(b"")
    assert restored(placed) == FILES


def test_what_is_stored_raw_or_packed_is_not_stored_again_the_other_way(bench: Bench) -> None:
    assert stored(bench) == sum(map(len, FILES.values()))
    assert stored(bench, ref="acme/packed@v2", cache=bench.cache()) == 0
    assert stored(bench, {**FILES, "more": b"more"}, ref="acme/packed@v3") == 4
    assert stored(bench, {"raw.safetensors": WEIGHTS[:-8]}, ref="acme/raw@v1", cache=bench.cache()) == len(WEIGHTS) - 8
    assert stored(bench, {"raw.safetensors": WEIGHTS[:-8]}, ref="acme/raw@v2") == 0


def test_a_file_of_many_leaves_is_packed_with_its_leaf_list_and_any_stretch_of_it_is_had(bench: Bench) -> None:
    data = model("BF16", LEAF_SIZE + FRAME)
    stored(bench, {BIG: data})
    (snapshot,) = bench.cache().snapshots()
    (file,) = bench.cache().manifest(snapshot).files
    blob = ProvenBlob(file, bench.cache())
    assert b"".join(b"".join(blob.read(number)) for number in (0, 1)) == data
    assert restored(bench) == {BIG: data}


def test_only_the_frames_of_a_stretch_are_read_and_the_index_once(bench: Bench) -> None:
    data = model("BF16", LEAF_SIZE + 3 * FRAME)
    stored(bench, {BIG: data})
    reads: list[tuple[int, int]] = []

    class Counting(DirectoryStore):
        def read(
            self, key: str, *, start: int = 0, stop: int | None = None
        ) -> _GeneratorContextManager[Iterator[bytes]]:
            if key == key_of(data):
                reads.append((start, -1 if stop is None else stop))
            return super().read(key, start=start, stop=stop)

    copies = bench.cache(Counting(bench.disk.root, create=False)).blob_copies(Digest.of(data), len(data))
    copy = next(copies)
    raw = bench.disk.path(key_of(data)).read_bytes()
    offsets = Index.from_bytes(raw, size=len(data), stored=len(raw), what="it").offsets
    for start, stop in ((LEAF_SIZE, LEAF_SIZE + 2 * FRAME), (LEAF_SIZE, LEAF_SIZE + 10)):
        with copy.open(start, stop) as chunks:
            assert b"".join(chunks) == data[start:stop]
    assert reads == [(0, index_size(len(data))), (offsets[16], offsets[18]), (offsets[16], offsets[17])]


def test_fetch_packs_what_it_stores_also_in_a_folder_of_this_disk(placed: Bench) -> None:
    placed.hub.add_repo("acme/tensors", {"main": {BIG: WEIGHTS, "config.json": b"{}"}})
    cache = packing(placed)
    report = fetch(
        ModelRef("acme/tensors"),
        selection=Selection(),
        cache=cache,
        upstream=placed.upstream(),
        step=placed.step(),
    )
    assert report.result == "miss"
    assert placed.disk.path(key_of(WEIGHTS)).exists()
    assert not placed.blob(WEIGHTS).exists()
    assert restored(placed, ref="acme/tensors")[BIG] == WEIGHTS


def test_a_restore_that_stores_what_it_fetched_packs_it(placed: Bench) -> None:
    placed.hub.add_repo("acme/tensors", {"main": {BIG: WEIGHTS}})
    report = restore(
        ModelRef("acme/tensors"),
        placed.plain(),
        cache=packing(placed),
        upstream=placed.upstream(),
        step=placed.step(),
        options=RestoreOptions(save=True),
    )
    assert (report.result, report.saved) == ("miss", True)
    assert placed.disk.path(key_of(WEIGHTS)).exists()
    assert files_in(placed.folder / "model") == {BIG: WEIGHTS}


def test_a_raw_copy_that_is_there_is_replaced_by_a_raw_one(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS}, cache=bench.cache())
    with Publication(packing(bench)) as publication:
        publication.announce([Digest.of(WEIGHTS)])
        expected = Expected(len(WEIGHTS), Digest.of(WEIGHTS))
        publication.put_blob(expected, Digest.of(WEIGHTS), [WEIGHTS], what="it")
    assert not bench.disk.path(key_of(WEIGHTS)).exists()
    assert bench.blob(WEIGHTS).read_bytes() == WEIGHTS


def test_no_byte_appears_when_the_file_is_not_what_it_was(bench: Bench) -> None:
    with Publication(packing(bench)) as publication:
        publication.announce([Digest.of(WEIGHTS)])
        expected = Expected(len(WEIGHTS), Digest.of(WEIGHTS))
        with pytest.raises(DigestMismatch):
            publication.put_blob(expected, Digest.of(WEIGHTS), [WEIGHTS[:-1] + b"x"], what="it")
    assert list(bench.disk.scan(keys.BLOBS)) == []


# --- names


@pytest.mark.parametrize(
    "suffix",
    ["bgz1-0", "bgz1-", "bgz1-007", "bgz1--7", "bgz1-7.g", "bgz1-7.gX", "bgz1-7x", "bgz2-7", "bgz1-9" + 20 * "9"],
)
def test_names_that_only_resemble_those_of_packed_copies_are_none(suffix: str) -> None:
    store = MemoryStore()
    cache = cache_in(store)
    publish(cache)
    digest = Digest.of(WEIGHTS)
    store.objects[f"{keys.blob(digest)}.{suffix}"] = b"anything"
    assert list(cache.copies(keys.blob(digest))) == []
    assert list(cache.blob_copies(digest, 7)) == []
    assert [one.why for one in everything(cache) if isinstance(one, Other)] == [Rest.ENCODED]


@pytest.mark.parametrize("kind", [keys.leaves, keys.manifest])
def test_only_blobs_have_packed_copies(kind: Callable[[Digest], str]) -> None:
    store = MemoryStore()
    digest = Digest.of(b"document")
    store.objects[f"{kind(digest)}.bgz1-8"] = b"document"
    assert list(cache_in(store).copies(kind(digest))) == []


def test_a_packed_copy_of_another_size_is_told_as_one(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    digest = Digest.of(WEIGHTS)
    path = bench.disk.path(key_of(WEIGHTS))
    path.rename(path.with_name(f"{digest}.bgz1-{len(WEIGHTS) + 1}"))
    with pytest.raises(IntegrityError, match=f"expected {len(WEIGHTS)} bytes, got {len(WEIGHTS) + 1}"):
        list(bench.cache().blob_copies(digest, len(WEIGHTS)))


def test_copies_are_tried_raw_first_then_generations_then_packed() -> None:
    store = MemoryStore()
    digest = Digest.of(WEIGHTS)
    canonical = keys.blob(digest)
    ulid = "01JD0000000000000000000000"
    expected = [canonical, f"{canonical}.g{ulid}", f"{canonical}.bgz1-7", f"{canonical}.bgz1-7.g{ulid}"]
    for key in expected:
        store.objects[key] = b"7 bytes"
    cache = cache_in(store)
    assert list(cache.copies(canonical)) == [(key, 7) for key in expected]
    assert [str(copy) for copy in cache.blob_copies(digest, 7)] == [f"memory/{key}" for key in expected]


# --- a machine without the library


@pytest.mark.usefixtures("without")
def test_without_the_library_a_packed_blob_comes_from_upstream_and_the_store_is_left_alone(bench: Bench) -> None:
    bench.hub.add_repo("acme/tensors", {"main": {BIG: WEIGHTS}})
    bench.fetch("acme/tensors")
    bench.blob(WEIGHTS).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bytegroup, "_installed", lambda _: True)
        put(bench, WEIGHTS)
    before = tree(bench.disk)
    bench.remotely()
    report = bench.restore("acme/tensors")
    assert files_in(bench.folder / "model") == {BIG: WEIGHTS}
    assert report.mirrors
    assert {key for key in tree(bench.disk) if key.startswith(keys.BLOBS)} == {
        key for key in before if key.startswith(keys.BLOBS)
    }


def test_without_the_library_and_upstream_it_is_said_what_to_install(
    placed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(placed, {BIG: WEIGHTS})
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    with pytest.raises(NotDecodable, match=r"needs zstd, of the extra zstd, which is not installed") as caught:
        restored(placed)
    assert caught.value.exit_code == 10
    assert caught.value.hint == "pip install 'ci-modelcache[zstd]'"


def test_without_what_packs_it_is_unpacked_all_the_same(placed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(placed, {BIG: WEIGHTS})
    monkeypatch.setattr(bytegroup, "_library", never)
    monkeypatch.setattr(bytegroup, "_installed", lambda name: "zstd" in name)
    assert restored(placed) == {BIG: WEIGHTS}


@cache
def never() -> None:
    """What nothing may ask for here."""
    raise AssertionError


def test_without_the_library_a_raw_copy_beside_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(bench, {BIG: WEIGHTS})
    canonical = keys.blob(Digest.of(WEIGHTS))
    bench.disk.write(f"{canonical}.g01JD0000000000000000000000", [WEIGHTS], size=len(WEIGHTS))
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    assert restored(bench) == {BIG: WEIGHTS}


def test_without_the_library_nothing_is_said_to_be_right_or_mended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(bench, {BIG: WEIGHTS, "config.json": b"{}"})
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    before = tree(bench.disk)
    mender = Mender(bench.cache(), [], upstream=[], step=bench.step())
    reports = [
        scrub(bench.cache(), step=bench.step(), menders=[mender]),
        verify(bench.cache().snapshots(), cache=bench.cache(), step=bench.step(), menders=[mender]),
    ]
    for report in reports:
        ((problem),) = report.problems
        assert (problem.kind, problem.what, report.exit_code) == (UNSUPPORTED, BIG, 2)
        assert "the extra zstd" in problem.why
        assert not problem.repaired
    assert tree(bench.disk) == before


# --- wrong bytes


@pytest.mark.parametrize("at", [0, 16, 500_000, -1])
def test_a_wrong_packed_copy_is_passed_over_for_the_next_one(at: int, placed: Bench) -> None:
    stored(placed, {BIG: WEIGHTS})
    good = placed.disk.path(key_of(WEIGHTS)).read_bytes()
    placed.disk.write(f"{key_of(WEIGHTS)}.g01JD0000000000000000000000", [good], size=len(good))
    spoilt(placed, at=at)
    assert restored(placed) == {BIG: WEIGHTS}


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("at", [9, 500_000])
def test_a_wrong_packed_copy_is_replaced_by_upstream_and_mended(at: int, packs: bool, placed: Bench) -> None:  # noqa: FBT001  # a case
    placed.hub.add_repo("acme/tensors", {"main": {BIG: WEIGHTS}})
    placed.fetch("acme/tensors")
    placed.blob(WEIGHTS).unlink()
    put(placed, WEIGHTS)
    path = spoilt(placed, at=at)
    wrong = path.read_bytes()
    report = restore(
        ModelRef("acme/tensors"),
        placed.plain(),
        cache=packing(placed) if packs else placed.cache(),
        upstream=placed.upstream(),
        step=placed.step(),
        options=RestoreOptions(save=True),
    )
    assert report.mended == (BIG,)
    assert files_in(placed.folder / "model") == {BIG: WEIGHTS}
    assert placed.blob(WEIGHTS).exists() is not packs
    assert (path.read_bytes() == wrong) is not packs
    assert restored(placed, "again", ref="acme/tensors") == {BIG: WEIGHTS}


def test_a_wrong_packed_copy_alone_is_corruption(placed: Bench) -> None:
    stored(placed, {BIG: WEIGHTS})
    spoilt(placed)
    with pytest.raises(IntegrityError) as caught:
        restored(placed)
    assert caught.value.exit_code == 13
    assert not (placed.folder / "model" / BIG).exists()


def test_another_right_packed_file_in_its_place_is_corruption(placed: Bench) -> None:
    other = model("BF16", 3 * FRAME // 2, seed=9)
    stored(placed, {BIG: WEIGHTS, "other.safetensors": other})
    path = placed.disk.path(key_of(WEIGHTS))
    path.chmod(0o644)
    path.write_bytes(placed.disk.path(key_of(other)).read_bytes())
    with pytest.raises(DigestMismatch):
        restored(placed)


# --- those who see objects


def test_verify_reads_packed_copies_and_finds_nothing(bench: Bench) -> None:
    stored(bench)
    for report in (
        scrub(bench.cache(), step=bench.step()),
        verify(bench.cache().snapshots(), cache=bench.cache(), step=bench.step()),
    ):
        assert report.problems == ()
        assert report.bytes_read >= sum(map(len, FILES.values()))
        bench.ledger.check()
    report = scrub(bench.cache(), step=bench.step(), options=ScrubOptions(content=False))
    assert report.problems == ()
    assert (report.unknown_objects, report.unnamed) == (0, 0)
    assert report.bytes_stored == sum(info.size for info in bench.disk.scan(""))


def test_verify_tells_a_wrong_packed_copy_and_mends_it(bench: Bench) -> None:
    bench.hub.add_repo("acme/tensors", {"main": {BIG: WEIGHTS}})
    bench.fetch("acme/tensors")
    bench.blob(WEIGHTS).unlink()
    put(bench, WEIGHTS)
    spoilt(bench)
    ((problem),) = scrub(bench.cache(), step=bench.step()).problems
    assert (problem.kind, problem.what) == (WRONG, BIG)
    upstream = Mirrors.of(bench.upstream(), retry=bench.retry(), connections=2)
    mender = Mender(packing(bench), [], upstream=[upstream], step=bench.step())
    ((problem),) = scrub(bench.cache(), step=bench.step(), menders=[mender]).problems
    assert problem.repaired
    assert scrub(bench.cache(), step=bench.step()).problems == ()
    assert not bench.blob(WEIGHTS).exists()


def test_a_wrong_raw_copy_is_mended_from_the_packed_one_beside_it(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    bench.disk.write(keys.blob(Digest.of(WEIGHTS)), [b"x" * len(WEIGHTS)], size=len(WEIGHTS))
    ((problem),) = scrub(bench.cache(), step=bench.step()).problems
    assert problem.kind == SPARE
    mender = Mender(packing(bench), [], upstream=[], step=bench.step())
    ((problem),) = scrub(bench.cache(), step=bench.step(), menders=[mender]).problems
    assert problem.repaired == str(bench.disk.root)
    assert scrub(bench.cache(), step=bench.step()).problems == ()


COLLECTING = CollectOptions(grace=0, min_age=0, max_share=1, may_be_empty=True)


def test_a_collection_spares_packed_copies_that_are_named_and_takes_the_others(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    other = model("BF16", 2 * FRAME, seed=5)
    put(bench, other)
    options = evolve(COLLECTING, min_age=-5, grace=-5)
    collect(bench.cache(), options=options, deadline=Deadline())
    collected = collect(bench.cache(), options=options, deadline=Deadline())
    assert collected.deleted.objects == 1
    assert [info.key for info in bench.disk.scan(keys.BLOBS)] == [key_of(WEIGHTS)]
    assert restored(bench) == {BIG: WEIGHTS}


def test_a_packed_name_that_is_condemned_is_not_relied_on_and_gets_a_generation(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    announce_names(bench.cache(), "01JD0000000000000000000000", [key_of(WEIGHTS)])
    (snapshot,) = bench.cache().snapshots()
    with pytest.raises(NotFound):
        published(bench.cache(), snapshot)
    assert stored(bench, {BIG: WEIGHTS}) == len(WEIGHTS)
    first, second = [info.key for info in bench.disk.scan(keys.BLOBS)]
    assert (first, second.partition(".g")[0]) == (key_of(WEIGHTS), key_of(WEIGHTS))
    bench.disk.delete(first)
    assert published(bench.cache(), snapshot).id == snapshot
    assert restored(bench) == {BIG: WEIGHTS}


def test_what_was_dropped_comes_back_with_its_packed_copies_and_from_condemned_ones(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    (snapshot,) = bench.cache().snapshots()
    assert drop(bench.cache(), snapshot)
    undelete(bench.cache(), snapshot)
    assert [info.key for info in bench.disk.scan(keys.BLOBS)] == [key_of(WEIGHTS)]
    assert drop(bench.cache(), snapshot)
    announce_names(bench.cache(), "01JD0000000000000000000000", [key_of(WEIGHTS)])
    undelete(bench.cache(), snapshot)
    bench.disk.delete(key_of(WEIGHTS))
    assert restored(bench) == {BIG: WEIGHTS}


def test_du_counts_what_lies_there(bench: Bench) -> None:
    stored(bench)
    report = du(bench.cache(), step=bench.step())
    lying = sum(info.size for info in bench.disk.scan("") if info.key.startswith(keys.COLLECTED))
    assert (report.total, report.named, report.unnamed) == (lying, lying, 0)
    assert report.size == sum(map(len, FILES.values()))
    assert survey(bench.cache(), options=COLLECTING, deadline=Deadline()).unknown.objects == 0


def test_what_is_only_packed_cannot_be_presigned_and_it_is_said_why(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    (snapshot,) = bench.cache().snapshots()
    manifest = bench.cache().manifest(snapshot)
    look = partial(objects_of, [manifest], cache=bench.cache(), workers=2, deadline=Deadline())
    with pytest.raises(StoreUnsupported, match="is encoded, and there is no raw copy") as caught:
        look()
    assert "--encoding raw" in str(caught.value.hint)
    canonical = keys.blob(Digest.of(WEIGHTS))
    bench.disk.write(canonical, [WEIGHTS], size=len(WEIGHTS))
    assert look()[canonical] == len(WEIGHTS)
    assert key_of(WEIGHTS) not in look()


def test_what_is_packed_here_is_packed_there(bench: Bench) -> None:
    stored(bench)
    there = DirectoryStore(bench.folder / "there", create=True)
    step = bench.step()
    report = replicate(bench.cache().snapshots(), source=bench.cache(), destination=bench.cache(there), step=step)
    assert report.exit_code == 0
    blobs = {info.key for info in bench.disk.scan(keys.BLOBS)}
    assert {info.key for info in there.scan(keys.BLOBS)} == blobs
    assert scrub(bench.cache(there), step=bench.step()).problems == ()
    again = replicate(bench.cache().snapshots(), source=bench.cache(), destination=bench.cache(there), step=step)
    assert (again.present, again.bytes_copied) == (1, 0)


def test_a_wrong_packed_copy_is_not_replicated(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    spoilt(bench)
    there = DirectoryStore(bench.folder / "there", create=True)
    report = replicate(
        bench.cache().snapshots(), source=bench.cache(), destination=bench.cache(there), step=bench.step()
    )
    assert report.exit_code == 13
    assert list(there.scan(keys.BLOBS)) == []


def test_a_store_of_packed_copies_is_a_mirror_like_any_other(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    file = ListedFile(BIG, len(WEIGHTS), "0" * 40, Digest.of(WEIGHTS), lfs=True)
    source = StoreSource(bench.cache(), host=bench.host)
    with source.open(ModelRef("acme/packed"), "0" * 40, file, start=FRAME - 3, stop=FRAME + 3) as chunks:
        assert b"".join(chunks) == WEIGHTS[FRAME - 3 : FRAME + 3]


def test_a_mirror_whose_copy_cannot_be_unpacked_here_says_what_to_install(bench: Bench, without: None) -> None:
    del without
    bench.disk.write(key_of(WEIGHTS), [b"packed"], size=6)
    file = ListedFile(BIG, len(WEIGHTS), "0" * 40, Digest.of(WEIGHTS), lfs=True)
    source = StoreSource(bench.cache(), host=bench.host)
    with (
        pytest.raises(FileNotFound, match="of the extra zstd, which is not installed") as caught,
        source.open(ModelRef("acme/packed"), "0" * 40, file),
    ):
        pass
    assert caught.value.hint == "pip install 'ci-modelcache[zstd]'"


def test_a_wrong_raw_copy_is_told_also_where_the_packed_one_beside_it_cannot_be_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(bench, {BIG: WEIGHTS})
    bench.disk.write(keys.blob(Digest.of(WEIGHTS)), [b"x" * len(WEIGHTS)], size=len(WEIGHTS))
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    report = verify(bench.cache().snapshots(), cache=bench.cache(), step=bench.step())
    assert [(problem.kind, problem.what) for problem in report.problems] == [(WRONG, BIG)]


def test_an_inventory_counts_packed_copies_as_they_lie_and_as_they_are_read(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    (one,) = contents(bench.cache(), Kind.BLOB)
    assert (one.size, one.reading, one.plain) == (
        bench.disk.path(key_of(WEIGHTS)).stat().st_size,
        len(WEIGHTS),
        False,
    )


def test_a_packed_copy_is_no_file_to_link(bench: Bench) -> None:
    stored(bench, {BIG: WEIGHTS})
    (copy,) = bench.cache().blob_copies(Digest.of(WEIGHTS), len(WEIGHTS))
    assert copy.files == ()
    copy.require_size()
    bench.disk.delete(key_of(WEIGHTS))
    with pytest.raises(ObjectNotFound), copy.open(0):
        pytest.fail("it was opened")


def test_a_snapshot_of_small_files_is_the_same_with_and_without_packing() -> None:
    plain, packed = MemoryStore(), MemoryStore()
    publish(cache_in(plain))
    cache = cache_in(packed)
    cache.packer = Packer(Path("never-made"))
    publish(cache, MANIFEST, CONTENTS)
    assert plain.objects == packed.objects
