"""Readers go on where a store has nothing: to its replicas in their order, and only then to the Hub. Writers never believe a replica."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.cache.publication import published
from ci_modelcache.cache.records import HUB
from ci_modelcache.cache.replicas import ReplicatedCache
from ci_modelcache.cli.main import main
from ci_modelcache.config import Config
from ci_modelcache.errors import (
    AccessDenied,
    BucketMissing,
    ConfigError,
    DigestMismatch,
    ObjectNotFound,
    SizeMismatch,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.cached import BLOBS, MANIFEST, SNAPSHOT, cache_in, publish, require_restorable
from tests.parts.hub import TINY
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server, login
from tests.parts.snapshots import COMMIT, CONTENTS, manifest_of
from tests.parts.stores import Altering, Failing, MemoryStore, Recording, content, touching, tree
from tests.parts.verbs import Bench, files_in, flipped, pinned, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry
    from ci_modelcache.stores.protocol import Store

FILE = next(file for file in MANIFEST.files if file.path == "model.safetensors")
BLOB = keys.blob(FILE.sha256)
HOST, MAIN = SNAPSHOT.host, ModelRef(SNAPSHOT.repo)
REFUSALS = {
    "denied": lambda: AccessDenied("403"),
    "unavailable": lambda: Unavailable("503"),
    "no bucket": lambda: BucketMissing("none of that name"),
    "a later format": lambda: StoreUnsupported("format 9"),
}


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def filled(seed: bytes = b"") -> MemoryStore:
    """A store that has the snapshot, and knows it as main."""
    store = MemoryStore()
    cache = cache_in(store, seed=seed)
    publish(cache)
    cache.put_head(HOST, MAIN, COMMIT, HUB)
    return store


def over(store: Store, *replicas: Store) -> ReplicatedCache:
    return ReplicatedCache(cache_in(store), [cache_in(each) for each in replicas])


def read_blob(cache: ModelCache, file: FileEntry = FILE) -> bytes:
    """The blob's bytes in the first copy."""
    for copy in cache.blob_copies(file.sha256, file.size):
        with copy.open(0) as chunks:
            return b"".join(chunks)
    raise ObjectNotFound(keys.blob(file.sha256), cache.url)


def require_readable(cache: ModelCache) -> None:
    """Every byte of the snapshot is to be had."""
    assert {file.path: read_blob(cache, file) for file in cache.manifest(SNAPSHOT).files} == CONTENTS


# --- who is asked


def test_what_the_store_lacks_is_read_from_the_first_replica_that_has_it() -> None:
    empty, far = MemoryStore(), Recording(filled())
    cache = over(MemoryStore(), empty, filled(), far)
    require_readable(cache)
    assert cache.head(HOST, MAIN).commit == COMMIT
    assert cache.ref(SNAPSHOT).manifest == MANIFEST.digest
    assert list(cache.snapshots_of(HOST, SNAPSHOT.type, SNAPSHOT.repo)) == [SNAPSHOT]
    assert far.keys("read", keys.REFS) == far.keys("read", "blobs/") == []
    assert empty.objects == {}


def test_no_replica_is_asked_for_what_the_store_has() -> None:
    replica = Recording(filled())
    cache = over(filled(), replica)
    assert cache.manifest(SNAPSHOT) == MANIFEST
    assert cache.head(HOST, MAIN).commit == COMMIT
    assert read_blob(cache) == CONTENTS[FILE.path]
    assert replica.operations == []


def test_a_replica_with_a_ref_and_not_yet_its_blobs_is_incomplete_and_not_damaged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near = filled()
    near.delete(BLOB)
    with caplog.at_level(logging.WARNING):
        assert read_blob(over(MemoryStore(), near, filled())) == CONTENTS[FILE.path]
    assert caplog.records == []


