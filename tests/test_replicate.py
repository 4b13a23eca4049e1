"""Copying a store: only what is missing travels, nothing wrong arrives, and whatever happens the destination is consistent."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache import keys, proven, publication
from ci_modelcache.cache.pins import pin
from ci_modelcache.cache.records import HUB, SAVED, CondemnedRecord, HeadRecord, PinRecord
from ci_modelcache.errors import (
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model import digest as model_digest
from ci_modelcache.model import manifest as model_manifest
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import to_json
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer import parallel
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.replicate import Replication, replicate, watch
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.verify import verify
from tests.parts.cached import MANIFEST, NOW, SNAPSHOT, blob_keys, cache_in, leaf_list, publish, require_restorable
from tests.parts.servers import BUCKET, REGION, S3Server, login
from tests.parts.snapshots import COMMIT, CONTENTS, manifest_of
from tests.parts.stores import (
    Altering,
    Crash,
    Crashing,
    Failing,
    LosingAnswers,
    MemoryStore,
    Passing,
    Recording,
    content,
    touching,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.verbs.replicate import ReplicateReport
    from tests.parts.stores import Operation

FILE = next(file for file in MANIFEST.files if file.path == "model.safetensors")
BLOB = keys.blob(FILE.sha256)
HOST, MAIN = SNAPSHOT.host, ModelRef(SNAPSHOT.repo)
HEAD = keys.head(HOST, SNAPSHOT.type, SNAPSHOT.repo, "main")
LATER = "f" * 40
SECOND = {**CONTENTS, "config.json": b'{"model_type": "bert", "layers": 7}\n', "README.md": b"# Tiny\n" * 50}
NEXT = manifest_of(SECOND, commit=LATER)
CHANGED = ("config.json", "README.md")


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 40 bytes has three leaves."""
    for module in (model_digest, model_manifest, publication, proven):
        monkeypatch.setattr(module, "LEAF_SIZE", 16)


def filled(store: Store | None = None) -> Store:
    """A store that has the first snapshot, and knows it as main."""
    store = store or MemoryStore()
    cache = cache_in(store, seed=b"source")
    publish(cache)
    cache.put_head(HOST, MAIN, COMMIT, HUB)
    return store


def filled_again(store: Store) -> None:
    """The same with a second snapshot, which shares files and is main later."""
    cache = cache_in(store, seed=b"later", now=lambda: NOW + 60)
    publish(cache, NEXT, SECOND)
    cache.put_head(HOST, MAIN, LATER, HUB)


def step_in(folder: Path, **more: Any) -> Step:
    return Step(folder / "state", retry=RetryPolicy(attempts=3, sleep=lambda _: None), workers=2, **more)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., ReplicateReport]:
    """Copy everything from one store to another."""

    def copy(source: Store, destination: Store, *, pins: bool = False) -> ReplicateReport:
        here = cache_in(source)
        there = cache_in(destination, seed=b"destination")
        return replicate(here.snapshots(), source=here, destination=there, step=step_in(tmp_path), pins=pins)

    return copy


def require_consistent(store: Store, known: Mapping[str, Manifest] | None = None) -> int:
    """Every ref and head of *store* leads to a snapshot that is there in full; returns how many refs there are."""
    cache = cache_in(store)
    manifests = {manifest.commit: manifest for manifest in (MANIFEST, NEXT)} | dict(known or {})
    snapshots = list(cache.snapshots())
    for snapshot in snapshots:
        require_restorable(cache, manifests[snapshot.commit])
    heads = cache.heads(HOST, SNAPSHOT.type, SNAPSHOT.repo)
    assert set(heads) <= {snapshot.commit for snapshot in snapshots}
    return len(snapshots)


# --- what is copied


def test_all_snapshots_arrive_with_what_branches_mean_and_where_they_came_from(copy: Any) -> None:
    source, destination = filled(), MemoryStore()
    filled_again(source)
    report = copy(source, destination)
    assert (report.snapshots, report.present, len(report.copied), report.failed) == (2, 0, 2, ())
    assert report.exit_code == 0
    assert require_consistent(destination) == 2
    cache = cache_in(destination)
    assert cache.head(HOST, MAIN) == cache_in(source).head(HOST, MAIN)
    assert cache.ref(SNAPSHOT).provenance == {"source": "https://huggingface.co", "replicated_from": "memory"}
    assert not [key for key in tree(destination) if key.startswith((keys.INTENTS, keys.LEASES, keys.ANSWERS))]


