"""`verify --repair`: what is missing or wrong is put right with proven bytes, from whoever has them, and what cannot be is told."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.records import CondemnedRecord
from ci_modelcache.cache.tier import Tier
from ci_modelcache.cache.trash import drop
from ci_modelcache.errors import AccessDenied, Unavailable
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.document import to_json
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.verbs.givers import FolderGiver, Giver, StoreGiver, TierGiver
from ci_modelcache.verbs.mend import Mender
from ci_modelcache.verbs.scrub import ScrubOptions, scrub
from ci_modelcache.verbs.verify import VerifyReport, verify
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import Poison, Status
from tests.parts.stores import Crash, Crashing, Failing, touching, tree
from tests.parts.verbs import REPO, Bench, flipped, swap, write_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci_modelcache.sources.http import HttpSession

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
LARGE = os.urandom(LEAF_SIZE + 1)


@pytest.fixture
def filled(bench: Bench) -> Bench:
    """A store with `TINY`, a replica of it, and a Hub that is not to be asked unless a test says so."""
    bench.fetch()
    shutil.copytree(bench.disk.root, bench.folder / "replica")
    bench.hub.forget()
    return bench


def replica(bench: Bench) -> StoreGiver:
    store = DirectoryStore(bench.folder / "replica", create=False)
    return StoreGiver(ModelCache(store, retry=bench.retry()), retry=bench.retry())


def folder(bench: Bench, files: dict[str, bytes] | None = None) -> FolderGiver:
    return FolderGiver(write_files(bench.folder / "restored", TINY if files is None else files))


def tier(bench: Bench) -> TierGiver:
    root = bench.folder / "tier"
    shutil.copytree(bench.folder / "replica" / "blobs", root / "blobs")
    return TierGiver(Tier(root), retry=bench.retry())


def hub_cache(bench: Bench) -> FolderGiver:
    """A cache of the Hub: each file under the name of its blob, and a link to that under its own."""
    for number, (path, data) in enumerate(TINY.items()):
        blob = bench.folder / "hub" / "blobs" / str(number)
        write_files(blob.parent, {blob.name: data})
        link = bench.folder / "hub" / "snapshots" / bench.commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return FolderGiver(bench.folder / "hub")


def upstream_of(bench: Bench, *sources: HubEndpoint) -> Mirrors:
    hub = bench.upstream()
    router = Router([Source(each, number) for number, each in enumerate(sources or (hub,))], connections=4)
    return Mirrors(hub, router, retry=bench.retry())


def verify_all(bench: Bench, menders: Sequence[Mender]) -> VerifyReport:
    return scrub(bench.cache(), step=bench.step(), menders=menders)


def verify_refs(bench: Bench, menders: Sequence[Mender]) -> VerifyReport:
    return verify(bench.cache().snapshots(), cache=bench.cache(), step=bench.step(), menders=menders)


def verify_structure(bench: Bench, menders: Sequence[Mender]) -> VerifyReport:
    return scrub(bench.cache(), step=bench.step(), options=ScrubOptions(content=False), menders=menders)


WAYS = [verify_all, verify_refs]


def repaired(
    bench: Bench,
    *givers: Giver,
    upstream: Sequence[Mirrors] = (),
    way: Callable[[Bench, Sequence[Mender]], VerifyReport] = verify_all,
) -> VerifyReport:
    mender = Mender(bench.cache(), givers, upstream=upstream, step=bench.step())
    return way(bench, (mender,))


def require_right(bench: Bench, before: dict[str, bytes]) -> None:
    """Everything that is named by a digest is as it was *before*, no note of a writer is left, and nothing is wrong."""
    bench.check_invariants()
    now = tree(bench.disk)
    assert {key: now.get(key) for key in before if key.startswith(("blobs/", "leaves/", "manifests/"))} == {
        key: data for key, data in before.items() if key.startswith(("blobs/", "leaves/", "manifests/"))
    }
    assert verify_all(bench, ()).problems == verify_refs(bench, ()).problems == ()


def damage(bench: Bench, kind: str) -> None:
    blob = bench.blob(WEIGHTS)
    if kind == "missing":
        blob.unlink()
    else:
        wrong = {"truncated": WEIGHTS[:-1], "flipped": flipped(WEIGHTS), "swapped": WEIGHTS[::-1], "empty": b""}
        swap(blob, wrong[kind])


# --- blobs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["missing", "truncated", "flipped", "swapped", "empty"])
def test_a_blob_is_taken_from_a_replica_and_nobody_else_is_asked(
    filled: Bench, kind: str, way: Callable[..., VerifyReport]
) -> None:
    before = tree(filled.disk)
    damage(filled, kind)
    report = repaired(filled, replica(filled), upstream=[upstream_of(filled)], way=way)
    assert [(one.what, one.repaired) for one in report.problems] == [
        ("model.safetensors", str(filled.folder / "replica"))
    ]
    assert (report.repaired, report.bytes_repaired, report.exit_code) == (1, len(WEIGHTS), 0)
    assert filled.hub.requests() == []
    require_right(filled, before)


@pytest.mark.parametrize("way", [*WAYS, verify_structure])
@pytest.mark.parametrize("make", [replica, folder, tier, hub_cache])
def test_whoever_has_the_bytes_can_give_them(
    filled: Bench, make: Callable[[Bench], Giver], way: Callable[..., VerifyReport]
) -> None:
    before = tree(filled.disk)
    filled.blob(WEIGHTS).unlink()
    filled.blob(TINY["config.json"]).unlink()
    giver = make(filled)
    report = repaired(filled, giver, way=way)
    assert [one.repaired for one in report.problems] == [giver.url] * 2
    assert report.exit_code == 0
    require_right(filled, before)


def test_upstream_is_asked_when_nobody_else_has_the_bytes(filled: Bench) -> None:
    before = tree(filled.disk)
    damage(filled, "flipped")
    filled.blob(TINY["README.md"]).unlink()
    report = repaired(filled, folder(filled, {"model.safetensors": flipped(WEIGHTS)}), upstream=[upstream_of(filled)])
    assert [one.repaired for one in report.problems] == [filled.hub.url] * 2
    require_right(filled, before)


def test_a_lying_mirror_is_found_out_and_another_one_gives_the_bytes(filled: Bench, session: HttpSession) -> None:
    before = tree(filled.disk)
    damage(filled, "missing")
    with type(filled.hub)() as liar:
        liar.add_repo(REPO, {"main": TINY})
        liar.faults.append(Poison())
        mirrors = upstream_of(filled, HubEndpoint(liar.url, session=session, retry=filled.retry()), filled.upstream())
        report = repaired(filled, upstream=[mirrors])
        assert liar.requests() != []
    assert [one.repaired for one in report.problems] == [filled.hub.url]
    require_right(filled, before)


def test_when_every_mirror_lies_nothing_wrong_is_stored(filled: Bench) -> None:
    damage(filled, "missing")
    filled.hub.faults.append(Poison())
    report = repaired(filled, upstream=[upstream_of(filled)])
    assert [(one.kind, one.repaired) for one in report.problems] == [("missing", "")]
    assert report.problems[0].unrepaired
    assert report.exit_code == 13
    filled.check_invariants()
    assert not filled.blob(WEIGHTS).exists()


def test_a_replica_that_is_wrong_too_is_passed_over(filled: Bench) -> None:
    before = tree(filled.disk)
    damage(filled, "flipped")
    other = filled.folder / "replica" / filled.blob(WEIGHTS).relative_to(filled.disk.root)
    swap(other, flipped(WEIGHTS))
    report = repaired(filled, replica(filled))
    assert "expected digest" in report.problems[0].unrepaired
    assert report.exit_code == 13
    report = repaired(filled, replica(filled), folder(filled))
    assert report.problems[0].repaired == str(filled.folder / "restored")
    require_right(filled, before)


def test_a_file_is_found_by_its_length_wherever_it_lies(filled: Bench) -> None:
    before = tree(filled.disk)
    damage(filled, "missing")
    giver = folder(filled, {"a/model.safetensors": flipped(WEIGHTS), "z/renamed": WEIGHTS, "b": WEIGHTS[::-1]})
    assert repaired(filled, giver).exit_code == 0
    require_right(filled, before)


def test_a_blob_that_several_snapshots_share_is_brought_once(filled: Bench) -> None:
    filled.fetch(selection=Selection(include=("*.safetensors",)))
    before = tree(filled.disk)
    damage(filled, "flipped")
    recording = filled.remotely()
    for way in WAYS:
        damage(filled, "flipped")
        recording.operations.clear()
        report = repaired(filled, replica(filled), way=way)
        assert [one.repaired for one in report.problems] == [str(filled.folder / "replica")] * 2
        assert report.bytes_repaired == len(WEIGHTS)
        assert len([key for key in recording.keys("write") if key.startswith("blobs/")]) == 1
    filled.store = filled.disk
    require_right(filled, before)


def test_a_condemned_name_is_not_used_again(filled: Bench) -> None:
    key = keys.blob(Digest.of(WEIGHTS))
    filled.cache().put_document(keys.condemned(ULID), to_json(CondemnedRecord((key,))))
    damage(filled, "flipped")
    report = repaired(filled, replica(filled))
    assert report.exit_code == 0
    assert filled.blob(WEIGHTS).read_bytes() == flipped(WEIGHTS)
    generations = [info.key for info in filled.disk.scan(keys.generations(key))]
    assert len(generations) == 1
    # The collection takes the wrong one, and the right one stays.
    filled.disk.delete(key)
    assert verify_all(filled, ()).problems == ()


def test_of_two_copies_the_wrong_one_is_replaced_by_the_right_one(filled: Bench) -> None:
    key = keys.generation(keys.blob(Digest.of(WEIGHTS)), ULID)
    filled.disk.write(key, [WEIGHTS], size=len(WEIGHTS))
    damage(filled, "flipped")
    report = repaired(filled)
    assert [(one.kind, one.repaired) for one in report.problems] == [("spare", filled.cache().url)]
    assert verify_all(filled, ()).problems == ()
    # A wrong one behind a right one stays until nobody needs either.
    swap(filled.disk.path(key), flipped(WEIGHTS))
    report = repaired(filled)
    assert [(one.kind, one.repaired, report.exit_code) for one in report.problems] == [("spare", "", 0)]


# --- leaf lists, manifests, refs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["missing", "flipped"])
def test_a_leaf_list_is_made_again_from_its_blob(bench: Bench, kind: str, way: Callable[..., VerifyReport]) -> None:
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE, "config.json": b"{}"}})
    bench.fetch()
    before = tree(bench.disk)
    (leaves,) = (path for path in (bench.disk.root / "leaves").rglob("*") if path.is_file())
    if kind == "missing":
        leaves.unlink()
    else:
        swap(leaves, flipped(leaves.read_bytes()))
    report = repaired(bench, way=way)
    assert [(one.what, one.repaired) for one in report.problems] == [("large.bin", "its blob")]
    assert tree(bench.disk) == before


def test_a_blob_and_its_leaf_list_are_both_put_right(bench: Bench) -> None:
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE}})
    bench.fetch()
    before = tree(bench.disk)
    shutil.rmtree(bench.disk.root / "leaves")
    bench.blob(LARGE).unlink()
    assert repaired(bench, folder(bench, {"large.bin": LARGE})).problems
    # The leaf list is seen to be missing when there is a blob again, if not before.
    repaired(bench)
    assert tree(bench.disk) == before


def lose_manifest(bench: Bench) -> None:
    bench.disk.path(keys.manifest(bench.cache().ref(next(bench.cache().snapshots())).manifest)).unlink()


def flip_manifest(bench: Bench) -> None:
    path = bench.disk.path(keys.manifest(bench.cache().ref(next(bench.cache().snapshots())).manifest))
    swap(path, flipped(path.read_bytes()))


def cut_ref(bench: Bench) -> None:
    swap(bench.ref_file(), bench.ref_file().read_bytes()[:-1])


def lose_all_but_the_ref(bench: Bench) -> None:
    for name in ("blobs", "manifests"):
        shutil.rmtree(bench.disk.root / name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spoil", [lose_manifest, flip_manifest, cut_ref, lose_all_but_the_ref])
@pytest.mark.parametrize("who", ["replica", "upstream"])
def test_a_snapshot_that_cannot_be_read_is_stored_again(
    filled: Bench, spoil: Callable[[Bench], None], who: str, way: Callable[..., VerifyReport]
) -> None:
    before = tree(filled.disk)
    spoil(filled)
    if who == "replica":
        report = repaired(filled, replica(filled), upstream=[upstream_of(filled)], way=way)
        assert filled.hub.requests() == []
    else:
        report = repaired(filled, upstream=[upstream_of(filled)], way=way)
    assert "manifest" in {one.what for one in report.problems}
    assert all(one.repaired for one in report.problems)
    assert report.exit_code == 0
    require_right(filled, before)


def test_the_manifest_that_the_ref_names_is_taken_and_no_other(filled: Bench) -> None:
    """A replica cannot change what a snapshot of this store consists of."""
    lose_manifest(filled)
    theirs = filled.folder / "replica"
    (ref,) = (theirs / "refs").rglob("*.json")
    manifest = ModelCache(DirectoryStore(theirs, create=False)).manifest(next(filled.cache().snapshots()))
    other = manifest.to_json().replace(b'"executable":false', b'"executable":true', 1)
    (theirs / keys.manifest(Digest.of(other))).parent.mkdir(parents=True, exist_ok=True)
    (theirs / keys.manifest(Digest.of(other))).write_bytes(other)
    (theirs / keys.manifest(manifest.digest)).unlink()
    swap(ref, ref.read_bytes().replace(manifest.digest.hex.encode(), Digest.of(other).hex.encode()))
    report = repaired(filled, replica(filled))
    assert (report.problems[0].repaired, report.exit_code) == ("", 13)


def test_a_part_of_a_snapshot_comes_from_a_replica_alone(bench: Bench) -> None:
    bench.fetch(selection=Selection(include=("*.json",)))
    shutil.copytree(bench.disk.root, bench.folder / "replica")
    before = tree(bench.disk)
    cut_ref(bench)
    report = repaired(bench, upstream=[upstream_of(bench)])
    assert "is a part, and only its own manifest says which files it has" in report.problems[0].unrepaired
    assert repaired(bench, replica(bench)).exit_code == 0
    require_right(bench, before)


def test_a_store_that_lost_its_marker_gets_a_new_one(filled: Bench) -> None:
    filled.disk.path(keys.MARKER).unlink()
    assert repaired(filled).problems[0].repaired == "a new one"
    assert verify_all(filled, ()).problems == ()


# --- what stays as it is


def test_what_was_dropped_gets_its_blobs_again_and_no_ref(filled: Bench) -> None:
    drop(filled.cache(), next(filled.cache().snapshots()))
    damage(filled, "missing")
    report = repaired(filled, replica(filled))
    assert [(one.kind, bool(one.repaired)) for one in report.problems] == [("dropped", True)]
    assert list(filled.disk.scan(keys.REFS)) == []
    assert filled.blob(WEIGHTS).read_bytes() == WEIGHTS


def test_wrong_bytes_that_nobody_needs_are_left_to_a_collection(filled: Bench) -> None:
    garbage = b"garbage"
    path = filled.disk.path(keys.blob(Digest.of(garbage)))
    filled.disk.write(keys.blob(Digest.of(garbage)), [flipped(garbage)], size=len(garbage))
    report = repaired(filled, replica(filled))
    assert ("prune" in report.problems[0].unrepaired, report.exit_code) == (True, 13)
    assert path.read_bytes() == flipped(garbage)


def test_without_anybody_to_ask_it_is_said_what_helps(filled: Bench) -> None:
    damage(filled, "missing")
    report = repaired(filled)
    assert "--from" in report.problems[0].unrepaired


@pytest.mark.parametrize("way", WAYS)
def test_a_store_that_may_not_be_written_is_told_and_hides_nothing(
    filled: Bench, way: Callable[..., VerifyReport]
) -> None:
    damage(filled, "missing")
    filled.blob(TINY["config.json"]).unlink()
    before = tree(filled.disk)
    filled.store = Failing(filled.disk, lambda: AccessDenied("read only"), touching("", "write", "delete"))
    report = repaired(filled, replica(filled), way=way)
    assert [(one.what, one.unrepaired) for one in report.problems] == [
        ("config.json", "read only"),
        ("model.safetensors", "read only"),
    ]
    assert report.exit_code == 13
    assert tree(filled.disk) == before


@pytest.mark.parametrize("error", [AccessDenied, Unavailable])
def test_a_replica_that_is_out_of_order_is_passed_over(filled: Bench, error: type[AccessDenied | Unavailable]) -> None:
    damage(filled, "missing")
    dead = Failing(DirectoryStore(filled.folder / "replica", create=False), lambda: error("out of order"), touching(""))
    giver = StoreGiver(ModelCache(dead, retry=filled.retry()), retry=filled.retry())
    report = repaired(filled, giver)
    assert "out of order" in report.problems[0].unrepaired
    assert repaired(filled, giver, folder(filled)).exit_code == 0


def test_an_outage_of_the_hub_hides_nothing_that_was_found(filled: Bench) -> None:
    damage(filled, "missing")
    filled.hub.faults.append(Status(503))
    report = repaired(filled, upstream=[upstream_of(filled)])
    assert (report.problems[0].what, report.exit_code) == ("model.safetensors", 13)
    assert report.problems[0].unrepaired


def test_a_snapshot_of_another_hub_is_not_asked_for_here(filled: Bench) -> None:
    damage(filled, "missing")
    with type(filled.hub)() as other:
        other.add_repo(REPO, {"main": TINY})
        endpoint = HubEndpoint(other.url, session=filled._session, retry=filled.retry())
        mirrors = Mirrors.of(endpoint, retry=filled.retry(), connections=2)
        report = repaired(filled, upstream=[mirrors])
        assert other.requests() == []
    assert "it belongs to" in report.problems[0].unrepaired


def test_a_repair_that_is_killed_at_any_moment_makes_nothing_worse_and_the_next_one_ends_it(filled: Bench) -> None:
    before = tree(filled.disk)

    def spoil() -> None:
        damage(filled, "flipped")
        filled.blob(TINY["README.md"]).unlink(missing_ok=True)
        if filled.ref_file().read_bytes().endswith(b"}"):
            cut_ref(filled)

    (ref,) = (key for key in before if key.startswith("refs/"))
    spoil()
    filled.store = counting = Crashing(filled.disk, at=10**9, moment="before")
    report = repaired(filled, replica(filled))
    assert {one.what for one in report.problems} == {"manifest", "README.md", "model.safetensors"}
    for moment in ("before", "within", "after"):
        for at in range(0, counting.count, 7):
            filled.store = filled.disk
            spoil()
            filled.store = crashing = Crashing(filled.disk, at=at, moment=moment)
            with suppress(Crash):
                repaired(filled, replica(filled))
            assert crashing.is_dead or at > counting.count - 10, (moment, at, counting.count)
            filled.store = filled.disk
            left = tree(filled.disk)
            wrong = {key for key, data in left.items() if key in before and data != before[key]}
            assert wrong <= {ref, keys.blob(Digest.of(WEIGHTS))}
            assert repaired(filled, replica(filled)).exit_code == 0
            for info in list(filled.disk.scan("intents/")):
                filled.disk.delete(info.key)
            require_right(filled, before)
