"""What `restore` does when the Hub, the store, the disk or another process is broken; and that the next run succeeds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    DigestMismatch,
    IntegrityError,
    ManifestInvalid,
    Misanswer,
    ModelCacheError,
    NoSpace,
    NotFound,
    RepositoryNotFound,
    RevisionNotFound,
    SizeMismatch,
    SnapshotNotFound,
    Unavailable,
    UnsafePath,
)
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.project import ProjectModel
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources import http
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.partial import PREFIX as PARTIAL
from ci_modelcache.verbs.locked import read_lock
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import (
    Flipped,
    HangUp,
    OverLong,
    Pointer,
    ResetAtShare,
    Silence,
    Stall,
    Status,
    TooManyRequests,
    Trickle,
    Truncated,
    WebPage,
    api,
    files,
    naming,
)
from tests.parts.servers import BUCKET, REGION, login
from tests.parts.stores import Failing, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import (
    REPO,
    SECRET,
    STAGED,
    Meanwhile,
    files_in,
    flipped,
    names_in,
    pinned,
    spoil,
    swap,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.demo.faults import Planned
    from ci_modelcache.demo.hub import LoopbackHub
    from tests.parts.servers import S3Server
    from tests.parts.verbs import Bench

MODEL = "model.safetensors"
ODD = "onnx/odd name +é%#?&=;.txt"
SIZE = sum(map(len, TINY.values()))


@pytest.fixture(params=["disk", "elsewhere"])
def placed(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A bench whose store is a folder of this disk, or seems to be elsewhere."""
    if request.param == "elsewhere":
        bench.remotely()
    return bench


def locked(bench: Bench) -> tuple[Lock, ...]:
    """A lock of ``acme/tiny``, as `ci-modelcache lock` writes it; fills the store."""
    bench.lock([ProjectModel(REPO)])
    bench.hub.forget()
    return (read_lock(bench.lock_path),)


def fails(bench: Bench, kind: type[ModelCacheError], exit_code: int, **options: object) -> ModelCacheError:
    """The error of a restore that must fail like that, and leave nothing wrong behind."""
    with pytest.raises(kind) as caught:
        bench.restore(**options)  # type: ignore[arg-type]  # the caller's
    error = caught.value
    assert error.exit_code == exit_code
    assert SECRET not in "".join([error.message, str(error.hint), *getattr(error, "__notes__", [])])
    for path in names_in(bench.folder / "model"):
        # At the deadline workers are left behind, each with a staged file that it, or the next run, removes.
        # What is half received is kept for the next run, in the staging folder, which is nobody's final path.
        if not (PARTIAL in path or (exit_code == 15 and STAGED in path)):
            assert TINY.get(path) == (bench.folder / "model" / path).read_bytes()
    bench.ledger.check(complete=False)
    return error


def succeeds(bench: Bench) -> None:
    """The next run, with nothing broken any more."""
    bench.hub.faults.clear()
    bench.restore()
    assert files_in(bench.folder / "model") == TINY
    bench.ledger.check()
    bench.check_invariants()


# The Hub


