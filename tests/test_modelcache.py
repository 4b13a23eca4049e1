"""Reading snapshots: nothing is believed unproven, and missing, denied, unavailable and wrong stay four different things."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import published
from ci_modelcache.cache.records import HUB, SAVED, CondemnedRecord, HeadRecord, Marker, RefRecord
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    DigestMismatch,
    IntegrityError,
    ManifestInvalid,
    ModelCacheError,
    ObjectNotFound,
    SizeMismatch,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import MAX_DOCUMENT, to_json
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.empty import EmptyStore
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.cached import MANIFEST, NOW, SNAPSHOT, blob_keys, cache_in, publish, repeating_random
from tests.parts.snapshots import CONTENTS, manifest_of
from tests.parts.stores import (
    Altering,
    Failing,
    IgnoringCreateOnly,
    LosingAnswers,
    Meddling,
    MemoryStore,
    Recording,
    content,
    touching,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store

REF = ModelRef("tiny/model", "main")
HOST = "huggingface.co"
FILE = next(file for file in MANIFEST.files if file.path == "model.safetensors")
DATA = CONTENTS[FILE.path]
BLOB = keys.blob(FILE.sha256)
NAMED = keys.manifest(MANIFEST.digest)
ULIDS = [new_ulid(NOW, bytes([number]) * 10) for number in range(3)]


def denied() -> AccessDenied:
    return AccessDenied("the store said 403")


def unavailable() -> Unavailable:
    return Unavailable("the store said 503")


def put(store: Store, key: str, data: bytes) -> None:
    store.write(key, [data], size=len(data))


def marker(**fields: Any) -> bytes:
    good = {"capabilities": {}, "features": [], "format": 1, "id": "0" * 32, "min_reader": 1}
    return json.dumps(good | fields).encode()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the snapshot; to be copied, for writing it costs a hundred times as much."""
    root = tmp_path_factory.mktemp("template") / "store"
    cache = cache_in(DirectoryStore(root, create=True))
    cache.initialise(lambda _: {})
    publish(cache)
    cache.put_head(HOST, REF, SNAPSHOT.commit, HUB)
    return root


@pytest.fixture
def stored(template: Path, tmp_path: Path) -> DirectoryStore:
    """A store that holds the snapshot."""
    return DirectoryStore(shutil.copytree(template, tmp_path / "store"), create=False)


# Every way in


READS: dict[str, Callable[[ModelCache], object]] = {
    "marker": lambda cache: cache.marker(),
    "initialise": lambda cache: cache.initialise(lambda _: {}),
    "head": lambda cache: cache.head(HOST, REF),
    "ref": lambda cache: cache.ref(SNAPSHOT),
    "manifest": lambda cache: cache.manifest(SNAPSHOT),
    "manifest_named": lambda cache: cache.manifest_named(MANIFEST.digest),
    "leaf_list": lambda cache: cache.leaf_list(FILE.sha256),
    "blob_copies": lambda cache: list(cache.blob_copies(FILE.sha256, FILE.size)),
    "copies": lambda cache: list(cache.copies(BLOB)),
    "snapshots": lambda cache: list(cache.snapshots()),
    "snapshots_of": lambda cache: list(cache.snapshots_of(HOST, RepoType.MODEL, "tiny/model")),
    "heads": lambda cache: cache.heads(HOST, RepoType.MODEL, "tiny/model"),
    "heads_of": lambda cache: cache.heads_of(SNAPSHOT),
    "condemned": lambda cache: cache.condemned(),
    "document": lambda cache: cache.document(NAMED),
    "published": lambda cache: published(cache, SNAPSHOT),
}
WRITES: dict[str, Callable[[ModelCache], object]] = {
    "put_head": lambda cache: cache.put_head(HOST, REF, SNAPSHOT.commit, HUB),
    "put_document": lambda cache: cache.put_document("gc/1/x", b""),
    "publish": publish,
}


@pytest.mark.parametrize("way", [*READS, *WRITES])
def test_a_store_that_needs_a_later_reader_is_refused_before_anything_else_in_it_is_touched(
    stored: DirectoryStore, way: str
) -> None:
    put(stored, keys.MARKER, b'{"format":2,"min_reader":2}')
    store = Recording(stored)
    with pytest.raises(StoreUnsupported) as caught:
        {**READS, **WRITES}[way](cache_in(store))
    assert caught.value.exit_code == 2
    assert {operation.key for operation in store.operations} == {keys.MARKER}


