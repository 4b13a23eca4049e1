"""What every store promises (`ci_modelcache.stores.protocol.Store`), as tests; a subclass gives the fixtures."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import (
    AlreadyExists,
    BucketMissing,
    DigestMismatch,
    ModelCacheError,
    ObjectNotFound,
    SizeMismatch,
)
from ci_modelcache.model.digest import Digest, Expected, verified
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ci_modelcache.stores.protocol import Store

MIB = 1024 * 1024
PART = 16 * MIB
"""Where an S3 store changes from one request to a multipart upload."""


@functools.lru_cache(maxsize=4)
def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def put(store: Store, key: str, data: bytes, *, create_only: bool = False) -> None:
    pieces = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    store.write(key, pieces, size=len(data), create_only=create_only)


def sums_of(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + PART]).digest() for at in range(0, max(1, len(data)), PART)]


def get(store: Store, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
    with store.read(key, start=start, stop=stop) as chunks:
        return b"".join(chunks)


def keys(store: Store, prefix: str) -> list[str]:
    return [found.key for found in store.scan(prefix)]


class Broken(Exception):
    """What a source raises that is no business of the store."""


def breaking(chunks: Iterable[bytes], error: BaseException) -> Iterator[bytes]:
    yield from chunks
    raise error


class StoreContract:
    """
    Subclasses give the fixtures *store*, empty, and *homeless*, whose bucket or folder does not exist.

    *refuses_second* says whether it honours create-only writes, *stays* whether an object is there all the time while it
    is replaced, *many* how many objects take more than one page.
    """

    refuses_second = True
    stays = True
    many = 1005

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def homeless(self) -> Store:
        raise NotImplementedError

    # Bytes come back

    def test_what_was_written_is_read(self, store: Store) -> None:
        put(store, "blobs/sha256/ab/cd/abcd", b"some bytes")
        assert get(store, "blobs/sha256/ab/cd/abcd") == b"some bytes"

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        put(store, "empty", b"")
        assert get(store, "empty") == b""
        assert store.stat("empty").size == 0

    def test_every_byte_value_and_every_character_of_the_alphabet_survives(self, store: Store) -> None:
        key = "A.Z_a-z0.9/.hidden/x..y/-/_"
        put(store, key, bytes(range(256)))
        assert get(store, key) == bytes(range(256))
        assert keys(store, "A.Z_a-z0.9/") == [key]

    @pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART + 5])
    def test_sizes_around_the_part_boundary_round_trip(self, store: Store, size: int) -> None:
        data = content(size)
        put(store, "big", data)
        assert store.stat("big").size == size
        assert hashlib.sha256(get(store, "big")).digest() == hashlib.sha256(data).digest()

    def test_chunks_of_any_size_make_the_same_object(self, store: Store) -> None:
        data = content(PART + 100_000)
        cuts = itertools.accumulate(itertools.cycle([0, 1, 70_000, 3 * MIB, 7]))
        edges = [0, *itertools.takewhile(lambda at: at < len(data), cuts), len(data)]
        store.write("cut", (data[a:b] for a, b in itertools.pairwise(edges)), size=len(data))
        assert get(store, "cut") == data

    def test_reading_yields_pieces_no_larger_than_a_mebibyte(self, store: Store) -> None:
        put(store, "pieces", content(3 * MIB + 5))
        with store.read("pieces") as chunks:
            sizes = [len(chunk) for chunk in chunks]
        assert sum(sizes) == 3 * MIB + 5
        assert max(sizes) <= MIB

    # Ranges

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (1, None), (0, None), (100, 300), (999, 1000), (999, None), (0, 1000)]
    )
    def test_a_range_is_exactly_its_bytes(self, store: Store, start: int, stop: int | None) -> None:
        data = content(1000)
        put(store, "ranged", data)
        assert get(store, "ranged", start=start, stop=stop) == data[start:stop]

    def test_a_range_that_begins_at_the_end_or_after_it_is_empty(self, store: Store) -> None:
        put(store, "short", b"12345")
        put(store, "empty", b"")
        assert get(store, "short", start=5) == b""
        assert get(store, "short", start=9, stop=12) == b""
        assert get(store, "short", start=3, stop=3) == b""
        assert get(store, "empty", start=0) == b""

    def test_a_range_that_ends_after_the_end_is_what_there_is(self, store: Store) -> None:
        put(store, "short", b"12345")
        assert get(store, "short", start=3, stop=50) == b"45"

    def test_a_range_that_is_none_is_a_mistake(self, store: Store) -> None:
        put(store, "short", b"12345")
        with pytest.raises(ValueError, match="not a range"), store.read("short", start=3, stop=2):
            pass
        with pytest.raises(ValueError, match="not a range"), store.read("short", start=-1):
            pass

    def test_reading_may_stop_early(self, store: Store) -> None:
        put(store, "long", content(4 * MIB))
        with store.read("long") as chunks:
            assert next(chunks)
        assert get(store, "long", stop=10) == content(4 * MIB)[:10]

    def test_a_reader_can_resume_where_it_stopped(self, store: Store) -> None:
        data = content(2 * MIB)
        put(store, "resumed", data)
        whole = read_through(
            lambda start: store.read("resumed", start=start, stop=min(start + 300_000, len(data))),
            len(data),
            RetryPolicy(sleep=lambda _: None),
            what="resumed",
        )
        assert b"".join(whole) == data

    # What is not there

    def test_a_missing_object_is_not_found_by_any_verb(self, store: Store) -> None:
        put(store, "a/b", b"x")
        for key in ("missing", "a", "a/b/c", "a/bb", "a/"[:-1] + "x"):
            with pytest.raises(ObjectNotFound, match=key), store.read(key):
                pass
            with pytest.raises(ObjectNotFound, match=key):
                store.stat(key)
        with pytest.raises(ObjectNotFound), store.read("missing", start=4, stop=9):
            pass
        with pytest.raises(ObjectNotFound), store.read("missing", start=4, stop=4):
            pass

    def test_a_missing_bucket_is_neither_a_missing_object_nor_an_empty_store(self, homeless: Store) -> None:
        with pytest.raises(BucketMissing):
            homeless.stat("key")
        with pytest.raises(BucketMissing), homeless.read("key"):
            pass
        with pytest.raises(BucketMissing):
            list(homeless.scan(""))
        with pytest.raises(BucketMissing):
            put(homeless, "key", b"x")
        with pytest.raises(BucketMissing):
            put(homeless, "key", content(PART + 1))
        with pytest.raises(BucketMissing):
            homeless.delete("key")

    # Stat, scan, delete

    def test_stat_tells_key_size_and_age(self, store: Store) -> None:
        before = time.time()
        put(store, "a/b", b"12345")
        found = store.stat("a/b")
        assert (found.key, found.size) == ("a/b", 5)
        assert before - 5 < found.modified < time.time() + 5

    def test_scan_tells_what_stat_tells(self, store: Store) -> None:
        put(store, "a/b", b"12345")
        (scanned,) = store.scan("a/")
        assert (scanned.key, scanned.size) == ("a/b", 5)
        assert abs(scanned.modified - store.stat("a/b").modified) < 2

    def test_scan_is_in_the_order_of_the_bytes_of_the_key(self, store: Store) -> None:
        names = ["a-b", "a.b", "a/b", "a/b-c/d", "a/b.c", "a0", "a/c/d", "a/B", "b", "a/c-d", "A/z", "a_b"]
        for name in names:
            put(store, name, b"x")
        assert keys(store, "") == sorted(names)
        assert keys(store, "a/") == sorted(name for name in names if name.startswith("a/"))

    def test_a_prefix_is_a_plain_string(self, store: Store) -> None:
        for name in ("refs/main", "refs/main-2", "refs/mainly/x", "refs/other", "ref", "refsx"):
            put(store, name, b"x")
        assert keys(store, "refs/main") == ["refs/main", "refs/main-2", "refs/mainly/x"]
        assert keys(store, "refs/") == ["refs/main", "refs/main-2", "refs/mainly/x", "refs/other"]
        assert keys(store, "ref") == ["ref", "refs/main", "refs/main-2", "refs/mainly/x", "refs/other", "refsx"]
        assert keys(store, "refs/main/") == []
        assert keys(store, "nothing/here") == []

    def test_scan_goes_on_after_the_first_page(self, store: Store) -> None:
        names = [f"many/{number:04d}" for number in range(self.many)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: put(store, name, b"x"), names))
        assert keys(store, "many/") == names

    def test_scan_stays_usable_while_objects_vanish(self, store: Store) -> None:
        names = [f"going/{number}/x" for number in range(6)]
        for name in names:
            put(store, name, b"x")
        scan = store.scan("going/")
        seen = [next(scan).key]
        for name in names:
            store.delete(name)
        seen += [found.key for found in scan]
        assert seen[0] == names[0]
        assert set(seen) <= set(names)

    def test_a_deleted_object_is_gone_and_can_be_deleted_again(self, store: Store) -> None:
        put(store, "a/b", b"x")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        with pytest.raises(ObjectNotFound):
            store.stat("a/b")
        assert keys(store, "") == []

    # Writing is all or nothing

    def test_the_last_write_is_what_counts(self, store: Store) -> None:
        put(store, "head", b"a long first value")
        put(store, "head", b"second")
        assert get(store, "head") == b"second"

    @pytest.mark.parametrize("size", [10, PART + 10])
    def test_a_source_that_breaks_leaves_nothing(self, store: Store, size: int) -> None:
        error = Broken("mid-way")
        with pytest.raises(Broken) as caught:
            store.write("new", breaking([content(size - 1)], error), size=size)
        assert caught.value is error
        assert keys(store, "") == []

    @pytest.mark.parametrize(
        "error", [PermissionError("of the source"), FileNotFoundError("the source"), KeyboardInterrupt()]
    )
    def test_what_a_source_raises_is_not_taken_for_a_fault_of_the_store(
        self, store: Store, error: BaseException
    ) -> None:
        with pytest.raises(type(error)) as caught:
            store.write("new", breaking([b"12345"], error), size=10)
        assert caught.value is error
        assert keys(store, "") == []

    @pytest.mark.parametrize("size", [10, 2 * PART])
    def test_a_source_that_proves_wrong_at_its_very_end_leaves_the_old_object(self, store: Store, size: int) -> None:
        put(store, "kept", b"old")
        wrong = verified([content(size)], Expected(size, sha256=Digest.of(b"other")), "kept")
        with pytest.raises(DigestMismatch):
            store.write("kept", wrong, size=size)
        assert get(store, "kept") == b"old"
        assert keys(store, "") == ["kept"]

    @pytest.mark.parametrize("size", [10, PART, PART + 10])
    @pytest.mark.parametrize("difference", [-1, 1])
    def test_too_many_or_too_few_bytes_are_refused(self, store: Store, size: int, difference: int) -> None:
        with pytest.raises(SizeMismatch, match=f"expected {size} bytes, got {size + difference}"):
            store.write("new", [content(size + difference)], size=size)
        assert keys(store, "") == []

    @pytest.mark.parametrize("size", [10, PART + 10])
    def test_a_source_that_does_not_stop_is_not_listened_to(self, store: Store, size: int) -> None:
        too_much = itertools.chain(itertools.repeat(content(MIB), 40), breaking([], Broken("read to its end")))
        with pytest.raises(SizeMismatch):
            store.write("new", too_much, size=size)
        assert keys(store, "") == []

    # Sums

    @pytest.mark.parametrize("size", [0, 1, 300_000, PART, PART + 1, 2 * PART + 5])
    def test_bytes_with_the_sums_that_their_writer_knows_are_written(self, store: Store, size: int) -> None:
        data = content(size)
        pieces = (data[at : at + 3 * MIB] for at in range(0, size, 3 * MIB))
        store.write("summed", pieces, size=size, sums=sums_of(data))
        assert get(store, "summed") == data

    @pytest.mark.parametrize(
        ("size", "wrong"), [(0, 0), (1, 0), (300_000, 0), (PART, 0), (PART + 1, 1), (2 * PART, 0), (2 * PART + 5, 1)]
    )
    def test_bytes_with_other_sums_leave_the_old_object(self, store: Store, size: int, wrong: int) -> None:
        put(store, "kept", b"old")
        data = content(size)
        sums = sums_of(data)
        sums[wrong] = hashlib.sha256(b"what it was when it was read first").digest()
        with pytest.raises(DigestMismatch, match="kept") as caught:
            store.write("kept", [data], size=size, sums=sums)
        assert caught.value.expected == sums[wrong].hex()
        assert caught.value.actual == sums_of(data)[wrong].hex()
        assert get(store, "kept") == b"old"
        assert keys(store, "") == ["kept"]

    @pytest.mark.parametrize(("size", "count"), [(0, 2), (5, 2), (PART, 2), (PART + 1, 1), (PART + 1, 3)])
    def test_sums_of_another_size_are_a_mistake(self, store: Store, size: int, count: int) -> None:
        with pytest.raises(ValueError, match=f"{count} sums of {size} bytes"):
            store.write("new", [content(size)], size=size, sums=[bytes(32)] * count)
        assert keys(store, "") == []

    def test_a_reader_sees_the_old_or_the_new_object_and_never_a_mixture(self, store: Store) -> None:
        values = [bytes([number]) * 200_000 for number in range(4)]
        put(store, "contended", values[0])
        patience = RetryPolicy(attempts=50, base=0.01, cap=0.05)

        def seen() -> bytes:
            try:
                return get(store, "contended")
            except ObjectNotFound:
                if self.stays:
                    raise
                return values[0]

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(put, store, "contended", value) for value in values * 4]
            while not all(writer.done() for writer in writers):
                # A read may break off while the object is replaced; what it may not do is succeed with other bytes.
                assert patience.call(seen, doing="reading") in values
            for writer in writers:
                writer.result()
        assert get(store, "contended") in values

    def test_writers_of_many_keys_do_not_disturb_each_other(self, store: Store) -> None:
        values = {f"many/{number}": content(50_000, seed=number) for number in range(24)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: put(store, *item), values.items()))
        assert {key: get(store, key) for key in values} == values

    # Create-only

    @pytest.mark.parametrize("size", [5, PART + 1])
    def test_a_create_only_write_never_replaces_where_the_store_can_tell(self, store: Store, size: int) -> None:
        put(store, "ref", b"first", create_only=True)
        if not self.refuses_second:
            put(store, "ref", content(size), create_only=True)
            assert get(store, "ref") == content(size)
            return
        with pytest.raises(AlreadyExists, match="ref"):
            put(store, "ref", content(size), create_only=True)
        assert get(store, "ref") == b"first"

    def test_a_create_only_write_of_a_deleted_key_succeeds(self, store: Store) -> None:
        put(store, "ref", b"first", create_only=True)
        store.delete("ref")
        put(store, "ref", b"second", create_only=True)
        assert get(store, "ref") == b"second"

    # Keys

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "./a",
            "a b",
            "a\\b",
            "ä",
            "a%20",
            "a\n",
            "a" * 256,
            "a/" * 256 + "a",
            ".staging/a",
            ".staging",
        ],
    )
    def test_a_key_that_breaks_the_rules_is_a_mistake_and_touches_nothing(self, store: Store, key: str) -> None:
        for verb in (store.stat, store.delete, lambda key: get(store, key), lambda key: put(store, key, b"x")):
            with pytest.raises(ValueError, match="not a key"):
                verb(key)
        assert keys(store, "") == []

    @pytest.mark.parametrize("prefix", ["/a", "../", "a//", "a b", "ä", ".staging/"])
    def test_a_prefix_that_no_key_has_is_a_mistake(self, store: Store, prefix: str) -> None:
        with pytest.raises(ValueError, match="no key starts with"):
            list(store.scan(prefix))

    def test_the_longest_key_fits(self, store: Store) -> None:
        key = "/".join(["k" * 255, "l" * 250, "m" * 5])
        assert len(key) == 512
        put(store, key, b"x")
        assert keys(store, "kkk") == [key]
        assert get(store, key) == b"x"

    # What users see

    def test_errors_name_the_store_and_the_key(self, store: Store) -> None:
        with pytest.raises(ModelCacheError) as caught:
            store.stat("refs/missing")
        assert store.url in caught.value.message
        assert "refs/missing" in caught.value.message
