"""A restore from a store that is elsewhere: how it is asked, what is fetched again, and what is never believed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.replicas import ReplicatedCache
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    DigestMismatch,
    ModelCacheError,
    NoSpace,
    RateLimited,
    SizeMismatch,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.offline import Offline
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer import receipts
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.wanted import RestoreOptions
from tests.parts.cached import cache_in, publish
from tests.parts.faults import Fault
from tests.parts.servers import ADMIN, BUCKET, REGION, login
from tests.parts.snapshots import COMMIT, REPO, manifest_of
from tests.parts.stores import MemoryStore, Passing, content
from tests.parts.verbs import STAGED, Ledger, files_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.stores.protocol import ObjectInfo, Store
    from tests.parts.faults import Relay

BIG = random.Random(7).randbytes(2 * LEAF_SIZE + 5)
CONTENTS = {"big.safetensors": BIG, "config.json": b"{}", "empty.txt": b""}
MANIFEST = manifest_of(CONTENTS)
FILE = MANIFEST.files[0]
BLOB = keys.blob(FILE.sha256)
GENERATION = keys.generation(BLOB, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
STARTS = [0, LEAF_SIZE, 2 * LEAF_SIZE]
LOCK = Lock((LockedModel.of(MANIFEST, revision="main", selection=Selection()),))

Read = tuple[str, int, int | None]


class Elsewhere(Passing):
    """Writes down which ranges are read and which objects are looked at; *meet* may spoil what a read gives."""

    def __init__(
        self,
        store: Store,
        meet: Callable[[str, int, Iterator[bytes]], Iterator[bytes]] = lambda _key, _at, chunks: chunks,
    ) -> None:
        super().__init__(store)
        self._meet = meet
        self.reads: list[Read] = []
        self.looks: list[str] = []

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        self.reads.append((key, start, stop))
        with super().read(key, start=start, stop=stop) as chunks:
            yield self._meet(key, start, chunks)

    def stat(self, key: str) -> ObjectInfo:
        self.looks.append(key)
        return super().stat(key)

    def starts(self, key: str = BLOB) -> list[int]:
        """Where the reads of *key* began, sorted."""
        return sorted(start for each, start, _ in self.reads if each == key)


class Spoiling:
    """Flips a bit of what a read of *key* from *at* on gives, *times* times."""

    def __init__(self, at: int, *, times: int = 1, key: str = BLOB) -> None:
        self._at, self._times, self._key = at, times, key

    def __call__(self, key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if (key, at) != (self._key, self._at) or not self._times:
            return chunks
        self._times -= 1
        data = b"".join(chunks)
        return iter([data[:-1] + bytes([data[-1] ^ 1])])


@pytest.fixture(scope="module")
def filled() -> MemoryStore:
    store = MemoryStore()
    publish(cache_in(store), MANIFEST, CONTENTS)
    return store


@pytest.fixture
def stored(filled: MemoryStore) -> MemoryStore:
    """A store that has the snapshot, and that a test may change."""
    store = MemoryStore()
    store.objects.update(filled.objects)
    return store


class Restoring:
    """One destination, and what was seen of restoring to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mtime: int | None = None
        self.pauses: list[float] = []
        self.ledger = Ledger()

    def __call__(
        self,
        store: Store | ModelCache,
        *,
        locks: tuple[Lock, ...] = (),
        seconds: float = 60.0,
        workers: int = 4,
        most: int | None = None,
    ) -> RestoreReport:
        retry = RetryPolicy(4, base=0.001, cap=0.01, deadline=Deadline(seconds), sleep=self.pauses.append)
        self.ledger = Ledger()
        return restore(
            ModelRef(REPO, "main" if locks else COMMIT),
            PlainLayout(self.folder / "model", normalize_mtime=self.mtime),
            cache=store if isinstance(store, ModelCache) else ModelCache(store, retry=retry),
            upstream=Offline(MANIFEST.host),
            step=Step(self.folder / "state", retry=retry, progress=self.ledger, workers=workers, most=most),
            options=RestoreOptions(save=False, locks=locks),
        )

    def is_complete(self) -> None:
        assert files_in(self.folder / "model") == CONTENTS
        self.ledger.check()

    def fails(self, kind: type[ModelCacheError], store: Store | ModelCache, **options: object) -> ModelCacheError:
        """The error of a restore that fails like that, and leaves nothing behind but what is right."""
        with pytest.raises(kind) as caught:
            self(store, **options)  # type: ignore[arg-type]  # the caller's
        found = files_in(self.folder / "model")
        assert {path: CONTENTS.get(path) for path in found} == found
        self.ledger.check(complete=False)
        return caught.value