def test_what_is_there_already_is_neither_read_nor_written(copy: Any) -> None:
    source = Recording(filled())
    destination = Recording(MemoryStore())
    copy(source, destination)
    source.operations.clear()
    destination.operations.clear()
    report = copy(source, destination)
    assert (report.present, report.copied, report.bytes_copied, report.heads) == (1, (), 0, 0)
    assert destination.keys("write") == []
    assert source.keys("read", "blobs/") == []


def test_a_part_of_a_repository_is_copied_as_that_part(copy: Any) -> None:
    part = manifest_of({"config.json": CONTENTS["config.json"]}, selection="0123456789abcdef")
    source, destination = MemoryStore(), MemoryStore()
    publish(cache_in(source), part, CONTENTS)
    assert [one.selection for one in copy(source, destination).copied] == ["0123456789abcdef"]
    require_restorable(cache_in(destination), part)


def test_a_blob_that_several_snapshots_share_travels_once(copy: Any) -> None:
    source = Recording(filled())
    filled_again(source)
    source.operations.clear()
    report = copy(source, MemoryStore())
    assert len(source.keys("read", BLOB)) == 1
    unique = {Digest.of(data): len(data) for data in (*CONTENTS.values(), *SECOND.values())}
    assert report.bytes_copied == sum(unique.values())


# --- nothing wrong arrives


def test_wrong_bytes_at_the_source_are_not_copied_and_stop_no_other_snapshot(copy: Any) -> None:
    source, destination = filled(), MemoryStore()
    filled_again(source)
    config = keys.blob(Digest.of(SECOND["config.json"]))
    damaged = Altering(source, lambda data: bytes([data[0] ^ 1]) + data[1:], touching(config, "read"))
    report = copy(damaged, destination)
    assert [one.exit_code for one in report.failed] == [IntegrityError.exit_code] == [report.exit_code]
    assert LATER in report.failed[0].ref
    assert len(report.copied) == 1
    assert require_consistent(destination) == 1
    assert config not in tree(destination)
    # Main means the later commit, which is not there: nothing is said of it.
    assert HEAD not in tree(destination)


def test_a_bit_that_flips_once_on_the_way_is_sent_again(copy: Any) -> None:
    source = Altering(filled(), lambda data: b"x" + data[1:], touching(BLOB, "read"), times=1)
    destination = MemoryStore()
    assert copy(source, destination).failed == ()
    assert require_consistent(destination) == 1


def test_a_right_generation_is_copied_where_the_first_copy_is_wrong(copy: Any) -> None:
    source, destination = filled(), MemoryStore()
    right = content(source, BLOB)
    source.write(keys.generation(BLOB, "0" * 26), [right], size=len(right))
    wrong = Altering(source, lambda data: b"x" + data[1:], lambda operation: operation.key == BLOB)
    assert copy(wrong, destination).failed == ()
    assert require_consistent(destination) == 1


@pytest.mark.parametrize(
    ("lost", "code"), [(BLOB, NotFound.exit_code), (keys.manifest(MANIFEST.digest), NotFound.exit_code)]
)
def test_a_snapshot_that_the_source_lost_a_part_of_is_told_as_missing(lost: str, code: int, copy: Any) -> None:
    source, destination = filled(), MemoryStore()
    source.delete(lost)
    report = copy(source, destination)
    assert report.exit_code == code
    assert require_consistent(destination) == 0


def test_another_manifest_of_the_same_commit_is_a_conflict_and_stays(copy: Any) -> None:
    destination = MemoryStore()
    other = manifest_of({**CONTENTS, FILE.path: b"other"})
    publish(cache_in(destination), other, {**CONTENTS, FILE.path: b"other"})
    before = tree(destination)
    report = copy(filled(), destination)
    assert "holds" in report.failed[0].why
    assert report.exit_code == IntegrityError.exit_code
    assert {key: before[key] for key in before} == {key: tree(destination)[key] for key in before}
    require_consistent(destination, {COMMIT: other})


@pytest.mark.usefixtures("small_leaves")
def test_a_leaf_list_is_made_on_the_way_and_again_where_the_source_lost_it(copy: Any) -> None:
    contents = {"big.bin": bytes(range(40))}
    manifest = manifest_of(contents)
    source, destination = MemoryStore(), MemoryStore()
    publish(cache_in(source), manifest, contents)
    leaves = keys.leaves(Digest.of(leaf_list(contents["big.bin"])))
    source.delete(leaves)
    copy(source, destination)
    require_restorable(cache_in(destination), manifest)
    # Where only the blob is there: its leaf list is made from the source's bytes.
    for key in (leaves, keys.ref(manifest.id)):
        destination.delete(key)
    assert copy(source, destination).bytes_copied == 0
    require_restorable(cache_in(destination), manifest)


