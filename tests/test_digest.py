"""Digests are those that sha256sum, split and git compute; wrong bytes never end a verified stream."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import DigestMismatch, ManifestInvalid, SizeMismatch
from ci_modelcache.model import digest as digest_module
from ci_modelcache.model.digest import (
    LEAF_SIZE,
    Digest,
    Expected,
    Fingerprint,
    Fingerprinter,
    is_git_oid,
    set_digest,
    verified,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL_LEAF = 8


def hex_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fingerprint(data: bytes, *, git: bool = True, chunk: int = 1 << 20) -> Fingerprint:
    hasher = Fingerprinter(len(data), git=git)
    for start in range(0, len(data), chunk):
        hasher.update(data[start : start + chunk])
    return hasher.finish()


def expected(data: bytes) -> Expected:
    return Expected(len(data), sha256=Digest.of(data))


@pytest.mark.parametrize(
    "text",
    ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", " " + "0" * 63, "0x" + "0" * 62, "\u0660" * 64],
    ids=["empty", "short", "long", "upper", "letter", "newline", "space", "prefix", "arabic-digits"],
)
def test_what_is_no_sha256_in_lower_case_is_no_digest(text: str) -> None:
    with pytest.raises(ManifestInvalid, match="not a SHA-256"):
        Digest(text)


def test_a_digest_reads_as_its_hex_and_sorts_by_it() -> None:
    low, high = Digest("0" * 64), Digest("f" * 64)
    assert str(low) == low.hex
    assert sorted([high, low]) == [low, high]


@pytest.mark.parametrize(
    ("text", "good"), [("a" * 40, True), ("A" * 40, False), ("a" * 39, False), ("a" * 40 + "\n", False)]
)
def test_a_git_oid_is_40_lower_case_hex_digits(text: str, good: bool) -> None:  # noqa: FBT001  # a parameter of the table
    assert is_git_oid(text) is good


@pytest.mark.parametrize("size", [0, 1, LEAF_SIZE, LEAF_SIZE + 1, 2 * LEAF_SIZE])
def test_sha256sum_git_and_split_compute_the_same(size: int, tmp_path: Path) -> None:
    data = (random.Random(size).randbytes(1_000_003) * 34)[:size]  # no leaf is like another
    file = tmp_path / "blob"
    file.write_bytes(data)
    seen = fingerprint(data, chunk=1_000_003)

    def run(command: str) -> str:
        return subprocess.run(["sh", "-c", command, "sh", file], capture_output=True, text=True, check=True).stdout

    assert seen.size == size
    assert seen.sha256.hex == run('sha256sum "$1"')[:64]
    assert seen.git_oid == run('git hash-object --no-filters "$1"').strip()
    leaves = run('split -b 16M --filter=sha256sum "$1" | cut -c-64')
    if size > LEAF_SIZE:
        assert seen.leaf_list == leaves.encode()
        assert seen.leaves == Digest.of(leaves.encode())
    else:
        assert seen.leaf_list is None
        assert seen.leaves is None


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200)))
def test_how_the_bytes_are_cut_into_chunks_changes_nothing(data: bytes, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_module, "LEAF_SIZE", SMALL_LEAF)
        hasher = Fingerprinter(len(data), git=True)
        start = 0
        for stop in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            hasher.update(data[start:stop])
            start = stop
        seen = hasher.finish()
    blocks = [data[i : i + SMALL_LEAF] for i in range(0, len(data), SMALL_LEAF)]
    assert seen.sha256.hex == hex_of(data)
    assert seen.git_oid == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert seen.leaf_list == ("".join(f"{hex_of(b)}\n" for b in blocks).encode() if len(data) > SMALL_LEAF else None)


def test_leaves_that_nobody_asked_for_are_not_hashed() -> None:
    hasher = expected(bytes(LEAF_SIZE + 1)).fingerprinter(leaves=False)
    hasher.update(bytes(LEAF_SIZE + 1))
    assert hasher.finish().leaf_list is None


def test_a_stream_that_is_only_proven_is_not_hashed_for_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of a restore would be hashed twice, for a list that nobody looks at."""
    hashers: list[Fingerprinter] = []

    class Seen(Fingerprinter):
        def __init__(self, size: int, *, git: bool, leaves: bool = True) -> None:
            super().__init__(size, git=git, leaves=leaves)
            hashers.append(self)

    monkeypatch.setattr(digest_module, "Fingerprinter", Seen)
    large = bytes(LEAF_SIZE + 1)
    assert sum(map(len, verified([large], expected(large), "x"))) == LEAF_SIZE + 1
    assert [hasher.finish().leaf_list for hasher in hashers] == [None]