@pytest.mark.parametrize(
    "fault",
    [
        TooManyRequests(retry_after="7", when=api, times=2),
        TooManyRequests(retry_after="7", times=2),
        Status(status=503, times=3),
        Status(status=500, when=api, times=2),
        HangUp(times=2),
        ResetAtShare(share=0, when=naming("/cdn/"), times=2),
        ResetAtShare(share=0.01, when=naming("/cdn/"), times=2),
        ResetAtShare(share=0.5, when=naming("/cdn/"), times=2),
        ResetAtShare(share=0.99, when=naming("/cdn/"), times=2),
        Truncated(keep=1000, matching=False, when=naming("/cdn/"), times=1),
        OverLong(extra=100, announced=False, when=naming("/cdn/"), times=1),
        OverLong(extra=100, when=naming("/cdn/"), times=1),
        Truncated(keep=1000, when=naming("/cdn/"), times=1),
        Flipped(at=5000, when=naming("/cdn/"), times=1),
        WebPage(when=files, times=1),
        Pointer(when=naming("/cdn/"), times=1),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{fault.times}",
)
def test_what_passes_is_waited_for_resumed_or_read_again(placed: Bench, fault: Planned) -> None:
    placed.hub.faults.append(evolve(fault))  # counted anew for each test
    report = placed.restore()
    assert files_in(placed.folder / "model") == TINY
    assert (report.result, report.bytes_downloaded) == ("miss", SIZE)
    placed.ledger.check()
    placed.check_invariants()
    if isinstance(fault, TooManyRequests):
        assert [pause for pause in placed.pauses if pause >= 7]


@pytest.mark.parametrize(
    ("fault", "kind", "exit_code"),
    [
        (Status(status=503), Unavailable, 11),
        (HangUp(reset=True), Unavailable, 11),
        (TooManyRequests(retry_after="1"), Unavailable, 11),
        (TooManyRequests(retry_after="3000"), DeadlineExceeded, 15),
        (Flipped(at=5000, when=naming("/cdn/")), DigestMismatch, 13),
        (Flipped(at=3, when=naming("config.json")), DigestMismatch, 13),
        (Truncated(keep=1000, when=naming("/cdn/")), SizeMismatch, 13),
        (WebPage(when=files), Misanswer, 13),
        (Pointer(when=naming("/cdn/")), SizeMismatch, 13),
        (WebPage(when=api), IntegrityError, 13),
        (Status(status=403, code="GatedRepo", when=files), AccessDenied, 12),
    ],
    ids=lambda value: f"{type(value).__name__}" if not isinstance(value, (int, type)) else "",
)
def test_what_does_not_pass_has_its_own_exit_code(
    placed: Bench, fault: Planned, kind: type[ModelCacheError], exit_code: int
) -> None:
    placed.hub.faults.append(evolve(fault))  # counted anew for each test
    fails(placed, kind, exit_code, upstream=placed.upstream(SECRET))
    placed.check_invariants()
    succeeds(placed)


def test_wrong_bytes_are_blamed_on_their_source(placed: Bench) -> None:
    placed.hub.faults.append(Flipped(at=5000, when=naming("/cdn/")))
    error = fails(placed, DigestMismatch, 13)
    assert placed.hub.url in "\n".join([error.message, *getattr(error, "__notes__", [])])


def test_a_stall_is_ended_by_the_read_limit_and_resumed(placed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.2)
    placed.hub.faults.append(Stall(after=1000, when=naming("/cdn/"), times=1))
    placed.restore()
    assert files_in(placed.folder / "model") == TINY


def test_a_dead_hub_is_unavailable_with_the_attempts_in_the_message(bench: Bench) -> None:
    upstream = bench.upstream()
    bench.hub.__exit__(None, None, None)
    error = fails(bench, Unavailable, 11, upstream=upstream)
    assert "after 4 attempts" in "\n".join(error.__notes__)


@pytest.mark.parametrize(
    ("ref", "kind"), [("acme/none", AccessDenied), (f"{REPO}@none", RevisionNotFound), (f"{REPO}@{'0' * 40}", NotFound)]
)
def test_what_does_not_exist_is_no_outage(bench: Bench, ref: str, kind: type[ModelCacheError]) -> None:
    """Without a token the Hub does not tell a missing repository from a private one."""
    with pytest.raises(kind):
        bench.restore(ref)
    with pytest.raises(NotFound) as caught:
        bench.restore(ref, upstream=bench.upstream(SECRET))
    assert caught.value.exit_code == 10
    assert not isinstance(caught.value, SnapshotNotFound)
    if ref == "acme/none":
        assert isinstance(caught.value, RepositoryNotFound)


def test_private_and_gated_are_refusals_with_the_next_step(bench: Bench) -> None:
    bench.repository.private = True
    assert "HF_TOKEN" in str(fails(bench, AccessDenied, 12).hint)
    bench.repository.readers.add("reader")
    assert bench.restore(upstream=bench.upstream(SECRET)).result == "miss"
    bench.check_invariants()
    bench.hub.add_repo("acme/gated", {"main": TINY}, gated=True)
    with pytest.raises(AccessDenied) as caught:
        bench.restore("acme/gated", upstream=bench.upstream(SECRET))
    assert caught.value.exit_code == 12
    assert "accept the terms" in str(caught.value.hint)


@pytest.mark.parametrize(
    "fault",
    [
        Trickle(rate=50, when=naming("/cdn/")),
        Stall(after=10, when=naming("/cdn/")),
        Silence(when=api),
        Silence(when=files),
    ],
    ids=lambda fault: f"{type(fault).__name__}",
)
def test_the_deadline_is_kept_whatever_the_hub_does(placed: Bench, fault: Planned) -> None:
    placed.hub.faults.append(evolve(fault))  # counted anew for each test
    retry = placed.retry(seconds=0.5)
    upstream = placed.upstream(seconds=0.5)
    started = time.monotonic()
    error = fails(placed, DeadlineExceeded, 15, upstream=upstream, step=placed.step(retry=retry))
    assert time.monotonic() - started < 3
    assert "--deadline" in str(error.hint)
    placed.hub.faults.clear()
    succeeds(placed)


def test_a_worker_that_hangs_is_left_behind_at_the_deadline(bench: Bench) -> None:
    bench.fetch()
    release = threading.Event()

    bench.store = Meanwhile(bench.disk, lambda: release.wait(20), touching("blobs/", "read"))
    started = time.monotonic()
    try:
        fails(bench, DeadlineExceeded, 15, step=bench.step(retry=bench.retry(seconds=0.5)))
        assert time.monotonic() - started < 3
    finally:
        release.set()


# The store


def test_a_wrong_blob_is_refetched_alone_mended_and_reported(placed: Bench) -> None:
    placed.fetch()
    swap(placed.blob(WEIGHTS), flipped(WEIGHTS))
    placed.hub.forget()
    report = placed.restore(pinned(placed))
    assert (report.result, report.mended, report.warnings) == ("hit", (MODEL,), ())
    assert placed.hub.sent == len(WEIGHTS)
    assert report.bytes_downloaded == (len(WEIGHTS) if placed.store is placed.disk else SIZE)
    assert placed.blob(WEIGHTS).read_bytes() == WEIGHTS
    assert files_in(placed.folder / "model") == TINY
    placed.ledger.check()
    placed.check_invariants()
    assert placed.restore(layout=placed.plain("again"), upstream=placed.offline).mended == ()


@pytest.mark.parametrize("damage", ["truncated", "deleted", "longer"])
def test_a_blob_of_another_length_or_none_is_mended_too(placed: Bench, damage: str) -> None:
    placed.fetch()
    blob = placed.blob(TINY["config.json"])
    if damage == "deleted":
        blob.unlink()
    else:
        swap(blob, TINY["config.json"] * 2 if damage == "longer" else TINY["config.json"][:-1])
    placed.hub.forget()
    report = placed.restore()
    assert report.mended == ("config.json",)
    assert placed.hub.sent == len(TINY["config.json"])
    succeeds(placed)


def test_a_store_that_may_not_be_written_stays_wrong_and_the_report_says_so(placed: Bench) -> None:
    placed.fetch()
    swap(placed.blob(WEIGHTS), flipped(WEIGHTS))
    placed.store = Failing(placed.disk, lambda: AccessDenied("denied"), touching("", "write"))
    report = placed.restore()
    assert report.mended == (MODEL,)
    assert "could not be mended" in report.warnings[0]
    assert "give --mode read where the store is not to be written" in report.warnings[0]
    assert files_in(placed.folder / "model") == TINY


def test_a_restore_that_may_not_write_the_store_says_that_it_is_wrong_still(placed: Bench) -> None:
    placed.fetch()
    swap(placed.blob(WEIGHTS), flipped(WEIGHTS))
    report = placed.restore(save=False)
    assert report.mended == (MODEL,)
    assert [warning.partition(" in ")[0] for warning in report.warnings] == [f"{MODEL} is still missing or wrong"]
    assert files_in(placed.folder / "model") == TINY
    assert placed.blob(WEIGHTS).read_bytes() == flipped(WEIGHTS)


def test_a_blob_altered_through_a_hard_link_in_a_hub_cache_is_mended_in_both(bench: Bench) -> None:
    bench.restore(layout=bench.hub_cache())
    blob = (bench.hub_cache().snapshot_path(bench.commit) / MODEL).resolve()
    spoil(blob)
    bench.hub.forget()
    report = bench.restore(layout=bench.hub_cache())
    assert report.mended == (MODEL,)
    assert bench.hub.sent == len(WEIGHTS)
    assert files_in(bench.hub_cache().snapshot_path(bench.commit)) == TINY
    bench.check_invariants()


def test_a_wrong_blob_that_nobody_may_replace_is_corruption_and_a_missing_one_a_miss(placed: Bench) -> None:
    """13: the store says it has the bytes, and has others. 10: nobody told a lie, and the remedy is that of any miss."""
    locks = locked(placed)
    swap(placed.blob(WEIGHTS), flipped(WEIGHTS))
    error = fails(placed, DigestMismatch, 13, upstream=placed.offline, locks=locks)
    assert "mends the store" in str(error.hint)
    fails(placed, DigestMismatch, 13, fail_on_miss=True)
    placed.blob(WEIGHTS).unlink()
    error = fails(placed, SnapshotNotFound, 10, upstream=placed.offline, locks=locks)
    assert error.message.startswith(f"{MODEL} of {REPO}@")
    assert "holds no object" in "\n".join(error.__notes__)
    assert "ci-modelcache fetch" in str(error.hint)
    fails(placed, SnapshotNotFound, 10, fail_on_miss=True)
    succeeds(placed)


def test_a_wrong_blob_while_the_hub_is_down_is_worth_another_try(placed: Bench) -> None:
    placed.fetch()
    swap(placed.blob(WEIGHTS), flipped(WEIGHTS))
    placed.hub.faults.append(Status(status=503))
    error = fails(placed, Unavailable, 11)
    assert "expected digest" in "\n".join(error.__notes__)
    succeeds(placed)


def test_an_altered_manifest_is_replaced_by_what_the_authority_lists(placed: Bench) -> None:
    placed.fetch()
    (manifest,) = (path for path in (placed.disk.root / "manifests").rglob("*") if path.is_file())
    swap(manifest, manifest.read_bytes().replace(b"config", b"konfig"))
    fails(placed, DigestMismatch, 13, upstream=placed.offline)
    report = placed.restore()
    assert report.result == "miss"
    assert any("not believed" in warning for warning in report.warnings)
    succeeds(placed)
    assert placed.restore(layout=placed.plain("again"), upstream=placed.offline).result == "hit"


@pytest.mark.parametrize("record", [b"", b"{", b'{"manifest": 1}', b"<html>"])
def test_an_altered_ref_is_replaced(placed: Bench, record: bytes) -> None:
    placed.fetch()
    swap(placed.ref_file(), record)
    fails(placed, ManifestInvalid, 13, upstream=placed.offline)
    succeeds(placed)
    assert placed.restore(layout=placed.plain("again"), upstream=placed.offline).result == "hit"


def test_a_ref_swapped_for_that_of_another_snapshot_is_not_followed(placed: Bench) -> None:
    placed.fetch()
    before = placed.ref_file()
    placed.repository.commit({"other.txt": b"other"})
    placed.hub.add_repo("acme/other", {"main": {"other.txt": b"other"}})
    placed.fetch("acme/other")
    (other,) = (path for path in (placed.disk.root / "refs").rglob("*.json") if path != before)
    swap(before, other.read_bytes())
    fails(placed, ManifestInvalid, 13, upstream=placed.offline)
    assert placed.restore().result == "miss"
    assert files_in(placed.folder / "model") == TINY


def test_an_altered_head_is_not_believed_and_written_anew(bench: Bench) -> None:
    bench.fetch()
    (head,) = (bench.disk.root / "heads").rglob("*.json")
    swap(head, b"{}")
    fails(bench, ManifestInvalid, 13, upstream=bench.offline)
    succeeds(bench)
    assert bench.restore(layout=bench.plain("again"), upstream=bench.offline).stale is False


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside", "a\\b", ".git/config", "con"])
def test_a_hostile_path_in_a_stored_manifest_writes_nothing(bench: Bench, path: str) -> None:
    bench.fetch()
    (manifest,) = (each for each in (bench.disk.root / "manifests").rglob("*") if each.is_file())
    quoted = path.replace("\\", "\\\\").encode()
    hostile = manifest.read_bytes().replace(b'"README.md"', b'"' + quoted + b'"')
    digest = Digest.of(hostile)
    bench.cache().put_document(keys.manifest(digest), hostile)
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(manifest.name.encode(), digest.hex.encode()))

    def everything() -> set[Path]:
        return {each for each in bench.folder.rglob("*") if not {"state", "model"} & set(each.parts)}

    before = everything()
    fails(bench, UnsafePath, 13, upstream=bench.offline)
    assert files_in(bench.folder / "model") == {}
    assert everything() == before
    assert bench.restore().result == "miss"
    assert files_in(bench.folder / "model") == TINY