@pytest.fixture
def restoring(tmp_path: Path) -> Restoring:
    return Restoring(tmp_path)


@pytest.fixture(params=[False, True], ids=["unlocked", "locked"])
def locks(request: pytest.FixtureRequest) -> tuple[Lock, ...]:
    return (LOCK,) if request.param else ()


# How it is asked


def test_each_range_and_each_small_file_is_one_request_and_nothing_is_looked_at(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...]
) -> None:
    store = Elsewhere(stored)
    restoring(store, locks=locks)
    restoring.is_complete()
    assert store.looks == []
    blobs = [read for read in store.reads if read[0].startswith("blobs/")]
    small = keys.blob(Digest.of(b"{}"))
    assert sorted(blobs) == sorted(
        [(small, 0, None), (BLOB, 0, LEAF_SIZE), (BLOB, LEAF_SIZE, 2 * LEAF_SIZE), (BLOB, 2 * LEAF_SIZE, None)]
    )


def test_a_leaf_list_is_read_only_where_it_proves_something(stored: MemoryStore, restoring: Restoring) -> None:
    store = Elsewhere(stored)
    restoring(store)
    assert [key for key, _, _ in store.reads if key.startswith("leaves/")] == []


def test_a_lock_does_without_the_leaf_list_where_it_is_lost(stored: MemoryStore, restoring: Restoring) -> None:
    for key in [key for key in stored.objects if key.startswith("leaves/")]:
        stored.delete(key)
    restoring(Elsewhere(stored), locks=(LOCK,))
    restoring.is_complete()


def test_a_lock_does_without_the_leaf_list_where_it_may_not_be_read(stored: MemoryStore, restoring: Restoring) -> None:
    def deny(key: str, _at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key.startswith("leaves/"):
            raise AccessDenied("403")
        return chunks

    restoring(Elsewhere(stored, deny), locks=(LOCK,))
    restoring.is_complete()


def test_a_lock_does_without_the_leaf_list_where_it_is_none(stored: MemoryStore, restoring: Restoring) -> None:
    """The file is that of its name, and of that of the lock; no line of it is a digest."""
    nonsense = b"nonsense\n" * len(STARTS)
    odd = evolve(MANIFEST, files=(evolve(FILE, leaves=Digest.of(nonsense)), *MANIFEST.files[1:]))
    stored.objects[keys.leaves(Digest.of(nonsense))] = nonsense
    restoring(Elsewhere(stored), locks=(Lock((LockedModel.of(odd, revision="main", selection=Selection()),)),))
    restoring.is_complete()


# Wrong bytes


@pytest.mark.parametrize("at", STARTS)
def test_a_range_that_is_wrong_is_fetched_again_alone(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...], at: int
) -> None:
    store = Elsewhere(stored, Spoiling(at))
    restoring(store, locks=locks)
    restoring.is_complete()
    assert store.starts() == sorted([*STARTS, at])


def test_a_small_file_that_is_wrong_is_fetched_once_more(stored: MemoryStore, restoring: Restoring) -> None:
    small = keys.blob(Digest.of(b"{}"))
    store = Elsewhere(stored, Spoiling(0, key=small))
    restoring(store)
    restoring.is_complete()
    assert store.starts(small) == [0, 0]


def test_a_range_that_is_wrong_twice_comes_from_the_next_copy(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...]
) -> None:
    stored.objects[GENERATION] = BIG
    store = Elsewhere(stored, Spoiling(LEAF_SIZE, times=2))
    restoring(store, locks=locks)
    restoring.is_complete()
    assert store.starts() == sorted([*STARTS, LEAF_SIZE])
    assert store.starts(GENERATION) == [LEAF_SIZE]


def test_a_file_without_a_right_copy_is_corruption_and_comes_to_no_place(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...]
) -> None:
    stored.objects[BLOB] = BIG[:-1] + b"x"
    error = restoring.fails(DigestMismatch, Elsewhere(stored), locks=locks)
    assert error.exit_code == 13
    assert not (restoring.folder / "model" / FILE.path).exists()


