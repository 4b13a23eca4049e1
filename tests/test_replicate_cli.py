"""The command that copies a store: what it refuses, and that it can be killed, stopped and left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ci_modelcache.errors import DeadlineExceeded
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.cached import MANIFEST, cache_in, publish, require_restorable
from tests.parts.command_line import Outcome, calling
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server, login
from tests.parts.snapshots import COMMIT, REPO, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store

PATIENCE = 90.0
"""Seconds that a process may take for what takes less than one."""
LARGE = {f"part-{number}.bin": random.Random(number).randbytes(600_000) for number in range(8)}


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Outcome]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))

    return calling(capsys)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder that is a store with one snapshot."""
    publish(cache_in(DirectoryStore(tmp_path / "source", create=True)))
    return tmp_path / "source"


def start(line: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own, whose log is in *folder*."""
    environment = os.environ | {"CI_MODELCACHE_STATE": str(folder / "state"), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "ci_modelcache", *line.split()]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


# --- once


def test_it_prints_what_it_copied_and_then_that_all_is_there(run: Any, source: Path, tmp_path: Path) -> None:
    first = run(f"replicate {source} copy")
    assert first.code == 0
    assert first.out.startswith(f"copied: {REPO}@{COMMIT}: 5 files")
    again = run(f"replicate {source} copy {REPO}@{COMMIT} --json")
    assert (again.json["present"], again.json["copied"], again.json["bytes_copied"]) == (1, [], 0)
    require_restorable(cache_in(DirectoryStore(tmp_path / "copy", create=False)))


def test_only_the_models_that_are_named_are_copied(run: Any, source: Path) -> None:
    cache = cache_in(DirectoryStore(source, create=False), seed=b"other")
    publish(cache, manifest_of({"other.txt": b"other"}, commit="b" * 40), {"other.txt": b"other"})
    assert run(f"replicate {source} copy {REPO}@{'b' * 40} --json").json["snapshots"] == 1
    assert [each["commit"] for each in run("ls --store copy --json").json["snapshots"]] == ["b" * 40]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("source source", 2, "SOURCE and DESTINATION are the same store"),
        ("source ./source/", 2, "SOURCE and DESTINATION are the same store"),
        ("s3://a/b?region=x s3://a/b/", 2, "SOURCE and DESTINATION are the same store"),
        ("source copy --every 0s --watch", 2, "--every 0s leaves no pause"),
        ("source copy --mode read", 2, "the mode is read"),
        ("source s3://b?endpoint=x", 2, "says something unknown: 'endpoint'"),
        ("nowhere copy", 2, "there is no folder"),
        (f"source copy {REPO}@{'c' * 40}", 10, "holds no snapshot"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, code: int, said: str, run: Any, source: Path) -> None:
    outcome = run(f"replicate {line}")
    assert outcome.code == code, source
    assert said in outcome.err


def test_wrong_bytes_at_the_source_end_it_with_13_after_all_else_was_copied(run: Any, source: Path) -> None:
    cache = cache_in(DirectoryStore(source, create=False), seed=b"other")
    publish(cache, manifest_of({"other.txt": b"other"}, commit="b" * 40), {"other.txt": b"other"})
    for copy in cache.blob_copies(next(iter(MANIFEST.files)).sha256, next(iter(MANIFEST.files)).size):
        for path in copy.files:
            path.chmod(0o600)
            path.write_bytes(b"x" * copy.size)
    outcome = run(f"replicate {source} copy --json")
    assert outcome.code == 13
    assert (len(outcome.json["copied"]), outcome.json["failed"][0]["exit_code"]) == (1, 13)
    human = run(f"replicate {source} copy")
    assert human.code == 13
    assert f"failed: {REPO}@{COMMIT}: " in human.out
    assert "1 failure" in human.out


# --- two providers, each with credentials and an endpoint of its own


def test_each_store_is_reached_as_its_own_url_says(
    run: Any, seaweedfs_server: S3Server, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "credentials"
    profiles.write_text(
        f"[reading]\naws_access_key_id={READER[0]}\naws_secret_access_key={READER[1]}\n"
        f"[writing]\naws_access_key_id={ADMIN[0]}\naws_secret_access_key={ADMIN[1]}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    login(monkeypatch)
    here = f"s3://{BUCKET}/own?endpoint_url={seaweedfs_server.endpoint}&region={REGION}"
    there = f"s3://{BUCKET}/own?endpoint_url={rclone_server.endpoint}&region={REGION}"
    publish(cache_in(open_store(here, retry=RetryPolicy())))
    login(monkeypatch, ("AKIDNOBODY0000000001", "of-nobody"))
    assert run(f"replicate {here} {there}&profile=writing").code == 12
    outcome = run(f"replicate {here}&profile=reading {there}&profile=writing --json")
    assert (outcome.code, len(outcome.json["copied"])) == (0, 1)
    refused = run(f"replicate {there}&profile=writing {here}&profile=reading")
    assert refused.code == 12, "the profile may only read"
    assert "of-nobody" not in refused.err + outcome.out


# --- killed, stopped, left running


def test_killed_within_a_snapshot_it_leaves_no_ref_and_goes_on_without_sending_again_what_arrived(
    run: Any, seaweedfs_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    here = f"s3://{BUCKET}/killed?endpoint_url={seaweedfs_server.endpoint}&region={REGION}"
    manifest = manifest_of(LARGE, commit="d" * 40)
    publish(cache_in(open_store(here, retry=RetryPolicy())), manifest, LARGE)

    def arrived() -> list[int]:
        return [path.stat().st_size for path in (tmp_path / "copy").glob("blobs/sha256/*/*/*")]

    process = start(f"replicate {here} copy --limit-rate 600kB --workers 1", tmp_path)
    try:
        wait_for(lambda: len(arrived()) >= 3, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
    before = arrived()
    assert len(before) < len(LARGE)
    store = DirectoryStore(tmp_path / "copy", create=False)
    assert list(cache_in(store).snapshots()) == []
    report = run(f"replicate {here} copy --json").json
    assert report["bytes_copied"] == manifest.size - sum(before)
    require_restorable(cache_in(store), manifest)


def test_left_running_it_copies_what_is_saved_later_and_ends_when_it_is_told_to(source: Path, tmp_path: Path) -> None:
    copied: Store = DirectoryStore(tmp_path / "copy", create=True)
    process = start(f"replicate {source} copy --watch --every 1s", tmp_path)
    try:
        wait_for(lambda: len(list(copied.scan("refs/"))) == 1, process)
        later = manifest_of({"later.txt": b"later"}, commit="e" * 40)
        publish(cache_in(DirectoryStore(source, create=False), seed=b"later"), later, {"later.txt": b"later"})
        wait_for(lambda: len(list(copied.scan("refs/"))) == 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.wait(PATIENCE)
    require_restorable(cache_in(copied), later)
    assert "interrupted" in (tmp_path / "log").read_text()


def test_left_running_until_the_time_is_over_it_ends_well_and_tells_all_rounds(
    run: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def idle(_policy: RetryPolicy, seconds: float, **_told: str) -> None:
        pauses.append(seconds)
        if len(pauses) > 2:
            msg = "no time left"
            raise DeadlineExceeded(msg)

    monkeypatch.setattr(RetryPolicy, "idle", idle)
    outcome = run(f"replicate {source} copy --watch --every 5m --json")
    assert outcome.code == 0
    assert (len(outcome.json["copied"]), outcome.json["present"], outcome.json["rounds"]) == (1, 1, 3)
    assert outcome.err.count("copied: ") == 1
    assert pauses == [300, 300, 300]
