"""`verify --all` and `--structure`: every object of a store, whatever is wrong with it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.cache.pins import pin
from ci_modelcache.cache.records import ClosedRecord, CondemnedRecord, HeadRecord, IntentRecord
from ci_modelcache.cache.trash import drop
from ci_modelcache.errors import AccessDenied, IntegrityError, StoreUnsupported, Unavailable
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.document import to_json
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.scrub import ScrubOptions, scrub
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.stores import Altering, Failing, Meddling, touching, tree
from tests.parts.verbs import REPO, Bench, flipped, swap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.verbs.findings import Problem
    from ci_modelcache.verbs.verify import VerifyReport

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
SIZE = sum(map(len, TINY.values()))
LARGE = os.urandom(LEAF_SIZE + 1)
STRUCTURE = ScrubOptions(content=False)
GARBAGE = b"garbage of a writer that died"


def scrubbed(bench: Bench, options: ScrubOptions | None = None) -> VerifyReport:
    report = scrub(bench.cache(), step=bench.step(), options=options or ScrubOptions())
    bench.ledger.check(complete=False)
    return report


def put(bench: Bench, key: str, data: bytes) -> Path:
    bench.disk.write(key, [data], size=len(data))
    return bench.disk.path(key)


def snapshot_of(bench: Bench) -> SnapshotId:
    (found,) = bench.cache().snapshots()
    return found


def told(report: VerifyReport) -> list[tuple[str, str]]:
    return sorted((problem.what, problem.kind) for problem in report.problems)


def only(report: VerifyReport) -> Problem:
    (problem,) = report.problems
    return problem


# --- what is right


@pytest.mark.parametrize("content", [True, False])
def test_a_store_with_one_of_everything_is_right_and_counted(bench: Bench, *, content: bool) -> None:
    bench.fetch()
    bench.fetch(selection=Selection(include=("*.json",)))
    cache = bench.cache()
    whole, part = sorted(cache.snapshots(), key=lambda one: one.selection, reverse=True)
    pin(cache, whole, reason="a test")
    drop(cache, part)
    digest = Digest.of(GARBAGE)
    for key, data in {
        keys.intent(ULID, 1): to_json(IntentRecord((digest,), "0" * 32)),
        keys.condemned(ULID): to_json(CondemnedRecord((keys.blob(digest),))),
        keys.closed(keys.condemned(ULID)): to_json(ClosedRecord((), (keys.blob(digest),))),
        keys.access(whole, "2026-11-21"): b"",
        "probe/0123/deleted": b"x",
        keys.blob(digest): GARBAGE,
    }.items():
        put(bench, key, data)
    before = tree(bench.disk)
    report = scrubbed(bench, ScrubOptions(content=content))
    assert (report.problems, report.exit_code) == ((), 0)
    assert (report.snapshots, report.files) == (1, len(TINY))
    assert (report.objects, report.bytes_stored) == (len(before), sum(map(len, before.values())))
    assert (report.unnamed, report.unknown, report.unknown_objects) == (0, (), 0)
    named = {keys.BLOBS, keys.LEAVES, keys.MANIFESTS}
    assert report.bytes_read == (sum(len(d) for k, d in before.items() if k.startswith(tuple(named))) if content else 0)
    assert tree(bench.disk) == before


def test_an_empty_store_is_right(bench: Bench) -> None:
    report = scrubbed(bench)
    assert (report.snapshots, report.objects, report.problems, report.exit_code) == (0, 0, (), 0)


def test_what_nothing_names_is_counted_as_such_and_read(bench: Bench) -> None:
    bench.fetch()
    garbage = put(bench, keys.blob(Digest.of(GARBAGE)), GARBAGE)
    report = scrubbed(bench)
    assert (report.unnamed, report.bytes_unnamed, report.exit_code) == (1, len(GARBAGE), 0)
    swap(garbage, flipped(GARBAGE))
    report = scrubbed(bench)
    # A writer believes the length of what it finds: wrong bytes that nobody needs yet are harm all the same.
    assert (only(report).kind, only(report).snapshot, report.exit_code) == ("wrong", "", 13)
    assert scrubbed(bench, STRUCTURE).problems == ()


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        "blobs/sha256/ab/cd/README",
        "blobs/sha256/00/00/" + "a" * 64,
        "blobs/sha512/ab/cd/" + "a" * 64,
        "refs/v1/huggingface.co/model/org/name/main/all.json",
        "refs/v2/x.json",
        "gc/mine/condemned.json",
        "access/v1/x/2026-11-21",
        "scrub/v2/cursor.json",
    ],
)
def test_a_key_that_this_version_does_not_know_is_named_and_no_harm(bench: Bench, key: str) -> None:
    bench.fetch()
    put(bench, key, b"x")
    report = scrubbed(bench)
    assert (report.unknown, report.unknown_objects, report.problems, report.exit_code) == ((key,), 1, (), 0)


def test_a_copy_in_an_encoding_of_a_later_version_is_passed_over(bench: Bench) -> None:
    bench.fetch()
    put(bench, f"{keys.blob(Digest.of(WEIGHTS))}.zst", b"not its bytes")
    report = scrubbed(bench)
    assert (report.problems, report.unknown_objects) == ((), 0)


def test_of_many_unknown_objects_a_hundred_are_named_and_all_counted(bench: Bench) -> None:
    for number in range(101):
        put(bench, f"stray/{number:03}", b"")
    report = scrubbed(bench)
    assert (len(report.unknown), report.unknown_objects) == (100, 101)


# --- what is wrong


@pytest.mark.parametrize("options", [ScrubOptions(), STRUCTURE], ids=["all", "structure"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "swapped", "flipped"])
def test_damage_of_a_blob_is_a_problem_of_each_snapshot_that_has_it(
    bench: Bench, damage: str, options: ScrubOptions
) -> None:
    bench.fetch()
    bench.fetch(selection=Selection(include=("*.safetensors",)))
    blob, other = bench.blob(WEIGHTS), bench.blob(WEIGHTS[::-1])
    if damage == "missing":
        blob.unlink()
    elif damage == "swapped":  # two of one length in each other's place
        swap(blob, WEIGHTS[::-1])
        swap(other, WEIGHTS)
    else:
        swap(blob, {"truncated": WEIGHTS[:-1], "longer": WEIGHTS + b"x", "flipped": flipped(WEIGHTS)}[damage])
    report = scrubbed(bench, options)
    if not options.content and damage in {"swapped", "flipped"}:
        assert report.problems == ()
        return
    kind = "missing" if damage == "missing" else "wrong"
    wanted = [("model.safetensors", kind)] * 2 + [("onnx/model.onnx", kind)] * (damage == "swapped")
    assert told(report) == wanted
    assert len({problem.snapshot for problem in report.problems}) == 2
    assert report.exit_code == 13


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "of another"])
def test_damage_of_a_leaf_list_is_found(bench: Bench, damage: str) -> None:
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE}})
    bench.fetch()
    assert scrubbed(bench).problems == ()
    (leaves,) = (path for path in (bench.disk.root / "leaves").rglob("*") if path.is_file())
    right = leaves.read_bytes()
    if damage == "missing":
        leaves.unlink()
    elif damage == "of another":
        stored = bench.cache().manifest(snapshot_of(bench))
        other = b"".join(b"%s\n" % Digest.of(part).hex.encode() for part in (b"a", b"b"))
        lie = stored.to_json().replace(str(stored.files[0].leaves).encode(), Digest.of(other).hex.encode())
        put(bench, keys.leaves(Digest.of(other)), other)
        put(bench, keys.manifest(Digest.of(lie)), lie)
        swap(
            bench.ref_file(),
            bench.ref_file().read_bytes().replace(stored.digest.hex.encode(), Digest.of(lie).hex.encode()),
        )
    else:
        swap(leaves, right[:-1] if damage == "truncated" else flipped(right))
    report = scrubbed(bench)
    assert told(report) == [("large.bin", "missing" if damage == "missing" else "wrong")]
    assert report.exit_code == 13
    assert bool(scrubbed(bench, STRUCTURE).problems) is (damage in {"missing", "truncated"})


def lose_manifest(bench: Bench) -> None:
    bench.disk.path(keys.manifest(bench.cache().ref(snapshot_of(bench)).manifest)).unlink()


def flip_manifest(bench: Bench) -> None:
    path = bench.disk.path(keys.manifest(bench.cache().ref(snapshot_of(bench)).manifest))
    swap(path, flipped(path.read_bytes()))


def cut_ref(bench: Bench) -> None:
    swap(bench.ref_file(), bench.ref_file().read_bytes()[:-1])


def redirect_ref(bench: Bench) -> None:
    """The ref leads to the manifest of another snapshot."""
    bench.hub.add_repo("acme/other", {"main": {"config.json": b"{}"}})
    bench.fetch("acme/other")
    ours, theirs = sorted((bench.disk.root / "refs").rglob("*.json"), key=lambda path: "other" in str(path))
    swap(ours, theirs.read_bytes())


@pytest.mark.parametrize("options", [ScrubOptions(), STRUCTURE], ids=["all", "structure"])
@pytest.mark.parametrize(
    ("damage", "kind"),
    [(lose_manifest, "missing"), (flip_manifest, "wrong"), (cut_ref, "wrong"), (redirect_ref, "wrong")],
)
def test_a_snapshot_that_cannot_be_read_is_a_problem_and_the_rest_is_looked_at(
    bench: Bench, damage: Callable[[Bench], None], kind: str, options: ScrubOptions
) -> None:
    bench.fetch()
    damage(bench)
    bench.fetch("acme/tiny", selection=Selection(include=("*.json",)))
    bench.blob(TINY["config.json"]).unlink()
    report = scrubbed(bench, options)
    manifests = [problem for problem in report.problems if problem.what == "manifest"]
    assert [problem.kind for problem in manifests] == [kind]
    assert len(report.problems) == 1 + len([one for one in report.problems if one.what == "config.json"])
    assert manifests[0].snapshot.startswith(REPO)
    assert ("config.json", "missing") in told(report)
    assert report.exit_code == 13


def test_a_manifest_of_a_later_version_is_named_and_may_be_as_it_should_be(bench: Bench) -> None:
    bench.fetch()
    stored = bench.cache().manifest(snapshot_of(bench))
    later = stored.to_json().replace(b'"required_features":[]', b'"required_features":["zstd"]')
    put(bench, keys.manifest(Digest.of(later)), later)
    swap(
        bench.ref_file(),
        bench.ref_file().read_bytes().replace(stored.digest.hex.encode(), Digest.of(later).hex.encode()),
    )
    report = scrubbed(bench)
    assert (told(report), report.exit_code) == ([("manifest", "unsupported")], 2)


def test_a_ref_with_a_hashed_name_is_as_good_as_another(bench: Bench) -> None:
    name = f"{'o' * 90}_____/{'n' * 60}"
    bench.hub.add_repo(name, {"main": {"config.json": b"{}"}})
    bench.fetch(name)
    assert scrubbed(bench).problems == ()
    bench.blob(b"{}").unlink()
    assert told(scrubbed(bench)) == [("config.json", "missing")]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (keys.intent(ULID, 1), b'{"digests":["x"],"write_id":""}'),
        (keys.condemned(ULID), b'{"keys":[1]}'),
        (keys.closed(keys.condemned(ULID)), b"[]"),
        (keys.SCRUBBED, b'{"following":"","number":"1"}'),
        (f"leases/v1/h/model/org/name/{'0' * 40}/all.json", b"\0"),
        ("heads/v1/h/model/org/name/main.json", to_json(HeadRecord("dev", "0" * 40, 1, "hub"))),
        ("heads/v1/h/model/org/name/x.json", b"{}"),
        ("answers/v1/h/model/org/name/main.json", b'{"commit":1}'),
    ],
)
def test_a_document_that_nobody_can_read_is_a_problem_with_its_key(bench: Bench, key: str, data: bytes) -> None:
    bench.fetch()
    put(bench, key, data)
    report = scrubbed(bench, STRUCTURE)
    assert (told(report), report.exit_code) == ([(key, "wrong")], 13)


@pytest.mark.parametrize("kind", ["pin", "trash"])
def test_a_pin_and_the_trash_keep_what_they_name(bench: Bench, kind: str) -> None:
    bench.fetch()
    cache, snapshot = bench.cache(), snapshot_of(bench)
    if kind == "pin":
        pin(cache, snapshot, reason="a test")
        bench.ref_file().unlink()
    else:
        drop(cache, snapshot)
    report = scrubbed(bench)
    assert (report.snapshots, report.unnamed, report.problems) == (0, 0, ())
    bench.blob(WEIGHTS).unlink()
    report = scrubbed(bench)
    # What lies in the trash is read by nobody.
    assert told(report) == [("model.safetensors", "missing" if kind == "pin" else "dropped")]
    assert report.exit_code == (13 if kind == "pin" else 0)
    manifest = next(path for path in (bench.disk.root / "manifests").rglob("*") if path.is_file())
    manifest.unlink()
    assert told(scrubbed(bench)) == [("manifest", "missing" if kind == "pin" else "dropped")]


def test_a_wrong_copy_beside_a_right_one_is_told_and_no_harm(bench: Bench) -> None:
    bench.fetch()
    generation = keys.generation(keys.blob(Digest.of(WEIGHTS)), ULID)
    put(bench, generation, flipped(WEIGHTS))
    report = scrubbed(bench)
    assert (told(report), report.exit_code) == ([("model.safetensors", "spare")], 0)
    assert ULID in only(report).why
    bench.blob(WEIGHTS).unlink()
    assert told(scrubbed(bench)) == [("model.safetensors", "wrong")]
    put(bench, generation, WEIGHTS)
    assert scrubbed(bench).problems == ()


def test_a_store_that_lost_its_marker_is_not_as_it_should_be(bench: Bench) -> None:
    bench.fetch()
    bench.disk.path(keys.MARKER).unlink()
    assert told(scrubbed(bench, STRUCTURE)) == [(keys.MARKER, "missing")]


@pytest.mark.parametrize(
    ("marker", "error"), [(b"{", IntegrityError), (b'{"format":2,"min_reader":2}', StoreUnsupported)]
)
def test_a_store_whose_marker_cannot_be_believed_is_not_looked_at(
    bench: Bench, marker: bytes, error: type[Exception]
) -> None:
    bench.fetch()
    swap(bench.disk.path(keys.MARKER), marker)
    with pytest.raises(error):
        scrubbed(bench)


# --- what is no damage


def test_a_bit_that_flips_on_the_way_once_is_no_problem(bench: Bench) -> None:
    bench.fetch()
    bench.store = Altering(bench.disk, flipped, touching("blobs/"), times=1)
    assert scrubbed(bench).problems == ()


@pytest.mark.parametrize("error", [Unavailable, AccessDenied])
@pytest.mark.parametrize("prefix", ["blobs/", "refs/", "heads/", ""])
def test_a_store_that_fails_is_no_damage(bench: Bench, prefix: str, error: type[Unavailable | AccessDenied]) -> None:
    bench.fetch()
    bench.store = Failing(bench.disk, lambda: error("out of order"), touching(prefix, "read"))
    with pytest.raises(error):
        scrubbed(bench)


def test_an_object_that_the_disk_cannot_read_is_damage_and_the_rest_is_looked_at(bench: Bench) -> None:
    bench.fetch()
    for data in filter(None, TINY.values()):
        blob = keys.blob(Digest.of(data))
        bench.store = Failing(bench.disk, lambda: Unavailable("Input/output error"), touching(blob, "read"))
        report = scrubbed(bench)
        (problem,) = report.problems
        assert (problem.kind, "Input/output error" in problem.why, report.exit_code) == ("wrong", True, 13)


def test_whatever_a_job_stores_or_drops_meanwhile_is_no_problem(bench: Bench) -> None:
    """At any moment: somebody drops the snapshot, and all that it consisted of is collected."""
    bench.fetch()

    def vanish() -> None:
        for info in list(bench.disk.scan("")):
            if info.key != keys.MARKER:
                bench.disk.delete(info.key)

    watched = Meddling(bench.disk, {})
    bench.store = watched
    scrubbed(bench)
    for moment in range(0, watched.count, 3):
        bench.fetch()
        bench.store = Meddling(bench.disk, {moment: [vanish]})
        report = scrubbed(bench)
        bench.store = bench.disk
        assert report.problems == (), moment


def test_what_is_stored_while_it_is_read_is_no_problem(bench: Bench) -> None:
    bench.hub.add_repo("acme/other", {"main": {"config.json": b"{}"}})
    watched = Meddling(bench.disk, {})
    bench.fetch()
    bench.store = watched
    scrubbed(bench)
    for moment in range(0, watched.count, 7):
        bench.hub.add_repo(f"acme/n{moment}", {"main": {"config.json": b"%d" % moment}})
        bench.store = bench.disk
        bench.store = Meddling(bench.disk, {moment: [partial(fetch_into, bench, f"acme/n{moment}")]})
        assert scrubbed(bench).problems == (), moment


def fetch_into(bench: Bench, ref: str) -> None:
    """Fetch *ref* past whatever the store is seen through."""
    seen, bench.store = bench.store, bench.disk
    bench.fetch(ref)
    bench.store = seen