def test_a_manifest_that_gives_two_contents_one_etag_is_refused(bench: Bench) -> None:
    """In a Hub cache one would be served as the other."""
    bench.fetch()
    stored = bench.cache().manifest(next(bench.cache().snapshots()))
    small = [file for file in stored.files if not file.lfs]
    text = stored.to_json().replace(small[0].git_oid.encode(), small[1].git_oid.encode())
    digest = Digest.of(text)
    bench.cache().put_document(keys.manifest(digest), text)
    ref = bench.ref_file()
    swap(ref, ref.read_bytes().replace(stored.digest.hex.encode(), digest.hex.encode()))
    with pytest.raises(ManifestInvalid, match="have one ETag"):
        bench.restore(layout=bench.hub_cache())
    assert not (bench.hub_cache().root / "snapshots").exists()


def test_an_unavailable_store_is_neither_a_miss_nor_asked_around(bench: Bench) -> None:
    bench.store = Failing(bench.disk, lambda: Unavailable("out of order"), touching(""))
    fails(bench, Unavailable, 11)
    assert bench.hub.requests() == []


def test_credentials_that_only_read_are_one_warning_that_says_how_to_run_without_it(placed: Bench) -> None:
    placed.store = Failing(placed.disk, lambda: AccessDenied("denied"), touching("", "write", "delete"))
    (warning,) = placed.restore().warnings
    assert "was restored but not saved" in warning
    assert warning.endswith("give --mode read where the store is not to be written")


