"""An archive out of an image is read in bounded memory, and nothing that its names, links and sizes say is believed."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.docker import image_files
from ci_modelcache.docker.image_files import FileSeen, FolderSeen, Nothing, read_folder
from ci_modelcache.errors import BrokenOff, IntegrityError, ManifestInvalid, ModelCacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = "/models/org/name"


def tar(*members: tuple[str, bytes | str | None], pax: bool = True) -> bytes:
    """An archive of files (bytes), links (a target) and folders (None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            match content:
                case None:
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
                case str():
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                case bytes():
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(data: bytes, *, step: int = 1000) -> FolderSeen:
    pieces = (data[start : start + step] for start in range(0, len(data), step))
    return read_folder(pieces, AT, counted=lambda _: None)


def content(data: bytes) -> FileSeen:
    seen = read(tar(("./x", data))).file("x")
    assert isinstance(seen, FileSeen)
    return seen


SIZES = [0, 1, 511, 512, 513, 1024, 100_000]


@pytest.mark.parametrize("step", [1, 512, 7777, 1 << 20])
def test_every_file_is_hashed_in_whatever_pieces_it_comes(step: int) -> None:
    files = {f"./{size} é.bin": bytes(range(256)) * (size // 256) + b"x" * (size % 256) for size in SIZES}
    data = tar((".", None), *files.items())
    seen = read(data, step=step)
    found = {name: seen.file(name.removeprefix("./")) for name in files}
    assert {name: file.sha256.hex for name, file in found.items() if isinstance(file, FileSeen)} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }


def test_bytes_of_files_are_counted_and_no_others() -> None:
    counts: list[int] = []
    data = tar((".", None), ("./a", b"12345"), ("./" + "long" * 60, b"678"), ("./link", "a"))
    read_folder(iter([data]), AT, counted=counts.append)
    assert sum(counts) == 8


def test_links_are_followed_as_far_as_they_stay_in_the_folder() -> None:
    seen = read(
        tar(
            ("./blobs/b", b"content"),
            ("./snapshots/c/sub/file", "../../../blobs/b"),
            ("./folder", "snapshots/c"),
            ("./absolute", f"{AT}/blobs/b"),
            ("./chain", "folder/sub/file"),
        )
    )
    for path in (
        "blobs/b",
        "snapshots/c/sub/file",
        "folder/sub/file",
        "absolute",
        "chain",
        "./chain",
        "folder/../../chain",
    ):
        assert seen.file(path) == seen.members["blobs/b"], path


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../../../etc/passwd", "a link that leads out of the folder"),
        ("/etc/passwd", "a link that leads out of the folder, to '/etc/passwd'"),
        (f"{AT}x/file", f"a link that leads out of the folder, to '{AT}x/file'"),
        ("link", "a link that leads in a circle, to 'link'"),
        ("nowhere", "a link to nothing"),
        (".", "a link to nothing"),
        ("", "a link to nothing"),
    ],
)
def test_a_link_that_leads_nowhere_or_elsewhere_is_no_file(target: str, why: str) -> None:
    assert read(tar(("./link", target))).file("link") == Nothing(why)


def test_what_is_not_there_is_missing_and_not_wrong() -> None:
    assert read(tar(("./a", b""))).file("b") == Nothing("")
    assert read(tar(("./a", b""))).file("a/b") == Nothing("")


def test_a_hard_link_is_the_file_that_went_by_under_another_name() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        first, second, third = (tarfile.TarInfo(name) for name in ("./a", "./b", "./c"))
        first.size = 3
        archive.addfile(first, io.BytesIO(b"abc"))
        second.type, second.linkname = tarfile.LNKTYPE, "./a"
        archive.addfile(second)
        third.type, third.linkname = tarfile.LNKTYPE, "./never"
        archive.addfile(third)
    seen = read(out.getvalue())
    assert seen.file("b") == seen.file("a") == content(b"abc")
    assert seen.file("c") == Nothing("neither a file nor a link")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_device_or_a_pipe_is_no_file(kind: bytes) -> None:
    info = tarfile.TarInfo("./x")
    info.type = kind
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(info)
    assert read(out.getvalue()).file("x") == Nothing("neither a file nor a link")


def test_names_that_lead_out_are_names_and_nothing_else() -> None:
    seen = read(tar(("../../etc/passwd", b"root"), ("/etc/shadow", b"root"), ("./ok", b"")))
    assert list(seen.below("")) == ["../../etc/passwd", "/etc/shadow", "ok"]
    assert seen.file("../../etc/passwd") == Nothing("a link that leads out of the folder")


def test_what_lies_below_a_folder_is_listed_relative_to_it() -> None:
    seen = read(tar(("./a/b", b""), ("./ab", b""), ("./a/c/d", "e"), ("./a", None)))
    assert list(seen.below("a")) == ["b", "c/d"]


@pytest.mark.parametrize("cut", [1, 511, 512, 600, 1024, 1535, 1536, 1537, 2047, 2048])
def test_an_archive_that_ends_early_is_broken_off_wherever_that_is(cut: int) -> None:
    """Also where it ends between two members, which tarfile takes for its end."""
    data = tar(("./a", b"x" * 512), ("./b", b"y" * 100), ("./c", b""))
    with pytest.raises(BrokenOff, match=f"{AT}: the archive ended early, after {cut} bytes"):
        read(data[:cut])


def test_no_bytes_at_all_are_no_archive() -> None:
    with pytest.raises(BrokenOff, match="ended early, after 0 bytes"):
        read(b"")


def test_a_folder_with_nothing_in_it_is_fine() -> None:
    assert read(tar()).members == {}


@pytest.mark.parametrize("data", [b"\xff" * 2048, b"<html>" * 500])
def test_what_is_no_archive_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="what the engine sent is no archive"):
        read(data)


def test_a_header_of_a_gigabyte_is_not_read_into_memory() -> None:
    """A pax header has a size of its own, and tarfile would read it whole."""
    data = bytearray(tar(("./" + "long" * 60, b"")))
    assert data[156:157] == b"x"
    data[124:136] = b"%011o\0" % (1 << 30)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(ManifestInvalid, match="has a header of 1073741824 bytes, at most 1048576 are read"):
        read(bytes(data) + bytes(4096))


def test_a_folder_of_too_many_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_MEMBERS", 3)
    with pytest.raises(IntegrityError, match=f"{AT} has more than 3 files"):
        read(tar(*((f"./{number}", b"") for number in range(4))))


def test_memory_does_not_grow_with_the_size_of_a_file() -> None:
    size, piece = 256 << 20, bytes(1 << 20)
    info = tarfile.TarInfo("./big")
    info.size = size

    def pieces() -> Iterator[bytes]:
        yield info.tobuf()
        for _ in range(size // len(piece)):
            yield piece
        yield bytes(1024)

    tracemalloc.start()
    try:
        seen = read_folder(pieces(), AT, counted=lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(seen.file("big"), FileSeen)
    assert peak < 16 << 20


@given(st.binary(max_size=3000), st.integers(0, 2047), st.integers(0, 255))
def test_whatever_comes_the_errors_are_ours(noise: bytes, at: int, byte: int) -> None:
    damaged = bytearray(tar(("./a", b"x" * 300), ("./l", "a"), ("./" + "é" * 120, b"")))
    damaged[at] = byte
    for data in (noise, bytes(damaged), bytes(damaged[:-at]) + noise):
        try:
            read(data)
        except ModelCacheError:
            continue
