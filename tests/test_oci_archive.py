"""The OCI archive: a pure function of manifests and revisions, which skopeo reads, and which is read back strictly."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_modelcache.errors import IntegrityError, ManifestInvalid, SnapshotConflict
from ci_modelcache.model.archive import Packed, since_of
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.oci_archive import (
    BLOBS,
    INDEX,
    LAYOUT,
    image_and_config,
    oci_archive,
    read_image,
    read_index,
)
from ci_modelcache.model.ref import RepoType
from ci_modelcache.model.tar import header, padding, trailer
from tests.parts.cached import leaf_list
from tests.parts.snapshots import COMMIT, CONTENTS, entry, manifest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ci_modelcache.model.archive import Entry
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.oci_archive import Indexed

LARGE = random.Random(6).randbytes(LEAF_SIZE + 100)
LEAVES = leaf_list(LARGE)
WITH_LARGE = {**CONTENTS, "large.bin": LARGE, "same.bin": LARGE}
NAME = "org.opencontainers.image.ref.name"


def snapshot(contents: Mapping[str, bytes] = CONTENTS, **changes: Any) -> Manifest:
    return evolve(manifest_of(contents, executable=()), **changes)


def packed(*manifests: Manifest, revisions: Iterable[str] = ()) -> list[Packed]:
    return [Packed(manifest, frozenset(revisions)) for manifest in manifests or (snapshot(),)]


def archive(chosen: Iterable[Packed], *, without: Iterable[bytes] = ()) -> tuple[Entry, ...]:
    return oci_archive(chosen, {Digest.of(LEAVES): LEAVES}, without=frozenset(map(Digest.of, without)))


def content(entries: Iterable[Entry], path: str) -> bytes:
    (found,) = (each.content for each in entries if each.member.path == path)
    assert isinstance(found, bytes)
    return found


def index_of(entries: Iterable[Entry]) -> bytes:
    return content(entries, INDEX)


def image_at(entries: Iterable[Entry], indexed: Indexed) -> bytes:
    return content(entries, f"{BLOBS}{indexed.image}")


def tarred(entries: Iterable[Entry], contents: Mapping[str, bytes] = WITH_LARGE) -> bytes:
    blobs = {Digest.of(data): data for data in contents.values()}
    made = bytearray()
    for each in entries:
        data = each.content if isinstance(each.content, bytes) else blobs[each.content.sha256]
        made += header(each.member) + data + padding(len(data))
    return bytes(made + trailer(len(made)))


# --- what is in it


def test_the_layout_is_first_then_the_index_and_then_every_blob_once_in_the_order_of_digests() -> None:
    entries = archive(packed(snapshot(WITH_LARGE)))
    paths = [each.member.path for each in entries]
    digests = [path.removeprefix(BLOBS) for path in paths[2:]]
    assert paths[:2] == [LAYOUT, INDEX]
    assert digests == sorted(set(digests))
    assert set(digests) >= {Digest.of(data).hex for data in (*WITH_LARGE.values(), LEAVES)}
    assert [each.sha256.hex for each in entries[2:]] == digests
    assert all(len(header(each.member)) == 512 for each in entries)
    assert all(each.member.permissions == 0o644 for each in entries)


def test_an_image_names_the_manifest_then_every_file_with_its_path_then_the_leaf_lists() -> None:
    manifest = snapshot(WITH_LARGE)
    image, config = map(json.loads, image_and_config(manifest))
    layers = image["layers"]
    assert layers[0]["digest"] == f"sha256:{manifest.digest}"
    assert {
        layer["annotations"]["org.cncf.model.filepath"]: (layer["digest"], layer["size"]) for layer in layers[1:-1]
    } == {file.path: (f"sha256:{file.sha256}", file.size) for file in manifest.files}
    assert layers[-1] == {
        "mediaType": "application/vnd.ci-modelcache.leaves.v1",
        "digest": f"sha256:{Digest.of(LEAVES)}",
        "size": len(LEAVES),
    }
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in layers]}
    assert config["descriptor"] == {"name": manifest.repo, "revision": COMMIT}
    assert (image["artifactType"], image["config"]["mediaType"]) == (
        "application/vnd.cncf.model.manifest.v1+json",
        "application/vnd.cncf.model.config.v1+json",
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.safetensors", "weight"),
        ("no suffix", "weight"),
        ("tokenizer.json", "weight.config"),
        ("sub/merges.txt", "weight.config"),
        ("README.md", "doc"),
        ("LICENSE", "doc"),
        ("license.txt", "doc"),
        ("modeling_x.py", "code"),
    ],
)
def test_a_file_has_the_type_that_modelpack_gives_its_kind(path: str, kind: str) -> None:
    image, _ = image_and_config(snapshot({path: b"1"}))
    assert json.loads(image)["layers"][1]["mediaType"] == f"application/vnd.cncf.model.{kind}.v1.raw"


def test_what_is_no_document_of_a_dataset_is_data() -> None:
    image, _ = image_and_config(snapshot({"a.parquet": b"1", "README.md": b"2"}, type=RepoType.DATASET))
    types = [layer["mediaType"].split(".")[3] for layer in json.loads(image)["layers"][1:]]
    assert types == ["doc", "dataset"]


def test_neither_the_order_of_models_nor_how_often_one_is_named_shows() -> None:
    one, other = snapshot(), snapshot({"a": b"1"}, repo="tiny/other")
    revisions = {"main", "v1"}
    together = archive([Packed(one, frozenset(revisions)), Packed(other)])
    apart = archive([Packed(other), Packed(one, frozenset({"v1"})), Packed(one, frozenset({"main"}))])
    assert together == apart


def test_the_commit_is_no_revision_that_an_import_would_have_to_learn() -> None:
    assert archive(packed(revisions=[COMMIT])) == archive(packed())


def test_models_with_files_in_common_share_them() -> None:
    one, other = snapshot(), snapshot(repo="tiny/other")
    both = {each.member.path for each in archive(packed(one, other))}
    assert both == {each.member.path for each in (*archive(packed(one)), *archive(packed(other)))}


def test_a_file_that_is_the_manifest_of_a_model_is_in_the_archive_once_and_never_left_out() -> None:
    document = snapshot().to_json()
    chosen = packed(snapshot(), snapshot({"manifest.json": document}, repo="tiny/other"))
    entries = archive(chosen, without=[document])
    assert content(entries, f"{BLOBS}{Digest.of(document)}") == document
    assert read_index(index_of(entries)).since is None


def test_manifests_that_disagree_are_a_conflict() -> None:
    true = snapshot({"a": b"1"})
    lie = snapshot({"a": b"1"}, repo="tiny/other", files=(evolve(entry("a", b"1"), size=2),))
    with pytest.raises(SnapshotConflict):
        archive(packed(true, lie))
    with pytest.raises(SnapshotConflict):
        archive(packed(true, snapshot({"a": b"2"})))


def test_a_leaf_list_that_its_file_cannot_have_is_refused() -> None:
    other = b"0" * 64 + b" "
    manifest = snapshot({}, files=(evolve(entry("large.bin", LARGE), leaves=Digest.of(other)),))
    with pytest.raises(ManifestInvalid, match="has 65 bytes, and its size makes 130"):
        oci_archive(packed(manifest), {Digest.of(other): other})


# --- deltas


def test_a_delta_leaves_out_files_and_says_which_and_has_all_documents() -> None:
    manifest = snapshot(WITH_LARGE)
    full = archive(packed(manifest))
    delta = archive(packed(manifest), without=[LARGE, b"", b"nobody has this"])
    gone = {each.member.path for each in full} - {each.member.path for each in delta}
    assert gone == {f"{BLOBS}{Digest.of(LARGE)}", f"{BLOBS}{Digest.of(b'')}"}
    index = read_index(index_of(delta))
    lines = "".join(f"{digest}\n" for digest in sorted([Digest.of(LARGE).hex, Digest.of(b"").hex]))
    assert index.since == since_of([Digest.of(LARGE), Digest.of(b"")]) == Digest.of(lines.encode())
    assert index.snapshots == read_index(index_of(full)).snapshots


def test_a_delta_that_leaves_out_nothing_is_a_whole_archive() -> None:
    assert archive(packed(), without=[b"nobody has this"]) == archive(packed())


# --- read back


def test_what_is_read_back_is_what_was_packed() -> None:
    manifests = [snapshot(WITH_LARGE), snapshot({"a": b"1"}, repo="solo", host="[::1]:8080", type=RepoType.DATASET)]
    entries = archive(packed(*manifests, revisions=["refs/pr/1", "main", "v1,2"]))
    index = read_index(index_of(entries))
    assert {each.id for each in index.snapshots} == {manifest.id for manifest in manifests}
    for indexed in index.snapshots:
        manifest = next(each for each in manifests if each.id == indexed.id)
        image = read_image(image_at(entries, indexed), indexed)
        image.check(manifest)
        assert indexed.revisions == ("main", "refs/pr/1", "v1,2")
        assert (indexed.manifest, image.manifest) == (manifest.digest, manifest.digest)
        assert {file.sha256: file.size for file in manifest.files}.items() <= image.sizes.items()
        assert image.leaf_lists == {file.leaves for file in manifest.files if file.leaves}
        assert {f"{BLOBS}{digest}" for digest in image.sizes} <= {each.member.path for each in entries}


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4), st.booleans())
def test_archives_of_any_content_read_back(contents: list[bytes], delta: bool) -> None:  # noqa: FBT001  # hypothesis gives it by its place
    manifests = [snapshot({"a": data, "b": b"same"}, repo=f"tiny/m{number}") for number, data in enumerate(contents)]
    entries = archive(packed(*manifests, revisions=["main"]), without=[b"same"] * delta)
    index = read_index(index_of(entries))
    assert index.to_json() == index_of(entries)
    assert (index.since is not None) == delta
    for indexed, manifest in zip(index.snapshots, manifests, strict=True):
        read_image(image_at(entries, indexed), indexed).check(manifest)


def spoiled(data: bytes, *path: str | int, to: Any) -> bytes:
    """*data* with another value at *path*; None removes it."""
    document: Any = json.loads(data)
    at = document
    for step in path[:-1]:
        at = at[step]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


REF = "huggingface.co/model/tiny/model@" + COMMIT + "/all"
BAD_INDICES: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "another schema": (("schemaVersion",), 1),
    "a number that is true": (("schemaVersion",), True),
    "another type": (("mediaType",), "application/json"),
    "no type": (("mediaType",), None),
    "an unknown field": (("subject",), {}),
    "no snapshot": (("manifests",), []),
    "snapshots that are none": (("manifests",), {}),
    "annotations of the index": (("annotations",), {"x": "y"}),
    "an empty since": (("annotations",), {"io.ci-modelcache.since": ""}),
    "annotations that are no texts": (("manifests", 0, "annotations", NAME), 1),
    "an unknown annotation": (("manifests", 0, "annotations", "x"), "y"),
    "no ref": (("manifests", 0, "annotations", "io.ci-modelcache.ref"), None),
    "no manifest": (("manifests", 0, "annotations", NAME), None),
    "no digest of a manifest": (("manifests", 0, "annotations", NAME), "main"),
    "another algorithm": (("manifests", 0, "digest"), "sha512:" + "0" * 128),
    "half a digest": (("manifests", 0, "digest"), "sha256:" + "0" * 63),
    "a path for a digest": (("manifests", 0, "digest"), "sha256:../../../etc/passwd"),
    "a size below zero": (("manifests", 0, "size"), -1),
    "a size that is no number": (("manifests", 0, "size"), "1"),
    "another artifact": (("manifests", 0, "artifactType"), "x"),
    "a platform": (("manifests", 0, "platform"), {}),
}


@pytest.mark.parametrize(("path", "to"), BAD_INDICES.values(), ids=BAD_INDICES)
def test_an_index_that_nobody_wrote_is_refused(path: tuple[str | int, ...], to: Any) -> None:
    with pytest.raises(IntegrityError):
        read_index(spoiled(index_of(archive(packed())), *path, to=to))


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "/" * 5,
        "a b/model/tiny/model@" + COMMIT + "/all",
        "huggingface.co/other/tiny/model@" + COMMIT + "/all",
        "huggingface.co/model/tiny/../model@" + COMMIT + "/all",
        "huggingface.co/model/tiny/model@main/all",
        "huggingface.co/model/tiny/model@" + COMMIT,
        "huggingface.co/model/tiny/model@" + COMMIT + "/../x",
        "huggingface.co/model/tiny/model@" + COMMIT.upper() + "/all",
        REF + "\n",
        " " + REF,
    ],
)
def test_a_ref_that_is_none_is_refused_as_corruption(ref: str) -> None:
    with pytest.raises(IntegrityError):
        read_index(spoiled(index_of(archive(packed())), "manifests", 0, "annotations", "io.ci-modelcache.ref", to=ref))


@pytest.mark.parametrize(
    "revisions", ["", " ", "v1 main", "main main", "main  v1", "main ", "../x", "a..b", "main\n", COMMIT]
)
def test_revisions_that_nobody_wrote_are_refused(revisions: str) -> None:
    where = ("manifests", 0, "annotations", "io.ci-modelcache.revisions")
    with pytest.raises(IntegrityError):
        read_index(spoiled(index_of(archive(packed())), *where, to=revisions))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[" * 100_000, b"\xff", b"null", b"{} "], ids=range(7))
def test_what_is_no_index_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        read_index(data)


def test_an_index_in_another_spelling_is_refused() -> None:
    data = index_of(archive(packed()))
    for other in (data + b"\n", json.dumps(json.loads(data)).encode()):
        with pytest.raises(ManifestInvalid, match="not as it is written"):
            read_index(other)


def test_snapshots_out_of_order_or_twice_are_refused() -> None:
    data = index_of(archive(packed(snapshot(), snapshot(repo="tiny/other"))))
    first, second = json.loads(data)["manifests"]
    for wrong in ([second, first], [first, first]):
        with pytest.raises(ManifestInvalid):
            read_index(spoiled(data, "manifests", to=wrong))


BAD_IMAGES: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "no layer": (("layers",), []),
    "an unknown field": (("annotations",), {}),
    "files first": (("layers", 0, "digest"), "sha256:" + "1" * 64),
    "a manifest of another type": (("layers", 0, "mediaType"), "application/vnd.cncf.model.weight.v1.raw"),
    "a size below zero": (("layers", 1, "size"), -1),
    "a blob of two sizes": (("layers", 2, "digest"), f"sha256:{Digest.of(CONTENTS['config.json'])}"),
    "a digest that is none": (("layers", 2, "digest"), "sha256:x"),
    "an algorithm that is none": (("layers", 2, "digest"), "0" * 64),
    "no config": (("config",), None),
}


@pytest.mark.parametrize(("path", "to"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_an_image_that_cannot_be_one_is_refused(path: tuple[str | int, ...], to: Any) -> None:
    entries = archive(packed())
    (indexed,) = read_index(index_of(entries)).snapshots
    with pytest.raises(IntegrityError):
        read_image(spoiled(image_at(entries, indexed), *path, to=to), indexed)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("layers", 1, "annotations", "org.cncf.model.filepath"), "../evil"),
        (("layers", 1, "digest"), "sha256:" + "1" * 64),
        (("layers", 1, "size"), 12345),
        (("layers", 1, "mediaType"), "x"),
        (("layers", 1), None),
        (("artifactType",), "x"),
        (("config", "digest"), "sha256:" + "1" * 64),
        (("schemaVersion",), 3),
    ],
)
def test_an_image_that_is_not_that_of_its_manifest_is_found_out(path: tuple[str | int, ...], to: Any) -> None:
    entries = archive(packed())
    (indexed,) = read_index(index_of(entries)).snapshots
    image = read_image(spoiled(image_at(entries, indexed), *path, to=to), indexed)
    with pytest.raises(ManifestInvalid, match="not as it is written"):
        image.check(snapshot())


# --- other programs


def skopeo(*arguments: str | Path) -> str:
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def test_skopeo_reads_one_model_by_the_archive_alone_and_copies_its_files_as_they_are(tmp_path: Path) -> None:
    manifest = snapshot(WITH_LARGE)
    (tmp_path / "x.tar").write_bytes(tarred(archive(packed(manifest))))
    shown = skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/x.tar")
    assert shown.encode() == image_and_config(manifest)[0]
    skopeo("copy", "--insecure-policy", f"oci-archive:{tmp_path}/x.tar", f"dir:{tmp_path}/copy")
    for data in WITH_LARGE.values():
        assert (tmp_path / "copy" / Digest.of(data).hex).read_bytes() == data


def test_skopeo_finds_one_of_several_models_by_the_digest_of_its_manifest(tmp_path: Path) -> None:
    manifests = [snapshot(), snapshot(repo="tiny/other")]
    (tmp_path / "x.tar").write_bytes(tarred(archive(packed(*manifests))))
    for manifest in manifests:
        shown = skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/x.tar:{manifest.digest}")
        assert shown.encode() == image_and_config(manifest)[0]


def test_tar_and_sha256sum_check_every_blob_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tarred(archive(packed(snapshot(WITH_LARGE)))))
    command = 'tar xf x.tar && cd blobs/sha256 && for f in *; do echo "$f  $f"; done | sha256sum --strict -c'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == len({*WITH_LARGE.values()}) + 4
