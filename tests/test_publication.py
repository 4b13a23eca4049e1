"""Writing snapshots: the order is the protocol, and whatever happens in between costs work, never data."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys, presence, publication
from ci_modelcache.cache.intents import HEARTBEAT
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.records import CondemnedRecord, IntentRecord, RefRecord
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    AlreadyExists,
    DigestMismatch,
    IntegrityError,
    ManifestInvalid,
    ModelCacheError,
    ObjectNotFound,
    SizeMismatch,
    SnapshotConflict,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model import digest as model_digest
from ci_modelcache.model import manifest as model_manifest
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import for_each
from tests.parts.cached import (
    BLOBS,
    MANIFEST,
    NOW,
    SNAPSHOT,
    blob_keys,
    cache_in,
    leaf_list,
    publish,
    repeating_random,
    require_restorable,
)
from tests.parts.collecting import losses, operations_of
from tests.parts.snapshots import CONTENTS, git_name, manifest_of
from tests.parts.stores import (
    Crash,
    Crashing,
    Failing,
    IgnoringCreateOnly,
    LosingAnswers,
    Meddling,
    MemoryStore,
    Operation,
    Recording,
    content,
    touching,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import Store

FILE = next(file for file in MANIFEST.files if file.path == "model.safetensors")
DATA = CONTENTS[FILE.path]
BLOB = keys.blob(FILE.sha256)
NAMED = keys.manifest(MANIFEST.digest)
REF = keys.ref(SNAPSHOT)


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


def unavailable() -> Unavailable:
    return Unavailable("the store said 503")


def put(store: Store, key: str, data: bytes) -> None:
    store.write(key, [data], size=len(data))


def condemn(store: Store, *names: str, run: str = "1") -> None:
    put(store, f"{keys.COLLECTIONS}{run}{keys.CONDEMNED}", to_json(CondemnedRecord(names)))


def other_manifest() -> Manifest:
    """Another manifest of the same snapshot, as a poisoned mirror would make."""
    return manifest_of({**CONTENTS, FILE.path: b"evil"})


# Names


def test_a_ulid_is_that_of_the_specification_and_sorts_by_time() -> None:
    assert new_ulid(0, bytes(10)) == "0" * 26
    assert new_ulid(((1 << 48) - 1) / 1000, b"\xff" * 10) == f"7{'Z' * 25}"
    assert new_ulid(1_469_918_176.385, bytes(10))[:10] == "01ARYZ6S41"
    early, late = new_ulid(NOW, b"\xff" * 10), new_ulid(NOW + 0.001, bytes(10))
    assert early < late
    assert len(early) == len(late) == 26


# The order


def test_the_order_of_operations_is_the_protocol() -> None:
    recording = Recording(MemoryStore())
    publish(cache_in(recording))
    first, second = recording.keys("write", keys.INTENTS)
    canonical = [keys.blob(digest) for digest in sorted(BLOBS)]
    blobs = [
        operation
        for key in canonical
        for operation in (Operation("stat", key), Operation("scan", f"{key}."), Operation("write", key))
    ]
    assert recording.operations == [
        Operation("read", keys.MARKER),
        Operation("write", first),
        Operation("scan", keys.COLLECTIONS),
        *blobs,
        Operation("write", second),
        Operation("scan", keys.COLLECTIONS),
        Operation("stat", NAMED),
        Operation("scan", f"{NAMED}."),
        Operation("write", NAMED),
        Operation("read", REF),
        Operation("write", REF),
        Operation("scan", first.removesuffix("1.json")),
        Operation("delete", first),
        Operation("delete", second),
    ]


def test_leaf_lists_are_written_after_the_blobs_and_before_the_manifest() -> None:
    contents = {"big.bin": bytes(17 << 20)}
    manifest = manifest_of(contents)
    recording = Recording(MemoryStore())
    publish(cache_in(recording), manifest, contents)
    kinds = [key.partition("/")[0] for key in recording.keys("write")]
    assert kinds == ["intents", "blobs", "intents", "leaves", "manifests", "refs"]
    (leaves,) = recording.keys("write", "leaves/")
    assert content(recording, leaves) == leaf_list(contents["big.bin"])


def test_nothing_is_relied_on_before_an_intent_names_it() -> None:
    store = MemoryStore()
    recording = Recording(store)
    seen: set[str] = set()

    class Watching(Recording):
        def before(self, operation: Operation) -> None:
            super().before(operation)
            name = operation.key.rpartition("/")[2][:64]
            if operation.key.startswith(("blobs/", "leaves/", "manifests/")):
                intents = [from_json(content(store, info.key), IntentRecord, "it") for info in store.scan(keys.INTENTS)]
                assert name in {digest.hex for intent in intents for digest in intent.digests}
                seen.add(name)

    publish(cache_in(Watching(recording)))
    assert seen == {digest.hex for digest in (*BLOBS, MANIFEST.digest)}


def test_publishing_again_writes_nothing_but_intents(store: DirectoryStore) -> None:
    publish(cache_in(store))
    before = tree(store)
    recording = Recording(store)
    publish(cache_in(recording, seed=b"again"))
    assert recording.keys("write") == recording.keys("write", keys.INTENTS)
    assert tree(store) == before


def test_what_is_left_at_the_end_is_the_snapshot_and_nothing_else(store: DirectoryStore) -> None:
    cache = cache_in(store)
    publish(cache, source="s3://elsewhere")
    assert set(tree(store)) == {REF, NAMED, *(keys.blob(digest) for digest in BLOBS)}
    record = from_json(content(store, REF), RefRecord, "it")
    assert record == RefRecord(MANIFEST.digest, repeating_random()(16).hex(), {"source": "s3://elsewhere"})


def test_what_was_announced_already_is_not_announced_again() -> None:
    recording = Recording(MemoryStore())
    with Publication(cache_in(recording)) as writer:
        writer.announce(BLOBS)
        writer.announce([FILE.sha256])
        writer.announce([])
    assert len(recording.keys("write")) == len(recording.keys("scan")) == 1


# What a caller must not do


def test_a_blob_must_be_announced_before_it_is_asked_for_or_stored() -> None:
    with Publication(cache_in(MemoryStore())) as writer:
        with pytest.raises(ValueError, match="before it was announced"):
            writer.has_blob(FILE.sha256, FILE.size)
        with pytest.raises(ValueError, match="before it was announced"):
            writer.put_blob(FILE.expected, FILE.sha256, [DATA], what="it")


def test_a_snapshot_cannot_be_committed_before_each_blob_was_found_or_stored() -> None:
    store = MemoryStore()
    with Publication(cache_in(store)) as writer:
        writer.announce(BLOBS)
        for digest, data in list(BLOBS.items())[1:]:
            writer.put_blob(Expected(len(data), digest), digest, [data], what="it")
        assert not writer.has_blob(next(iter(BLOBS)), len(BLOBS[next(iter(BLOBS))]))
        with pytest.raises(ValueError, match="neither found nor stored"):
            writer.commit(MANIFEST, [], provenance={})
    assert list(store.scan(keys.REFS)) == []


def test_a_snapshot_cannot_be_committed_without_its_leaf_lists() -> None:
    contents = {"big.bin": bytes(17 << 20)}
    (file,) = manifest_of(contents).files
    with Publication(cache_in(MemoryStore())) as writer:
        writer.announce([file.sha256])
        writer.put_blob(file.expected, file.sha256, [contents["big.bin"]], what="it")
        with pytest.raises(ValueError, match="its leaf list is not there"):
            writer.commit(manifest_of(contents), [], provenance={})


def test_a_blob_cannot_be_stored_under_another_name_than_was_promised() -> None:
    with Publication(cache_in(MemoryStore())) as writer:
        writer.announce(BLOBS)
        with pytest.raises(ValueError, match="is expected to be"):
            writer.put_blob(FILE.expected, Digest.of(b""), [DATA], what="it")


# Bodies that lie


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([DATA[:-1] + b"X"], DigestMismatch),
        ([DATA[:-1]], SizeMismatch),
        ([], SizeMismatch),
        ([DATA, b"X"], SizeMismatch),
        ([DATA[:100], DATA], SizeMismatch),
    ],
    ids=["wrong", "short", "empty", "long", "repeated"],
)
def test_a_body_that_lies_leaves_nothing_visible(
    store: DirectoryStore, body: list[bytes], error: type[IntegrityError]
) -> None:
    with Publication(cache_in(store)) as writer:
        writer.announce(BLOBS)
        with pytest.raises(error, match=r"model\.safetensors of the mirror"):
            writer.put_blob(FILE.expected, FILE.sha256, body, what="model.safetensors of the mirror")
    assert tree(store) == {}


def test_a_body_of_which_only_a_git_name_was_promised_must_also_have_the_digest_that_names_it(
    store: DirectoryStore,
) -> None:
    promised = Expected(5, git_oid=git_name(b"right"))
    digest = Digest.of(b"right")
    with Publication(cache_in(store)) as writer:
        writer.announce([digest, Digest.of(b"other")])
        writer.put_blob(promised, digest, [b"right"], what="it")
        with pytest.raises(DigestMismatch):
            writer.put_blob(promised, Digest.of(b"other"), [b"right"], what="it")
    assert tree(store) == {keys.blob(digest): b"right"}


def test_a_stored_blob_of_the_wrong_size_is_replaced(store: DirectoryStore) -> None:
    put(store, BLOB, DATA[:-1])
    publish(cache_in(store))
    require_restorable(cache_in(store))


# The ref


@pytest.mark.parametrize("error", [unavailable, lambda: AlreadyExists(REF, "it")], ids=["unavailable", "exists"])
def test_a_ref_that_landed_while_its_answer_was_lost_is_no_conflict_with_oneself(
    store: DirectoryStore, error: Callable[[], ModelCacheError]
) -> None:
    lossy = LosingAnswers(store, error, touching(keys.REFS, "write"))
    publish(cache_in(lossy))
    require_restorable(cache_in(store))


def test_a_ref_that_did_not_land_is_unavailable_and_not_forced(store: DirectoryStore) -> None:
    with pytest.raises(Unavailable):
        publish(cache_in(Failing(store, unavailable, touching(keys.REFS, "write"), times=1)))
    with pytest.raises(SnapshotNotFound):
        cache_in(store).manifest(SNAPSHOT)


def test_a_ref_that_may_not_be_written_is_denied(store: DirectoryStore) -> None:
    with pytest.raises(AccessDenied):
        publish(cache_in(Failing(store, lambda: AccessDenied("no"), touching(keys.REFS, "write"))))


def test_another_manifest_of_the_same_snapshot_is_a_conflict_that_names_both(store: DirectoryStore) -> None:
    publish(cache_in(store))
    evil = other_manifest()
    with pytest.raises(SnapshotConflict) as caught:
        publish(cache_in(store, seed=b"evil"), evil, {**CONTENTS, FILE.path: b"evil"})
    assert str(MANIFEST.digest) in str(caught.value)
    assert str(evil.digest) in str(caught.value)
    assert str(SNAPSHOT) in str(caught.value)
    assert caught.value.exit_code == 13
    require_restorable(cache_in(store))


@pytest.mark.parametrize("wrap", [lambda store: store, IgnoringCreateOnly], ids=["create-only", "ignores it"])
def test_a_conflict_is_found_also_where_the_store_ignores_create_only(
    store: DirectoryStore, wrap: Callable[[Store], Store]
) -> None:
    publish(cache_in(store))
    with pytest.raises(SnapshotConflict):
        publish(cache_in(wrap(store), seed=b"evil"), other_manifest(), {**CONTENTS, FILE.path: b"evil"})
    require_restorable(cache_in(store))


def test_of_two_that_differ_and_write_their_ref_at_once_the_first_wins(store: DirectoryStore) -> None:
    recording = Recording(MemoryStore())
    publish(cache_in(recording))
    write = recording.operations.index(Operation("write", REF))
    first = partial(publish, cache_in(store, seed=b"first"))
    contents = {**CONTENTS, FILE.path: b"evil"}
    with pytest.raises(SnapshotConflict):
        publish(cache_in(Meddling(store, {write: [first]}), seed=b"evil"), other_manifest(), contents)
    require_restorable(cache_in(store))


def test_of_two_that_agree_and_write_their_ref_at_once_both_succeed(store: DirectoryStore) -> None:
    for number in range(operations_of(publish, prepare=lambda _: None)):
        store = DirectoryStore(store.root.with_name(f"store-{number}"), create=True)
        meddling = Meddling(store, {number: [partial(publish, cache_in(store, seed=b"first"))]})
        publish(cache_in(meddling, seed=b"second"))
        assert set(tree(store)) == {REF, NAMED, *(keys.blob(digest) for digest in BLOBS)}
        require_restorable(cache_in(store))


def test_eight_threads_that_publish_the_same_snapshot_all_succeed_and_leave_one_set_of_objects(
    store: DirectoryStore,
) -> None:
    def write(number: int) -> None:
        publish(cache_in(store, seed=b"%d" % number))

    for_each(range(8), write, workers=8, deadline=Deadline(60), doing="publishing")
    assert set(tree(store)) == {REF, NAMED, *(keys.blob(digest) for digest in BLOBS)}
    require_restorable(cache_in(store))


BROKEN_REFS: dict[str, Callable[[Store], None]] = {
    "no JSON": lambda store: put(store, REF, b"<html>"),
    "empty": lambda store: put(store, REF, b""),
    "to a manifest that is missing": lambda store: put(store, REF, to_json(RefRecord(Digest.of(b""), "", {}))),
    "to the manifest of another": lambda store: put(store, REF, content(store, keys.ref(_another().id))),
    "to an altered manifest": lambda store: put(store, NAMED, MANIFEST.to_json()[:-1]),
}


def _another() -> Manifest:
    return evolve(MANIFEST, repo="other/model")


@pytest.mark.parametrize("broken", BROKEN_REFS)
def test_a_ref_that_leads_to_no_manifest_of_its_snapshot_is_repaired(store: DirectoryStore, broken: str) -> None:
    publish(cache_in(store))
    publish(cache_in(store), _another())
    BROKEN_REFS[broken](store)
    with pytest.raises((IntegrityError, SnapshotNotFound)):
        cache_in(store).manifest(SNAPSHOT)
    publish(cache_in(store, seed=b"again"))
    require_restorable(cache_in(store))
    require_restorable(cache_in(store), _another())


def test_a_ref_that_only_a_later_version_can_read_is_not_replaced(store: DirectoryStore) -> None:
    publish(cache_in(store))
    later = MANIFEST.to_json().replace(b'"required_features":[]', b'"required_features":["later"]')
    put(store, keys.manifest(Digest.of(later)), later)
    put(store, REF, to_json(RefRecord(Digest.of(later), "", {})))
    before = tree(store)
    with pytest.raises(StoreUnsupported):
        publish(cache_in(store))
    assert tree(store) == before


def test_a_ref_that_cannot_be_looked_at_is_not_replaced(store: DirectoryStore) -> None:
    publish(cache_in(store))
    before = tree(store)
    for error in (unavailable, lambda: AccessDenied("no")):
        with pytest.raises((Unavailable, AccessDenied)):
            publish(cache_in(Failing(store, error, touching(keys.REFS, "read"))))
    assert tree(store) == before


# Condemned names


@pytest.mark.parametrize("present", [True, False], ids=["still there", "deleted"])
@pytest.mark.parametrize("condemned", [BLOB, NAMED], ids=["blob", "manifest"])
def test_a_condemned_name_is_neither_relied_on_nor_written_again(
    store: DirectoryStore, condemned: str, *, present: bool
) -> None:
    publish(cache_in(store))
    condemn(store, condemned)
    if not present:
        store.delete(condemned)
    recording = Recording(store)
    publish(cache_in(recording, seed=b"again"))
    assert condemned not in recording.keys("write")
    (generation,) = recording.keys("write", f"{condemned}.g")
    assert keys.is_generation(generation, condemned)
    store.delete(condemned)
    require_restorable(cache_in(store))
    assert published(cache_in(store), SNAPSHOT) == MANIFEST


def test_a_generation_can_be_condemned_too(store: DirectoryStore) -> None:
    publish(cache_in(store))
    condemn(store, BLOB)
    publish(cache_in(store, seed=b"second"))
    first = blob_keys(cache_in(store), FILE.sha256, FILE.size)[1]
    condemn(store, first, run="2")
    publish(cache_in(store, seed=b"third"))
    store.delete(BLOB)
    store.delete(first)
    (second,) = blob_keys(cache_in(store), FILE.sha256, FILE.size)
    assert second not in {BLOB, first}
    require_restorable(cache_in(store))


def test_a_generation_that_will_stay_is_relied_on(store: DirectoryStore) -> None:
    publish(cache_in(store))
    condemn(store, BLOB)
    publish(cache_in(store, seed=b"second"))
    recording = Recording(store)
    publish(cache_in(recording, seed=b"third"))
    assert recording.keys("write", "blobs/") == []


def test_a_condemned_list_that_cannot_be_read_stops_the_writer(store: DirectoryStore) -> None:
    put(store, "gc/1/condemned.json", b"[]")
    with pytest.raises(ManifestInvalid):
        publish(cache_in(store))
    assert list(store.scan("blobs/")) == []


def test_a_document_of_the_right_length_and_wrong_content_is_written_again(store: DirectoryStore) -> None:
    put(store, NAMED, MANIFEST.to_json().replace(b"tiny", b"evil"))
    publish(cache_in(store))
    require_restorable(cache_in(store))


def test_a_document_that_vanishes_while_it_is_looked_at_is_written_again(store: DirectoryStore) -> None:
    publish(cache_in(store))
    recording = Recording(store)
    publish(cache_in(Failing(recording, lambda: ObjectNotFound(NAMED, "it"), touching(NAMED, "read"), times=1)))
    assert recording.keys("write", NAMED) == [NAMED]
    require_restorable(cache_in(store))


# Intents that vanish


def vanishing(store: Store, *, at: Operation, then: Callable[[], None]) -> Store:
    """All intents vanish, and *then* something else happens, before the operation *at* of a publication."""
    recording = Recording(MemoryStore())
    publish(cache_in(recording))

    def expire() -> None:
        for info in list(store.scan(keys.INTENTS)):
            store.delete(info.key)
        then()

    return Meddling(store, {recording.operations.index(at): [expire]})


@pytest.mark.parametrize("at", [Operation("write", NAMED), Operation("write", REF)], ids=str)
def test_a_writer_whose_intent_vanished_succeeds_when_everything_is_still_there(
    store: DirectoryStore, at: Operation
) -> None:
    publish(cache_in(vanishing(store, at=at, then=lambda: None)))
    require_restorable(cache_in(store))


@pytest.mark.parametrize("at", [Operation("scan", f"{NAMED}."), Operation("write", REF)], ids=str)
@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "to be deleted"])
def test_a_writer_whose_intent_vanished_fails_when_something_was_condemned_meanwhile(
    store: DirectoryStore, at: Operation, *, deleted: bool
) -> None:
    def collect() -> None:
        condemn(store, BLOB)
        if deleted:
            store.delete(BLOB)

    with pytest.raises(Unavailable, match=BLOB) as caught:
        publish(cache_in(vanishing(store, at=at, then=collect)))
    assert "run it again" in str(caught.value.hint)
    with pytest.raises(SnapshotNotFound):
        published(cache_in(store), SNAPSHOT)
    publish(cache_in(store, seed=b"again"))
    store.delete(BLOB)
    require_restorable(cache_in(store))
    assert published(cache_in(store), SNAPSHOT) == MANIFEST


def test_an_intent_is_never_written_a_second_time_under_its_name() -> None:
    """Written again it would look as if it had stood all the time."""
    times = iter(range(10**6))
    recording = Recording(MemoryStore())
    publish(cache_in(recording, now=lambda: NOW + HEARTBEAT * next(times)))
    intents = recording.keys("write", keys.INTENTS)
    assert len(intents) > len(BLOBS)
    assert len(set(intents)) == len(intents)
    assert list(recording.scan(keys.INTENTS)) == []


def test_a_long_write_renews_its_intent_with_all_that_it_relies_on(store: DirectoryStore) -> None:
    clock = [NOW]
    with Publication(cache_in(store, now=lambda: clock[0])) as writer:
        writer.announce([FILE.sha256])
        writer.announce(BLOBS)
        assert len(list(store.scan(keys.INTENTS))) == 2
        clock[0] += HEARTBEAT
        writer.has_blob(FILE.sha256, FILE.size)
        assert len(list(store.scan(keys.INTENTS))) == 2
        clock[0] += 1
        writer.has_blob(FILE.sha256, FILE.size)
        *_, newest = store.scan(keys.INTENTS)
        assert set(from_json(content(store, newest.key), IntentRecord, "it").digests) == set(BLOBS)
        clock[0] -= 10 * HEARTBEAT
        writer.has_blob(FILE.sha256, FILE.size)
        assert len(list(store.scan(keys.INTENTS))) == 4
    assert list(store.scan(keys.INTENTS)) == []


def test_a_collection_may_take_the_old_intents_of_a_writer_that_renewed_them(store: DirectoryStore) -> None:
    clock = [NOW]
    with Publication(cache_in(store, now=lambda: clock[0])) as writer:
        writer.announce(BLOBS)
        for digest, data in BLOBS.items():
            clock[0] += HEARTBEAT + 1
            old = [info.key for info in store.scan(keys.INTENTS)]
            writer.put_blob(Expected(len(data), digest), digest, [data], what="it")
            for key in old:
                store.delete(key)
        recording = Recording(store)
        writer._cache = cache_in(recording)
        writer.commit(MANIFEST, [], provenance={})
    # Had it believed that it was unprotected for a while, it would have looked at every blob again.
    assert recording.keys("stat", "blobs/") == []


def test_an_intent_that_vanished_before_it_was_renewed_is_not_forgotten(store: DirectoryStore) -> None:
    clock = [NOW]
    with Publication(cache_in(store, now=lambda: clock[0])) as writer:
        writer.announce(BLOBS)
        for digest, data in BLOBS.items():
            writer.put_blob(Expected(len(data), digest), digest, [data], what="it")
        for info in list(store.scan(keys.INTENTS)):
            store.delete(info.key)
        condemn(store, BLOB)
        clock[0] += HEARTBEAT + 1
        assert not writer.has_blob(FILE.sha256, FILE.size)
        with pytest.raises(Unavailable, match=BLOB):
            writer.commit(MANIFEST, [], provenance={})


def test_intents_that_cannot_be_removed_do_not_turn_success_into_failure(
    store: DirectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    denying = Failing(store, lambda: AccessDenied("DeleteObject is not allowed"), touching("", "delete"))
    recording = Recording(denying)
    with caplog.at_level(logging.WARNING):
        publish(cache_in(recording))
    require_restorable(cache_in(store))
    assert "DeleteObject is not allowed" in caplog.text
    assert len(recording.keys("delete")) == 1


def test_intents_that_cannot_be_removed_do_not_hide_why_a_writer_failed(store: DirectoryStore) -> None:
    failing = Failing(store, unavailable, lambda operation: operation.verb == "delete" or operation.key == REF)
    with pytest.raises(Unavailable) as caught:
        publish(cache_in(failing))
    assert any("reading refs/" in note for note in caught.value.__notes__)


def test_a_writer_that_is_refused_speaks_of_no_intent(store: DirectoryStore, caplog: pytest.LogCaptureFixture) -> None:
    denied = Failing(store, lambda: AccessDenied("read only"), touching("", "write", "delete"))
    recording = Recording(denied)
    with pytest.raises(AccessDenied):
        publish(cache_in(recording))
    assert recording.keys("delete") == []
    assert caplog.messages == []


# Crashes


MOMENTS = ("before", "within", "after")


@pytest.mark.parametrize("moment", MOMENTS)
def test_whenever_a_writer_dies_the_snapshot_is_whole_or_a_miss_and_publishing_again_uploads_only_what_is_missing(
    tmp_path: Path, moment: str
) -> None:
    total = operations_of(publish, prepare=lambda _: None)
    assert total > 20
    whole = 0
    for at in range(total):
        store = DirectoryStore(tmp_path / f"{moment}-{at}", create=True)
        whole += _survives(store, partial(Crashing, at=at, moment=moment), MANIFEST, CONTENTS)
    # The ref is followed by looking for the intents and removing two of them.
    assert whole == (4 if moment == "after" else 3)


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 40 bytes has three leaves, for hashing 16 MiB a hundred times takes a minute."""
    for module in (model_digest, model_manifest, publication):
        monkeypatch.setattr(module, "LEAF_SIZE", 16)


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_holds_where_names_are_condemned_and_a_file_has_a_leaf_list(moment: str) -> None:
    contents = {"big.bin": bytes(40), "small.txt": b"small"}
    manifest = manifest_of(contents)
    small = keys.blob(Digest.of(b"small"))

    def prepared() -> MemoryStore:
        store = MemoryStore()
        condemn(store, small, keys.manifest(manifest.digest))
        put(store, small, b"small")
        return store

    counting = Crashing(prepared(), at=10**6, moment=moment)
    publish(cache_in(counting), manifest, contents)
    whole = 0
    for at in range(counting.count):
        store = prepared()
        whole += _survives(store, partial(Crashing, at=at, moment=moment), manifest, contents)
        store.delete(small)
        require_restorable(cache_in(store), manifest)
    assert whole == (4 if moment == "after" else 3)