@pytest.mark.parametrize("error", [AccessDenied, Unavailable, NoSpace, DeadlineExceeded])
def test_an_upload_that_fails_does_not_fail_what_is_restored(bench: Bench, error: type[ModelCacheError]) -> None:
    bench.store = Failing(bench.disk, lambda: error("not today"), touching("blobs/", "write"))
    report = bench.restore()
    assert (report.result, report.saved) == ("miss", False)
    assert "restored but not saved: not today" in report.warnings[0]
    assert files_in(bench.folder / "model") == TINY
    bench.store = bench.disk
    assert bench.restore(layout=bench.plain("again")).saved is True


def test_bad_credentials_of_the_store_are_a_refusal(
    bench: Bench, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch, ("AKIDNOBODY0000000001", "wrong-secret-of-nobody"))
    bench.store = S3Store(BUCKET, "x", endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=bench.retry())
    error = fails(bench, AccessDenied, 12)
    assert "wrong-secret-of-nobody" not in str(error)
    assert bench.hub.requests() == []


# The lock


def test_a_lock_needs_neither_hub_nor_metadata_of_the_store(placed: Bench) -> None:
    locks = locked(placed)
    for folder in ("refs", "heads", "manifests", "leaves"):
        if (placed.disk.root / folder).exists():
            (placed.disk.root / folder).rename(placed.folder / folder)
    report = placed.restore(upstream=placed.offline, locks=locks)
    assert (report.result, report.anchor) == ("hit", "lock")
    assert files_in(placed.folder / "model") == TINY


