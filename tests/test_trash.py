"""Pins, the trash and access markers: what a store remembers about which snapshots are to stay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.access import accessed, tidy, touch
from ci_modelcache.cache.census import of_manifests, refs
from ci_modelcache.cache.condemning import doom_names
from ci_modelcache.cache.pins import pin, pinned, unpin
from ci_modelcache.cache.publication import published
from ci_modelcache.cache.trash import drop, forget, trashed, undelete
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    ManifestInvalid,
    NoSpace,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.stores.directory import DirectoryStore
from tests.parts.cached import BLOBS, MANIFEST, NOW, SNAPSHOT, cache_in, publish, require_restorable
from tests.parts.snapshots import CONTENTS, manifest_of
from tests.parts.stores import Crash, Crashing, Failing, Meddling, MemoryStore, Recording, touching, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.stores.protocol import Store

DAY = 86400.0
PART = evolve(MANIFEST, selection="0123456789abcdef")
LONG_REPO = f"{'o' * 90}/{'n_' * 40}n"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    publish(cache_in(store))
    return store


@pytest.fixture
def cache(store: MemoryStore) -> ModelCache:
    return cache_in(store, seed=b"ours")


def held(cache: ModelCache) -> tuple[bool, bool]:
    """Whether the snapshot has a ref, and whether it lies in the trash."""
    return bool(refs(cache)), bool(trashed(cache))


# --- pins


def test_a_pin_says_which_manifest_is_to_stay_since_when_and_why(cache: ModelCache) -> None:
    pin(cache, SNAPSHOT, reason="in the product")
    (found,) = pinned(cache)
    assert found.snapshot == SNAPSHOT
    assert (found.record.manifest, found.record.pinned_at) == (MANIFEST.digest, int(NOW))
    assert found.record.reason == "in the product"
    unpin(cache, SNAPSHOT)
    assert pinned(cache) == ()


def test_what_is_not_stored_in_full_cannot_be_pinned(store: MemoryStore, cache: ModelCache) -> None:
    del store.objects[keys.blob(next(iter(BLOBS)))]
    with pytest.raises(SnapshotNotFound):
        pin(cache, SNAPSHOT, reason="")
    assert pinned(cache) == ()


def test_what_is_not_pinned_cannot_be_unpinned(cache: ModelCache) -> None:
    with pytest.raises(SnapshotNotFound, match="is not pinned"):
        unpin(cache, SNAPSHOT)


def test_whoever_pins_while_it_is_being_dropped_finds_it_pinned_and_published(store: MemoryStore) -> None:
    """Whatever the moment: all interleavings of one pin with one drop."""
    before = dict(store.objects)
    kept = 0
    for number in range(40):
        store.objects = dict(before)
        told: list[bool] = []

        def interfere(told: list[bool] = told) -> None:
            try:
                pin(cache_in(store, seed=b"pin"), SNAPSHOT, reason="")
            except SnapshotNotFound:
                told.append(False)  # it was gone already: nobody was told that it is kept
            else:
                told.append(True)

        meddling = Meddling(store, {number: [interfere]})
        drop(cache_in(meddling, seed=b"drop"), SNAPSHOT)
        if meddling.count <= number:
            break
        assert [bool(pinned(cache_in(store)))] == told
        kept += sum(told)
        if told == [True]:
            published(cache_in(store), SNAPSHOT)
    else:
        pytest.fail("a drop takes more operations than that")
    assert kept > 3


def test_whoever_drops_while_it_is_being_pinned_leaves_it_published(store: MemoryStore) -> None:
    before = dict(store.objects)

    def interfere() -> None:
        drop(cache_in(store, seed=b"drop"), SNAPSHOT)

    for number in range(80):
        store.objects = dict(before)
        meddling = Meddling(store, {number: [interfere]})
        try:
            pin(cache_in(meddling, seed=b"pin"), SNAPSHOT, reason="")
        except SnapshotNotFound:
            # It was gone before the pin: nobody was told that it is kept.
            assert pinned(cache_in(store)) == ()
            continue
        if meddling.count <= number:
            break
        published(cache_in(store), SNAPSHOT)
    else:
        pytest.fail("a pin takes more operations than that")


# --- the trash


def test_a_dropped_snapshot_is_a_miss_and_comes_back_bit_for_bit(store: MemoryStore, cache: ModelCache) -> None:
    before = tree(store)
    assert drop(cache, SNAPSHOT)
    assert held(cache) == (False, True)
    with pytest.raises(SnapshotNotFound):
        cache.manifest(SNAPSHOT)
    assert undelete(cache, SNAPSHOT) == MANIFEST
    require_restorable(cache)
    after = tree(store)
    assert {key: after[key] for key in after if not key.startswith(keys.REFS)} == {
        key: before[key] for key in before if not key.startswith(keys.REFS)
    }
    assert cache.ref(SNAPSHOT).provenance == {"source": "https://huggingface.co"}


def test_nothing_is_dropped_that_is_not_there(cache: ModelCache) -> None:
    with pytest.raises(SnapshotNotFound):
        drop(cache, PART.id)
    with pytest.raises(SnapshotNotFound, match=r"cannot bring .* back"):
        undelete(cache, SNAPSHOT)


def test_what_somebody_publishes_anew_at_that_moment_stays(store: MemoryStore) -> None:
    def anew() -> None:
        store.delete(keys.ref(SNAPSHOT))
        publish(cache_in(store, seed=b"somebody %d" % number))

    # 0: the marker; 1: the ref is read; 2: into the trash; 3: the ref is read again.
    for number in (2, 3):
        assert not drop(cache_in(Meddling(store, {number: [anew]}), seed=b"drop"), SNAPSHOT)
        assert cache_in(store).ref(SNAPSHOT).manifest == MANIFEST.digest


def test_what_a_collection_is_deleting_is_copied_when_it_comes_back(store: MemoryStore, cache: ModelCache) -> None:
    drop(cache, SNAPSHOT)
    doomed = [key for key in store.objects if key.startswith(keys.COLLECTED)]
    doom_names(cache, new_ulid(NOW, b"1234567890"), doomed)
    undelete(cache, SNAPSHOT)
    for key in doomed:
        store.delete(key)  # however late
    require_restorable(cache_in(store))
    published(cache_in(store), SNAPSHOT)


def test_a_delete_that_lands_after_it_was_brought_back_loses_nothing(store: MemoryStore, cache: ModelCache) -> None:
    ref = store.objects[keys.ref(SNAPSHOT)]
    drop(cache, SNAPSHOT)
    store.objects[keys.ref(SNAPSHOT)] = ref  # the DELETE is still on its way
    undelete(cache, SNAPSHOT)
    del store.objects[keys.ref(SNAPSHOT)]
    assert held(cache) == (False, True)
    undelete(cache, SNAPSHOT)
    require_restorable(cache)


def test_what_has_lost_its_bytes_cannot_come_back_and_is_not_said_to_be_there(
    store: MemoryStore, cache: ModelCache
) -> None:
    drop(cache, SNAPSHOT)
    del store.objects[keys.blob(Digest.of(CONTENTS["model.safetensors"]))]
    with pytest.raises(SnapshotNotFound, match="cannot bring"):
        undelete(cache, SNAPSHOT)
    assert held(cache) == (False, True)
    assert not [key for key in store.objects if key.startswith(keys.INTENTS)]


@pytest.mark.parametrize("moment", ["before", "after", "within"])
@pytest.mark.parametrize("act", [drop, undelete])
def test_whoever_dies_on_the_way_leaves_it_in_one_of_both_and_the_next_one_goes_on(
    store: MemoryStore, act: Callable[[ModelCache, SnapshotId], object], moment: str
) -> None:
    if act is undelete:
        drop(cache_in(store), SNAPSHOT)
    before = dict(store.objects)
    for number in range(200):
        store.objects = dict(before)
        crashing = Crashing(store, at=number, moment=moment)
        try:
            act(cache_in(crashing, seed=b"dies"), SNAPSHOT)
        except Crash:
            published_now, in_trash = held(cache_in(store))
            assert published_now or in_trash
            if act is drop and published_now:
                drop(cache_in(store, seed=b"next"), SNAPSHOT)
            if act is undelete and in_trash:
                undelete(cache_in(store, seed=b"next"), SNAPSHOT)
            # Where the ref stood already, a drop may be at work: what names the bytes then stays in the trash as well.
            assert held(cache_in(store)) == ((False, True) if act is drop else (True, published_now and in_trash))
        if not crashing.is_dead:
            return
    pytest.fail("it takes more operations than that")


@pytest.mark.parametrize("number", range(30))
def test_a_drop_while_it_comes_back_from_an_earlier_one_loses_nothing(store: MemoryStore, number: int) -> None:
    drop(cache_in(store), SNAPSHOT)
    publish(cache_in(store, seed=b"anew"))

    def back() -> None:
        undelete(cache_in(store, seed=b"back"), SNAPSHOT)

    meddling = Meddling(store, {number: [back]})
    drop(cache_in(meddling, seed=b"drop"), SNAPSHOT)
    assert any(held(cache_in(store)))


def test_what_is_dropped_again_while_it_comes_back_is_told_and_stays_in_the_trash(store: MemoryStore) -> None:
    drop(cache_in(store), SNAPSHOT)
    before = dict(store.objects)
    told = 0
    for number in range(200):
        store.objects = dict(before)

        def again() -> None:
            if keys.ref(SNAPSHOT) in store.objects:
                drop(cache_in(store, seed=b"again"), SNAPSHOT)

        meddling = Meddling(store, {number: [again]})
        try:
            undelete(cache_in(meddling, seed=b"back"), SNAPSHOT)
        except Unavailable:
            told += 1
        assert any(held(cache_in(store)))
        if meddling.count <= number:
            break
    assert told


def test_only_what_has_lain_there_for_long_is_forgotten(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    cache = cache_in(store)
    publish(cache)
    drop(cache, SNAPSHOT)
    dropped = trashed(cache)[0].modified
    assert not forget(cache, SNAPSHOT, before=dropped)
    assert forget(cache, SNAPSHOT, before=dropped + 1)
    assert not forget(cache, SNAPSHOT, before=dropped + 1)
    assert trashed(cache) == ()


# --- all of them


def len_of(manifest: Manifest) -> int:
    return len(manifest.files)


def test_the_census_knows_snapshots_with_names_too_long_for_a_key(store: MemoryStore, cache: ModelCache) -> None:
    long = evolve(MANIFEST, repo=LONG_REPO)
    publish(cache, long)
    pin(cache, long.id, reason="")
    assert {one.snapshot for one in refs(cache)} == {SNAPSHOT, long.id}
    assert of_manifests(cache, pinned(cache), lambda manifest: manifest) == {long.id: long}
    drop(cache_in(store), SNAPSHOT)
    assert [one.snapshot for one in trashed(cache)] == [SNAPSHOT]


@pytest.mark.parametrize("prefix", [keys.REFS, keys.PINS, keys.TRASH])
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff"])
def test_what_cannot_be_read_stops_the_census(store: MemoryStore, cache: ModelCache, prefix: str, data: bytes) -> None:
    store.objects[keys.ref(PART.id).replace(keys.REFS, prefix)] = data
    read: Any = {keys.REFS: refs, keys.PINS: pinned, keys.TRASH: trashed}[prefix]
    with pytest.raises(IntegrityError) as caught:
        read(cache)
    assert "ci-modelcache verify" in str(caught.value.hint)


def test_a_ref_without_its_manifest_or_with_another_ones_stops_the_census(
    store: MemoryStore, cache: ModelCache
) -> None:
    store.objects[keys.ref(PART.id)] = store.objects[keys.ref(SNAPSHOT)]
    with pytest.raises(ManifestInvalid, match=r"names for .* the manifest of"):
        of_manifests(cache, refs(cache), len_of)
    del store.objects[keys.ref(PART.id)]
    del store.objects[keys.manifest(MANIFEST.digest)]
    with pytest.raises(ManifestInvalid, match="does not hold it"):
        of_manifests(cache, refs(cache), len_of)


def test_what_vanishes_while_it_is_read_is_left_out(store: MemoryStore) -> None:
    publish(cache_in(store), PART)

    class Vanishing(Recording):
        def before(self, operation: object) -> None:
            if str(operation) == f"read {keys.ref(PART.id)}":
                store.objects.pop(keys.ref(PART.id), None)

    assert [one.snapshot for one in refs(cache_in(Vanishing(store)))] == [SNAPSHOT]


# --- access markers


def aged(store: DirectoryStore, key: str, days: float) -> None:
    path = store.path(key)
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))


def test_a_use_is_one_empty_object_a_day(store: MemoryStore) -> None:
    now = [NOW]
    cache = cache_in(store, now=lambda: now[0])
    for _ in range(3):
        touch(cache, SNAPSHOT)
    now[0] += DAY
    touch(cache, SNAPSHOT)
    found = {key: data for key, data in store.objects.items() if key.startswith(keys.ACCESS)}
    assert set(found.values()) == {b""}
    assert [key.rpartition("/")[2] for key in sorted(found)] == ["2026-09-21", "2026-09-22"]
    store.objects[keys.access(SNAPSHOT, "2026-09-22")] = b"the first of the day"
    touch(cache, SNAPSHOT)
    assert store.objects[keys.access(SNAPSHOT, "2026-09-22")] == b"the first of the day"


@pytest.mark.parametrize(
    "error", [AccessDenied("no"), Unavailable("later"), NoSpace("full"), DeadlineExceeded("too late")]
)
def test_that_a_use_cannot_be_noted_is_no_failure(store: MemoryStore, error: ModelCacheError) -> None:
    failing: Store = Failing(store, lambda: error, touching(keys.ACCESS))
    touch(cache_in(failing), SNAPSHOT)
    assert accessed(cache_in(store), [SNAPSHOT]) == {}


def test_the_last_use_is_known_by_the_stores_clock_and_that_of_a_part_is_one_of_the_whole(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    cache = cache_in(store)
    other = manifest_of(commit="f" * 40).id
    assert accessed(cache, [SNAPSHOT]) == {}
    for snapshot, day, days in ((SNAPSHOT, "2026-01-01", 9), (SNAPSHOT, "2099-01-01", 12), (PART.id, "2026-01-03", 4)):
        cache.put_document(keys.access(snapshot, day), b"")
        aged(store, keys.access(snapshot, day), days)
    assert accessed(cache, [SNAPSHOT, PART.id, other]) == {SNAPSHOT: NOW - 4 * DAY, PART.id: NOW - 4 * DAY}


def test_markers_that_say_nothing_any_more_are_removed_and_young_ones_stay(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, create=True)
    cache = cache_in(store)
    gone = manifest_of(commit="f" * 40).id
    for snapshot in (SNAPSHOT, PART.id, gone):
        for day, days in (("2026-01-01", 9), ("2026-01-02", 8), ("2026-01-03", 0.5)):
            cache.put_document(keys.access(snapshot, day), b"")
            aged(store, keys.access(snapshot, day), days)
    store.delete(keys.access(SNAPSHOT, "2026-01-03"))
    assert tidy(cache, [SNAPSHOT], before=NOW - DAY) == 5
    assert [info.key for info in store.scan(keys.ACCESS)] == sorted(
        [
            keys.access(SNAPSHOT, "2026-01-02"),
            keys.access(PART.id, "2026-01-03"),
            keys.access(gone, "2026-01-03"),
        ]
    )