def _survives(store: Store, crash: Callable[[Store], Crashing], manifest: Manifest, contents: dict[str, bytes]) -> bool:
    """Publish with that crash, and again without; whether the snapshot was whole in between. All the rest is asserted."""
    crashing = crash(store)
    with pytest.raises(Crash):
        publish(cache_in(crashing, seed=b"dead"), manifest, contents)
    assert crashing.is_dead
    reader = cache_in(store)
    whole = True
    try:
        require_restorable(reader, manifest)
        assert published(reader, manifest.id) == manifest
    except SnapshotNotFound:
        whole = False
    condemned = reader.condemned()
    complete = {info.key for info in store.scan("blobs/")} - condemned
    recording = Recording(store)
    publish(cache_in(recording, seed=b"again"), manifest, contents)
    uploaded = {key.partition(".")[0] for key in recording.keys("write", "blobs/")}
    assert not uploaded & {key.partition(".")[0] for key in complete}
    require_restorable(cache_in(store), manifest)
    assert published(cache_in(store), manifest.id) == manifest
    return whole


@pytest.mark.parametrize("error", [unavailable, lambda: AccessDenied("no")], ids=["unavailable", "denied"])
def test_whatever_operation_fails_the_failure_is_told_and_publishing_again_succeeds(
    error: Callable[[], ModelCacheError],
) -> None:
    counting = Recording(MemoryStore())
    publish(cache_in(counting))
    for number, operation in enumerate(counting.operations):
        store = MemoryStore()
        seen = iter(range(10**6))
        failing = Failing(store, error, lambda _, number=number, seen=seen: next(seen) >= number)  # type: ignore[misc]  # a lambda with defaults
        if operation.verb == "delete":
            publish(cache_in(failing, attempts=1))
        else:
            with pytest.raises(type(error())):
                publish(cache_in(failing, attempts=1))
        publish(cache_in(store, seed=b"again"))
        require_restorable(cache_in(store))


