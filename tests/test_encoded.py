"""Packed frames and their index: what went in comes out, whatever is cut and asked for, and a lie is told as one."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_modelcache.errors import IntegrityError, NoSpace, ObjectNotFound, SizeMismatch, Unavailable
from ci_modelcache.model.digest import Digest, Expected, verified
from ci_modelcache.transfer import bytegroup
from ci_modelcache.transfer.bytegroup import FRAME, PLAIN, WAYS, NotPacked, pack, unpack
from ci_modelcache.transfer.encoded import MAGIC, MOST, Index, Unpacking, frames_of, index_size
from ci_modelcache.transfer.packing import Packer
from tests.parts.documents import ROOT, blocks
from tests.parts.golden_encoding import GOLDEN, content
from tests.parts.weights import ITEM, model, safetensors, weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BF16 = model("BF16", 5 * FRAME // 2)


def packed(data: bytes, items: Callable[[int], int] = lambda _: 2) -> bytes:
    """*data* as an encoded object, whose frames have numbers of *items* bytes."""
    frames = [pack(data[start : start + FRAME], items(start // FRAME)) for start in range(0, len(data), FRAME)]
    index = Index(len(data), tuple((way, len(kept)) for way, kept in frames))
    return index.to_bytes() + b"".join(kept for _, kept in frames)


@pytest.fixture(params=["zstd", "blosc2"])
def either_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which library frames are unpacked."""
    monkeypatch.setattr(bytegroup, "_installed", lambda name: request.param in name)


@pytest.mark.parametrize(("name", "installed"), [("json", True), ("json.none", False), ("none_here.zstd", False)])
def test_a_library_whose_package_is_missing_is_not_installed(name: str, installed: bool) -> None:  # noqa: FBT001  # a parameter
    assert bytegroup._installed(name) is installed


class Stored:
    """An object to unpack: yields it in pieces of *cut* bytes, and notes which ranges were asked for."""

    def __init__(self, data: bytes, *, size: int, cut: int = 1 << 20, stored: int | None = None) -> None:
        self.data, self.cut = data, cut
        self.ranges: list[tuple[int, int]] = []
        stored = len(data) if stored is None else stored
        self.unpacking = Unpacking(self.open_part, size=size, stored=stored, what="the object")

    @contextmanager
    def open_part(self, start: int, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        end = len(self.data) if stop is None else stop
        self.ranges.append((start, end))
        data = self.data[start:end]
        yield iter([data[at : at + self.cut] for at in range(0, len(data), self.cut)])

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        with self.unpacking.open(start, stop) as chunks:
            return b"".join(chunks)


# --- what went in comes out


@given(data=st.binary(max_size=3000), item=st.sampled_from([1, 2, 4, 8]))
def test_a_frame_of_any_bytes_comes_back(data: bytes, item: int) -> None:
    way, kept = pack(data, item)
    assert unpack(way, [kept], len(data)) == data
    assert len(kept) <= len(data)


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("dtype", ITEM)
@pytest.mark.parametrize("size", [FRAME, FRAME - 8, 70_000, 65_537, 4096, 33])
def test_a_frame_of_weights_comes_back_smaller_or_plain(dtype: str, size: int) -> None:
    data = weights(dtype, size)
    way, kept = pack(data, ITEM[dtype])
    assert unpack(way, [kept[:10], kept[10:]], size) == data
    assert (way, len(kept)) == (PLAIN, size) or len(kept) < size


@pytest.mark.parametrize("data", [bytes(FRAME), bytes(1), b""])
def test_a_frame_of_zeros_takes_no_bytes(data: bytes) -> None:
    assert pack(data, 4) == (PLAIN, b"")


def test_what_cannot_be_packed_is_kept_as_it_is() -> None:
    data = random.Random(1).randbytes(FRAME)
    assert pack(data, 2) == (PLAIN, data)


def test_a_frame_that_would_not_come_back_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = weights("BF16", FRAME)
    monkeypatch.setattr(bytegroup, "_by_blosc2", lambda *_: bytes(FRAME))
    assert pack(data, 2) == (PLAIN, data)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 50),
    size=st.integers(1, 3 * FRAME + 5),
    cut=st.integers(1000, 2 * FRAME),
    stretch=st.tuples(st.integers(0, 3 * FRAME + 9), st.integers(0, 3 * FRAME + 9)),
    kinds=st.lists(st.sampled_from(["zeros", "noise", "BF16", "F32"]), min_size=4, max_size=4),
)
def test_any_stretch_of_any_bytes_in_any_pieces_is_what_it_was(
    seed: int, size: int, cut: int, stretch: tuple[int, int], kinds: list[str]
) -> None:
    made = {"zeros": lambda: bytes(FRAME), "noise": lambda: random.Random(seed).randbytes(FRAME)}
    data = b"".join(made[kind]() if kind in made else weights(kind, FRAME, seed=seed) for kind in kinds)[:size]
    stored = Stored(packed(data, lambda frame: (1, 2, 4, 8)[(seed + frame) % 4]), size=size, cut=cut)
    start, stop = min(stretch), max(stretch)
    assert stored.read(start, stop) == data[start:stop]
    assert stored.read(start) == data[start:]
    assert stored.read() == data


