"""A store of our own format as a source of bytes for files of any repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.cache.blobsource import KNOWN_SECONDS, StoreSource
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import (
    AccessDenied,
    FileNotFound,
    ManifestInvalid,
    ModelCacheError,
    ObjectNotFound,
    SizeMismatch,
    Unavailable,
)
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.cached import MANIFEST, cache_in, publish
from tests.parts.clocks import Clock
from tests.parts.servers import BUCKET, REGION, S3Server, login
from tests.parts.snapshots import COMMIT, CONTENTS, REPO
from tests.parts.stores import Failing, MemoryStore, Recording, touching

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store

REF = ModelRef(REPO)
HOST = "huggingface.co"
MODEL = "model.safetensors"
LISTED = {
    entry.path: ListedFile(entry.path, entry.size, entry.git_oid, entry.sha256 if entry.lfs else None)
    for entry in MANIFEST.files
}
"""As a Hub lists the snapshot: with a SHA-256 for LFS files only."""


def read(
    source: StoreSource,
    path: str,
    *,
    ref: ModelRef = REF,
    commit: str = COMMIT,
    file: ListedFile | None = None,
    start: int = 0,
    stop: int | None = None,
) -> bytes:
    with source.open(ref, commit, file or LISTED[path], start=start, stop=stop) as pieces:
        return b"".join(pieces)


def source_in(store: Store, *, clock: Callable[[], float] | None = None) -> StoreSource:
    return StoreSource(cache_in(store, attempts=1), host=HOST, clock=clock or Clock())


@pytest.fixture(params=["folder", "seaweedfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that holds the snapshot: a folder, and one behind a network."""
    if request.param == "folder":
        made: Store = DirectoryStore(tmp_path / "store", create=True)
    else:
        server: S3Server = request.getfixturevalue("seaweedfs_server")
        login(monkeypatch)
        made = S3Store(
            BUCKET,
            f"blobsource-{tmp_path.name}",
            endpoint_url=server.endpoint,
            region=REGION,
            retry=RetryPolicy(1, deadline=Deadline(60)),
        )
    publish(cache_in(made))
    return made


@pytest.fixture
def memory() -> MemoryStore:
    """As `store`, for what has nothing to do with where bytes lie."""
    made = MemoryStore()
    publish(cache_in(made))
    return made


def test_every_file_and_any_part_of_it_is_read(store: Store) -> None:
    source = source_in(store)
    assert source.url == store.url
    assert {path: read(source, path) for path in CONTENTS} == CONTENTS
    data = CONTENTS[MODEL]
    for start, stop in ((100, None), (0, 100), (100, 200), (6999, 7000), (100, 99_999)):
        assert read(source, MODEL, start=start, stop=stop) == data[start:stop]


def test_a_blob_that_is_not_there_is_a_missing_file_and_the_store_is_named(store: Store) -> None:
    sha256 = LISTED[MODEL].sha256
    assert sha256 is not None
    store.delete(keys.blob(sha256))
    with pytest.raises(FileNotFound, match=f"{store.url} does not hold {MODEL} \\(sha256 {sha256}\\)"):
        read(source_in(store), MODEL)


def test_a_blob_serves_every_repository_and_commit(memory: MemoryStore) -> None:
    assert read(source_in(memory), MODEL, ref=ModelRef("other/copy"), commit="f" * 40) == CONTENTS[MODEL]


@pytest.mark.parametrize(
    ("ref", "commit", "host"),
    [(ModelRef("other/copy"), COMMIT, HOST), (REF, "f" * 40, HOST), (REF, COMMIT, "hub.internal")],
)
def test_a_file_without_a_digest_is_known_by_its_own_commit_only(
    memory: MemoryStore, ref: ModelRef, commit: str, host: str
) -> None:
    source = StoreSource(cache_in(memory, attempts=1), host=host, clock=Clock())
    with pytest.raises(FileNotFound, match=f"memory does not know config.json of {ref.repo}@{commit}"):
        read(source, "config.json", ref=ref, commit=commit)