def test_leaves_prove_nothing_unless_a_lock_names_the_manifest(stored: MemoryStore, restoring: Restoring) -> None:
    """Somebody who may write to the store alters a blob, its leaf list and the manifest, but cannot alter what hashes to the old name."""
    evil = BIG[:-1] + b"x"
    other = manifest_of({**CONTENTS, FILE.path: evil})
    lying = evolve(MANIFEST, files=(evolve(FILE, leaves=other.files[0].leaves), *MANIFEST.files[1:]))
    publish(cache_in(stored, seed=b"evil"), evolve(other, commit="1" * 40), {**CONTENTS, FILE.path: evil})
    stored.objects[BLOB] = evil
    stored.objects[keys.manifest(lying.digest)] = lying.to_json()
    ref = keys.ref(MANIFEST.id)
    stored.objects[ref] = stored.objects[ref].replace(MANIFEST.digest.hex.encode(), lying.digest.hex.encode())
    restoring.fails(DigestMismatch, Elsewhere(stored))
    assert not (restoring.folder / "model" / FILE.path).exists()


def test_a_restore_that_was_proven_by_leaves_is_complete_for_its_lock_without_hashing(
    stored: MemoryStore, restoring: Restoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoring(Elsewhere(stored), locks=(LOCK,))
    monkeypatch.setattr(receipts, "fingerprint", None)
    assert restoring(Elsewhere(MemoryStore()), locks=(LOCK,)).result == "local"


def test_what_only_a_lock_and_leaves_vouch_for_is_hashed_by_who_has_no_lock(
    stored: MemoryStore, restoring: Restoring
) -> None:
    """A lock of somebody's own snapshot may give the leaves of its bytes to the SHA-256 of another file: that must not spread."""
    evil = BIG[:-1] + b"x"
    other = manifest_of({**CONTENTS, FILE.path: evil})
    lying = evolve(MANIFEST, files=(evolve(FILE, leaves=other.files[0].leaves), *MANIFEST.files[1:]))
    publish(cache_in(stored, seed=b"evil"), evolve(other, commit="1" * 40), {**CONTENTS, FILE.path: evil})
    stored.objects[BLOB] = evil
    restoring(Elsewhere(stored), locks=(Lock((LockedModel.of(lying, revision="main", selection=Selection()),)),))
    assert (restoring.folder / "model" / FILE.path).read_bytes() == evil
    stored.objects[BLOB] = BIG
    assert restoring(Elsewhere(stored)).replaced == (FILE.path,)
    restoring.is_complete()


# Other copies


@pytest.mark.parametrize("wrong", [BIG[: LEAF_SIZE + 3], BIG[:LEAF_SIZE], b"", BIG + b"x"])
def test_a_copy_of_another_length_is_passed_over_without_waiting(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...], wrong: bytes
) -> None:
    stored.objects[BLOB], stored.objects[GENERATION] = wrong, BIG
    restoring(Elsewhere(stored), locks=locks)
    restoring.is_complete()
    assert restoring.pauses == []


def test_a_copy_of_another_length_and_no_other_is_corruption(stored: MemoryStore, restoring: Restoring) -> None:
    stored.objects[BLOB] = BIG[:-1]
    assert restoring.fails(SizeMismatch, Elsewhere(stored)).exit_code == 13