# --- what is read for it


def test_a_whole_file_is_one_request() -> None:
    stored = Stored(packed(BF16), size=len(BF16))
    assert stored.read() == BF16
    assert stored.ranges == [(0, len(stored.data))]


def test_a_stretch_costs_the_index_once_and_its_own_frames() -> None:
    data = packed(BF16)
    stored = Stored(data, size=len(BF16))
    index = Index.from_bytes(data, size=len(BF16), stored=len(data), what="it")
    begin = index_size(len(BF16))
    assert stored.read(FRAME, 2 * FRAME) == BF16[FRAME : 2 * FRAME]
    assert stored.read(FRAME - 1, FRAME + 1) == BF16[FRAME - 1 : FRAME + 1]
    first, second, third = index.offsets[:3]
    assert stored.ranges == [(0, begin), (second, third), (first, third)]


def test_zeros_are_not_asked_for() -> None:
    data = bytes(2 * FRAME)
    stored = Stored(packed(data), size=len(data))
    assert stored.read(5, FRAME + 5) == bytes(FRAME)
    assert stored.ranges == [(0, index_size(len(data)))]


@pytest.mark.parametrize("start", [0, 10, len(BF16), len(BF16) + 10])
def test_an_empty_stretch_is_nothing_and_asks_nobody(start: int) -> None:
    stored = Stored(packed(BF16), size=len(BF16))
    assert stored.read(start, min(start, len(BF16))) == b""
    assert stored.ranges == []


def test_a_stream_that_ends_early_ends_early_at_a_frame() -> None:
    stored = Stored(packed(BF16), size=len(BF16))
    stored.read(0, 1)
    stored.data = stored.data[:-100]
    assert stored.read(FRAME) == BF16[FRAME : 2 * FRAME]


def test_an_index_that_is_cut_off_on_the_way_is_asked_for_again() -> None:
    whole = packed(BF16)
    stored = Stored(whole[:20], size=len(BF16), stored=len(whole))
    with pytest.raises(Unavailable, match="ended at 20 of"):
        stored.read(5, 10)
    stored.data = whole
    assert stored.read(5, 10) == BF16[5:10]


# --- lies

INDEX = packed(BF16)[: index_size(len(BF16))]
FRAMES = packed(BF16)[len(INDEX) :]
ENTRIES = struct.unpack("<3I", INDEX[16:])
LENGTHS = [entry & 0xFFFFFF for entry in ENTRIES]


def indexed(*entries: int, size: int = len(BF16), magic: bytes = MAGIC, frames: bytes = FRAMES) -> bytes:
    return magic + struct.pack("<Q", size) + struct.pack(f"<{len(entries)}I", *entries) + frames


def entry(way: int, length: int) -> int:
    return way << 24 | length