def test_a_file_without_any_promised_digest_cannot_be_expected() -> None:
    with pytest.raises(ManifestInvalid, match="cannot be proven"):
        Expected(3)


@pytest.mark.parametrize(("size", "oid"), [(-1, "a" * 40), (1, "a" * 39)])
def test_an_impossible_promise_is_refused(size: int, oid: str) -> None:
    with pytest.raises(ManifestInvalid):
        Expected(size, git_oid=oid)


def test_every_promised_digest_is_checked_not_one_of_them() -> None:
    seen = fingerprint(b"right")
    good = Expected(5, sha256=seen.sha256, git_oid=seen.git_oid)
    good.check(seen, "x")
    for bad in (
        Expected(5, sha256=Digest.of(b"wrong"), git_oid=seen.git_oid),
        Expected(5, sha256=seen.sha256, git_oid="0" * 40),
    ):
        with pytest.raises(DigestMismatch, match=r"^x: expected digest \w+, got \w+$"):
            bad.check(seen, "x")


def test_a_git_oid_that_was_promised_but_not_computed_is_a_mismatch() -> None:
    with pytest.raises(DigestMismatch):
        Expected(1, git_oid="0" * 40).check(fingerprint(b"x", git=False), "x")


def test_another_length_is_told_as_a_length() -> None:
    with pytest.raises(SizeMismatch, match=r"^model.bin: expected 5 bytes, got 4$") as caught:
        expected(b"right").check(fingerprint(b"righ"), "model.bin")
    assert (caught.value.expected, caught.value.actual) == (5, 4)


def test_right_bytes_pass_a_verified_stream_unchanged() -> None:
    chunks = [b"ab", b"", b"cd"]
    assert list(verified(chunks, expected(b"abcd"), "x")) == chunks


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([b"ab", b"cX"], DigestMismatch),
        ([b"ab", b"c"], SizeMismatch),
        ([], SizeMismatch),
        ([b"abcd", b"e"], SizeMismatch),
        ([b"abcdefgh"], SizeMismatch),
    ],
    ids=["flipped", "short", "empty", "long", "long-in-one"],
)
def test_a_verified_stream_of_other_bytes_raises_instead_of_ending(chunks: list[bytes], error: type[Exception]) -> None:
    ended = False

    def consume() -> None:
        nonlocal ended
        for _ in verified(chunks, expected(b"abcd"), "x"):
            pass
        ended = True

    with pytest.raises(error):
        consume()
    assert not ended


def test_an_over_long_stream_is_cut_off_before_its_surplus_is_passed_on() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"abcd"

    passed: list[bytes] = []
    with pytest.raises(SizeMismatch):
        passed.extend(verified(endless(), expected(b"abcd"), "x"))
    assert taken == 2


@given(data=st.binary(min_size=1, max_size=100), at=st.integers(0), bit=st.integers(0, 7))
def test_one_flipped_bit_is_always_seen(data: bytes, at: int, bit: int) -> None:
    wrong = bytearray(data)
    wrong[at % len(data)] ^= 1 << bit
    with pytest.raises(DigestMismatch):
        list(verified([bytes(wrong)], expected(data), "x"))


def test_the_set_digest_is_what_find_and_sha256sum_print(tmp_path: Path) -> None:
    files = {"b": b"1", "a/z é+%#?": b"2", "-x": b"", "Z": b"4", ".hidden/ü": b"1", "a b/c": b"6"}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    command = r"find . -type f -printf '%P\0' | xargs -0 sha256sum -- | LC_ALL=C sort | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert set_digest((path, Digest.of(data)) for path, data in files.items()).hex == printed[:64]


def test_the_set_digest_does_not_depend_on_the_order() -> None:
    files = [(os.fsdecode(bytes([65 + i])), Digest.of(bytes([i]))) for i in range(10)]
    assert set_digest(files) == set_digest(reversed(files))
    assert set_digest(files) != set_digest(files[1:])
