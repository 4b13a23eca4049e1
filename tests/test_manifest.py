"""A manifest is a pure function of a snapshot, of which exactly one text exists; everything else is refused."""

from __future__ import annotations

import hashlib
import json
import string
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import InvalidRef, ManifestInvalid, ModelCacheError, StoreUnsupported, UnsafePath
from ci_modelcache.model import manifest as manifest_module
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected
from ci_modelcache.model.manifest import MAX_FILES, MAX_SIZE, FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
from ci_modelcache.model.selection import Selection
from tests.parts.golden import BIG, COMMIT, GOLDEN, leaves_by_hand, manifest_by_hand, output, write_snapshot

if TYPE_CHECKING:
    from pathlib import Path

OID = "ab" * 20
SHA = Digest("cd" * 32)


def entry(path: str, size: int = 1, **fields: Any) -> FileEntry:
    leaves = SHA if size > LEAF_SIZE else None
    return evolve(FileEntry(path, size, SHA, OID, lfs=False, executable=False, leaves=leaves), **fields)


def snapshot(*files: FileEntry, **fields: Any) -> Manifest:
    return evolve(Manifest("huggingface.co", RepoType.MODEL, "org/name", COMMIT, "all", files), **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_snapshot(tmp_path_factory.mktemp("snapshot"))


def test_the_bytes_of_format_1_never_change(folder: Path) -> None:
    golden = (GOLDEN / "manifest.json").read_bytes()
    assert manifest_by_hand(folder).to_json() == golden
    assert Manifest.from_json(golden) == manifest_by_hand(folder)


def test_the_name_of_a_manifest_is_what_sha256sum_prints(folder: Path) -> None:
    printed = output('sha256sum "$1"', str(GOLDEN / "manifest.json"), cwd=folder)
    assert manifest_by_hand(folder).digest.hex == printed[:64]


def test_the_leaf_list_is_what_split_and_sha256sum_print(folder: Path) -> None:
    golden = (GOLDEN / "leaves.txt").read_bytes()
    assert leaves_by_hand(folder).encode() == golden
    big = next(file for file in manifest_by_hand(folder).files if file.path == BIG)
    assert big.leaves == Digest.of(golden)


def test_the_set_digest_is_what_find_and_sha256sum_print(folder: Path) -> None:
    printed = output(r"find . -type f -printf '%P\0' | xargs -0 sha256sum -- | LC_ALL=C sort | sha256sum", cwd=folder)
    manifest = manifest_by_hand(folder)
    assert manifest.set_digest.hex == printed[:64]
    assert manifest.set_digest.hex == (GOLDEN / "set-digest.txt").read_text().strip()
    assert manifest.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_files_are_ordered_by_the_bytes_of_their_paths_whoever_lists_them() -> None:
    # By UTF-16, as RFC 8785 orders the names of members, the last two would change places.
    files = [entry(path) for path in ("Z", "a/b", "a-b", "é", "b", "\uff5e", "\U0001f600")]
    manifest = snapshot(*files)
    assert [file.path.encode() for file in manifest.files] == sorted(file.path.encode() for file in files)
    assert snapshot(*reversed(files)).to_json() == manifest.to_json()


PATHS = st.lists(
    st.text(alphabet=string.ascii_lowercase + "éж模 +%#?", min_size=1, max_size=8)
    .map(lambda text: text.strip() + "x")
    .filter(lambda text: text == text.strip()),
    unique=True,
    max_size=8,
)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A valid manifest of any kind."""
    files = []
    for path in draw(PATHS):
        size = draw(st.sampled_from([0, 1, LEAF_SIZE, LEAF_SIZE + 1, MAX_SIZE]) | st.integers(0, MAX_SIZE))
        leaves = Digest(draw(HEX)) if size > LEAF_SIZE else None
        lfs, executable = draw(st.booleans()), draw(st.booleans())
        files.append(FileEntry(path, size, Digest(draw(HEX)), draw(HEX)[:40], lfs, executable, leaves))
    return Manifest(
        draw(st.sampled_from(["huggingface.co", "127.0.0.1:8080", "[::1]:9", "hub.example"])),
        draw(st.sampled_from(RepoType)),
        draw(st.sampled_from(["gpt2", "org/name"])),
        draw(HEX)[:40],
        draw(st.just("all") | HEX.map(lambda text: text[:16])),
        tuple(files),
    )


@given(manifests())
def test_a_valid_manifest_reads_back_as_itself(manifest: Manifest) -> None:
    data = manifest.to_json()
    again = Manifest.from_json(data)
    assert again == manifest
    assert again.to_json() == data
    assert data == rfc8785.dumps(json.loads(data))
    assert again.digest.hex == hashlib.sha256(data).hexdigest()


@given(manifests(), st.data())
def test_changing_one_byte_of_a_manifest_never_goes_unnoticed(manifest: Manifest, data: st.DataObject) -> None:
    text = bytearray(manifest.to_json())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = Manifest.from_json(bytes(text))
    except ModelCacheError:
        return
    assert again != manifest


def _golden() -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_bytes())
    return plain


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(_golden(), sort_keys=True).encode(),
        json.dumps(_golden(), separators=(",", ":"), ensure_ascii=False).encode() + b"\n",
        json.dumps(_golden(), separators=(",", ":"), sort_keys=True).encode(),
        rfc8785.dumps({**_golden(), "files": _golden()["files"][::-1]}),
        rfc8785.dumps({key: value for key, value in _golden().items() if key != "required_features"}),
        rfc8785.dumps({**_golden(), "format": 1}).replace(b'"format":1', b'"format":1 '),
    ],
    ids=["spaces", "newline", "escapes", "order-of-files", "default-left-out", "one-space"],
)
def test_another_spelling_of_the_same_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="the manifest is not in canonical form"):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 2}, StoreUnsupported, "the manifest has format 2; this version reads format 1"),
        (
            {"format": 2, "new": {}, "files": 0},
            StoreUnsupported,
            "the manifest has format 2; this version reads format 1",
        ),
        ({"format": 0}, StoreUnsupported, "the manifest has format 0; this version reads format 1"),
        (
            {"required_features": ["zstd", "delta"]},
            StoreUnsupported,
            "needs features that this version lacks: delta, zstd",
        ),
        ({"required_features": [1]}, ManifestInvalid, r"\$.required_features\[0\]: expected str, got int"),
        ({"format": True}, ManifestInvalid, r"\$.format: expected int, got bool"),
        ({"host": ""}, ManifestInvalid, "the manifest's host is malformed: ''"),
        ({"host": "a/../b"}, ManifestInvalid, "the manifest's host is malformed"),
        ({"host": "user:pw@host"}, ManifestInvalid, "the manifest's host is malformed"),
        ({"selection": "ALL"}, ManifestInvalid, "the manifest's selection is malformed: 'ALL'"),
        ({"selection": "../../etc"}, ManifestInvalid, "the manifest's selection is malformed"),
        ({"commit": "main"}, ManifestInvalid, "the manifest's commit is no git object name: 'main'"),
        ({"repo": "../x"}, ManifestInvalid, "not a repository name: '../x'"),
        ({"type": "kernel"}, ManifestInvalid, r"\$.type: expected one of model, dataset, space, got 'kernel'"),
        ({"extra": 1}, ManifestInvalid, r"\$: unknown field extra"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(
    change: dict[str, Any], error: type[ModelCacheError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        Manifest.from_json(rfc8785.dumps({**_golden(), **change}))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "../evil"}, UnsafePath, r"^the manifest: unsafe path '../evil'"),
        ({"path": "config.json"}, UnsafePath, "two files at one path"),
        ({"size": -1}, ManifestInvalid, "impossible size -1"),
        ({"size": MAX_SIZE + 1}, ManifestInvalid, "impossible size"),
        ({"size": "9"}, ManifestInvalid, r"\$.files\[0\].size: expected int, got str"),
        ({"size": True}, ManifestInvalid, r"\$.files\[0\].size: expected int, got bool"),
        ({"sha256": None}, ManifestInvalid, r"\$.files\[0\].sha256: expected str, got null"),
        ({"sha256": "CD" * 32}, ManifestInvalid, "not a SHA-256 in lower-case hex"),
        ({"git_oid": "x"}, ManifestInvalid, "git_oid is no git object name: 'x'"),
        ({"leaves": "cd" * 32}, ManifestInvalid, "a leaf list goes with files over 16777216 bytes and no others"),
        ({"size": LEAF_SIZE + 1}, ManifestInvalid, "a leaf list goes with files over 16777216 bytes and no others"),
        ({"lfs": 0}, ManifestInvalid, r"\$.files\[0\].lfs: expected bool, got int"),
    ],
)
def test_a_file_entry_that_breaks_the_format_is_refused(
    change: dict[str, Any], error: type[ModelCacheError], message: str
) -> None:
    plain = _golden()
    plain["files"][0].update(change)
    with pytest.raises(error, match=message):
        Manifest.from_json(rfc8785.dumps(plain))


def test_a_wrong_value_is_refused_on_construction_too() -> None:
    with pytest.raises(InvalidRef):
        snapshot(repo="a b")
    with pytest.raises(UnsafePath):
        snapshot(entry("a"), entry("A"))
    with pytest.raises(StoreUnsupported):
        snapshot(required_features=("zstd",))


def test_there_is_a_largest_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILES == 100_000
    monkeypatch.setattr(manifest_module, "MAX_FILES", 2)
    snapshot(entry("a"), entry("b"))
    with pytest.raises(ManifestInvalid, match="a manifest of 3 files; at most 2 are read"):
        snapshot(entry("a"), entry("b"), entry("c"))


def test_a_manifest_of_ten_thousand_files_reads_back() -> None:
    manifest = snapshot(*(entry(f"data/{i % 97}/shard {i:05d} é.parquet", i) for i in range(10_000)))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_without_files_is_a_snapshot_too() -> None:
    empty = snapshot()
    assert Manifest.from_json(empty.to_json()) == empty
    assert empty.size == 0
    assert empty.set_digest.hex == hashlib.sha256(b"").hexdigest()


def test_an_entry_knows_its_promise_and_the_etag_of_the_hub() -> None:
    assert entry("a", 3).expected == Expected(3, sha256=SHA)
    assert entry("a").etag == OID
    assert entry("a", lfs=True).etag == SHA.hex


def test_a_manifest_names_its_snapshot() -> None:
    assert snapshot().id == SnapshotId("huggingface.co", RepoType.MODEL, "org/name", COMMIT, "all")
    assert ModelRef("org/name", COMMIT).is_pinned


def test_a_part_of_a_full_manifest_is_what_fetching_the_part_alone_would_make() -> None:
    full = Manifest(
        "huggingface.co",
        RepoType.MODEL,
        "org/name",
        "a" * 40,
        "all",
        tuple(
            FileEntry(
                path, 3, Digest.of(b"abc"), "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", lfs=False, executable=False
            )
            for path in ("config.json", "model.bin", "onnx/config.json")
        ),
    )
    selection = Selection(include=("*.json",), exclude=("onnx/",))

    part = full.part(selection)

    assert [file.path for file in part.files] == ["config.json"]
    assert part.id == SnapshotId("huggingface.co", RepoType.MODEL, "org/name", "a" * 40, selection.id)
