"""A large file that is proven after it was given away, to an outlet that shows nothing before its end; and the hashing beside."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.errors import DigestMismatch, ManifestInvalid
from ci_modelcache.model.archive import Packed
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.oci_archive import oci_archive
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_outlet import ObjectOutlet
from ci_modelcache.transfer.frames import Compressed
from ci_modelcache.transfer.kept_file import KeptFile
from ci_modelcache.transfer.lane import Lane, verified_beside
from ci_modelcache.transfer.parts import PartFiles
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.export import export, held
from ci_modelcache.verbs.import_archive import import_archive
from ci_modelcache.verbs.step import Step
from tests.parts.archives import LARGE as ARCHIVED
from tests.parts.archives import InMemory, by_digest, members_of, tar_of
from tests.parts.cached import cache_in, leaf_list
from tests.parts.servers import BUCKET, REGION, login
from tests.parts.snapshots import manifest_of
from tests.parts.stores import MemoryStore, Recording
from tests.parts.verbs import REPO, spoil
from tests.test_export import add_copy
from tests.test_export_resume import LARGE, exported, stretches
from tests.test_outlets import joined, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.transfer.outlet import Keeping
    from tests.parts.servers import S3Server
    from tests.parts.verbs import Bench

SPLIT = 10_000_000
OUTLETS: dict[str, tuple[Callable[[Path], Keeping], Callable[[Path], bytes]]] = {
    "file": (KeptFile, lambda path: path.read_bytes()),
    "parts": (lambda path: PartFiles(path, SPLIT), joined),
    "zstd": (lambda path: Compressed(KeptFile(path)), lambda path: unpacked(path.read_bytes())),
}
EACH = pytest.mark.parametrize("kind", OUTLETS)


@pytest.fixture
def large(bench: Bench) -> Bench:
    """A store with a file of four stretches and a small one."""
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE, "config.json": b"{}"}})
    bench.fetch()
    return bench


def spoil_stretch(bench: Bench, number: int) -> None:
    spoil(bench.blob(LARGE), at=number * LEAF_SIZE + 5)


@EACH
def test_what_was_wrong_is_written_again_from_another_copy(kind: str, large: Bench) -> None:
    made, back = OUTLETS[kind]
    right = exported(large, KeptFile(large.folder / "right.tar"))
    spoil_stretch(large, 2)
    add_copy(large, LARGE, of=LARGE)
    path = large.folder / "out" / "x.tar"
    assert exported(large, made(path)) == right
    assert hashlib.sha256(back(path)).hexdigest() == right
    assert not [each for each in path.parent.iterdir() if "partial" in each.name]


def test_to_a_bucket_what_was_wrong_is_sent_again(
    large: Bench, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    login(monkeypatch)
    store = S3Store(BUCKET, "late", endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy())
    right = exported(large, KeptFile(large.folder / "right.tar"))
    spoil_stretch(large, 2)
    add_copy(large, LARGE, of=LARGE)
    assert exported(large, ObjectOutlet(store, "x.tar", notes=tmp_path / "notes")) == right
    with store.read("x.tar") as chunks:
        assert hashlib.sha256(b"".join(chunks)).hexdigest() == right


def test_of_a_file_that_is_wrong_only_what_follows_the_wrong_stretch_is_read_again(large: Bench) -> None:
    spoil_stretch(large, 2)
    add_copy(large, LARGE, of=LARGE)
    large.store = seen = Recording(large.disk)
    exported(large, KeptFile(large.folder / "x.tar"))
    # The wrong one again, once more, and of the copy; then the last one. The small file stands before or after, and is read ahead.
    assert 4 + 3 + 1 + 1 <= stretches(seen) <= 4 + 3 + 1 + 2


@EACH
def test_wrong_bytes_without_a_right_copy_leave_nothing(kind: str, large: Bench) -> None:
    made, _ = OUTLETS[kind]
    spoil_stretch(large, 2)
    path = large.folder / "out" / "x.tar"
    with pytest.raises(DigestMismatch, match=f"bytes {2 * LEAF_SIZE} to {3 * LEAF_SIZE}"):
        exported(large, made(path))
    assert list(path.parent.iterdir()) == []


def test_by_a_lock_the_leaf_list_alone_proves_a_file_and_each_stretch_before_it_is_given_away(large: Bench) -> None:
    manifest = large.cache().manifest(next(large.cache().snapshots()))
    lock = Lock((LockedModel.of(manifest, revision="main", selection=Selection()),))
    model = held(ModelRef.parse(REPO), Selection(), locks=(lock,), cache=large.cache(), host=large.offline)
    path = large.folder / "x.tar"
    right = exported(large, KeptFile(path))
    assert export([model], KeptFile(path), cache=large.cache(), step=large.step()).sha256 == right
    spoil_stretch(large, 2)
    add_copy(large, LARGE, of=LARGE)
    large.store = seen = Recording(large.disk)
    assert export([model], KeptFile(path), cache=large.cache(), step=large.step()).sha256 == right
    assert stretches(seen) == 4 + 1 + 2, "the wrong one twice more: once again there, and of the other copy"


# --- import


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path / "state", workers=4)


@pytest.fixture
def lying() -> tuple[Manifest, bytes]:
    """A manifest whose large file has the leaf list of another one, which is beside it."""
    other = leaf_list(bytes(LEAF_SIZE + 4))
    honest = manifest_of(ARCHIVED)
    files = tuple(evolve(file, leaves=Digest.of(other)) if file.leaves else file for file in honest.files)
    return evolve(honest, files=files), other


@pytest.mark.parametrize("malformed", [False, True])
def test_a_leaf_list_of_an_archive_that_is_not_that_of_its_file_is_refused(
    malformed: bool,  # noqa: FBT001  # pytest's way
    lying: tuple[Manifest, bytes],
    step: Step,
) -> None:
    manifest, said = lying
    if malformed:
        said = b"Z" * len(said)
        files = tuple(evolve(file, leaves=Digest.of(said)) if file.leaves else file for file in manifest.files)
        manifest = evolve(manifest, files=files)
    entries = oci_archive([Packed(manifest, frozenset())], {Digest.of(said): said})
    cache = cache_in(MemoryStore())
    with pytest.raises(ManifestInvalid, match="leaf list"):
        import_archive(InMemory(tar_of(members_of(entries, by_digest(ARCHIVED)))), cache=cache, step=step)
    assert list(cache.snapshots()) == []


@pytest.mark.parametrize("at", [5, LEAF_SIZE + 1])
def test_a_content_of_an_archive_that_is_another_one_is_named_and_not_stored(at: int, step: Step) -> None:
    name = "model.safetensors"
    right = ARCHIVED[name]
    entries = oci_archive([Packed(manifest_of(ARCHIVED), frozenset())], {Digest.of(leaf_list(right)): leaf_list(right)})
    wrong = by_digest(ARCHIVED) | {Digest.of(right): right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]}
    store = MemoryStore()
    with pytest.raises(DigestMismatch, match=Digest.of(right).hex):
        import_archive(InMemory(tar_of(members_of(entries, wrong))), cache=cache_in(store), step=step)
    assert keys.blob(Digest.of(right)) not in store.objects


# --- the lane


def test_a_lane_takes_all_in_its_order() -> None:
    seen: list[bytes] = []
    lane = Lane(seen.append)
    given = [bytes([number]) * 3_000_000 for number in range(9)]
    for data in given:
        lane.give(data)
    lane.wait()
    assert seen == given


def test_what_a_lane_raised_is_raised_to_whoever_gives_or_waits() -> None:
    def refuse(data: bytes) -> None:
        raise ValueError(len(data))

    lane = Lane(refuse)
    lane.give(b"abc")
    with pytest.raises(ValueError, match="3"):
        lane.wait()


def test_wrong_bytes_are_passed_on_and_never_end_well() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"wrong"

    passed = verified_beside(chunks(), Expected(5, Digest.of(b"right")), "x")
    assert next(passed) == b"wrong"
    with pytest.raises(DigestMismatch):
        next(passed)