def test_a_git_name_that_the_commit_has_not_is_a_missing_file(memory: MemoryStore) -> None:
    with pytest.raises(FileNotFound, match=r"does not know config\.json"):
        read(source_in(memory), "config.json", file=ListedFile("config.json", 23, "f" * 40, None))


def test_the_git_name_of_a_pointer_leads_to_no_content(memory: MemoryStore) -> None:
    lfs = LISTED[MODEL]
    with pytest.raises(FileNotFound):
        read(source_in(memory), MODEL, file=ListedFile(MODEL, lfs.size, lfs.git_oid, None))


def test_a_part_of_a_snapshot_will_do(memory: MemoryStore) -> None:
    """Also one that does not have the file is looked at and is no reason to stop."""
    memory.objects.clear()
    for pattern in ("config.json", "empty.txt"):
        part = MANIFEST.part(Selection(include=(pattern,)))
        publish(cache_in(memory, seed=pattern.encode()), part)
    source = source_in(memory)
    assert read(source, "config.json") == CONTENTS["config.json"]
    assert read(source, "empty.txt") == b""


def test_the_manifest_is_read_once_a_minute(memory: MemoryStore) -> None:
    recording, clock = Recording(memory), Clock()
    source = source_in(recording, clock=clock)
    for passed, reads in ((0, 1), (1, 1), (KNOWN_SECONDS, 2)):
        clock.now += passed
        read(source, "config.json")
        assert len(recording.keys("read", "manifests/")) == reads


def test_what_is_saved_later_is_found_after_a_minute() -> None:
    memory, clock = MemoryStore(), Clock()
    source = source_in(memory, clock=clock)
    with pytest.raises(FileNotFound):
        read(source, "config.json")
    publish(cache_in(memory))
    with pytest.raises(FileNotFound):
        read(source, "config.json")
    clock.now += KNOWN_SECONDS
    assert read(source, "config.json") == CONTENTS["config.json"]


def test_no_bytes_are_not_asked_for(memory: MemoryStore) -> None:
    recording = Recording(memory)
    assert read(source_in(recording), "config.json", start=5, stop=5) == b""
    assert recording.operations == []


def test_a_copy_that_vanished_is_replaced_by_another(memory: MemoryStore) -> None:
    sha256 = LISTED[MODEL].sha256
    assert sha256 is not None
    canonical = keys.blob(sha256)
    memory.objects[keys.generation(canonical, new_ulid(0, bytes(10)))] = memory.objects[canonical]
    vanished = touching(canonical, "read")
    failing = Failing(memory, lambda: ObjectNotFound(canonical, "memory"), vanished, times=1)
    assert read(source_in(failing), MODEL) == CONTENTS[MODEL]


def test_a_blob_of_another_size_is_not_read(memory: MemoryStore) -> None:
    sha256 = LISTED[MODEL].sha256
    assert sha256 is not None
    memory.objects[keys.blob(sha256)] += b"x"
    with pytest.raises(SizeMismatch, match=r"memory/blobs/.*expected 7000 bytes, got 7001"):
        read(source_in(memory), MODEL)


@pytest.mark.parametrize("path", [MODEL, "config.json"])
@pytest.mark.parametrize("kind", [Unavailable, AccessDenied])
def test_an_outage_and_a_refusal_are_not_a_miss(memory: MemoryStore, kind: type[ModelCacheError], path: str) -> None:
    failing = Failing(memory, lambda: kind("memory is out of order"), touching("", "read", "stat"))
    with pytest.raises(kind, match="memory is out of order"):
        read(source_in(failing), path)


def test_a_manifest_that_somebody_altered_is_not_believed(memory: MemoryStore) -> None:
    memory.objects[keys.ref(MANIFEST.id)] = b"{}"
    with pytest.raises(ManifestInvalid):
        read(source_in(memory), "config.json")