@pytest.mark.usefixtures("small_leaves")
def test_a_manifest_that_names_the_leaves_of_another_file_is_not_copied(copy: Any) -> None:
    contents = {"big.bin": bytes(range(40)), "other.bin": bytes(40)}
    honest = manifest_of(contents)
    first, second = honest.files
    lying = evolve(honest, files=(evolve(first, leaves=second.leaves), second))
    source, destination = MemoryStore(), MemoryStore()
    with publication.Publication(cache_in(source)) as writing:
        writing.announce(file.sha256 for file in lying.files)
        for file in lying.files:
            writing.put_blob(file.expected, file.sha256, [contents[file.path]], what=file.path)
        writing.commit(lying, [leaf_list(contents["other.bin"])], provenance={})
    report = copy(source, destination)
    assert "names the leaf list" in report.failed[0].why
    assert report.exit_code == IntegrityError.exit_code
    assert list(cache_in(destination).snapshots()) == []


def test_a_condemned_name_at_the_destination_is_not_relied_on(copy: Any) -> None:
    destination = MemoryStore()
    doomed = to_json(CondemnedRecord((BLOB,)))
    destination.write(BLOB, [CONTENTS[FILE.path]], size=FILE.size)
    destination.write(keys.condemned("0" * 26), [doomed], size=len(doomed))
    copy(filled(), destination)
    destination.delete(BLOB)
    cache = cache_in(destination)
    require_restorable(cache)
    (key,) = blob_keys(cache, FILE.sha256, FILE.size)
    assert keys.is_generation(key, BLOB)


def test_a_destination_of_a_later_format_is_not_written(copy: Any) -> None:
    marker = b'{"format":2,"min_reader":2,"id":"x","capabilities":{},"features":[]}'
    destination = MemoryStore()
    destination.write(keys.MARKER, [marker], size=len(marker))
    with pytest.raises(StoreUnsupported):
        copy(filled(), destination)
    assert tree(destination) == {keys.MARKER: marker}


# --- heads and pins


def put_head(store: Store, commit: str, observed_at: int, origin: str = HUB) -> None:
    data = to_json(HeadRecord("main", commit, observed_at, origin))
    store.write(HEAD, [data], size=len(data))


@pytest.mark.parametrize(
    ("here", "there", "moves"),
    [(100, None, True), (100, 99, True), (100, 100, False), (100, 101, False)],
    ids=["unknown", "older", "equal", "newer"],
)
def test_a_head_only_moves_forward(here: int, there: int | None, moves: bool, copy: Any) -> None:  # noqa: FBT001  # a case
    source, destination = filled(), MemoryStore()
    put_head(source, COMMIT, here)
    if there is not None:
        put_head(destination, LATER, there, SAVED)
    before = tree(destination)
    assert copy(source, destination).heads == moves
    assert tree(destination)[HEAD] == (content(source, HEAD) if moves else before[HEAD])


def test_a_head_that_nobody_can_read_is_left_out_or_replaced(copy: Any, caplog: pytest.LogCaptureFixture) -> None:
    source, destination = filled(), MemoryStore()
    destination.objects[HEAD] = b"rubbish"
    assert copy(source, destination).heads == 1
    assert cache_in(destination).head(HOST, MAIN).commit == COMMIT
    source.write(HEAD, [b"rubbish"], size=7)
    assert copy(source, destination).heads == 0
    assert "cannot be read as a head" in caplog.text


def test_pins_are_copied_when_asked_for_and_keep_their_reason(copy: Any) -> None:
    source, destination = filled(), MemoryStore()
    pin(cache_in(source), SNAPSHOT, reason="release 1")
    assert copy(source, destination).pins == 0
    assert copy(source, destination, pins=True).pins == 1
    assert cache_in(destination).record(keys.pin(SNAPSHOT), PinRecord).reason == "release 1"
    assert copy(source, destination, pins=True).pins == 0