@pytest.mark.parametrize("spoilt", ["manifest", "ref", "size"])
def test_what_is_wrong_in_the_store_is_read_from_a_replica_and_said(
    spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled()
    key = {"manifest": keys.manifest(MANIFEST.digest), "ref": keys.ref(SNAPSHOT), "size": BLOB}[spoilt]
    store.objects[key] = b"not this"
    cache = over(store, filled())
    assert cache.manifest(SNAPSHOT) == MANIFEST
    assert read_blob(cache) == CONTENTS[FILE.path]
    assert "memory is not believed" in caplog.text


def test_a_store_that_is_unavailable_is_asked_once_and_then_no_more() -> None:
    store = Recording(Failing(filled(), lambda: Unavailable("503"), touching("")))
    cache = over(store, filled())
    assert cache.manifest(SNAPSHOT) == MANIFEST
    asked = len(store.operations)
    require_readable(cache)
    assert cache.head(HOST, MAIN).commit == COMMIT
    assert len(store.operations) == asked


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_replica_that_fails_costs_no_result_and_is_not_asked_again(kind: str) -> None:
    near = Recording(Failing(filled(), REFUSALS[kind], touching("")))
    cache = over(MemoryStore(), near, filled())
    assert cache.manifest(SNAPSHOT) == MANIFEST
    asked = len(near.operations)
    require_readable(cache)
    assert len(near.operations) == asked


@pytest.mark.parametrize("kind", REFUSALS)
def test_when_nobody_has_it_the_miss_of_the_store_counts_and_not_the_failure_of_a_replica(kind: str) -> None:
    cache = over(MemoryStore(), Failing(filled(), REFUSALS[kind], touching("")))
    with pytest.raises(SnapshotNotFound):
        cache.manifest(SNAPSHOT)
    with pytest.raises(SnapshotNotFound):
        cache.head(HOST, MAIN)
    assert list(cache.blob_copies(FILE.sha256, FILE.size)) == []


def test_when_nobody_has_it_the_failure_of_the_store_is_told_each_time() -> None:
    cache = over(Failing(filled(), lambda: Unavailable("503"), touching("")), MemoryStore())
    for _ in range(2):
        with pytest.raises(Unavailable, match="503"):
            cache.manifest(SNAPSHOT)
        with pytest.raises(Unavailable, match="503"):
            list(cache.blob_copies(FILE.sha256, FILE.size))
    wrong = filled()
    wrong.objects[keys.manifest(MANIFEST.digest)] = wrong.objects[BLOB] = b"not this"
    with pytest.raises(DigestMismatch):
        over(wrong, MemoryStore()).manifest(SNAPSHOT)
    with pytest.raises(SizeMismatch):
        list(over(wrong, MemoryStore()).blob_copies(FILE.sha256, FILE.size))


@pytest.mark.parametrize("kind", ["denied", "no bucket", "a later format"])
def test_a_refusal_of_the_store_itself_is_an_error_whatever_replicas_have(kind: str) -> None:
    cache = over(Failing(filled(), REFUSALS[kind], touching("")), filled())
    with pytest.raises((AccessDenied, ConfigError)):
        cache.manifest(SNAPSHOT)


# --- writers


def test_a_writer_looks_at_the_store_alone_and_writes_to_it_alone() -> None:
    store, replica = MemoryStore(), Recording(filled())
    before = tree(replica.inner)
    cache = over(store, replica)
    with pytest.raises(SnapshotNotFound):
        published(cache, SNAPSHOT)
    publish(cache)
    assert replica.operations == []
    assert tree(replica.inner) == before
    assert {keys.blob(digest) for digest in BLOBS} <= set(store.objects)
    require_restorable(cache_in(store))


# --- restore


@pytest.fixture
def replicated(bench: Bench) -> Callable[..., Any]:
    """Restore from the store of *bench* and these replicas."""

    def restored(*replicas: Store, **options: Any) -> Any:
        caches = [bench.cache(each) for each in replicas]
        plain = bench.cache
        bench.cache = lambda store=None: ReplicatedCache(plain(store), caches)  # type: ignore[method-assign]  # the bench has one store
        try:
            return bench.restore(pinned(bench), **options)
        finally:
            bench.cache = plain  # type: ignore[method-assign]  # as above

    return restored


@pytest.fixture
def far(bench: Bench, tmp_path: Path) -> DirectoryStore:
    """A replica that has the model of the Hub; the store is empty again."""
    bench.fetch()
    store, bench.disk = bench.disk, DirectoryStore(tmp_path / "near", create=True)
    bench.store = Recording(bench.disk)
    return store


def test_a_restore_of_what_only_a_replica_has_asks_no_hub(
    bench: Bench, far: DirectoryStore, replicated: Callable[..., Any]
) -> None:
    report = replicated(MemoryStore(), far, upstream=bench.offline, save=False)
    assert report.result == "hit"
    assert report.replicas == {far.url: report.size}
    assert files_in(bench.folder / "model") == TINY
    assert list(bench.disk.scan("")) == []


def test_what_no_replica_has_right_comes_from_the_hub(
    bench: Bench, far: DirectoryStore, replicated: Callable[..., Any]
) -> None:
    largest = max((far.root / "blobs").rglob("?" * 64), key=lambda path: path.stat().st_size)
    size = largest.stat().st_size
    spoil(largest)
    report = replicated(far)
    assert report.replicas == {far.url: report.size - size}
    assert len(report.mended) == 1
    assert files_in(bench.folder / "model") == TINY


def test_a_store_that_fails_while_a_blob_is_read_is_left_for_a_replica(
    bench: Bench, far: DirectoryStore, replicated: Callable[..., Any]
) -> None:
    store = Recording(Failing(Recording(far), lambda: Unavailable("503"), touching("blobs/", "read")))
    bench.store = store
    report = replicated(Recording(far), upstream=bench.offline)
    assert report.result == "hit"
    assert files_in(bench.folder / "model") == TINY
    assert set(report.replicas) == {far.url}


def test_wrong_bytes_of_the_store_are_passed_over_for_those_of_a_replica(
    bench: Bench, far: DirectoryStore, replicated: Callable[..., Any]
) -> None:
    bench.store = Altering(Recording(far), flipped, touching("blobs/", "read"))
    report = replicated(Recording(far), upstream=bench.offline)
    assert files_in(bench.folder / "model") == TINY
    assert report.replicas


@pytest.mark.parametrize("form", ["plain", "oci"])
def test_an_export_of_what_only_a_replica_has_is_that_of_the_replica(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    publish(cache_in(DirectoryStore(tmp_path / "far", create=True)))
    (tmp_path / "empty").mkdir()
    line = f"export {SNAPSHOT.repo}@{COMMIT} --format {form} -o"
    assert main([*line.split(), "near.tar", "--store", "empty", "--replica", "far"]) == 0
    assert main([*line.split(), "far.tar", "--store", "far"]) == 0
    assert (tmp_path / "near.tar").read_bytes() == (tmp_path / "far.tar").read_bytes()
    assert capsys.readouterr().out


# --- settings


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def load(*flags: str, env: str = "", toml: str = "") -> Config:
        (tmp_path / "modelcache.toml").write_text(toml)
        environ = {"HOME": str(tmp_path / "home"), "CI_MODELCACHE_REPLICAS": env}
        return Config.load({"replicas": flags}, environ=environ, cwd=tmp_path)

    return load


def test_replicas_are_named_by_flags_a_variable_and_the_file(load: Callable[..., Config], tmp_path: Path) -> None:
    near, far = "s3://near/x?region=eu-west-1", "s3://far?endpoint_url=https://s3.example&profile=far"
    assert load().replicas == ()
    assert load(near, far).replicas == (near, far)
    assert load(env=f" {near}\n{far} ").replicas == (near, far)
    assert load(toml=f'replicas = ["{near}", "./far"]').replicas == (near, str(tmp_path / "far"))
    assert load(toml=f'replicas = "{near} {far}"').replicas == (near, far)
    assert load("/one", toml=f'replicas = ["{near}"]').replicas == ("/one",)
    assert load(toml="replicas = []").replicas == ()
    assert load(near, near).replicas == (near,)


@pytest.mark.parametrize("value", ["3", "[1]", '[["s3://x"]]', '""'])
def test_replicas_that_are_no_texts_are_refused_with_the_line(value: str, load: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"modelcache\.toml:1: replicas: expected stores"):
        load(toml=f"replicas = {value}")


# --- real servers


def test_a_job_reads_on_from_an_empty_store_over_a_near_one_to_a_far_one(
    seaweedfs_server: S3Server,
    rclone_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The near one is of another provider and lacks a blob, the far one is reached with credentials of its own; no Hub is asked."""
    profiles = tmp_path / "credentials"
    profiles.write_text(f"[far]\naws_access_key_id={READER[0]}\naws_secret_access_key={READER[1]}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_REGION", REGION)
    login(monkeypatch)
    far = f"s3://{BUCKET}/replicas?endpoint_url={seaweedfs_server.endpoint}&region={REGION}"
    near = f"s3://{BUCKET}/replicas?endpoint_url={rclone_server.endpoint}"
    stores = [open_store(url, retry=RetryPolicy()) for url in (near, far)]
    for store in stores:
        publish(cache_in(store), manifest_of(), CONTENTS)
    stores[0].delete(BLOB)
    (tmp_path / "empty").mkdir()
    login(monkeypatch, ADMIN)
    line = (
        f"restore {SNAPSHOT.repo}@{COMMIT} --offline --store {tmp_path / 'empty'} --to {tmp_path / 'out'} --mode read"
    )
    replicas = (
        f"--replica s3://{BUCKET}/nothing?endpoint_url=http://127.0.0.1:9 --replica {near} --replica {far}&profile=far"
    )
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))
    assert main([*line.split(), *replicas.split(), "--json"]) == 0
    printed = capsys.readouterr()
    assert f'"replicas": {{"s3://{BUCKET}/replicas": {MANIFEST.size}}}' in printed.out
    assert f"the replica s3://{BUCKET}/nothing is not asked any more" in printed.err
    assert files_in(tmp_path / "out") == CONTENTS
    assert list((tmp_path / "empty").iterdir()) == []
    assert content(stores[1], BLOB) == CONTENTS[FILE.path]
