"""What a store holds of many blobs is found out by a listing, where that takes fewer requests; what it leaves open is asked for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import keys, presence
from ci_modelcache.cache.presence import listed
from ci_modelcache.cache.publication import Publication, published
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.errors import SnapshotNotFound
from ci_modelcache.model.digest import Digest
from ci_modelcache.stores.directory import DirectoryStore
from tests.parts.cached import cache_in, publish, require_restorable
from tests.parts.snapshots import manifest_of
from tests.parts.stores import MemoryStore, Recording

if TYPE_CHECKING:
    from pathlib import Path

MANY = {f"{number:03}.txt": b"%d" % number for number in range(40)}
MANIFEST = manifest_of(MANY)


def names(count: int, *, begin: int = 0) -> list[str]:
    return [keys.blob(Digest.of(b"%d" % number)) for number in range(begin, begin + count)]


def store_with(*held: str) -> Recording:
    memory = MemoryStore()
    for name in held:
        memory.objects[name] = b"held"
    return Recording(memory)


def test_one_listing_tells_of_many() -> None:
    there, absent = names(20), names(20, begin=20)
    store = store_with(*there)
    found = listed(cache_in(store), [*absent, *there])
    assert found == {name: ((name, 4),) if name in there else () for name in [*there, *absent]}
    assert [str(each) for each in store.operations] == [f"scan {keys.BLOBS}"]


def test_copies_under_other_names_are_told_as_for_a_single_blob() -> None:
    wanted = names(20)
    generation = keys.generation(wanted[3], new_ulid(0, bytes(10)))
    packed = keys.packed(Digest(wanted[4].rpartition("/")[2]), 99)
    store = store_with(wanted[3], generation, packed, f"{wanted[5]}.unknown")
    cache = cache_in(store)
    assert listed(cache, wanted) == {name: tuple(cache.copies(name)) for name in wanted}


def test_for_few_nothing_is_listed() -> None:
    store = store_with(*names(3))
    assert listed(cache_in(store), names(15)) == {}
    assert store.operations == []


def test_a_store_on_this_disk_is_not_listed(tmp_path: Path) -> None:
    assert listed(cache_in(DirectoryStore(tmp_path, create=True)), names(50)) == {}


def test_a_store_that_holds_much_else_is_not_listed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million blobs a page of a thousand settles nothing worth it; what it did settle is not asked for again."""
    monkeypatch.setattr(presence, "_PAGE", 50)
    monkeypatch.setattr(presence, "_WORTH", 10)
    wanted, others = names(40), names(400, begin=1000)
    store = store_with(*wanted[:20], *others)
    found = listed(cache_in(store), wanted)
    end = sorted([*wanted[:20], *others])[49]
    assert sorted(found) == sorted(name for name in wanted if name < end)
    assert found == {name: ((name, 4),) if name in wanted[:20] else () for name in found}
    assert len(found) < 10


def test_a_listing_goes_on_while_each_page_settles_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_PAGE", 10)
    monkeypatch.setattr(presence, "_WORTH", 2)
    assert set(listed(cache_in(store_with(*names(100, begin=50))), names(100))) == set(names(100))


def test_a_snapshot_of_many_files_is_stored_with_one_request_for_each_and_a_few() -> None:
    store = Recording(MemoryStore())
    publish(cache_in(store), MANIFEST, MANY)
    assert len(store.keys("write", keys.BLOBS)) == len(MANY)
    assert store.keys("stat", keys.BLOBS) == []
    assert store.keys("scan", keys.BLOBS) == [keys.BLOBS]
    store.operations.clear()
    publish(cache_in(store, seed=b"again"), MANIFEST, MANY)
    assert store.keys("write", keys.BLOBS) == store.keys("stat", keys.BLOBS) == []
    assert len(store.operations) < 20
    store.operations.clear()
    assert published(cache_in(store), MANIFEST.id) == MANIFEST
    assert len(store.operations) < 10
    require_restorable(cache_in(store), MANIFEST)


def test_a_blob_that_a_listing_does_not_show_is_missed() -> None:
    memory = MemoryStore()
    publish(cache_in(memory), MANIFEST, MANY)
    del memory.objects[keys.blob(MANIFEST.files[7].sha256)]
    with pytest.raises(SnapshotNotFound, match="without"):
        published(cache_in(memory), MANIFEST.id)


def test_what_is_condemned_counts_as_missing_though_it_is_listed() -> None:
    memory = MemoryStore()
    publish(cache_in(memory), MANIFEST, MANY)
    cache = cache_in(memory, seed=b"again")
    condemned = keys.blob(MANIFEST.files[7].sha256)
    with Publication(cache) as publication, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cache), "condemned", lambda _: frozenset({condemned}))
        files = {file.sha256: file for file in MANIFEST.files}
        publication.announce(files)
        publication.look(files)
        assert [file.path for file in files.values() if not publication.has_blob(file.sha256, file.size)] == ["007.txt"]


def test_nothing_is_looked_for_before_it_was_announced() -> None:
    with (
        Publication(cache_in(MemoryStore())) as publication,
        pytest.raises(ValueError, match="before it was announced"),
    ):
        publication.look([Digest(hashlib.sha256(b"x").hexdigest())])