def test_what_was_collected_meanwhile_is_read_on_from_its_next_generation(
    stored: MemoryStore, restoring: Restoring
) -> None:
    def collect(key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if (key, at) == (BLOB, 0):
            stored.objects[GENERATION] = stored.objects.pop(BLOB, BIG)
        return chunks

    store = Elsewhere(stored, collect)
    restoring(store, workers=1)
    restoring.is_complete()
    assert store.starts(GENERATION) == STARTS[1:]


def test_a_replica_that_denies_costs_nothing_but_time_and_the_store_that_denies_ends_it(
    stored: MemoryStore, restoring: Restoring
) -> None:
    def deny(key: str, _at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key.startswith("blobs/"):
            raise AccessDenied("403")
        return chunks

    lacking = MemoryStore()
    lacking.objects.update({key: data for key, data in stored.objects.items() if not key.startswith("blobs/")})
    replicas = [cache_in(Elsewhere(stored, deny)), cache_in(stored)]
    report = restoring(ReplicatedCache(cache_in(lacking), replicas))
    restoring.is_complete()
    assert report.replicas == {"memory": sum(map(len, CONTENTS.values()))}
    (restoring.folder / "model" / FILE.path).unlink()
    restoring.fails(AccessDenied, ReplicatedCache(cache_in(Elsewhere(stored, deny)), [cache_in(stored)]))


def test_a_store_that_goes_down_is_read_on_in_its_replica_from_where_it_was(
    stored: MemoryStore, restoring: Restoring
) -> None:
    def break_down(key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key == BLOB and at:
            raise Unavailable("gone")
        return chunks

    replica = Elsewhere(stored)
    restoring(ReplicatedCache(cache_in(Elsewhere(stored, break_down)), [cache_in(replica)]), workers=1)
    restoring.is_complete()
    assert replica.starts() == STARTS[1:]


# What passes, and what does not


def test_a_store_that_asks_for_less_gets_fewer_connections_and_longer_ranges(
    stored: MemoryStore, restoring: Restoring
) -> None:
    refusals = iter([True])

    def refuse(key: str, _at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key == BLOB and next(refusals, False):
            raise RateLimited("503")
        return chunks

    store = Elsewhere(stored, refuse)
    restoring(store, workers=1)
    restoring.is_complete()
    assert len(restoring.pauses) == 1
    assert [read for read in store.reads if read[0] == BLOB] == [
        (BLOB, 0, LEAF_SIZE),
        (BLOB, 0, LEAF_SIZE),
        (BLOB, LEAF_SIZE, None),
    ]


def test_a_range_that_breaks_off_is_gone_on_with_where_it_was(
    stored: MemoryStore, restoring: Restoring, locks: tuple[Lock, ...]
) -> None:
    def cut(key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        data = b"".join(chunks)
        if (key, at) == (BLOB, LEAF_SIZE):
            yield data[:1000]
            raise Unavailable("reset")
        yield data

    store = Elsewhere(stored, cut)
    restoring(store, locks=locks)
    restoring.is_complete()
    assert store.starts() == sorted([*STARTS, LEAF_SIZE + 1000])


def test_a_range_that_always_ends_early_is_unavailable_and_not_wrong(stored: MemoryStore, restoring: Restoring) -> None:
    def stop(key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        return iter(()) if key == BLOB and at else chunks

    restoring.fails(Unavailable, Elsewhere(stored, stop))
    assert list((restoring.folder / "model").rglob(f"*{STAGED}*")) == []


def test_after_a_failure_nothing_new_is_begun(stored: MemoryStore, restoring: Restoring) -> None:
    def deny(key: str, _at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key == BLOB:
            raise AccessDenied("403")
        return chunks

    store = Elsewhere(stored, deny)
    restoring.fails(AccessDenied, store, workers=1)
    assert [key for key, _, _ in store.reads if key.startswith("blobs/")] == [BLOB]


def test_what_lands_has_the_time_of_its_layer_at_once(stored: MemoryStore, restoring: Restoring) -> None:
    """Given to it later, it would cost the receipt wherever the disk knows no leases."""

    def deny(key: str, _at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key == keys.blob(Digest.of(CONTENTS["config.json"])):
            raise AccessDenied("403")
        return chunks

    restoring.mtime = 1_700_000_000
    restoring.fails(AccessDenied, Elsewhere(stored, deny), workers=1)
    landed = [path for path in (restoring.folder / "model").rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in landed} == {restoring.mtime}


def test_a_connection_that_hangs_is_left_behind_at_the_deadline_and_its_file_removed(
    stored: MemoryStore, restoring: Restoring
) -> None:
    release = threading.Event()

    def hang(key: str, at: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if key == BLOB and at:
            release.wait(60)
        yield from chunks

    try:
        restoring.fails(DeadlineExceeded, Elsewhere(stored, hang), seconds=1.0)
        assert list((restoring.folder / "model").rglob(f"*{STAGED}*")) == []
    finally:
        release.set()
    restoring(Elsewhere(stored))
    restoring.is_complete()


def test_a_disk_that_is_too_full_is_told_before_the_first_byte(
    stored: MemoryStore, restoring: Restoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job took the room after it was looked at; a folder that may hold less would show it only at the end."""
    from ci_modelcache.verbs import placing  # noqa: PLC0415  # only here something in it is replaced

    monkeypatch.setattr(placing, "require_space", lambda _folder, _need: None)
    small = restoring.folder / "model"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], check=True)
    try:
        store = Elsewhere(stored)
        restoring.fails(NoSpace, store, workers=1)
        assert store.starts() == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_miss_of_a_blob_that_nobody_has_names_the_file(stored: MemoryStore, restoring: Restoring) -> None:
    stored.delete(BLOB)
    error = restoring.fails(SnapshotNotFound, Elsewhere(stored))
    assert FILE.path in error.message


# A real store, behind a relay


@pytest.fixture
def s3(stored: MemoryStore, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The snapshot in SeaweedFS."""
    login(monkeypatch)
    prefix = f"c{os.urandom(6).hex()}"
    store = S3Store(BUCKET, prefix, endpoint_url=relay.endpoint, region=REGION, retry=RetryPolicy(sleep=lambda _: None))
    for key in sorted(stored.objects):
        data = content(stored, key)
        store.write(key, _in_pieces(data), size=len(data))
    relay.seen.clear()
    return store


def _in_pieces(data: bytes) -> Iterable[bytes]:
    return (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20))


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("cut", "GET", "bytes=0-", after=1000), Fault("cut", "GET", f"bytes={LEAF_SIZE}-", after=3_000_000)],
        [Fault("answer", "GET", BLOB, times=2)],
        [Fault("answer", "GET", BLOB, status=500, body=b"", times=3)],
        [Fault("lose", "GET", BLOB, times=2)],
    ],
    ids=["cut", "503", "500", "lost"],
)
def test_what_passes_on_the_wire_costs_its_ranges_and_no_others(
    s3: S3Store, relay: Relay, restoring: Restoring, faults: list[Fault]
) -> None:
    relay.faults = [evolve(fault) for fault in faults]
    restoring(s3)
    restoring.is_complete()
    assert relay.count("HEAD") == 0
    assert relay.count("GET", BLOB) == len(STARTS) + sum(fault.times for fault in faults)


def test_a_stall_on_the_wire_ends_at_the_read_limit(
    s3: S3Store, relay: Relay, restoring: Restoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ci_modelcache.stores import s3_bucket  # noqa: PLC0415  # only here something in it is replaced

    monkeypatch.setattr(s3_bucket, "READ_TIMEOUTS", (2.0, 1.0))
    relay.faults = [Fault("stall", "GET", BLOB, after=1000)]
    hurried = S3Store(
        BUCKET, s3.url.rpartition("/")[2], endpoint_url=relay.endpoint, region=REGION, retry=RetryPolicy()
    )
    restoring(hurried)
    restoring.is_complete()


_RESTORE = """
import sys
from pathlib import Path
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.offline import Offline
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.restore import restore
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.wanted import RestoreOptions

host, ref, url, endpoint, folder, workers = sys.argv[1:7]
retry = RetryPolicy()
store = S3Store(*url.removeprefix("s3://").split("/"), endpoint_url=endpoint, region="us-east-1", retry=retry)
restore(
    ModelRef.parse(ref),
    PlainLayout(Path(folder) / "model"),
    cache=ModelCache(store, retry=retry),
    upstream=Offline(host),
    step=Step(Path(folder) / "state", retry=retry, workers=int(workers)),
    options=RestoreOptions(save=False),
)
# Not ru_maxrss, which begins with what the process had that started this one.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak)
"""


def started(s3: S3Store, endpoint: str, folder: Path, *, workers: int) -> subprocess.Popen[str]:
    """A process that restores from *s3* to *folder*."""
    keys_ = {"AWS_ACCESS_KEY_ID": ADMIN[0], "AWS_SECRET_ACCESS_KEY": ADMIN[1]}
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            _RESTORE,
            MANIFEST.host,
            f"{REPO}@{COMMIT}",
            s3.url,
            endpoint,
            str(folder),
            str(workers),
        ],
        env={**os.environ, **keys_},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_restore_that_is_killed_leaves_nothing_wrong_and_the_next_one_removes_what_it_left(
    s3: S3Store, relay: Relay, restoring: Restoring
) -> None:
    relay.faults = [Fault("stall", "GET", BLOB, after=1_000_000, times=3)]
    with started(s3, relay.endpoint, restoring.folder, workers=4) as process:
        end = time.monotonic() + 60
        while relay.count("GET", BLOB) < len(STARTS) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    relay.released.set()
    model = restoring.folder / "model"
    assert list(model.rglob(f"{STAGED}*")) != []
    assert not (model / FILE.path).exists()
    restoring(s3)
    restoring.is_complete()


def test_memory_is_bounded_by_the_connections_and_not_by_their_ranges(
    s3: S3Store, relay: Relay, restoring: Restoring
) -> None:
    with started(s3, relay.endpoint, restoring.folder, workers=32) as process:
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert int(said) < 200_000, said
    assert files_in(restoring.folder / "model") == CONTENTS
