"""Collections take what nobody names, when it was announced for long enough, and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import collection, keys, trash
from ci_modelcache.cache.collection import Amount, CollectOptions, collect, store_time, survey
from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.records import ClosedRecord, CondemnedRecord, Marker, PinRecord
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    CollectionRefused,
    DeadlineExceeded,
    IntegrityError,
    ManifestInvalid,
    ModelCacheError,
    Unavailable,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.cached import BLOBS, MANIFEST, NOW, SNAPSHOT, cache_in, publish, require_restorable
from tests.parts.simulated import AgingStore, one_thread
from tests.parts.snapshots import CONTENTS, manifest_of
from tests.parts.stores import Crash, Crashing, Failing, LosingAnswers, MemoryStore, Recording, content, touching, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.cache.collection import Collected
    from ci_modelcache.cache.modelcache import ModelCache

HOUR = 3600.0
DAY = 24 * HOUR
ANY = CollectOptions(max_share=1.0, may_be_empty=True)
OTHER = {"other.bin": b"of another model", "config.json": CONTENTS["config.json"]}
OTHER_MANIFEST = evolve(manifest_of(OTHER), repo="acme/other")


@pytest.fixture
def store() -> AgingStore:
    return AgingStore()


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    """Operations have an order, so that every run is the same."""
    with one_thread():
        yield


def run(store: AgingStore, options: CollectOptions = ANY) -> Collected:
    return collect(cache_in(store, seed=os.urandom(8)), options=options, deadline=Deadline())


def objects(store: MemoryStore) -> set[str]:
    return {key for key in store.objects if key.startswith(keys.COLLECTED)}


def lists(store: MemoryStore) -> set[str]:
    return {key for key in store.objects if key.startswith(keys.COLLECTIONS)}


def leave_garbage(store: AgingStore) -> set[str]:
    """Publish a snapshot and take its ref away; the keys of what is left."""
    before = objects(store)
    publish(cache_in(store, seed=b"garbage"), OTHER_MANIFEST, OTHER)
    store.delete(keys.ref(OTHER_MANIFEST.id))
    return objects(store) - before


# --- what goes, and when


def test_what_nobody_names_is_announced_and_deleted_by_a_collection_after_the_grace(store: AgingStore) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    kept = objects(store) - garbage
    store.later(DAY)
    first = run(store)
    assert (first.deleted, first.announced.objects) == (Amount(), len(garbage))
    assert objects(store) == kept | garbage
    assert cache_in(store).condemned() == garbage
    store.later(DAY - 1)
    assert run(store).deleted == Amount()
    store.later(1)
    second = run(store)
    assert second.deleted == first.announced
    assert objects(store) == kept
    require_restorable(cache_in(store))


def test_what_is_young_is_left_alone(store: AgingStore) -> None:
    garbage = leave_garbage(store)
    store.later(DAY - 1)
    found = run(store)
    assert found.announced == Amount()
    assert found.survey.young.objects == len(garbage)
    store.later(1)
    assert run(store).announced.objects == len(garbage)


@pytest.mark.parametrize("name", ["ref", "pin", "trash", "intent"])
def test_what_a_ref_a_pin_the_trash_or_an_intent_names_stays(store: AgingStore, name: str) -> None:
    garbage = leave_garbage(store)
    cache = cache_in(store, seed=b"names")
    write = Publication(cache)
    match name:
        case "ref":
            publish(cache, OTHER_MANIFEST, OTHER)
        case "pin":
            cache.put_document(keys.pin(OTHER_MANIFEST.id), to_json(PinRecord(OTHER_MANIFEST.digest, int(NOW), "")))
        case "trash":
            publish(cache, OTHER_MANIFEST, OTHER)
            trash.drop(cache, OTHER_MANIFEST.id)
        case "intent":
            write.announce([OTHER_MANIFEST.digest, *(file.sha256 for file in OTHER_MANIFEST.files)])
    for _ in range(3):
        store.later(20 * HOUR)
        found = run(store, evolve(ANY, grace=0.0, min_age=0.0))
        assert found.announced == Amount()
        assert found.survey.unnamed == Amount()
    assert objects(store) >= garbage


def test_what_is_named_again_in_the_grace_is_spared_and_usable_again(store: AgingStore) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    run(store)
    publish(cache_in(store, seed=b"again"), OTHER_MANIFEST, OTHER)
    generations = objects(store)
    store.later(DAY)
    found = run(store)
    assert (found.deleted, found.spared.objects) == (Amount(), len(garbage))
    assert objects(store) == generations, "every copy of what is named stays"
    assert cache_in(store).condemned() == frozenset()


def test_every_copy_of_what_nobody_names_goes(store: AgingStore) -> None:
    publish(cache_in(store))
    for key in list(leave_garbage(store)):
        store.objects[keys.generation(key, new_ulid(NOW, bytes(10)))] = store.objects[key]
        store.objects[f"{key}.e-zstd"] = b"an encoding of a later version"
    store.later(DAY)
    run(store)
    store.later(DAY)
    assert run(store).deleted.objects == 6
    assert {key.rpartition("/")[2] for key in objects(store)} <= {MANIFEST.digest.hex, *(each.hex for each in BLOBS)}


def test_what_is_no_object_of_this_format_is_left_alone_and_counted(store: AgingStore) -> None:
    strange = ["blobs/sha256/notes.txt", f"blobs/sha256/00/00/{'1' * 64}", f"leaves/sha256/11/11/{'1' * 64}"]
    for key in strange:
        store.write(key, [b"?"], size=1)
    for _ in range(3):
        store.later(10 * DAY)
        found = run(store)
        assert found.survey.unknown == Amount(3, 3)
    assert objects(store) == set(strange)


def test_a_condemned_list_that_somebody_altered_deletes_nothing_but_garbage(store: AgingStore) -> None:
    publish(cache_in(store))
    before = {key for key in store.objects if not key.startswith("intents/")}
    data = to_json(CondemnedRecord(tuple(sorted(before))))
    store.write(keys.condemned("01" + "A" * 24), [data], size=len(data))
    store.later(DAY)
    run(store)
    assert before <= store.objects.keys()


def test_deleted_names_are_not_used_again_for_a_week(store: AgingStore) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    for _ in range(2):
        store.later(DAY)
        run(store)
    assert cache_in(store).condemned() == garbage
    publish(cache_in(store, seed=b"again"), OTHER_MANIFEST, OTHER)
    assert not garbage & objects(store)
    require_restorable(cache_in(store), OTHER_MANIFEST)
    store.later(7 * DAY)
    assert run(store).forgotten == 0
    store.later(1)
    assert run(store).forgotten == 1
    assert lists(store) == set()
    assert cache_in(store).condemned() == frozenset()


# --- intents


def test_an_intent_of_a_writer_that_is_silent_for_three_days_is_removed(store: AgingStore) -> None:
    garbage = leave_garbage(store)
    Publication(cache_in(store, seed=b"dead")).announce(
        [OTHER_MANIFEST.digest, *(each.sha256 for each in OTHER_MANIFEST.files)]
    )
    store.later(3 * DAY)
    assert run(store).expired == 0
    store.later(1)
    found = run(store)
    assert (found.expired, found.announced.objects) == (1, len(garbage))


def test_an_intent_that_cannot_be_read_keeps_everything_until_it_is_old(store: AgingStore) -> None:
    leave_garbage(store)
    store.write(keys.intent(new_ulid(NOW, bytes(10)), 1), [b"{"], size=1)
    store.later(DAY)
    before = tree(store)
    with pytest.raises(ManifestInvalid):
        run(store)
    assert tree(store) == before
    store.later(2 * DAY + 1)
    assert run(store).announced.objects > 0


# --- what cannot be read


def _damage(store: AgingStore, what: str) -> None:
    match what:
        case "ref":
            store.write(keys.ref(SNAPSHOT), [b"{"], size=1)
        case "no ref":
            store.write(f"{keys.REFS}notes.txt", [b"{"], size=1)
        case "later":
            store.write("refs/v2/x", [b"{"], size=1)
        case "pin":
            store.write(keys.pin(SNAPSHOT), [b"{"], size=1)
        case "trash":
            store.write(keys.trash(SNAPSHOT), [b"{"], size=1)
        case "manifest":
            store.write(keys.manifest(MANIFEST.digest), [b"{"], size=1)
        case "no manifest":
            store.delete(keys.manifest(MANIFEST.digest))
        case "list":
            store.write(keys.condemned("01" + "A" * 24), [b"{"], size=1)


@pytest.mark.parametrize("what", ["ref", "no ref", "later", "pin", "trash", "manifest", "no manifest", "list"])
def test_nothing_is_deleted_while_it_cannot_be_read_what_is_to_stay(store: AgingStore, what: str) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    run(store)
    store.later(DAY)
    _damage(store, what)
    before = tree(store)
    with pytest.raises(IntegrityError) as refusal:
        run(store)
    assert tree(store) == before
    assert garbage <= objects(store)
    if what in {"no manifest", "later"}:
        assert refusal.value.hint


def test_trash_whose_manifest_is_gone_keeps_nothing(store: AgingStore, caplog: pytest.LogCaptureFixture) -> None:
    publish(cache_in(store, seed=b"garbage"), OTHER_MANIFEST, OTHER)
    trash.drop(cache_in(store), OTHER_MANIFEST.id)
    store.delete(keys.manifest(OTHER_MANIFEST.digest))
    store.later(DAY)
    assert run(store).announced.objects == len(OTHER)
    assert "trash" in caplog.text


# --- brakes


def test_a_collection_refuses_to_announce_more_than_a_fifth_of_all_bytes(store: AgingStore) -> None:
    publish(cache_in(store))
    leave_garbage(store)
    store.later(DAY)
    share = survey(_now(store), options=ANY, deadline=Deadline()).fresh.bytes / sum(
        len(store.objects[key]) for key in objects(store)
    )
    before = tree(store)
    with pytest.raises(CollectionRefused, match=r"expected to announce at most") as refusal:
        run(store, evolve(ANY, max_share=share * 0.99))
    assert refusal.value.exit_code == 2
    assert refusal.value.hint
    assert tree(store) == before
    assert run(store, evolve(ANY, max_share=share)).announced.bytes


def test_a_collection_refuses_to_delete_more_than_a_fifth_of_all_bytes_and_takes_its_list_back(
    store: AgingStore,
) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    run(store)
    store.later(DAY)
    before = tree(store)
    with pytest.raises(CollectionRefused, match=r"expected to delete at most 0% "):
        run(store, evolve(ANY, max_share=0.001))
    assert tree(store) == before
    run(store)
    assert not garbage & objects(store)


def test_a_store_without_any_ref_is_not_collected_unless_that_is_said(store: AgingStore) -> None:
    leave_garbage(store)
    store.later(DAY)
    with pytest.raises(CollectionRefused, match="no ref at all"):
        run(store, evolve(ANY, may_be_empty=False))
    assert run(store).announced.objects


def test_an_empty_store_is_collected_without_a_word(store: AgingStore) -> None:
    assert run(store, CollectOptions()).survey.total == Amount()
    assert store.objects == {}


def test_another_store_than_the_expected_one_is_refused(store: AgingStore) -> None:
    leave_garbage(store)
    store.later(DAY)
    before = tree(store)
    with pytest.raises(CollectionRefused, match="should have the id 1234 and has none"):
        run(store, evolve(ANY, expected_id="1234"))
    marker = to_json(Marker("5678", {}, format=1, min_reader=1, features=()))
    store.write(keys.MARKER, [marker], size=len(marker))
    with pytest.raises(CollectionRefused, match="should have the id 1234 and has 5678"):
        run(store, evolve(ANY, expected_id="1234"))
    assert tree(store) == before | {keys.MARKER: marker}
    assert run(store, evolve(ANY, expected_id="5678")).announced.objects


# --- clocks


@pytest.mark.parametrize("wrong", [-30 * DAY, 30 * DAY])
def test_the_clock_of_this_machine_does_not_matter(store: AgingStore, wrong: float) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    cache = cache_in(store, seed=b"wrong", now=lambda: store.now + wrong)
    collected = partial(collect, cache, options=ANY, deadline=Deadline())
    assert collected().announced == Amount()
    store.later(DAY)
    assert collected().announced.objects == len(garbage)
    assert collected().deleted == Amount()
    store.later(DAY)
    assert collected().deleted.objects == len(garbage)


def test_the_clock_of_a_store_is_read_from_an_object_that_is_removed_again(store: AgingStore) -> None:
    assert store_time(cache_in(store)) == store.now
    assert store.objects == {}


# --- surveys


def _now(store: AgingStore) -> ModelCache:
    return cache_in(store, now=lambda: store.now)


def test_a_survey_writes_nothing_and_says_what_a_collection_would_find(store: AgingStore) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    recording = Recording(store)
    seen = survey(cache_in(recording, now=lambda: store.now), options=ANY, deadline=Deadline())
    assert {operation.verb for operation in recording.operations} == {"read", "stat", "scan"} - {"stat"}
    assert seen == run(store).survey
    assert seen.fresh.objects == len(garbage)
    assert seen.total.bytes == seen.named.bytes + seen.unnamed.bytes
    assert survey(_now(store), options=ANY, deadline=Deadline()).condemned == seen.fresh


def test_a_survey_says_what_would_be_unnamed_without_some_snapshots(store: AgingStore) -> None:
    publish(cache_in(store))
    publish(cache_in(store, seed=b"other"), OTHER_MANIFEST, OTHER)
    store.later(DAY)
    seen = survey(_now(store), options=ANY, deadline=Deadline(), without=frozenset({OTHER_MANIFEST.id}))
    # config.json is in both.
    own = len(OTHER_MANIFEST.to_json()) + len(OTHER["other.bin"])
    assert seen.fresh == Amount(2, own)
    assert seen.refs == 2


# --- faults


def _stage(store: AgingStore) -> set[str]:
    """A store with a snapshot, with what one collection announced, and with what the next will; the keys of both."""
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    run(store)
    fresh = Digest.of(b"fresh")
    store.write(keys.blob(fresh), [b"fresh"], size=5)
    Publication(cache_in(store, seed=b"dead")).announce([Digest.of(b"dead")])
    store.later(4 * DAY)
    return {*garbage, keys.blob(fresh)}


def _recovers(store: AgingStore, garbage: set[str]) -> None:
    """The next collections do what the interrupted one left, and take nothing else."""
    require_restorable(cache_in(store))
    assert published(cache_in(store), SNAPSHOT) == MANIFEST
    for _ in range(3):
        store.later(DAY)
        run(store)
    assert not garbage & objects(store)
    require_restorable(cache_in(store))
    store.later(8 * DAY)
    run(store)
    assert lists(store) == set()


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_whenever_a_collection_dies_the_next_ones_finish_its_work(moment: str) -> None:
    counting = AgingStore()
    _stage(counting)
    recording = Recording(counting)
    collect(cache_in(recording), options=ANY, deadline=Deadline())
    total = len(recording.operations)
    assert total >= 30
    for at in range(total):
        store = AgingStore()
        garbage = _stage(store)
        with pytest.raises(Crash):
            collect(cache_in(Crashing(store, at=at, moment=moment)), options=ANY, deadline=Deadline())
        _recovers(store, garbage)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("fault", [Failing, LosingAnswers])
@pytest.mark.parametrize(
    "error", [lambda: Unavailable("cut"), lambda: AccessDenied("no")], ids=["unavailable", "denied"]
)
def test_whatever_operation_fails_it_is_told_and_the_next_collections_go_on(
    fault: type[Failing], error: Callable[[], ModelCacheError]
) -> None:
    counting = AgingStore()
    _stage(counting)
    recording = Recording(counting)
    collect(cache_in(recording), options=ANY, deadline=Deadline())
    for number in range(len(recording.operations)):
        store = AgingStore()
        garbage = _stage(store)
        seen = iter(range(10**6))
        failing = fault(store, error, lambda _, number=number, seen=seen: next(seen) >= number)  # type: ignore[misc]  # a lambda with defaults
        # An operation that finds nothing has no answer to lose.
        with pytest.raises(ModelCacheError) if fault is Failing else suppress(ModelCacheError):
            collect(cache_in(failing, attempts=1), options=ANY, deadline=Deadline())
        _recovers(store, garbage)


def test_one_failure_on_the_way_is_tried_again(store: AgingStore) -> None:
    garbage = _stage(store)
    failing = LosingAnswers(store, lambda: Unavailable("cut"), touching("", "write", "delete"), times=3)
    collect(cache_in(failing, attempts=5), options=ANY, deadline=Deadline())
    assert len(garbage & objects(store)) == 1


def test_a_collection_that_takes_longer_than_half_the_quarantine_deletes_nothing_more(store: AgingStore) -> None:
    """For those names may be in use again when the quarantine is over."""
    garbage = _stage(store)
    clock = iter(float(number) for number in range(10**6))
    slow = Deadline(10**6, clock=lambda: next(clock))
    with pytest.raises(DeadlineExceeded, match="half of the quarantine"):
        collect(cache_in(store), options=evolve(ANY, quarantine=4.0, grace=DAY), deadline=slow)
    assert garbage <= objects(store)


def test_what_is_more_than_a_list_holds_waits_for_the_next_collection(
    store: AgingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_MOST", 2)
    publish(cache_in(store))
    garbage = leave_garbage(store)
    assert len(garbage) == 2
    store.write(keys.blob(Digest.of(b"third")), [b"third"], size=5)
    for expected in (0, 2, 3):
        store.later(DAY)
        run(store)
        assert len(garbage) + 1 - len(objects(store) & {*garbage, keys.blob(Digest.of(b"third"))}) == expected


# --- who may say that a name is usable again


def test_the_list_by_which_another_may_be_deleting_stands_until_the_quarantine_is_over(store: AgingStore) -> None:
    """The model of `gc_model` loses a snapshot otherwise: its DELETE may be on the way."""
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    run(store)
    store.later(DAY)
    denied = Failing(store, lambda: AccessDenied("no"), touching("", "delete"))
    with pytest.raises(AccessDenied):
        collect(cache_in(_but_probes(denied), seed=b"stuck"), options=ANY, deadline=Deadline())
    (doomed,) = (key for key in lists(store) if keys.is_doomed(key))
    store.later(DAY)
    run(store)
    assert not garbage & objects(store)
    assert doomed in lists(store)
    store.later(7 * DAY + 1)
    run(store)
    assert lists(store) == set()


def _but_probes(failing: Failing) -> Failing:
    failing._where = touching("blobs/", "delete")
    return failing


def test_only_what_every_list_spares_is_usable_again(store: AgingStore) -> None:
    for run_name, deleted, spared in (("A", ("x",), ("y", "z")), ("B", ("z",), ("y",))):
        name = "01" + run_name * 24
        data = to_json(CondemnedRecord((*deleted, *spared)))
        store.write(keys.doomed(name), [data], size=len(data))
        data = to_json(ClosedRecord(deleted, spared))
        store.write(keys.closed(keys.doomed(name)), [data], size=len(data))
    assert cache_in(store).condemned() == {"x", "z"}


def test_a_collection_tells_what_became_of_what_it_doomed(store: AgingStore) -> None:
    publish(cache_in(store))
    garbage = leave_garbage(store)
    store.later(DAY)
    first = run(store)
    assert lists(store) == {keys.condemned(first.run)}
    store.later(DAY)
    second = run(store)
    doomed = keys.doomed(second.run)
    assert lists(store) == {doomed, keys.closed(doomed)}
    assert set(from_json(content(store, doomed), CondemnedRecord, doomed).keys) == garbage
    assert set(from_json(content(store, keys.closed(doomed)), ClosedRecord, doomed).deleted) == garbage


def test_what_became_of_a_list_is_removed_when_the_list_is_gone(store: AgingStore) -> None:
    data = to_json(ClosedRecord((), ()))
    store.write(keys.closed(keys.doomed("01" + "A" * 24)), [data], size=len(data))
    run(store)
    assert lists(store) == set()
