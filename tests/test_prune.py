"""`prune`: snapshots go into the trash by a policy, garbage goes for good, and nothing else, whoever dies or comes between."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.access import touch
from ci_modelcache.cache.census import refs
from ci_modelcache.cache.collection import CollectOptions
from ci_modelcache.cache.pins import pin, pinned
from ci_modelcache.cache.trash import drop, trashed, undelete
from ci_modelcache.errors import AccessDenied, CollectionRefused, IntegrityError
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.retention import DAY, Policy
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.verbs.du import UseReport, du
from ci_modelcache.verbs.prune import PruneOptions, PruneReport, prune
from ci_modelcache.verbs.step import Step
from tests.parts.cached import cache_in, publish, require_restorable
from tests.parts.snapshots import CONTENTS, manifest_of
from tests.parts.stores import Crash, Crashing, Failing, Meddling, MemoryStore, Recording, touching, tree

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import Store
    from tests.parts.stores import Operation

REVISIONS = [CONTENTS | {"config.json": b'{"revision": %d}' % number} for number in range(4)]
"""Four commits that share all but one small file."""
MODELS = [manifest_of(contents, commit=f"{number:040x}") for number, contents in enumerate(REVISIONS)]
LAST = MODELS[-1]
EVERYTHING = CollectOptions(grace=0, min_age=0, max_share=1)
"""As it goes when all waiting is over; so does a trash that is kept for less than no time."""


def filled(store: Store) -> Store:
    """*store* with four commits of one model, the last of which comes last in any order."""
    for manifest, contents in zip(MODELS, REVISIONS, strict=True):
        publish(cache_in(store, seed=manifest.commit.encode()), manifest, contents)
    return store


@pytest.fixture
def store() -> MemoryStore:
    """A store without time: whatever is in it is as old as whatever is not young."""
    store = MemoryStore()
    filled(store)
    return store


@pytest.fixture
def disk(tmp_path: Path) -> DirectoryStore:
    """A store in which everything is 100 days old, but the later commits are younger by a day each."""
    store = DirectoryStore(tmp_path / "store", create=True)
    filled(store)
    aged(store, "", 100)
    for number, manifest in enumerate(MODELS):
        aged(store, keys.ref(manifest.id), 100 - number)
    return store


def aged(store: DirectoryStore, prefix: str, days: float) -> None:
    """Make everything below *prefix* as old as that."""
    then = time.time() - days * DAY
    for info in store.scan(prefix):
        os.utime(store.path(info.key), (then, then))


def run(store: Store, policy: Policy | None = None, *, seed: bytes = b"prune", **options: Any) -> PruneReport:
    cache = cache_in(store, seed=seed, now=time.time)
    usual: dict[str, Any] = {"collect": EVERYTHING, "keep_trash": -1.0, "applies": True}
    return prune(
        cache, options=PruneOptions(policy or Policy(), **usual | options), step=Step(_NOWHERE, retry=cache.retry)
    )


_NOWHERE: Any = None  # nothing of a prune is kept on this machine
KEEP_ONE = Policy(keep_last=1, min_age=0)


def names(found: tuple[Any, ...]) -> list[str]:
    return [one.ref.rpartition("@")[2] for one in found]


def commits(*manifests: Manifest) -> list[str]:
    return [manifest.commit for manifest in manifests]


# --- what would go


def test_without_being_told_to_nothing_is_changed_and_a_reader_may_ask(disk: DirectoryStore) -> None:
    before = tree(disk)
    refusing = Failing(disk, lambda: AccessDenied("read only"), touching("", "write", "delete"))
    report = run(refusing, Policy(keep_last=1), applies=False)
    assert (report.applied, names(report.dropped)) == (False, commits(*MODELS[:3]))
    assert [(one.ref, one.why) for one in report.kept] == [(f"tiny/model@{LAST.commit}", "last")]
    assert {one.freed for one in report.dropped} == {len(REVISIONS[0]["config.json"])}
    assert (report.size, report.size_kept) == (LAST.size + 3 * 15, LAST.size)
    assert report.in_trash == 3
    assert tree(disk) == before


def test_what_a_brake_would_refuse_is_told_beside_the_table(disk: DirectoryStore) -> None:
    report = run(disk, Policy(keep_for=DAY), applies=False, collect=CollectOptions())
    assert len(report.dropped) == 4
    assert [warning for warning in report.warnings if "with --yes this is refused: the policy keeps none" in warning]
    assert [warning for warning in report.warnings if "with --yes this is refused: the policy drops 100.0%" in warning]


def test_without_a_rule_only_garbage_is_collected(disk: DirectoryStore) -> None:
    disk.delete(keys.ref(MODELS[0].id))
    first = run(disk)
    assert (first.dropped, len(first.kept), first.announced_objects) == ((), 3, 2)
    assert {one.why for one in first.kept} == {"unruled"}
    second = run(disk)
    assert (second.deleted, second.deleted_objects) == (first.announced, 2)
    for manifest in MODELS[1:]:
        require_restorable(cache_in(disk), manifest)


def test_a_use_is_seen_and_said_and_keeps_what_is_old(disk: DirectoryStore) -> None:
    assert any("nobody has noted" in one for one in run(disk, Policy(keep_for=30 * DAY), applies=False).warnings)
    touch(cache_in(disk, now=time.time), MODELS[1].id)
    report = run(disk, Policy(keep_for=30 * DAY))
    assert names(report.kept) == commits(MODELS[1])
    assert str(report.kept[0].used) > report.kept[0].published
    assert [one.why for one in report.kept] == ["used"]
    assert not report.warnings


def test_a_lock_keeps_what_it_names_and_the_whole_that_its_part_is_of(disk: DirectoryStore) -> None:
    selection = Selection(include=("*.json",))
    whole = LockedModel.of(MODELS[0], revision="main", selection=Selection())
    part = LockedModel.of(MODELS[1].part(selection), revision="v1", selection=selection)
    report = run(disk, Policy(keep_last=1), locks=(Lock((whole,)), Lock((part,))))
    assert [(one.why, one.ref[-1]) for one in report.kept] == [("locked", "0"), ("locked", "1"), ("last", "3")]
    assert names(report.dropped) == commits(MODELS[2])


def test_a_size_that_cannot_be_reached_is_said(disk: DirectoryStore) -> None:
    pin(cache_in(disk), MODELS[0].id, reason="")
    report = run(disk, Policy(max_size=1))
    assert [one.why for one in report.kept] == ["pinned"]
    assert any("of --max-size: the rest is pinned" in warning for warning in report.warnings)


# --- what goes, step by step


def test_a_dropped_snapshot_goes_through_the_trash_and_two_more_runs(disk: DirectoryStore) -> None:
    only: dict[str, Any] = {"collect": CollectOptions(max_share=0.5), "keep_trash": 7 * DAY}
    dropped = run(disk, Policy(keep_last=3), **only)
    assert (names(dropped.dropped), dropped.in_trash, dropped.announced) == (commits(MODELS[0]), 1, 0)
    again = run(disk, Policy(keep_last=3), **only)
    assert (again.dropped, again.in_trash, again.forgotten, again.announced) == ((), 1, 0, 0)

    aged(disk, keys.TRASH, 7.1)
    forgotten = run(disk, Policy(keep_last=3), **only)
    assert (forgotten.in_trash, forgotten.forgotten, forgotten.announced_objects) == (0, 1, 2)
    waiting = run(disk, Policy(keep_last=3), **only)
    assert (waiting.announced, waiting.deleted, waiting.waiting) == (0, 0, forgotten.announced)

    aged(disk, keys.COLLECTIONS, 1.1)
    deleted = run(disk, Policy(keep_last=3), **only)
    assert (deleted.deleted, deleted.deleted_objects) == (forgotten.announced, 2)
    assert not list(disk.scan(keys.manifest(MODELS[0].digest)))
    for manifest in MODELS[1:]:
        require_restorable(cache_in(disk), manifest)


def test_the_clock_of_this_machine_decides_nothing(disk: DirectoryStore) -> None:
    aged(disk, keys.REFS, 1)
    cache = cache_in(disk, now=lambda: time.time() + 1000 * DAY)
    options = PruneOptions(Policy(keep_for=30 * DAY), collect=EVERYTHING, applies=True)
    report = prune(cache, options=options, step=Step(_NOWHERE, retry=cache.retry))
    assert {one.why for one in report.kept} == {"young"}
    assert len(report.kept) == 4


def test_what_is_pinned_is_never_forgotten_and_comes_back_when_a_dying_prune_dropped_it(store: MemoryStore) -> None:
    pin(cache_in(store), MODELS[0].id, reason="")
    saved = store.objects[keys.pin(MODELS[0].id)]
    store.delete(keys.pin(MODELS[0].id))
    drop(cache_in(store), MODELS[0].id)
    store.objects[keys.pin(MODELS[0].id)] = saved
    dry = run(store, applies=False)
    assert any("is pinned, and memory does not hold it as published" in warning for warning in dry.warnings)
    report = run(store)
    assert (report.forgotten, report.in_trash) == (0, 0)
    require_restorable(cache_in(store), MODELS[0])


def test_what_is_pinned_or_used_while_garbage_is_collected_stays(store: MemoryStore) -> None:
    dry = Recording(store)
    before = dict(store.objects)
    run(dry, KEEP_ONE)
    late = next(n for n, each in enumerate(dry.operations) if each.verb == "write" and each.key.startswith(keys.TRASH))
    scans = [n for n, each in enumerate(dry.operations[:late]) if each.key == keys.PINS]
    store.objects = before

    def interfere() -> None:
        pin(cache_in(store, seed=b"pin"), MODELS[1].id, reason="")

    report = run(Meddling(store, {scans[-1]: [interfere]}), KEEP_ONE)
    assert names(report.dropped) == commits(MODELS[0], MODELS[2])
    require_restorable(cache_in(store), MODELS[1])


def test_what_is_restored_while_garbage_is_collected_stays(disk: DirectoryStore) -> None:
    touch(cache_in(disk, now=time.time), LAST.id)
    probing = touching(keys.INTENTS, "scan")  # the collection has begun

    class Restored(Recording):
        def before(self, operation: Operation) -> None:
            if probing(operation):
                touch(cache_in(disk, now=time.time), MODELS[1].id)

    report = run(Restored(disk), Policy(keep_for=30 * DAY))
    assert names(report.dropped) == commits(MODELS[0], MODELS[2])
    assert names(report.kept) == commits(MODELS[1], LAST)


def test_old_notes_of_uses_are_removed(disk: DirectoryStore) -> None:
    cache = cache_in(disk)
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        cache.put_document(keys.access(LAST.id, day), b"")
        aged(disk, keys.access(LAST.id, day), 60 - int(day[-1]))
    run(disk)
    assert [info.key for info in disk.scan(keys.ACCESS)] == [keys.access(LAST.id, "2026-01-03")]


# --- brakes


@pytest.mark.parametrize(
    ("policy", "collect", "said"),
    [
        (Policy(keep_for=DAY), CollectOptions(max_share=1), "the policy keeps none of the 4 snapshots"),
        (Policy(max_size=1), CollectOptions(may_be_empty=True), "the policy drops 100.0% of"),
        (Policy(), CollectOptions(expected_id="another"), "should have the id another and has none"),
    ],
    ids=["everything", "share", "another store"],
)
def test_a_brake_stops_it_before_anything_is_changed(
    disk: DirectoryStore, policy: Policy, collect: CollectOptions, said: str
) -> None:
    drop(cache_in(disk), MODELS[0].id)  # what lies in the trash is due
    publish(cache_in(disk, seed=b"again"), MODELS[0], REVISIONS[0])
    aged(disk, keys.ref(MODELS[0].id), 100)
    before = tree(disk)
    with pytest.raises(CollectionRefused, match=said) as caught:
        run(disk, policy, collect=collect)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert tree(disk) == before


def test_a_brake_gives_way_to_who_says_so(disk: DirectoryStore) -> None:
    report = run(disk, Policy(keep_for=DAY), collect=CollectOptions(max_share=1, may_be_empty=True))
    assert (len(report.dropped), report.kept, report.in_trash) == (4, (), 4)
    undelete(cache_in(disk), MODELS[0].id)
    require_restorable(cache_in(disk), MODELS[0])


@pytest.mark.parametrize("prefix", [keys.REFS, keys.PINS, keys.TRASH])
def test_what_cannot_be_read_stops_it_before_anything_is_changed(store: MemoryStore, prefix: str) -> None:
    broken = manifest_of(commit="f" * 40).id
    store.objects[keys.ref(broken).replace(keys.REFS, prefix)] = b"{"
    before = dict(store.objects)
    with pytest.raises(IntegrityError):
        run(store, KEEP_ONE)
    assert {key for key in store.objects if not key.startswith(keys.COLLECTIONS)} == set(before)
    assert all(store.objects[key] == data for key, data in before.items())


# --- whoever dies, and whoever comes between


def required(store: Store) -> None:
    """What holds at every moment: the last commit can be restored, and each of the others has a ref, lies in the trash, or is forgotten."""
    require_restorable(cache_in(store), LAST)
    for entry in (*refs(cache_in(store)), *trashed(cache_in(store))):
        require_named(cache_in(store), entry.record.manifest)


def require_named(cache: ModelCache, digest: Any) -> None:
    manifest = cache.manifest_named(digest)
    for file in manifest.files:
        assert any(cache.blob_copies(file.sha256, file.size)), file.path


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_kills_it_anywhere_loses_nothing_and_the_next_one_ends_it(store: MemoryStore, moment: str) -> None:
    run(store, Policy(keep_last=2, min_age=0))  # so that there is something to drop, to forget and to announce at once
    before = dict(store.objects)
    number = 0
    while True:
        store.objects = dict(before)
        crashing = Crashing(store, at=number, moment=moment)
        try:
            run(crashing, KEEP_ONE, seed=b"dies")
        except Crash:
            required(store)
        if not crashing.is_dead:
            break
        for more in range(4):
            run(store, KEEP_ONE, seed=b"next %d" % more)
        required(store)
        left = {key for key in store.objects if key.startswith(keys.COLLECTED)}
        assert left == {key for key in left if keys.collectable(key) in needed()}
        number += 1
    assert number > 50


def needed() -> set[str]:
    """What the last commit consists of."""
    return {LAST.digest.hex, *(file.sha256.hex for file in LAST.files)}


def test_two_at_once_do_no_harm(store: MemoryStore) -> None:
    """All interleavings of a whole run with another one."""
    run(store, Policy(keep_last=2, min_age=0))
    before = dict(store.objects)

    def other() -> None:
        run(store, KEEP_ONE, seed=b"other")

    number = 0
    while True:
        store.objects = dict(before)
        meddling = Meddling(store, {number: [other]})
        run(meddling, KEEP_ONE)
        if meddling.count <= number:
            break
        required(store)
        assert [entry.snapshot.commit for entry in refs(cache_in(store))] == [LAST.commit]
        number += 1
    assert number > 50


def test_a_writer_at_any_moment_keeps_what_it_was_told_is_published(store: MemoryStore) -> None:
    run(store, KEEP_ONE)
    before = dict(store.objects)
    number = 0
    while True:
        store.objects = dict(before)

        def write(number: int = number) -> None:
            publish(cache_in(store, seed=b"writer %d" % number), MODELS[0], REVISIONS[0])

        meddling = Meddling(store, {number: [write]})
        run(meddling, Policy(keep_last=1, min_age=1e9))
        if meddling.count <= number:
            break
        for more in range(2):
            run(store, seed=b"later %d" % more)
        require_restorable(cache_in(store), MODELS[0])
        number += 1
    assert number > 40


# --- du


def used(store: Store) -> UseReport:
    cache = cache_in(store)
    return du(cache, step=Step(_NOWHERE, retry=cache.retry))


def test_du_counts_each_blob_once_and_every_time(disk: DirectoryStore) -> None:
    other = evolve(manifest_of({"config.json": REVISIONS[0]["config.json"], "own.bin": b"own"}), repo="tiny/other")
    publish(cache_in(disk, seed=b"other"), other, {"config.json": REVISIONS[0]["config.json"], "own.bin": b"own"})
    pin(cache_in(disk), LAST.id, reason="")
    touch(cache_in(disk), LAST.id)
    drop(cache_in(disk), MODELS[1].id)
    report = used(disk)
    first, second = report.repositories
    small = len(REVISIONS[0]["config.json"])
    assert (first.repo, first.snapshots, first.pinned) == ("tiny/model", 3, 1)
    assert first.used is not None
    assert (first.size, first.stored) == (3 * LAST.size, LAST.size + 2 * small)
    assert (first.own, second.own) == (first.stored - small, 3)
    assert (second.repo, second.size, second.stored) == ("tiny/other", small + 3, small + 3)
    assert (report.snapshots, report.size) == (4, first.size + second.size)
    assert (report.stored, report.in_trash) == (first.stored + 3, 1)
    assert report.total == sum(info.size for prefix in keys.COLLECTED for info in disk.scan(prefix))
    assert (report.named, report.unnamed) == (report.total, 0)


def test_du_tells_garbage_and_what_of_it_a_prune_has_announced(disk: DirectoryStore) -> None:
    disk.delete(keys.ref(MODELS[0].id))
    report = used(disk)
    assert report.unnamed == len(REVISIONS[0]["config.json"]) + len(MODELS[0].to_json())
    assert report.condemned == 0
    run(disk)
    assert used(disk).condemned == report.unnamed
    assert pinned(cache_in(disk)) == ()


def test_du_of_an_empty_store_is_nothing() -> None:
    report = used(MemoryStore())
    assert (report.repositories, report.total, report.stored) == ((), 0, 0)