@pytest.mark.parametrize("way", READS)
def test_a_store_of_a_later_format_that_this_reader_suffices_for_is_read(stored: DirectoryStore, way: str) -> None:
    put(stored, keys.MARKER, marker(format=2))
    put(stored, keys.leaves(FILE.sha256), DATA)
    READS[way](cache_in(stored))


@pytest.mark.parametrize("way", WRITES)
def test_a_store_of_a_later_format_is_not_written(stored: DirectoryStore, way: str) -> None:
    put(stored, keys.MARKER, marker(format=2))
    store = Recording(stored)
    with pytest.raises(StoreUnsupported, match="can read but not write"):
        WRITES[way](cache_in(store))
    assert store.keys("write") == []


@pytest.mark.parametrize("way", [*READS, *WRITES])
def test_a_marker_that_is_broken_is_not_taken_for_a_missing_one(stored: DirectoryStore, way: str) -> None:
    put(stored, keys.MARKER, b"<html>")
    with pytest.raises(ManifestInvalid, match=r"modelcache\.json is not JSON"):
        {**READS, **WRITES}[way](cache_in(stored))


@pytest.mark.parametrize("way", [way for way in READS if way not in {"marker", "document"}])
@pytest.mark.parametrize("error", [denied, unavailable])
def test_what_the_store_refuses_or_cannot_do_is_never_a_miss(
    stored: DirectoryStore, way: str, error: Callable[[], ModelCacheError]
) -> None:
    """Each operation of each way in fails in turn; whatever it is, the result is that error and no other."""
    put(stored, keys.leaves(FILE.sha256), DATA)
    recording = Recording(stored)
    READS[way](cache_in(recording))
    assert recording.operations
    for operation in set(recording.operations):
        failing = Failing(stored, error, operation.__eq__)
        with pytest.raises(type(error())):
            READS[way](cache_in(failing))


@pytest.mark.parametrize("error", [denied, unavailable])
def test_what_the_store_refuses_or_cannot_do_is_never_a_miss_where_the_canonical_names_are_gone(
    stored: DirectoryStore, error: Callable[[], ModelCacheError]
) -> None:
    for canonical in (BLOB, NAMED):
        put(stored, keys.generation(canonical, ULIDS[0]), content(stored, canonical))
        stored.delete(canonical)
    for where in (touching(BLOB), touching(f"{BLOB}."), touching(NAMED), touching(f"{NAMED}.")):
        cache = cache_in(Failing(stored, error, where))
        with pytest.raises(type(error())):
            published(cache, SNAPSHOT)


def test_a_read_that_fails_twice_is_tried_again(stored: DirectoryStore) -> None:
    cache = cache_in(Failing(stored, unavailable, touching(keys.REFS, "read"), times=2))
    assert cache.manifest(SNAPSHOT) == MANIFEST


def test_reading_is_not_tried_beyond_the_deadline(stored: DirectoryStore) -> None:
    policy = RetryPolicy(attempts=1000, sleep=lambda _: None, deadline=Deadline(0.0, clock=lambda: 0.0))
    cache = ModelCache(Failing(stored, unavailable, touching(keys.REFS)), retry=policy)
    with pytest.raises(DeadlineExceeded):
        cache.manifest(SNAPSHOT)