def test_a_lock_stands_above_the_ref_of_the_store(placed: Bench) -> None:
    locks = locked(placed)
    other = locks[0].models[0].to_manifest()
    placed.hub.add_repo("acme/other", {"main": {"other.txt": b"other"}})
    placed.fetch("acme/other")
    first, second = sorted((placed.disk.root / "refs").rglob("*.json"))
    mine, foreign = (first, second) if other.commit in str(first) else (second, first)
    swap(mine, foreign.read_bytes())
    report = placed.restore(upstream=placed.offline, locks=locks)
    assert (report.result, report.anchor, report.manifest) == ("hit", "lock", other.digest.hex)
    assert files_in(placed.folder / "model") == TINY


def test_a_locked_model_that_the_store_lacks_is_fetched_without_asking_what_it_consists_of(placed: Bench) -> None:
    locks = locked(placed)
    for path in list(placed.disk.root.iterdir()):
        path.rename(placed.folder / f"gone-{path.name}")
    report = placed.restore(locks=locks)
    assert (report.result, report.anchor, report.saved) == ("miss", "lock", True)
    assert [seen for seen in placed.hub.requests() if "/api/" in seen.target] == []
    assert placed.restore(layout=placed.plain("again"), upstream=placed.offline, locks=locks).result == "hit"
    placed.check_invariants()