FIRST, SECOND, LAST = ENTRIES
ZSTD = len(INDEX)
LIES = {
    "nothing": b"",
    "one byte": b"C",
    "the magic alone": MAGIC,
    "an index without frames": INDEX,
    "an index cut off": INDEX[:-1],
    "the frames without index": FRAMES,
    "another magic": indexed(*ENTRIES, magic=b"CIMCBGZ2"),
    "raw bytes": BF16,
    "zeros": bytes(len(INDEX) + len(FRAMES)),
    "a web page": b"<html>" * 100_000,
    "another size, larger": indexed(*ENTRIES, size=len(BF16) + 1),
    "another size, smaller": indexed(*ENTRIES, size=len(BF16) - 1),
    "a size of 2^64 - 1": indexed(*ENTRIES, size=(1 << 64) - 1),
    "a size of 0": indexed(*ENTRIES, size=0),
    "one byte less": (INDEX + FRAMES)[:-1],
    "one byte more": INDEX + FRAMES + b"\0",
    "half of it": (INDEX + FRAMES)[: (len(INDEX) + len(FRAMES)) // 2],
    "twice": (INDEX + FRAMES) * 2,
    "a frame that is longer than what it holds": indexed(entry(2, FRAME + 1), SECOND, LAST),
    "a packed frame that is as long as what it holds": indexed(entry(2, FRAME), SECOND, LAST),
    "a frame of 16 MiB less 1": indexed(entry(2, 0xFFFFFF), SECOND, LAST),
    "a packed frame of no bytes": indexed(entry(2, 0), SECOND, LAST),
    "frames shifted by one": indexed(entry(2, LENGTHS[0] + 1), entry(2, LENGTHS[1] - 1), LAST),
    "frames shifted back by one": indexed(entry(2, LENGTHS[0] - 1), entry(2, LENGTHS[1] + 1), LAST),
    "frames in another order": indexed(SECOND, FIRST, LAST),
    "a plain frame that is packed": indexed(entry(0, LENGTHS[0]), SECOND, LAST),
    "numbers of 3 bytes": indexed(entry(3, LENGTHS[0]), SECOND, LAST),
    "numbers of 16 bytes": indexed(entry(16, LENGTHS[0]), SECOND, LAST),
    "numbers of 255 bytes": indexed(entry(255, LENGTHS[0]), SECOND, LAST),
    "numbers of 1 byte": indexed(entry(1, LENGTHS[0]), SECOND, LAST),
    "numbers of 4 bytes": indexed(entry(4, LENGTHS[0]), SECOND, LAST),
    "a last frame of zeros": indexed(FIRST, SECOND, 0, frames=FRAMES[: -LENGTHS[2]]),
    "a first frame of zeros": indexed(0, SECOND, LAST, frames=FRAMES[LENGTHS[0] :]),
    "all frames of zeros": indexed(0, 0, 0, frames=b""),
    "a plain frame of noise": indexed(entry(0, FRAME), SECOND, LAST, frames=os.urandom(FRAME) + FRAMES[LENGTHS[0] :]),
    "noise in place of a frame": INDEX + os.urandom(LENGTHS[0]) + FRAMES[LENGTHS[0] :],
    "zeros in place of a frame": INDEX + bytes(LENGTHS[0]) + FRAMES[LENGTHS[0] :],
    "a frame of zstd with another magic": INDEX + b"\x29" + FRAMES[1:],
    "a frame of zstd to be skipped": INDEX + struct.pack("<II", 0x184D2A50, LENGTHS[0] - 8) + FRAMES[8:],
    "a frame of zstd that needs a dictionary": INDEX + FRAMES[:4] + bytes([FRAMES[4] | 3]) + FRAMES[5:],
    "a frame of zstd that says another size": INDEX + FRAMES[:5] + bytes(b ^ 1 for b in FRAMES[5:9]) + FRAMES[9:],
    "a bit in the middle": INDEX + FRAMES[:500_000] + bytes([FRAMES[500_000] ^ 4]) + FRAMES[500_001:],
    "a bit at the end": INDEX + FRAMES[:-1] + bytes([FRAMES[-1] ^ 1]),
    "the end of a frame in zeros": INDEX + FRAMES[: LENGTHS[0] - 4096] + bytes(4096) + FRAMES[LENGTHS[0] :],
    "a chunk of blosc2 with its own head": INDEX + b"\x05\x01\x95\x02" + FRAMES[4:],
}


def bomb(size: int) -> bytes:
    """A frame of zstd whose bytes are *size* zeros."""
    blosc2 = bytegroup._library()
    chunk = blosc2.compress2(
        b"\x01" + bytes(size - 1),
        codec=blosc2.Codec.ZSTD,
        typesize=1,
        blocksize=size,
        splitmode=blosc2.SplitMode.NEVER_SPLIT,
        filters=[blosc2.Filter.NOFILTER],
        nthreads=1,
    )
    return bytes(chunk[40:])


def test_there_are_lies_enough() -> None:
    assert len(LIES) >= 40


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_never_taken_for_the_bytes(lie: str) -> None:
    stored = Stored(LIES[lie], size=len(BF16))
    expected = Expected(len(BF16), Digest.of(BF16))

    def read(start: int) -> None:
        with stored.unpacking.open(start) as chunks:
            list(verified(chunks, expected, "it") if start == 0 else chunks)

    with pytest.raises(IntegrityError):
        read(0)
    # The index was read on its own, and believed no more than that.
    with pytest.raises(IntegrityError):
        read(0)


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_takes_no_more_memory_than_a_few_frames(lie: str) -> None:
    stored = Stored(LIES[lie], size=len(BF16))
    stored.cut = 1 << 18
    data = stored.data
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError), stored.unpacking.open(0) as chunks:
            for _ in verified(chunks, Expected(len(BF16), Digest.of(BF16)), "it"):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) * 2 + 8 * FRAME


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("size", [2 * FRAME, 64 * FRAME, 1 << 30])
def test_a_bomb_does_not_become_more_than_a_frame(size: int) -> None:
    payload = bomb(min(size, 64 * FRAME))
    with pytest.raises(NotPacked):
        unpack(2, [payload], FRAME)