# --- faults


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_whenever_it_dies_the_destination_is_consistent_and_the_next_run_completes_it(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_GRACE", 0.0)  # the store is dead by then, and nobody has anything to clean up
    first, second = {"a.txt": b"first", "b.txt": b"both"}, {"a.txt": b"second", "b.txt": b"both"}
    manifests = {COMMIT: manifest_of(first), LATER: manifest_of(second, commit=LATER)}
    source = MemoryStore()
    for manifest, contents in zip(manifests.values(), (first, second), strict=True):
        publish(cache_in(source, seed=manifest.commit.encode()), manifest, contents)
    cache_in(source).put_head(HOST, MAIN, LATER, HUB)
    step = Step(tmp_path, retry=RetryPolicy(attempts=1), workers=1)

    def run(destination: Store, seed: bytes = b"") -> ReplicateReport:
        here, there = cache_in(source), cache_in(destination, seed=seed)
        return replicate(here.snapshots(), source=here, destination=there, step=step)

    counting = Recording(MemoryStore())
    run(counting)
    seen = set()
    for at, operation in enumerate(counting.operations):
        if moment == "within" and operation.verb != "write":
            continue
        store = MemoryStore()
        with pytest.raises(Crash):
            run(Crashing(store, at=at, moment=moment))
        seen.add(require_consistent(store, manifests))
        arrived = {key for key in store.objects if key.startswith("blobs/")}
        recording = Recording(store)
        run(recording, seed=b"again")
        assert require_consistent(store, manifests) == 2
        assert cache_in(store).head(HOST, MAIN).commit == LATER
        assert arrived.isdisjoint(recording.keys("write", "blobs/"))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("kind", [Failing, LosingAnswers])
@pytest.mark.parametrize("verb", ["read", "write", "stat", "scan", "delete"])
def test_an_outage_at_either_end_is_told_and_the_next_run_goes_on(kind: type[Failing], verb: str, copy: Any) -> None:
    for prefix in ("", "blobs/", keys.REFS, keys.HEADS, "manifests/"):
        source, store = filled(), MemoryStore()
        destination = kind(store, lambda: Unavailable("503"), touching(prefix, verb), times=1)
        for attempt in (kind(source, lambda: Unavailable("503"), touching(prefix, verb), times=1), source, source):
            try:
                copy(attempt, destination)
            except Unavailable:
                require_consistent(store)
        assert require_consistent(store) == 1
        assert HEAD in store.objects


def test_no_time_left_is_told_and_what_arrived_stays(tmp_path: Path) -> None:
    now = [0.0]
    deadline = Deadline(10, clock=lambda: now[0])

    class Slow(Passing):
        def after(self, operation: Operation) -> None:
            now[0] += operation.verb == "write" and operation.key.startswith("blobs/") and 4

    store = MemoryStore()
    here, there = cache_in(filled()), cache_in(Slow(store))
    step = Step(tmp_path, retry=RetryPolicy(deadline=deadline), workers=1)
    with pytest.raises(DeadlineExceeded):
        replicate(here.snapshots(), source=here, destination=there, step=step)
    assert require_consistent(store) == 0
    assert [key for key in store.objects if key.startswith("blobs/")]


# --- again and again


class Rounds:
    """A step whose pauses do what is planned, one after the other, and whose time is over then."""

    def __init__(self, folder: Path, *planned: Callable[[], object]) -> None:
        self.now = 0.0
        self._planned = list(planned)
        deadline = Deadline(1e6, clock=lambda: self.now)
        retry = RetryPolicy(attempts=1, deadline=deadline, sleep=self._sleep, jitter=lambda low, high: (low + high) / 2)
        self.step = Step(folder, retry=retry, workers=1)
        self.pauses: list[float] = []

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self._planned:
            self._planned.pop(0)()
        else:
            self.now = 2e6

    def watch(self, source: Store, destination: Store) -> tuple[ReplicateReport, list[ReplicateReport]]:
        here, there = cache_in(source, attempts=1), cache_in(destination, seed=b"there", attempts=1)
        told: list[ReplicateReport] = []
        replication = Replication(here, there, step=self.step)
        report = watch(here.snapshots, replication=replication, every=60, step=self.step, told=told.append)
        return report, told


def test_watching_copies_what_comes_until_the_time_is_over(tmp_path: Path) -> None:
    source, destination = filled(), MemoryStore()
    rounds = Rounds(tmp_path, lambda: filled_again(source), lambda: None)
    report, told = rounds.watch(source, destination)
    assert [len(one.copied) for one in told] == [1, 1, 0]
    assert (report.rounds, len(report.copied), report.heads, report.snapshots) == (3, 2, 2, 2)
    assert rounds.pauses == [60, 60, 60]
    assert cache_in(destination).head(HOST, MAIN).commit == LATER


def test_a_round_without_news_reads_nothing_that_was_read_before(tmp_path: Path) -> None:
    source, destination = Recording(filled()), Recording(MemoryStore())

    def forget() -> None:
        source.operations.clear()
        destination.operations.clear()

    Rounds(tmp_path, lambda: None, forget).watch(source, destination)
    assert {operation.verb for operation in source.operations} == {"scan"}
    assert [str(operation) for operation in destination.operations] == [f"read {keys.MARKER}"]


def test_a_round_that_meets_an_outage_is_followed_by_one_that_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    destination = Failing(store, lambda: Unavailable("503"), touching("blobs/", "write"), times=1)
    with caplog.at_level(logging.WARNING):
        report, _ = Rounds(tmp_path, lambda: None).watch(filled(), destination)
    assert "this round ended early: 503" in caplog.text
    assert (report.rounds, len(report.copied)) == (1, 1)
    assert require_consistent(store) == 1


def test_an_outage_that_lasts_until_the_end_is_the_result(tmp_path: Path) -> None:
    destination = Failing(MemoryStore(), lambda: Unavailable("503"), touching("blobs/", "write"))
    with pytest.raises(Unavailable, match="503"):
        Rounds(tmp_path, lambda: None).watch(filled(), destination)


def test_what_was_dropped_at_the_destination_is_not_brought_back_while_watching(tmp_path: Path) -> None:
    store = MemoryStore()
    Rounds(tmp_path, lambda: store.delete(keys.ref(SNAPSHOT)), lambda: None).watch(filled(), store)
    with pytest.raises(SnapshotNotFound):
        cache_in(store).manifest(SNAPSHOT)


# --- real stores


class Counting(Passing):
    """Counts the bytes of blobs that are read and written."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.moved = {"read": 0, "write": 0}

    def _count(self, verb: str, key: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.moved[verb] += len(chunk) * key.startswith("blobs/")
            yield chunk

    def body(self, operation: Operation, chunks: Iterable[bytes]) -> Iterable[bytes]:
        return self._count("write", operation.key, chunks)

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        with self.inner.read(key, start=start, stop=stop) as chunks:
            yield self._count("read", key, chunks)


def test_of_a_second_revision_only_the_difference_moves(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, copy: Any
) -> None:
    login(monkeypatch)
    at = partial(open_store, endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy())
    source, destination = Counting(at(f"s3://{BUCKET}/one")), Counting(at(f"s3://{BUCKET}/two"))
    filled(source.inner)
    copy(source, destination)
    whole = sum(map(len, CONTENTS.values()))
    assert (source.moved["read"], destination.moved["write"]) == (whole, whole)
    filled_again(source.inner)
    report = copy(source, destination)
    difference = sum(len(SECOND[path]) for path in CHANGED)
    assert source.moved["read"] - whole == destination.moved["write"] - whole == difference == report.bytes_copied
    assert require_consistent(destination) == 2


@pytest.mark.parametrize(
    ("source", "destination"), [("seaweedfs", "rclone"), ("rclone", "folder"), ("folder", "seaweedfs")]
)
def test_a_copy_between_any_two_kinds_of_stores_is_proven_by_verify(
    source: str, destination: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)

    def cache(kind: str, role: str) -> ModelCache:
        if kind == "folder":
            return cache_in(DirectoryStore(tmp_path / role, create=True), seed=role.encode())
        server: S3Server = request.getfixturevalue(f"{kind}_server")
        url = f"s3://{BUCKET}/{source}-{destination}-{role}?endpoint_url={server.endpoint}&region={REGION}"
        return cache_in(open_store(url, retry=RetryPolicy()), seed=role.encode())

    here, there = cache(source, "from"), cache(destination, "to")
    filled(here.store)
    filled_again(here.store)
    snapshots = 2
    if source == "seaweedfs":  # and a blob that is sent in parts, and has a leaf list
        big = {"big.bin": os.urandom(17 * 1024 * 1024)}
        publish(here, manifest_of(big, commit="b" * 40), big)
        snapshots = 3
    step = step_in(tmp_path)
    assert replicate(here.snapshots(), source=here, destination=there, step=step).exit_code == 0
    report = verify(there.snapshots(), cache=there, step=step)
    assert (report.snapshots, report.problems) == (snapshots, ())
    assert replicate(here.snapshots(), source=here, destination=there, step=step).bytes_copied == 0
