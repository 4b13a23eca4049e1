"""`import_archive`: what is in an archive is in the store afterwards, bit by bit, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from backports import zstd

from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    IntegrityError,
    ManifestInvalid,
    NoSpace,
    SnapshotConflict,
    SnapshotNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.archive import Packed
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.git import tree_oid
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.tar import Member, header
from ci_modelcache.model.tar_reader import read_members
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer import unzstd
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.import_archive import ImportOptions, import_archive
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.step import Step
from tests.parts.archives import LARGE, InMemory, Piped, oci_members, oci_tar, plain_members, plain_tar, tar_of
from tests.parts.cached import NOW, cache_in, leaf_list, publish, require_restorable
from tests.parts.golden import GOLDEN
from tests.parts.hostile import changed, head, pax, record
from tests.parts.snapshots import COMMIT, CONTENTS, REPO, manifest_of
from tests.parts.stores import Crash, Crashing, Failing, MemoryStore, Recording, touching, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache

FORMATS = {"oci": oci_tar, "plain": plain_tar}
SOURCES = {"file": InMemory, "pipe": Piped}
OTHER = {**CONTENTS, "config.json": b'{"model_type": "gpt2"}\n'}
"""What the next commit would be: one file is another."""
NEXT = "f" * 40
MAIN, HOST = ModelRef(REPO), "huggingface.co"
CONFIG = Digest.of(CONTENTS["config.json"])


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return cache_in(DirectoryStore(tmp_path / "store", create=True))


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path / "state", workers=4)


# --- what arrives


@pytest.mark.parametrize("contents", [CONTENTS, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_an_archive_of_either_format_is_in_the_store_afterwards(
    made: Callable[[Mapping[str, bytes]], bytes],
    source: Callable[[bytes], InMemory | Piped],
    contents: Mapping[str, bytes],
    cache: ModelCache,
    step: Step,
) -> None:
    """Of a pipe the large file goes into the store as it comes, and the others wait."""
    report = import_archive(source(made(contents)), cache=cache, step=step, options=ImportOptions(large=1 << 20))
    require_restorable(cache, manifest_of(contents))
    assert report.bytes_uploaded == report.size == sum(map(len, contents.values()))
    assert (report.format, report.files, [model.ref for model in report.models]) == (
        {oci_tar: "oci", plain_tar: "plain"}[made],  # type: ignore[index]  # one of these
        len(contents),
        [f"{REPO}@{COMMIT}"],
    )
    assert list(cache.store.scan("intents/")) == []
    assert not step.state.exists() or list(step.state.iterdir()) == []


@pytest.mark.parametrize("name", ["oci", "plain"])
def test_the_archives_of_the_first_version_are_imported_for_ever(name: str, cache: ModelCache, step: Step) -> None:
    data = (GOLDEN / "archives" / f"{name}.tar").read_bytes()
    report = import_archive(InMemory(data), cache=cache, step=step)
    assert report.format == name
    for snapshot in cache.snapshots():
        require_restorable(cache, cache.manifest(snapshot))
    assert len(report.models) == len(list(cache.snapshots())) > 0


def test_several_snapshots_of_one_archive_share_what_they_have_in_common(cache: ModelCache, step: Step) -> None:
    one, other = manifest_of(), manifest_of(OTHER, commit=NEXT)
    data = tar_of(oci_members([Packed(one), Packed(other)], CONTENTS, OTHER))
    report = import_archive(InMemory(data), cache=cache, step=step)
    for manifest in (one, other):
        require_restorable(cache, manifest)
    assert (len(report.models), report.files) == (2, len(CONTENTS) + 1)


def test_what_is_imported_twice_is_stored_once(step: Step) -> None:
    store = Recording(MemoryStore())
    cache = cache_in(store)
    import_archive(InMemory(oci_tar()), cache=cache, step=step)
    before = len(store.operations)
    report = import_archive(InMemory(oci_tar()), cache=cache, step=step)
    assert report.bytes_uploaded == 0
    assert [each for each in store.operations[before:] if each.verb == "write"] == []


def test_what_the_store_has_of_an_archive_is_not_stored_again(step: Step) -> None:
    store = Recording(MemoryStore())
    cache = cache_in(store)
    publish(cache)
    data = tar_of(oci_members([Packed(manifest_of(OTHER, commit=NEXT))], OTHER))
    report = import_archive(InMemory(data), cache=cache, step=step)
    assert report.bytes_uploaded == len(OTHER["config.json"])
    require_restorable(cache, manifest_of(OTHER, commit=NEXT))


def test_the_ref_is_the_last_thing_that_is_written(step: Step) -> None:
    store = Recording(MemoryStore())
    import_archive(InMemory(oci_tar(revisions=())), cache=cache_in(store), step=step)
    written = [key.partition("/")[0] for key in store.keys("write")]
    assert written[-1] == "refs"
    assert written.index("intents") < written.index("blobs") < written.index("manifests") < written.index("refs")


@pytest.mark.parametrize(
    "packed", [zstd.compress, lambda data: zstd.compress(data[:9000]) + zstd.compress(data[9000:])]
)
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_zstd_is_unpacked_on_the_way_in_as_many_frames_as_there_are(
    source: Callable[[bytes], InMemory | Piped], packed: Callable[[bytes], bytes], cache: ModelCache, step: Step
) -> None:
    skipped = b"\x5e\x2a\x4d\x18\x04\0\0\0what"
    import_archive(source(packed(plain_tar()) + skipped), cache=cache, step=step)
    require_restorable(cache)


def test_a_few_bytes_that_become_many_are_refused(
    cache: ModelCache, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unzstd, "_FREE", 1 << 20)
    bomb = zstd.compress(plain_tar()[:-10_240] + bytes(64 << 20))
    with pytest.raises(IntegrityError, match="become"):
        import_archive(Piped(bomb), cache=cache, step=step)


# --- what GNU tar makes of a plain archive


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(
    "options",
    [
        "--format=gnu .",
        "--format=gnu --sort=name .",
        "--format=oldgnu .",
        "--format=ustar SHA256SUMS huggingface.co",
        "--format=pax .",
        "--format=posix --sort=name -b 64 SHA256SUMS huggingface.co",
        "--format=gnu -b 1 --owner=somebody:4000000 --group=people:5000000 --mtime=1960-01-01 .",
        "--format=gnu --no-recursion --null -T ../list",
    ],
)
def test_gnu_tar_of_an_extracted_plain_archive_is_imported(
    options: str, source: Callable[[bytes], InMemory | Piped], tmp_path: Path, cache: ModelCache, step: Step
) -> None:
    """Whatever the order, the owners and the times are, and whether or not there are folders; with names over 100 bytes."""
    contents = {**CONTENTS, "long/" * 10 + "name" * 20: b"deep", "modèle 模型.bin": b"foreign"}
    if "ustar" in options:
        del contents["modèle 模型.bin"]
    folder = tmp_path / "extracted"
    folder.mkdir()
    (tmp_path / "x.tar").write_bytes(plain_tar(contents))
    subprocess.run(["tar", "xf", "../x.tar"], cwd=folder, check=True)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (tmp_path / "list").write_bytes(b"".join(path.encode() + b"\0" for path in files))
    made = subprocess.run(["tar", "cf", "-", *options.split()], cwd=folder, check=True, capture_output=True).stdout
    import_archive(source(made), cache=cache, step=step)
    require_restorable(cache, manifest_of(contents))


# --- what is no archive of ours


def test_a_leaf_list_that_is_another_blobs_is_refused_before_the_ref(cache: ModelCache, step: Step) -> None:
    lists = [leaf_list(bytes(LEAF_SIZE + 4))]
    honest = manifest_of(LARGE)
    lying = evolve(
        honest,
        files=tuple(evolve(file, leaves=Digest.of(lists[0])) if file.leaves else file for file in honest.files),
    )
    data = tar_of(plain_members([lying], LARGE))
    for _ in range(2):  # the second time the blob is there
        with pytest.raises(ManifestInvalid, match="leaf list"):
            import_archive(InMemory(data), cache=cache, step=step)
    assert list(cache.snapshots()) == []


def test_an_archive_of_a_later_format_is_no_broken_one(cache: ModelCache, step: Step) -> None:
    manifest = manifest_of()
    later = changed(manifest.to_json(), lambda plain: plain.update(format=2))
    members = plain_members([manifest], CONTENTS)
    old = Digest.of(manifest.to_json()).hex.encode()
    sums = members[0][1].replace(old, Digest.of(later).hex.encode())
    data = tar_of([(members[0][0], sums), (members[1][0], later), *members[2:]])
    with pytest.raises(StoreUnsupported, match="format 2"):
        import_archive(InMemory(data), cache=cache, step=step)


def test_a_snapshot_that_is_there_as_another_one_is_a_conflict_before_anything_is_stored(step: Step) -> None:
    store = MemoryStore()
    cache = cache_in(store)
    publish(cache)
    before = dict(store.objects)
    with pytest.raises(SnapshotConflict):
        import_archive(InMemory(oci_tar(OTHER)), cache=cache, step=step)
    assert {key: data for key, data in store.objects.items() if key != "modelcache.json"} == before


def test_a_size_of_eight_gibibytes_is_read_as_all_three_write_it() -> None:
    size = 9 << 30
    for begin in (
        header(Member("x", size)),
        head(b"x", magic=b"ustar  \0", fields={124: b"\x80" + size.to_bytes(11)}),
        pax(record(b"size", b"%d" % size)) + head(b"x", fields={124: bytes(12)}),
    ):
        found = next(read_members(_Endless(begin), "x.tar"))
        assert (found.path, found.size, found.offset) == ("x", size, len(begin))


class _Endless:
    """Some bytes, and as many zeros after them as anybody wants."""

    def __init__(self, begin: bytes) -> None:
        self._begin = begin
        self.position = 0

    def take(self, size: int) -> bytes:
        data = self._begin[self.position : self.position + size].ljust(size, b"\0")
        self.position += size
        return data

    def skip(self, size: int) -> int:
        self.position += size
        return size


# --- deltas


@pytest.mark.parametrize(
    ("of", "contents", "source"),
    [("oci", CONTENTS, InMemory), ("oci", LARGE, Piped), ("plain", CONTENTS, Piped), ("plain", LARGE, InMemory)],
    ids=["oci-small", "oci-large-pipe", "plain-small-pipe", "plain-large"],
)
def test_a_delta_is_imported_where_the_rest_is(
    of: str,
    contents: Mapping[str, bytes],
    source: Callable[[bytes], InMemory | Piped],
    cache: ModelCache,
    step: Step,
) -> None:
    publish(cache, manifest_of(contents), contents)
    new = {**contents, "config.json": b'{"new": true}'}
    manifest = manifest_of(new, commit=NEXT)
    without = frozenset(map(Digest.of, contents.values()))
    members = (
        oci_members([Packed(manifest)], new, without=without)
        if of == "oci"
        else plain_members([manifest], new, without=without)
    )
    report = import_archive(source(tar_of(members)), cache=cache, step=step)
    require_restorable(cache, manifest)
    assert report.bytes_uploaded == len(new["config.json"])


@pytest.mark.parametrize("of", ["oci", "plain"])
def test_a_delta_is_a_miss_where_the_rest_is_not(of: str, step: Step) -> None:
    store = MemoryStore()
    members = (
        oci_members([Packed(manifest_of())], CONTENTS, without=frozenset({CONFIG}))
        if of == "oci"
        else plain_members([manifest_of()], CONTENTS, without=frozenset({CONFIG}))
    )
    with pytest.raises(SnapshotNotFound, match=r"config\.json") as caught:
        import_archive(InMemory(tar_of(members)), cache=cache_in(store), step=step)
    assert caught.value.exit_code == 10
    assert list(store.objects) == ["modelcache.json"]


# --- branches and tags


def test_the_branches_of_an_archive_are_known_afterwards_but_are_old_news(cache: ModelCache, step: Step) -> None:
    report = import_archive(InMemory(oci_tar(revisions=("main", "v1"))), cache=cache, step=step)
    head = cache.head(HOST, MAIN)
    assert (head.commit, head.origin, head.observed_at) == (COMMIT, HUB, 0)
    assert report.models[0].revisions == ("main", "v1")


def test_branches_can_be_left_alone(cache: ModelCache, step: Step) -> None:
    report = import_archive(InMemory(oci_tar()), cache=cache, step=step, options=ImportOptions(revisions=False))
    assert report.models[0].revisions == ()
    with pytest.raises(SnapshotNotFound):
        cache.head(HOST, MAIN)


def test_a_branch_that_the_store_knows_from_the_hub_stays_and_is_told(cache: ModelCache, step: Step) -> None:
    cache.put_head(HOST, MAIN, NEXT, HUB)
    report = import_archive(InMemory(oci_tar()), cache=cache, step=step)
    assert cache.head(HOST, MAIN).commit == NEXT
    assert report.models[0].revisions == ()
    assert NEXT in report.warnings[0]


def test_a_branch_moves_with_each_import_where_only_imports_tell_of_it(cache: ModelCache, step: Step) -> None:
    import_archive(InMemory(oci_tar()), cache=cache, step=step)
    data = tar_of(oci_members([Packed(manifest_of(OTHER, commit=NEXT), frozenset({"main"}))], OTHER))
    import_archive(InMemory(data), cache=cache, step=step)
    assert cache.head(HOST, MAIN).commit == NEXT


def test_what_save_made_needs_no_hub_after_an_import_either(cache: ModelCache, step: Step) -> None:
    """Its commit is what git would call its tree, and that is how it is known."""
    saved = manifest_of()
    tree = {file.path: (file.git_oid, file.executable) for file in saved.files}
    manifest = evolve(saved, commit=tree_oid(tree))
    data = tar_of(oci_members([Packed(manifest, frozenset({"nightly"}))], CONTENTS))
    import_archive(InMemory(data), cache=cache, step=step)
    head = cache.head(HOST, ModelRef(REPO, "nightly"))
    assert (head.commit, head.origin, head.observed_at) == (manifest.commit, SAVED, int(NOW))


def test_a_head_that_cannot_be_read_is_written_anew(cache: ModelCache, step: Step, tmp_path: Path) -> None:
    cache.put_head(HOST, MAIN, NEXT, HUB)
    (head,) = (tmp_path / "store/heads").rglob("*.json")
    head.chmod(0o600)
    head.write_bytes(b"{")
    import_archive(InMemory(oci_tar()), cache=cache, step=step)
    assert cache.head(HOST, MAIN).commit == COMMIT


# --- faults


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_whatever_write_a_crash_hits_the_next_import_completes_it(when: str, step: Step) -> None:
    """And until then a snapshot is in the store in full, or not at all."""
    counted = Recording(_ready())
    import_archive(InMemory(oci_tar()), cache=cache_in(counted), step=step)
    for number in range(["before", "within", "after"].index(when), len(counted.operations), 3):
        inner = _ready()
        with suppress(Crash):
            crashing = Crashing(inner, at=number, moment=when)
            import_archive(InMemory(oci_tar()), cache=cache_in(crashing), step=evolve(step, workers=1))
        left = cache_in(inner, seed=b"next")
        if list(left.snapshots()):
            require_restorable(left)
        import_archive(InMemory(oci_tar()), cache=left, step=step)
        require_restorable(left)


def _ready() -> MemoryStore:
    """A store that is empty, and initialised: how that goes wrong is looked at elsewhere."""
    store = MemoryStore()
    initialise(cache_in(store, seed=b"first"))
    return store


def test_an_archive_that_breaks_off_while_it_is_read_is_read_on(cache: ModelCache, tmp_path: Path) -> None:
    retry = RetryPolicy(attempts=3, sleep=lambda _: None)
    import_archive(_Flaky(oci_tar(LARGE)), cache=cache, step=Step(tmp_path / "state", retry=retry, workers=1))
    require_restorable(cache, manifest_of(LARGE))


class _Flaky(InMemory):
    """Breaks off after each megabyte."""

    @contextmanager
    def open(self, start: int, /) -> Iterator[Iterator[bytes]]:
        yield self._from(start)

    def _from(self, start: int) -> Iterator[bytes]:
        yield self.data[start : start + (1 << 20)]
        if start + (1 << 20) < len(self.data):
            msg = "broken off"
            raise Unavailable(msg)


def test_a_store_that_refuses_is_no_fault_of_the_archive(step: Step) -> None:
    def denied() -> AccessDenied:
        return AccessDenied("not yours")

    store = Failing(MemoryStore(), denied, touching("blobs/", "write"))
    with pytest.raises(AccessDenied):
        import_archive(InMemory(oci_tar()), cache=cache_in(store), step=step)
    assert [key for key in tree(store.inner) if key != "modelcache.json"] == []


def test_a_state_folder_that_is_full_fails_as_such(cache: ModelCache, tmpfs: Path) -> None:
    """Only a pipe needs it: of a file nothing has to wait."""
    contents = {**CONTENTS, "vocabulary.txt": bytes(range(256)) * 8192}
    step = Step(tmpfs / "state", workers=2)
    with pytest.raises(NoSpace) as caught:
        import_archive(Piped(plain_tar(contents), piece=1 << 16), cache=cache, step=step)
    assert caught.value.exit_code == 14
    assert list(cache.snapshots()) == []
    import_archive(InMemory(plain_tar(contents)), cache=cache, step=step)
    require_restorable(cache, manifest_of(contents))


def test_without_zstd_the_way_around_it_is_said(cache: ModelCache, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        import_archive(InMemory(zstd.compress(oci_tar())), cache=cache, step=step)
    assert "zstd -dc FILE | ci-modelcache import -" in str(caught.value.hint)
    import_archive(InMemory(oci_tar()), cache=cache, step=step)


def test_a_pipe_that_falls_silent_is_not_waited_for_longer_than_the_deadline(cache: ModelCache, tmp_path: Path) -> None:
    never = threading.Event()

    class Silent(Piped):
        def chunks(self) -> Iterator[bytes]:
            yield self.data[:5000]
            never.wait(60)

    step = Step(tmp_path / "state", retry=RetryPolicy(deadline=Deadline(0.5)))
    with pytest.raises(DeadlineExceeded):
        import_archive(Silent(oci_tar()), cache=cache, step=step)
    never.set()