def test_an_index_of_a_huge_file_is_not_read_where_the_object_is_too_small_for_it() -> None:
    stored = Stored(INDEX + FRAMES, size=MOST)
    with pytest.raises(IntegrityError, match="too few for an index"):
        stored.read(0, 10)
    assert stored.ranges == []


def test_an_index_that_would_fill_the_memory_is_not_read_however_large_the_object_is() -> None:
    stored = Stored(INDEX + FRAMES, size=MOST + 1, stored=1 << 50)
    with pytest.raises(IntegrityError, match="nobody packs"):
        stored.read(0, 10)
    assert stored.ranges == []


@settings(max_examples=60, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(INDEX) + 2000), st.integers(1, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 3),
)
def test_altered_bytes_are_told_or_give_other_bytes_of_the_same_number(flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(INDEX + FRAMES)
    for at, mask in flips:
        data[at] ^= mask
    stored = Stored(bytes(data[: len(data) - cut]), size=len(BF16), stored=len(data))
    try:
        found = stored.read()
    except (IntegrityError, Unavailable):
        return
    assert len(found) <= len(BF16)


def test_a_wrong_index_is_read_anew_after_a_frame_did_not_fit() -> None:
    whole = packed(BF16)
    stored = Stored(indexed(entry(2, LENGTHS[0] + 1), entry(2, LENGTHS[1] - 1), LAST), size=len(BF16))
    with pytest.raises(IntegrityError):
        stored.read(0, FRAME)
    stored.data = whole
    assert stored.read(0, FRAME) == BF16[:FRAME]


# --- packing a file


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(tmp_path / "packing")


def kept(packer: Packer, data: bytes, *, cut: int = 300_000) -> tuple[bytes, bool]:
    pieces = (data[at : at + cut] for at in range(0, len(data), cut))
    with packer.kept(pieces, len(data)) as one:
        found = b"".join(one.chunks)
        assert len(found) == one.size
        return found, one.packed


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64", "I64", "F8_E4M3", "I8"])
def test_a_file_of_tensors_is_packed_and_comes_back(dtype: str, padded: bool, packer: Packer) -> None:  # noqa: FBT001  # a case
    data = safetensors({"a": (dtype, weights(dtype, 5 * FRAME // 2))}, padded=padded)
    found, is_packed = kept(packer, data)
    assert is_packed
    assert len(found) <= 0.95 * len(data)
    assert Stored(found, size=len(data)).read() == data


def test_a_file_of_several_types_is_packed_by_the_type_of_each_part(packer: Packer) -> None:
    data = safetensors({name: (name, weights(name, 2 * FRAME)) for name in ITEM})
    found, is_packed = kept(packer, data)
    assert is_packed
    index = Index.from_bytes(found, size=len(data), stored=len(found), what="it")
    assert {way for way, _ in index.frames} == {1, 2, 4, 8}
    assert Stored(found, size=len(data)).read() == data


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 3 * FRAME), extra=st.integers(0, 9))
def test_a_file_comes_back_in_whatever_pieces_it_came(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: int
) -> None:
    data = safetensors({"a": ("BF16", weights("BF16", 2 * FRAME)), "b": ("I8", weights("I8", extra))})
    found, is_packed = kept(Packer(tmp_path_factory.getbasetemp() / "any"), data, cut=max(cut, 64))
    assert is_packed
    assert Stored(found, size=len(data)).read() == data


NOISE = random.Random(3).randbytes(3 * FRAME)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        model("BF16", FRAME // 2),
        NOISE,
        bytes(3 * FRAME),
        b"GGUF" + weights("BF16", 2 * FRAME),
        safetensors({"a": ("I8", NOISE)}),
        safetensors({"a": ("BF16", NOISE)}),
        struct.pack("<Q", 10) + b"{" + NOISE,
        struct.pack("<Q", 3 * FRAME) + b"{" + NOISE,
        struct.pack("<Q", 1 << 63) + b"{" + NOISE,
        struct.pack("<Q", FRAME) + b"{" * FRAME + NOISE,
        struct.pack("<Q", FRAME) + b"[" * FRAME + NOISE,
        struct.pack("<Q", 12) + b'{"a": [1]}  ' + weights("BF16", 2 * FRAME),
        struct.pack("<Q", 56)
        + b'{"a":{"dtype":"BF16","data_offsets":[0,999999999999]}}  '
        + weights("BF16", 2 * FRAME),
        struct.pack("<Q", 56)
        + b'{"a":{"dtype":"BF16","data_offsets":[-8,1048576]}}      '
        + weights("BF16", 2 * FRAME),
        struct.pack("<Q", 8) + b"{\xff\xfe\xfd   }" + weights("BF16", 2 * FRAME),
    ],
    ids=range(17),
)
def test_what_is_no_file_of_tensors_or_does_not_shrink_stays_as_it_is(data: bytes, packer: Packer) -> None:
    assert kept(packer, data) == (data, False)


def test_tensors_that_overlap_are_not_believed(packer: Packer) -> None:
    header = b'{"a":{"dtype":"BF16","data_offsets":[0,99]},"b":{"dtype":"F32","data_offsets":[98,200]}}'
    data = struct.pack("<Q", len(header)) + header + weights("BF16", 2 * FRAME)
    assert kept(packer, data) == (data, False)


def test_what_no_reader_would_unpack_is_not_packed(packer: Packer) -> None:
    assert (packer.may_pack(MOST), packer.may_pack(MOST + 1)) == (True, False)


def test_nothing_stays_in_the_folder(packer: Packer, tmp_path: Path) -> None:
    kept(packer, BF16)
    assert list((tmp_path / "packing").iterdir()) == []


def test_bytes_that_prove_wrong_are_never_offered(packer: Packer) -> None:
    wrong = verified([BF16], Expected(len(BF16), Digest.of(b"other")), "it")
    with pytest.raises(IntegrityError), packer.kept(wrong, len(BF16)):
        pytest.fail("it was offered")


@pytest.mark.parametrize("change", [BF16[:-1], BF16 + b"x"])
def test_another_number_of_bytes_is_never_offered(change: bytes, packer: Packer) -> None:
    wrong = verified([change], Expected(len(BF16), Digest.of(BF16)), "it")
    with pytest.raises(SizeMismatch), packer.kept(wrong, len(BF16)):
        pytest.fail("it was offered")


def test_where_there_is_no_room_to_pack_it_stays_as_it_is(packer: Packer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": FRAME}))
    assert kept(packer, BF16) == (BF16, False)


def test_a_disk_that_fills_up_meanwhile_is_said(packer: Packer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(NoSpace), packer.kept([BF16], len(BF16)):
        pytest.fail("it was offered")


# --- what was packed once


def test_the_golden_file_comes_back_whole_and_in_stretches() -> None:
    data = content()
    stored = Stored(GOLDEN.read_bytes(), size=len(data))
    assert {
        way for way, _ in Index.from_bytes(stored.data, size=len(data), stored=len(stored.data), what="it").frames
    } == WAYS
    assert stored.read() == data
    for start, stop in ((0, 1), (FRAME - 1, 5 * FRAME + 1), (len(data) - 1, len(data))):
        assert stored.read(start, stop) == data[start:stop]


def test_what_is_packed_today_is_of_the_format_of_the_golden_file(packer: Packer) -> None:
    data = content()
    found, is_packed = kept(packer, data)
    assert is_packed
    golden = GOLDEN.read_bytes()
    indexes = [Index.from_bytes(one, size=len(data), stored=len(one), what="it") for one in (found, golden)]
    assert [way for way, _ in indexes[0].frames] == [way for way, _ in indexes[1].frames]


def test_the_program_of_the_guide_unpacks_a_copy_without_this_tool(tmp_path: Path) -> None:
    (program,) = blocks((ROOT / "docs" / "encoding.md").read_text(), "python")
    command = [sys.executable, "-c", program, str(GOLDEN), str(tmp_path / "raw")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw").read_bytes() == content()


def test_the_number_of_frames_and_the_size_of_the_index_follow_from_the_size() -> None:
    assert [frames_of(size) for size in (0, 1, FRAME, FRAME + 1)] == [0, 1, 1, 2]
    assert index_size(FRAME + 1) == 24


def test_a_missing_object_is_said_when_it_is_opened() -> None:
    def gone(_start: int, _stop: int | None = None) -> None:
        raise ObjectNotFound("key", "store")

    for start in (0, 1):
        unpacking = Unpacking(gone, size=len(BF16), stored=len(INDEX + FRAMES), what="it")  # type: ignore[arg-type]  # it only raises
        with pytest.raises(ObjectNotFound), unpacking.open(start):
            pytest.fail("it was opened")
