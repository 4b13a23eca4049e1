"""The bytes of an archive: each field as docs/export.md says, and any name that a snapshot may have is read back by others."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ci_modelcache.errors import SnapshotConflict, UnsafePath
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.path import check_path, check_paths
from ci_modelcache.model.plain_archive import SUMS, plain_archive
from ci_modelcache.model.ref import RepoType
from ci_modelcache.model.tar import BLOCK, Member, header, offsets, padding, trailer
from tests.parts.snapshots import COMMIT, CONTENTS, entry, manifest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GIB = 1 << 30
FOLDER = f"huggingface.co/model/tiny/model/{COMMIT}"
DEEP = "/".join(["folder-of-some-length"] * 11)
MEMBERS = {
    "short": Member("config.json", 1),
    "executable": Member("run.sh", 0, executable=True),
    "100 bytes": Member("n" * 100, 7),
    "divided": Member(f"{'p' * 155}/{'n' * 100}", 512),
    "divided at the first slash that will do": Member(f"{FOLDER}/1_Pooling/config.json", 190),
    "101 bytes and no slash": Member("n" * 101, 7),
    "prefix too long": Member(f"{DEEP}/{'n' * 60}/config.json", 7),
    "not ASCII": Member("modèle 模型 🤗.bin", 3),
    "8 GiB less a byte": Member("large.bin", 8 * GIB - 1),
    "8 GiB": Member("large.bin", 8 * GIB),
    "8 GiB, and a long name": Member(f"{'ä' * 120}.bin", 8 * GIB),
}
GOLDEN = {
    "short": "93d8d7f85c37d6a6",
    "executable": "21a0fa5e53382c07",
    "100 bytes": "64cafd870d46ff64",
    "divided": "e5a7e61b127fe089",
    "divided at the first slash that will do": "f7714ef71a589734",
    "101 bytes and no slash": "ebdd86d183a01548",
    "prefix too long": "58efc0d90347ddb0",
    "not ASCII": "c23f272bfe461717",
    "8 GiB less a byte": "1058cf4a2f0b6609",
    "8 GiB": "c280cfa1820a78cf",
    "8 GiB, and a long name": "064a22f3756600ea",
}
"""The beginning of the SHA-256 of each header."""


def parsed(data: bytes) -> tarfile.TarInfo:
    """What Python makes of the header *data*."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        (found,) = archive.getmembers()
    return found


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_a_header_says_path_size_and_mode_and_nothing_of_who_wrote_it_or_when(member: Member) -> None:
    found = parsed(header(Member(member.path, 0, member.executable)))
    assert (found.name, found.mode) == (member.path, 0o755 if member.executable else 0o644)
    assert (found.type, found.linkname) == (tarfile.REGTYPE, "")
    assert (found.uid, found.gid, found.uname, found.gname, found.mtime) == (0, 0, "", "", 0)
    assert (found.devmajor, found.devminor) == (0, 0)


def test_pax_records_are_there_only_when_they_are_needed_and_say_only_path_and_size() -> None:
    lengths = {name: len(header(member)) for name, member in MEMBERS.items()}
    assert {name for name, length in lengths.items() if length == BLOCK} == {
        "short",
        "executable",
        "100 bytes",
        "divided",
        "divided at the first slash that will do",
        "8 GiB less a byte",
    }
    assert {length for length in lengths.values() if length != BLOCK} == {3 * BLOCK}
    records = header(MEMBERS["8 GiB, and a long name"])[BLOCK : 2 * BLOCK].rstrip(b"\0").decode()
    assert records == f"254 path={'ä' * 120}.bin\n19 size=8589934592\n"