def test_a_marker_that_is_broken_is_read_once_and_told_with_the_way_out(
    stored: DirectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(stored, keys.MARKER, b"<html>")
    recording = Recording(stored)
    cache = cache_in(recording)
    for read in READS.values():
        with pytest.raises(ManifestInvalid) as caught:
            read(cache)
        assert "remove it, and a save writes it anew" in str(caught.value.hint)
    assert recording.keys("read") == [keys.MARKER] * 2  # the second time in case the first answer was cut short
    assert len(caplog.messages) == 1


# The marker


def test_a_store_without_a_marker_is_empty_and_is_asked_once(store: DirectoryStore) -> None:
    recording = Recording(store)
    cache = cache_in(recording)
    for _ in range(3):
        with pytest.raises(SnapshotNotFound):
            cache.manifest(SNAPSHOT)
        assert list(cache.snapshots()) == []
    with pytest.raises(ObjectNotFound):
        cache.marker()
    assert recording.keys("read", keys.MARKER) == [keys.MARKER] * 2


def test_mode_off_is_a_miss_for_readers_and_denied_to_writers() -> None:
    cache = cache_in(EmptyStore())
    with pytest.raises(SnapshotNotFound):
        cache.manifest(SNAPSHOT)
    with pytest.raises(AccessDenied):
        publish(cache)


def test_initialising_writes_the_marker_with_what_the_probe_found(store: DirectoryStore) -> None:
    cache = cache_in(store, seed=b"x")
    found: dict[str, str | bool] = {"create_only": "atomic", "deletes": True}
    probed: list[Store] = []

    def probe(probed_store: Store) -> dict[str, str | bool]:
        probed.append(probed_store)
        return found

    written = cache.initialise(probe)
    assert written == Marker(repeating_random(b"x")(16).hex(), found, format=1, min_reader=1, features=())
    assert probed == [store]
    assert content(store, keys.MARKER) == to_json(written)


def test_a_store_that_is_initialised_is_left_as_it_is_and_not_probed(store: DirectoryStore) -> None:
    first = cache_in(store, seed=b"1").initialise(lambda _: {"deletes": True})

    def never(_: Store) -> dict[str, str | bool]:
        pytest.fail("probed again")

    assert cache_in(store, seed=b"2").initialise(never) == first


def test_two_that_initialise_at_once_agree(store: DirectoryStore) -> None:
    other = cache_in(store, seed=b"other")
    markers: list[Marker] = []

    def meanwhile(_: Store) -> dict[str, str | bool]:
        markers.append(other.initialise(lambda _: {"deletes": False}))
        return {"deletes": True}

    markers.append(cache_in(store, seed=b"own").initialise(meanwhile))
    assert markers[0] == markers[1] == cache_in(store).marker()
    assert markers[0].capabilities == {"deletes": False}


def test_eight_threads_that_initialise_at_once_agree(store: DirectoryStore) -> None:
    markers: list[Marker] = []

    def initialise(number: int) -> None:
        markers.append(cache_in(store, seed=b"%d" % number).initialise(lambda _: {}))

    for_each(range(8), initialise, workers=8, deadline=Deadline(60), doing="initialising")
    assert set(markers_ids := [each.id for each in markers]) == {markers_ids[0]}
    assert len(markers) == 8


def test_on_a_store_that_ignores_create_only_what_stands_there_at_the_end_is_the_marker(store: DirectoryStore) -> None:
    ignoring = IgnoringCreateOnly(store)
    other = cache_in(ignoring, seed=b"other")

    def meanwhile(_: Store) -> dict[str, str | bool]:
        other.initialise(lambda _: {})
        return {"create_only": "ignored"}

    written = cache_in(ignoring, seed=b"own").initialise(meanwhile)
    assert written == cache_in(store).marker()
    assert written.capabilities == {"create_only": "ignored"}


def test_a_marker_whose_answer_was_lost_is_the_marker(store: DirectoryStore) -> None:
    lost = LosingAnswers(store, unavailable, touching(keys.MARKER, "write"), times=1)
    with pytest.raises(Unavailable):
        cache_in(lost).initialise(lambda _: {})
    assert cache_in(lost, seed=b"again").initialise(lambda _: {}).id == repeating_random()(16).hex()


def test_a_store_that_may_only_be_read_cannot_be_initialised(store: DirectoryStore) -> None:
    with pytest.raises(AccessDenied):
        cache_in(Failing(store, denied, touching("", "write"))).initialise(lambda _: {})


# From the ref to the bytes


def test_what_was_published_is_read(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    assert cache.manifest(SNAPSHOT) == MANIFEST
    assert cache.ref(SNAPSHOT).provenance == {"source": "https://huggingface.co"}
    for file in MANIFEST.files:
        (copy,) = cache.blob_copies(file.sha256, file.size)
        with copy.open(2) as chunks:
            assert b"".join(chunks) == CONTENTS[file.path][2:]
        assert [path.read_bytes() for path in copy.files] == [CONTENTS[file.path]]
        assert str(copy) == f"{stored.url}/{keys.blob(file.sha256)}"
    assert cache.folders == (stored.root,)


def test_a_store_that_is_no_local_disk_has_no_files() -> None:
    cache = cache_in(MemoryStore())
    publish(cache)
    (copy,) = cache.blob_copies(FILE.sha256, FILE.size)
    assert copy.files == ()
    assert cache.folders == ()


def test_a_snapshot_that_nobody_published_is_a_miss(stored: DirectoryStore) -> None:
    for other in (
        evolve(SNAPSHOT, commit="f" * 40),
        evolve(SNAPSHOT, selection="0" * 16),
        evolve(SNAPSHOT, host="hub.example.org"),
        evolve(SNAPSHOT, type=RepoType.DATASET),
        evolve(SNAPSHOT, repo="Tiny/model"),
    ):
        with pytest.raises(SnapshotNotFound, match="does not hold"):
            cache_in(stored).manifest(other)


def test_a_ref_without_its_manifest_is_a_miss_that_names_it(stored: DirectoryStore) -> None:
    stored.delete(NAMED)
    with pytest.raises(SnapshotNotFound, match=f"not its manifest {MANIFEST.digest}"):
        cache_in(stored).manifest(SNAPSHOT)


def test_a_ref_that_leads_to_the_manifest_of_another_snapshot_is_not_followed(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    for other in (
        evolve(MANIFEST, commit="f" * 40),
        evolve(MANIFEST, repo="evil/model"),
        evolve(MANIFEST, host="evil.example"),
        evolve(MANIFEST, selection="0" * 16),
    ):
        publish(cache, other)
        put(stored, keys.ref(SNAPSHOT), content(stored, keys.ref(other.id)))
        with pytest.raises(ManifestInvalid, match="leads to the manifest of") as caught:
            cache.manifest(SNAPSHOT)
        assert str(SNAPSHOT) in str(caught.value)
        assert keys.ref(SNAPSHOT) in str(caught.value.hint)


def test_an_altered_manifest_is_refused_with_both_digests(stored: DirectoryStore) -> None:
    evil = evolve(MANIFEST, files=MANIFEST.files[:1])
    put(stored, NAMED, evil.to_json())
    with pytest.raises(DigestMismatch) as caught:
        cache_in(stored).manifest(SNAPSHOT)
    assert (caught.value.expected, caught.value.actual) == (MANIFEST.digest.hex, evil.digest.hex)


def test_a_bit_that_flips_once_on_the_way_does_no_harm(stored: DirectoryStore) -> None:
    for key in (NAMED, keys.ref(SNAPSHOT), keys.MARKER):
        altering = Altering(stored, lambda data: data[:-1], touching(key), times=1)
        assert cache_in(altering).manifest(SNAPSHOT) == MANIFEST


def test_a_manifest_that_needs_a_feature_of_a_later_version_is_refused(stored: DirectoryStore) -> None:
    plain = json.loads(MANIFEST.to_json()) | {"required_features": ["zstd"]}
    later = to_json(plain)
    put(stored, keys.manifest(Digest.of(later)), later)
    put(stored, keys.ref(SNAPSHOT), to_json(RefRecord(Digest.of(later), "0" * 32, {})))
    with pytest.raises(StoreUnsupported, match="zstd") as caught:
        cache_in(stored).manifest(SNAPSHOT)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("record", [b"", b"{}", b"null", b'{"manifest":"x","provenance":{},"write_id":""}'])
def test_a_ref_that_is_broken_is_not_a_miss(stored: DirectoryStore, record: bytes) -> None:
    put(stored, keys.ref(SNAPSHOT), record)
    with pytest.raises(ManifestInvalid, match=keys.ref(SNAPSHOT)):
        cache_in(stored).manifest(SNAPSHOT)


def test_a_document_of_absurd_size_does_not_fill_the_memory(store: DirectoryStore) -> None:
    taken: list[int] = []

    def endless() -> Any:
        # Not quite, so that a failure of this test is no failure of the machine.
        for _ in range(4 * (MAX_DOCUMENT >> 20)):
            taken.append(1)
            yield bytes(1 << 20)

    class Endless(Recording):
        def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Any:  # noqa: ARG002  # the protocol's
            from contextlib import nullcontext  # noqa: PLC0415  # only here

            return nullcontext(endless())

    cache = cache_in(Endless(store))
    with pytest.raises(ManifestInvalid, match="too many for a document"):
        cache.marker()
    assert len(taken) <= 2 * ((MAX_DOCUMENT >> 20) + 1)


# Generations and encodings


def test_a_later_generation_is_read_where_the_canonical_manifest_is_gone_or_wrong(stored: DirectoryStore) -> None:
    good = content(stored, NAMED)
    put(stored, keys.generation(NAMED, ULIDS[0]), b"wrong too")
    put(stored, keys.generation(NAMED, ULIDS[1]), good)
    cache = cache_in(stored)
    put(stored, NAMED, b"wrong")
    assert cache.manifest(SNAPSHOT) == MANIFEST
    stored.delete(NAMED)
    assert cache.manifest(SNAPSHOT) == MANIFEST
    stored.delete(keys.generation(NAMED, ULIDS[1]))
    with pytest.raises(DigestMismatch):
        cache.manifest(SNAPSHOT)


def test_a_copy_that_vanishes_while_it_is_looked_for_is_passed_over(stored: DirectoryStore) -> None:
    good = content(stored, NAMED)
    stored.delete(NAMED)
    put(stored, keys.generation(NAMED, ULIDS[1]), good)
    vanishing = keys.generation(NAMED, ULIDS[0])
    put(stored, vanishing, good)
    store = Failing(stored, lambda: ObjectNotFound(vanishing, "it"), touching(vanishing, "read"))
    assert cache_in(store).manifest(SNAPSHOT) == MANIFEST


def test_every_copy_of_a_blob_is_offered_the_canonical_one_first(stored: DirectoryStore) -> None:
    for ulid in reversed(ULIDS):
        put(stored, keys.generation(BLOB, ulid), DATA)
    cache = cache_in(stored)
    generations = [keys.generation(BLOB, ulid) for ulid in ULIDS]
    assert blob_keys(cache, FILE.sha256, FILE.size) == [BLOB, *generations]
    stored.delete(BLOB)
    assert blob_keys(cache, FILE.sha256, FILE.size) == generations


def test_generations_are_not_listed_while_the_canonical_copy_will_do(stored: DirectoryStore) -> None:
    recording = Recording(stored)
    cache = cache_in(recording)
    next(cache.blob_copies(FILE.sha256, FILE.size))
    cache.manifest(SNAPSHOT)
    assert recording.keys("scan") == []


def test_a_copy_of_another_length_is_reported_after_those_that_are_right(stored: DirectoryStore) -> None:
    put(stored, BLOB, DATA[:-1])
    put(stored, keys.generation(BLOB, ULIDS[0]), DATA)
    copies = cache_in(stored).blob_copies(FILE.sha256, FILE.size)
    assert str(next(copies)).endswith(ULIDS[0])
    with pytest.raises(SizeMismatch) as caught:
        next(copies)
    assert (caught.value.expected, caught.value.actual) == (FILE.size, FILE.size - 1)
    assert BLOB in str(caught.value)


def test_encodings_of_later_versions_are_skipped(stored: DirectoryStore) -> None:
    stored.delete(BLOB)
    for suffix in (".e-zstd", f".e-zstd.g{ULIDS[0]}", ".gzip", f".g{ULIDS[0]}.e-zstd"):
        put(stored, f"{BLOB}{suffix}", DATA)
        put(stored, f"{NAMED}{suffix}", b"encoded")
    cache = cache_in(stored)
    assert list(cache.blob_copies(FILE.sha256, FILE.size)) == []
    stored.delete(NAMED)
    with pytest.raises(SnapshotNotFound):
        cache.manifest(SNAPSHOT)


# Heads


def test_a_head_says_what_a_branch_meant_and_when(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    assert cache.head(HOST, REF) == HeadRecord("main", SNAPSHOT.commit, int(NOW), HUB)
    cache.put_head(HOST, REF, "f" * 40, SAVED)
    assert cache.head(HOST, REF) == HeadRecord("main", "f" * 40, int(NOW), SAVED)


def test_a_branch_that_nobody_looked_at_is_a_miss(stored: DirectoryStore) -> None:
    with pytest.raises(SnapshotNotFound, match="does not know tiny/model@dev"):
        cache_in(stored).head(HOST, REF.at("dev"))


def test_a_head_that_was_put_in_the_place_of_another_is_refused(stored: DirectoryStore) -> None:
    head = partial(keys.head, HOST, RepoType.MODEL, "tiny/model")
    put(stored, head("v1"), content(stored, head("main")))
    with pytest.raises(ManifestInvalid, match="tells of 'main'"):
        cache_in(stored).head(HOST, REF.at("v1"))


def test_a_head_whose_commit_leads_out_of_its_folder_is_refused(stored: DirectoryStore) -> None:
    record = {"commit": "../../../../blobs", "observed_at": 1, "origin": "hub", "revision": "main"}
    put(stored, keys.head(HOST, RepoType.MODEL, "tiny/model", "main"), to_json(record))
    with pytest.raises(ManifestInvalid, match="not a commit"):
        cache_in(stored).head(HOST, REF)


def test_the_branches_and_tags_of_a_snapshot_are_listed_also_those_too_long_for_a_key(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    long = "feature/" + "x" * 200
    assert keys.is_hashed(keys.head(HOST, RepoType.MODEL, "tiny/model", long))
    cache.put_head(HOST, REF.at(long), SNAPSHOT.commit, HUB)
    cache.put_head(HOST, REF.at("v1"), SNAPSHOT.commit, HUB)
    cache.put_head(HOST, REF.at("v2"), "f" * 40, HUB)
    assert cache.heads_of(SNAPSHOT) == (long, "main", "v1")
    assert cache.heads_of(evolve(MANIFEST, commit="e" * 40).id) == ()
    every = {SNAPSHOT.commit: (long, "main", "v1"), "f" * 40: ("v2",)}
    assert cache.heads(HOST, RepoType.MODEL, "tiny/model") == every
    assert cache.head(HOST, REF.at(long)).revision == long


def test_heads_that_nobody_can_read_are_reported_and_hide_no_others(
    stored: DirectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder = keys.HEADS + keys.repository(HOST, RepoType.MODEL, "tiny/model")
    put(stored, f"{folder}broken.json", b"{")
    put(stored, f"{folder}swapped.json", content(stored, f"{folder}main.json"))
    with caplog.at_level(logging.WARNING):
        assert cache_in(stored).heads_of(SNAPSHOT) == ("main",)
    assert "broken.json is not JSON" in caplog.text
    assert "swapped.json tells of another revision: 'main'" in caplog.text


# Listing


def test_every_snapshot_is_listed_in_the_order_of_its_key(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    others = [
        evolve(MANIFEST, repo="gpt2"),
        evolve(MANIFEST, repo="tiny/model.2"),
        evolve(MANIFEST, repo="tiny/my_model"),
        evolve(MANIFEST, host="localhost:8080"),
        evolve(MANIFEST, type=RepoType.SPACE),
        evolve(MANIFEST, selection="0" * 16),
    ]
    for other in others:
        publish(cache, other)
    wanted = sorted([SNAPSHOT, *(other.id for other in others)], key=keys.ref)
    assert list(cache.snapshots()) == wanted
    of_one = list(cache.snapshots_of(HOST, RepoType.MODEL, "tiny/model"))
    assert sorted(of_one, key=keys.ref) == of_one
    assert {one.selection for one in of_one} == {"all", "0" * 16}
    assert len(of_one) == 2


def test_snapshots_whose_names_are_too_long_for_a_key_are_listed_too(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    long = evolve(MANIFEST, repo=f"{'_' * 96}/{'_' * 96}", host="h" * 255)
    publish(cache, long)
    assert keys.is_hashed(keys.ref(long.id))
    assert set(cache.snapshots()) == {SNAPSHOT, long.id}
    assert list(cache.snapshots_of(long.host, long.type, long.repo)) == [long.id]
    assert cache.manifest(long.id) == long


def hashed_ref(commit: str) -> str:
    return f"{keys.REFS}{HOST}/model/_h{'0' * 64}/model/{commit}/all.json"


def test_hostile_keys_below_refs_are_reported_and_not_followed(
    stored: DirectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    ref = content(stored, keys.ref(SNAPSHOT))
    hostile = [
        f"{keys.REFS}README",
        f"{keys.REFS}{HOST}/model/_2E_2E/_2E_2E/{SNAPSHOT.commit}/all.json",
        f"{keys.REFS}{HOST}/model/tiny/model/main/all.json",
        hashed_ref(SNAPSHOT.commit),
    ]
    for key in hostile:
        put(stored, key, ref)
    put(stored, hashed_ref("1" * 40), b"{")
    put(stored, hashed_ref("2" * 40), to_json(RefRecord(Digest.of(b"nothing"), "", {})))
    with caplog.at_level(logging.WARNING):
        assert list(cache_in(stored).snapshots()) == [SNAPSHOT]
    assert caplog.text.count("cannot be read as a ref") == len(hostile) + 2
    for key in hostile:
        assert key in caplog.text


# Condemned lists


def condemn(store: Store, run: str, *names: str) -> None:
    put(store, f"{keys.COLLECTIONS}{run}{keys.CONDEMNED}", to_json(CondemnedRecord(names)))


def test_the_lists_of_all_collections_count(stored: DirectoryStore) -> None:
    cache = cache_in(stored)
    assert cache.condemned() == frozenset()
    condemn(stored, "1", "a", "b")
    condemn(stored, "2", "b", "c")
    put(stored, "gc/1/closed.json", b"not mine to read")
    assert cache.condemned() == {"a", "b", "c"}


def test_a_condemned_list_that_cannot_be_read_is_not_an_empty_one(stored: DirectoryStore) -> None:
    put(stored, "gc/1/condemned.json", b"[]")
    with pytest.raises(ManifestInvalid):
        cache_in(stored).condemned()


def test_a_condemned_list_that_is_forgotten_while_the_lists_are_read_counts_no_more(stored: DirectoryStore) -> None:
    condemn(stored, "1", "a")
    condemn(stored, "2", "b")
    # Marker, listing, then the two lists.
    store = Meddling(stored, {2: [lambda: stored.delete("gc/1/condemned.json")]})
    assert cache_in(store).condemned() == {"b"}


# Whole and kept


def test_a_snapshot_counts_as_published_after_its_ref_then_the_condemned_lists_then_every_object(
    stored: DirectoryStore,
) -> None:
    condemn(stored, "1", "a")
    recording = Recording(stored)
    assert published(cache_in(recording), SNAPSHOT) == MANIFEST
    said = [str(operation) for operation in recording.operations]
    objects = sorted(f"stat {key}" for key in (NAMED, *(keys.blob(file.sha256) for file in MANIFEST.files)))
    assert said[:5] == [
        f"read {keys.MARKER}",
        f"read {keys.ref(SNAPSHOT)}",
        f"read {NAMED}",
        "scan gc/",
        "read gc/1/condemned.json",
    ]
    assert sorted(said[5:]) == objects


@pytest.mark.parametrize("lost", [NAMED, *(keys.blob(file.sha256) for file in MANIFEST.files)])
def test_a_snapshot_of_which_an_object_is_condemned_does_not_count_as_published(
    stored: DirectoryStore, lost: str
) -> None:
    condemn(stored, "1", lost)
    with pytest.raises(SnapshotNotFound, match=lost):
        published(cache_in(stored), SNAPSHOT)
    generation = keys.generation(lost, ULIDS[0])
    put(stored, generation, content(stored, lost))
    assert published(cache_in(stored), SNAPSHOT) == MANIFEST
    condemn(stored, "2", generation)
    with pytest.raises(SnapshotNotFound, match=lost):
        published(cache_in(stored), SNAPSHOT)


def test_a_snapshot_of_which_a_blob_is_missing_or_cut_short_does_not_count_as_published(stored: DirectoryStore) -> None:
    put(stored, BLOB, DATA[:-1])
    with pytest.raises(SnapshotNotFound, match=BLOB):
        published(cache_in(stored), SNAPSHOT)
    stored.delete(BLOB)
    with pytest.raises(SnapshotNotFound, match=BLOB):
        published(cache_in(stored), SNAPSHOT)


def test_a_snapshot_whose_leaf_list_is_missing_or_condemned_does_not_count_as_published() -> None:
    contents = {"big.bin": bytes(40 << 20)}
    manifest = manifest_of(contents)
    store = MemoryStore()
    cache = cache_in(store)
    publish(cache, manifest, contents)
    (leaves,) = [info.key for info in store.scan("leaves/")]
    assert published(cache, manifest.id) == manifest
    condemn(store, "1", leaves)
    with pytest.raises(SnapshotNotFound, match=leaves):
        published(cache, manifest.id)
    store.delete("gc/1/condemned.json")
    store.delete(leaves)
    with pytest.raises(SnapshotNotFound, match=leaves):
        published(cache, manifest.id)


def test_wrong_metadata_is_told_from_missing_metadata_by_the_fast_path_too(stored: DirectoryStore) -> None:
    put(stored, NAMED, b"{}")
    with pytest.raises(IntegrityError):
        published(cache_in(stored), SNAPSHOT)


def test_an_empty_snapshot_can_be_stored_and_read() -> None:
    manifest = Manifest(HOST, RepoType.MODEL, "tiny/empty", "0" * 40, "all", ())
    cache = cache_in(MemoryStore())
    publish(cache, manifest, {})
    assert published(cache, SnapshotId(HOST, RepoType.MODEL, "tiny/empty", "0" * 40, "all")) == manifest