# Collections


EVERY = 31
"""There are 7,000 to 20,000 ways to interleave a collection with a writer. Each 31st is tried; with 1 all are, in minutes."""
TINY = {"config.json": b"{}"}
TINY_MANIFEST = manifest_of(TINY)


def write_tiny(cache: ModelCache) -> None:
    publish(cache, TINY_MANIFEST, TINY)


def leave_garbage(cache: ModelCache) -> None:
    """What a writer that died before its ref left: objects that nothing names."""
    write_tiny(cache)
    cache.store.delete(keys.ref(TINY_MANIFEST.id))


def write_unless_published(cache: ModelCache) -> None:
    try:
        published(cache, TINY_MANIFEST.id)
    except SnapshotNotFound:
        write_tiny(cache)


def die_then_write(at: int) -> Callable[[ModelCache], None]:
    """A first writer dies after its operation number *at*; a second one takes what it finds."""

    def act(cache: ModelCache) -> None:
        with pytest.raises(Crash):
            write_tiny(cache_in(Crashing(cache.store, at=at, moment="after"), seed=b"dead"))
        write_unless_published(cache)

    return act


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations have an order, so that every run is the same."""
    monkeypatch.setattr(publication, "_CHECKS", 1)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("few", [1, 2], ids=["listed", "asked for"])
@pytest.mark.parametrize("prepare", [leave_garbage, lambda _: None, write_tiny], ids=["garbage", "empty", "published"])
def test_no_collection_takes_what_a_writer_was_told_is_stored(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[ModelCache], None], few: int
) -> None:
    monkeypatch.setattr(presence, "_FEW", few)
    assert next(losses(write_tiny, prepare=prepare, manifest=TINY_MANIFEST, every=EVERY), None) is None


@pytest.mark.usefixtures("one_at_a_time")
def test_no_collection_takes_what_a_second_writer_found_after_the_first_died() -> None:
    recording = Recording(MemoryStore())
    leave_garbage(cache_in(recording.inner, seed=b"prepare"))
    write_tiny(cache_in(recording))
    for at, operation in enumerate(recording.operations):
        # What the second one finds differs most where the first has just written the ref.
        every = EVERY if operation.key == keys.ref(TINY_MANIFEST.id) else 50 * EVERY
        actor = die_then_write(at)
        assert next(losses(actor, prepare=leave_garbage, manifest=TINY_MANIFEST, every=every), None) is None


MUTILATIONS: dict[str, tuple[object, str, object]] = {
    "condemned lists are ignored": (ModelCache, "condemned", lambda _: frozenset()),
    "condemned names are used again": (Publication, "_writable", lambda _, canonical: canonical),
    "intents are not looked for at the end": (Publication, "_stand", lambda _self, _intents: True),
    "intents are written again under their name": (keys, "intent", lambda ulid, _: f"intents/{ulid}.1.json"),
    "objects are not looked at again": (publication, "_require_all", lambda *_: None),
}


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("mutilation", MUTILATIONS)
def test_each_part_of_the_protocol_is_needed(monkeypatch: pytest.MonkeyPatch, mutilation: str) -> None:
    """The two tests above would find the protocol broken if that part were missing."""
    where, name, instead = MUTILATIONS[mutilation]
    monkeypatch.setattr(where, name, instead)
    actors = [write_tiny, *(die_then_write(at) for at in range(15))]
    found = (
        loss for actor in actors for loss in losses(actor, prepare=leave_garbage, manifest=TINY_MANIFEST, every=EVERY)
    )
    assert next(found, None) is not None