def test_a_path_of_any_length_is_read_back() -> None:
    """The number before a pax record counts its own digits."""
    for length in range(1, 1025):
        for path in ("é" + "x" * (length - 1), "/".join(["x" * 49] * (length // 50 + 1))):
            assert parsed(header(Member(path, 0))).name == path


def test_the_bytes_of_headers_are_those_of_the_first_release() -> None:
    """They are a contract: an export of tomorrow is to be equal to that of today."""
    digests = {name: hashlib.sha256(header(member)).hexdigest()[:16] for name, member in MEMBERS.items()}
    assert digests == GOLDEN


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 12 * GIB])
def test_python_and_gnu_tar_read_sizes_over_and_under_8_gib(size: int, tmp_path: Path) -> None:
    """Of a file with a hole: nobody reads the content."""
    members = (Member("large.bin", size), Member("after.txt", 0))
    first, second, end = offsets(members)
    with (tmp_path / "large.tar").open("wb") as file:
        for at, member in ((first, members[0]), (second, members[1])):
            file.seek(at)
            file.write(header(member))
        file.write(trailer(end))
    assert (tmp_path / "large.tar").stat().st_size == end + len(trailer(end))
    with tarfile.open(tmp_path / "large.tar") as archive:
        assert [(each.name, each.size) for each in archive] == [("large.bin", size), ("after.txt", 0)]
    shown = subprocess.run(["tar", "tvf", tmp_path / "large.tar"], capture_output=True, text=True, check=True)
    assert [line.split()[2] for line in shown.stdout.splitlines()] == [str(size), "0"]
    assert shown.stderr == ""


def test_an_archive_ends_with_two_empty_blocks_and_a_whole_record() -> None:
    for end in range(0, 30_000, BLOCK):
        last = trailer(end)
        assert (end + len(last)) % 10_240 == 0
        assert 2 * BLOCK <= len(last) < 10_240 + 2 * BLOCK
        assert not any(last)


# --- the plain archive


def archive_of(*manifests: Manifest, contents: Mapping[str, bytes] = CONTENTS) -> bytes:
    """The whole archive in memory."""
    by_digest = {Digest.of(data): data for data in contents.values()}
    entries = plain_archive(manifests)
    parts = []
    for each in entries:
        data = each.content if isinstance(each.content, bytes) else by_digest[each.content.sha256]
        parts += [header(each.member), data, padding(len(data))]
    data = b"".join(parts)
    *_, end = offsets(each.member for each in entries)
    assert end == len(data), "the offsets are right without anything having been read"
    return data + trailer(end)


def read_back(data: bytes) -> dict[str, bytes]:
    """Every member by Python's tarfile, in the order of the archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {}
        for each in archive:
            content = archive.extractfile(each)
            assert content is not None
            found[each.name] = content.read()
    return found


def listed(data: bytes, locale: str) -> list[str]:
    """The names as GNU tar says them."""
    done = subprocess.run(
        ["tar", "--list", "--quoting-style=literal"],
        input=data,
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    return [line.decode() for line in done.stdout.removesuffix(b"\n").split(b"\n")]


def test_the_sums_come_first_and_then_everything_by_the_bytes_of_its_path() -> None:
    manifest = manifest_of()
    found = read_back(archive_of(manifest))
    assert list(found) == [SUMS, f"{FOLDER}.json", *(f"{FOLDER}/{path}" for path in sorted(CONTENTS))]
    assert found[f"{FOLDER}.json"] == manifest.to_json()
    assert {path: found[f"{FOLDER}/{path}"] for path in CONTENTS} == CONTENTS
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in found.items() if path != SUMS]
    assert found[SUMS].decode() == "".join(sums)


def test_the_archive_does_not_depend_on_the_order_in_which_models_are_named_or_on_naming_one_twice() -> None:
    one, other = manifest_of(), manifest_of(commit="f" * 40)
    assert archive_of(one, other) == archive_of(other, one, other)


def test_parts_of_one_commit_share_its_folder_and_have_a_manifest_each() -> None:
    part = {path: data for path, data in CONTENTS.items() if path.endswith(".json")}
    found = read_back(archive_of(manifest_of(), manifest_of(part, selection="0" * 16)))
    assert len(found) == 1 + len(CONTENTS) + 2
    assert f"{FOLDER}.{'0' * 16}.json" in found


def test_parts_of_one_commit_that_do_not_agree_about_a_file_are_refused() -> None:
    with pytest.raises(SnapshotConflict, match=r"disagree about huggingface\.co/.*/config\.json") as caught:
        plain_archive([manifest_of(), manifest_of({"config.json": b"other"}, selection="0" * 16)])
    assert caught.value.exit_code == 13


def test_hosts_with_ports_types_and_models_of_nobody_have_folders_of_the_same_depth() -> None:
    files = (entry("config.json", b""),)
    of = [
        Manifest("127.0.0.1:8080", RepoType.DATASET, "gpt2", COMMIT, "all", files),
        Manifest("[::1]", RepoType.SPACE, "org/name", COMMIT, "all", files),
        Manifest("..", RepoType.MODEL, "org/name", COMMIT, "all", files),
    ]
    folders = [each.member.path for each in plain_archive(of) if each.member.path.endswith("/config.json")]
    assert folders == [
        f"%2E./model/org/name/{COMMIT}/config.json",
        f"%5B%3A%3A1%5D/space/org/name/{COMMIT}/config.json",
        f"127.0.0.1%3A8080/dataset/-/gpt2/{COMMIT}/config.json",
    ]


def _fit(path: str) -> bool:
    try:
        return check_path(path) == path
    except UnsafePath:
        return False


def _fit_together(paths: list[str]) -> bool:
    try:
        check_paths(paths)
    except UnsafePath:
        return False
    return True


_segments = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"], exclude_characters="/\\:"), min_size=1, max_size=60
)
_paths = st.lists(_segments, min_size=1, max_size=6).map("/".join).filter(_fit)
_files = st.lists(_paths, min_size=1, max_size=5, unique=True).filter(_fit_together)


@given(_files, st.sampled_from(["C", "C.utf8"]))
@example(["a" * 255, f"{'b' * 255}/{'c' * 255}/{'d' * 255}/{'e' * 250}", "*?[x]\"'<>| $(id) -rf"], "C")
@example(["-rf", "--checkpoint-action=exec=id", "~", "%5B", " leading", "\u200d.bin"], "C")
@settings(max_examples=150)
def test_whatever_names_a_snapshot_may_have_python_and_gnu_tar_read_them_back(paths: list[str], locale: str) -> None:
    contents = {path: path.encode() * number for number, path in enumerate(paths)}
    data = archive_of(manifest_of(contents, executable=()), contents=contents)
    found = read_back(data)
    assert {path: found[f"{FOLDER}/{path}"] for path in paths} == contents
    assert listed(data, locale) == list(found)


@pytest.mark.parametrize("locale", ["C", "C.utf8"])
def test_gnu_tar_extracts_long_and_foreign_names_and_sha256sum_finds_them_right(locale: str, tmp_path: Path) -> None:
    names = [each.path for each in MEMBERS.values()] + [f"{'deep/' * 60}end", "a b'c\"d", "empty"]
    contents = {name: b"" if name == "empty" else name.encode() for name in names}
    data = archive_of(manifest_of(contents, executable=("run.sh",)), contents=contents)
    environ = {"PATH": os.environ["PATH"], "LC_ALL": locale}
    subprocess.run(["tar", "xf", "-"], input=data, cwd=tmp_path, env=environ, check=True)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", SUMS], cwd=tmp_path, env=environ, check=True)
    assert {name: (tmp_path / FOLDER / name).read_bytes() for name in contents} == contents
    assert os.access(tmp_path / FOLDER / "run.sh", os.X_OK)