def test_a_lock_that_promises_other_bytes_than_the_hub_serves_accepts_nothing(placed: Bench) -> None:
    locks = locked(placed)
    manifest = locks[0].models[0].to_manifest()
    wrong = Digest(hashlib.sha256(b"other").hexdigest())
    changed = LockedModel.of(
        type(manifest)(
            manifest.host,
            manifest.type,
            manifest.repo,
            manifest.commit,
            manifest.selection,
            tuple(
                type(file)(file.path, file.size, wrong, file.git_oid, file.lfs, file.executable)
                if file.path == MODEL
                else file
                for file in manifest.files
            ),
        ),
        revision="main",
        selection=Selection(),
    )
    error = fails(placed, Misanswer, 13, locks=(Lock((changed,)),))
    assert placed.hub.url in "\n".join([error.message, *getattr(error, "__notes__", [])])
    assert not (placed.folder / "model" / MODEL).exists()


def test_what_the_lock_does_not_name_is_not_restored(bench: Bench) -> None:
    locks = locked(bench)
    for ref, selection in (
        ("acme/other", Selection()),
        (f"{REPO}@v1.0", Selection()),
        (REPO, Selection(include=("*.json",))),
    ):
        with pytest.raises(NotFound, match="is not in the lock") as caught:
            bench.restore(ref, locks=locks, selection=selection)
        assert caught.value.exit_code == 10
    bench.repository.commit({"config.json": b"moved"})
    assert bench.restore(locks=locks).commit == locks[0].models[0].commit


# The disk


def test_too_little_room_is_told_before_any_byte_moves(placed: Bench) -> None:
    with tmpfs(placed.folder / "small", size=200_000) as small:
        with pytest.raises(NoSpace, match=r"need .* have .* on the disk of .*small") as caught:
            placed.restore(layout=PlainLayout(small / "model"), save=False)
        assert caught.value.exit_code == 14
        assert placed.hub.sent == 0
        assert files_in(small) == {}


def test_a_store_of_this_disk_without_room_is_passed_by(bench: Bench) -> None:
    with tmpfs(bench.folder / "small", size=SIZE * 13 // 10) as small:
        bench.disk = type(bench.disk)(small / "store", create=True)
        bench.store = bench.disk
        report = bench.restore(layout=PlainLayout(small / "model"))
        assert files_in(small / "model") == TINY
        assert (report.result, report.saved) == ("miss", False)
        assert "not saved: need" in report.warnings[0]
        assert bench.hub.sent == SIZE


def test_a_restore_from_elsewhere_needs_the_room_of_the_model_and_no_more(
    bench: Bench, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    bench.store = S3Store(BUCKET, "room", endpoint_url=moto_server.endpoint, region=REGION, retry=bench.retry())
    large = {f"{name}.safetensors": os.urandom(8 * 1024 * 1024) for name in "abcd"}
    bench.hub.add_repo(REPO, {"main": large})
    bench.fetch()
    size = sum(map(len, large.values()))
    with tmpfs(bench.folder / "small", size=size * 105 // 100) as small:
        report = bench.restore(layout=PlainLayout(small / "model"))
        assert report.result == "hit"
        assert files_in(small / "model") == large


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_half_made(
    placed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job took the room after it was looked at."""
    from ci_modelcache.verbs import placing  # noqa: PLC0415  # only here something in it is replaced

    monkeypatch.setattr(placing, "require_space", lambda _folder, _need: None)
    placed.fetch()
    with tmpfs(placed.folder / "small", size=400_000) as small:
        with pytest.raises(NoSpace) as caught:
            placed.restore(layout=PlainLayout(small / "model"))
        assert caught.value.exit_code == 14
        assert str(small) in caught.value.message
        for path, data in files_in(small / "model").items():
            assert TINY[path] == data
        placed.ledger.check(complete=False)
    succeeds(placed)


def test_links_need_no_room(bench: Bench) -> None:
    with tmpfs(bench.folder / "small", size=SIZE * 13 // 10) as small:
        bench.disk = type(bench.disk)(small / "store", create=True)
        bench.store = bench.disk
        report = bench.restore(layout=bench.hub_cache("small/hf"))
        assert (report.saved, report.bytes_linked) == (True, SIZE)


def test_a_destination_that_may_not_be_written_is_a_refusal(placed: Bench) -> None:
    placed.fetch()
    target = placed.folder / "owned-by-others"
    target.mkdir()
    with unprivileged(target), pytest.raises(AccessDenied, match="owned-by-others") as caught:
        placed.restore(layout=PlainLayout(target / "model"))
    assert caught.value.hint is not None


def test_what_a_killed_run_was_writing_is_removed_even_when_this_one_fails(bench: Bench) -> None:
    for layout in (bench.plain(), bench.hub_cache()):
        write_files(layout.staging, {f"{STAGED}old": b"half a file"})
        with pytest.raises(SnapshotNotFound):
            bench.restore(layout=layout, upstream=bench.offline)
        assert list(layout.staging.iterdir()) == []


def test_a_state_folder_that_cannot_be_made_costs_time_alone(placed: Bench) -> None:
    placed.fetch()
    (placed.folder / "state").rename(placed.folder / "state-before") if (placed.folder / "state").exists() else None
    (placed.folder / "state").write_bytes(b"a file")
    assert placed.restore().result == "hit"
    assert placed.restore().result == "hit"  # nothing was remembered
    assert files_in(placed.folder / "model") == TINY


@contextmanager
def tmpfs(folder: Path, *, size: int) -> Iterator[Path]:
    """A disk of *size* bytes, rounded up to pages, mounted at *folder*."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# Others


_RESTORE = """
import sys
from pathlib import Path
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.restore import restore
from ci_modelcache.verbs.step import Step

url, ref, store, state, target = sys.argv[1:6]
retry = RetryPolicy()
report = restore(
    ModelRef.parse(ref),
    PlainLayout(Path(target)),
    cache=ModelCache(DirectoryStore(Path(store), create=True), retry=retry),
    upstream=HubEndpoint(url, session=HttpSession(), retry=retry),
    step=Step(Path(state), retry=retry),
)
# Not ru_maxrss, which begins with what the process had that started this one.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(report.result, peak)
"""


def processes(hub: LoopbackHub, ref: str, *states: Path, store: Path, target: Path) -> list[list[str]]:
    """What one process for each of *states* printed; all restore *ref* to *target* at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _RESTORE, hub.url, ref, str(store), str(state), str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for state in states
    ]
    said = []
    for process in started:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        said.append(out.split())
    return said


def test_two_processes_restoring_into_one_place_download_once(bench: Bench) -> None:
    state = bench.folder / "state"
    target = bench.folder / "model"
    said = processes(bench.hub, pinned(bench), state, state, store=bench.disk.root, target=target)
    assert sorted(result for result, _ in said) == ["local", "miss"]
    assert bench.hub.sent == SIZE
    assert files_in(target) == TINY
    bench.check_invariants()


def test_two_processes_that_know_nothing_of_each_other_do_not_harm_each_other(bench: Bench) -> None:
    states = [bench.folder / "one", bench.folder / "two"]
    target = bench.folder / "model"
    processes(bench.hub, pinned(bench), *states, store=bench.disk.root, target=target)
    assert files_in(target) == TINY
    bench.check_invariants()


def test_memory_does_not_grow_with_the_model(bench: Bench) -> None:
    """126 MB through a process that takes some 70 MB with nothing to do."""
    large = bench.folder / "large.safetensors"
    piece = os.urandom(1 << 20)
    with large.open("wb") as file:
        for number in range(120):
            file.write(number.to_bytes(8, "big") + piece[8:])
    bench.hub.add_repo(REPO, {"main": {"large.safetensors": large}})
    ((result, kilobytes),) = processes(
        bench.hub, REPO, bench.folder / "state", store=bench.disk.root, target=bench.folder / "model"
    )
    assert result == "miss"
    assert int(kilobytes) < 130_000, kilobytes
    assert (bench.folder / "model/large.safetensors").stat().st_size == 120 << 20


def test_somebody_who_writes_into_the_destination_meanwhile_is_noticed(bench: Bench) -> None:
    """A file that changes between restoring and uploading is not uploaded under the name of what it was."""

    model = bench.folder / "model" / MODEL
    bench.store = Meanwhile(bench.disk, lambda: swap(model, flipped(WEIGHTS)), touching("intents/", "write"))
    with pytest.raises(DigestMismatch) as caught:
        bench.restore()
    assert "something else writes there" in str(caught.value.hint)
    bench.check_invariants()
    bench.store = bench.disk
    succeeds(bench)
