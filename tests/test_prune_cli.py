"""``prune``, ``pin``, ``unpin``, ``undelete`` and ``du``, and what a restore leaves for them, on a real object store."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ci_modelcache.cache import keys
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.command_line import Outcome, calling
from tests.parts.servers import BUCKET, READER, REGION, login
from tests.parts.verbs import files_in, write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store
    from tests.parts.servers import S3Server

    Run = Callable[[str], Outcome]

pytestmark = pytest.mark.timeout(300)

_NUMBERS = itertools.count()
WEIGHTS = b"weights" * 4000


@pytest.fixture
def place(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of its own in the bucket, which every command of this test uses."""
    login(monkeypatch)
    url = f"s3://{BUCKET}/prune-{next(_NUMBERS)}"
    monkeypatch.setenv("CI_MODELCACHE_STORE", url)
    monkeypatch.setenv("CI_MODELCACHE_ENDPOINT_URL", seaweedfs_server.endpoint)
    monkeypatch.setenv("CI_MODELCACHE_REGION", REGION)
    return url


@pytest.fixture
def store(place: str, seaweedfs_server: S3Server) -> Store:
    return open_store(place, create=False, endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy())


@pytest.fixture
def line(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in an empty folder."""
    del place
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "100")

    return calling(capsys)


@pytest.fixture
def run(line: Run, tmp_path: Path) -> Run:
    """The same, about a store with three versions of a model that share their weights."""
    for number in (1, 2, 3):
        files = {"config.json": b'{"version": %d}' % number, "model.safetensors": WEIGHTS}
        write_files(tmp_path / f"v{number}", files)
        assert line(f"save {tmp_path}/v{number} org/name@v{number}").code == 0
    return line


def keys_below(store: Store, prefix: str) -> list[str]:
    return [info.key for info in store.scan(prefix)]


def revisions(run: Run) -> list[str]:
    """The versions that are published."""
    return sorted(one["revisions"][0] for one in json.loads(run("ls --json").out)["snapshots"])


OLD_ENOUGH = "--min-age 0s --max-share 100%"


def test_a_table_says_what_would_go_and_nothing_goes(run: Run, store: Store) -> None:
    before = keys_below(store, "")
    outcome = run(f"prune --keep-last 1 {OLD_ENOUGH} --all")
    assert outcome.code == 0
    head, *lines = outcome.out.splitlines()
    assert head.split() == ["MODEL", "PUBLISHED", "LAST", "USED", "SIZE", "FREED", "WHY"]
    assert sorted(line.rstrip().endswith("goes   no rule keeps it") for line in lines) == [False, True, True]
    assert any("stays  in --keep-last" in line for line in lines)
    assert "would drop 2 of 3 snapshots" in outcome.err
    assert "--yes does it" in outcome.err
    assert keys_below(store, "") == before


def test_what_is_dropped_comes_back_and_what_is_pinned_stays(run: Run, store: Store, tmp_path: Path) -> None:
    assert run("pin").err.startswith("nothing is pinned")
    assert run("undelete").err.startswith("nothing lies in the trash")
    pinned = run("pin org/name@v1 --reason 'in the product' --json").json
    assert [one["reason"] for one in pinned["pins"]] == ["in the product"]
    assert "in the product" in run("pin").out

    outcome = run(f"prune --keep-last 1 {OLD_ENOUGH} --yes")
    assert (outcome.code, revisions(run)) == (0, ["v1", "v3"])
    assert "dropped 1 of 3 snapshots" in outcome.err
    assert run("restore org/name@v2 --fail-on-miss --to gone").code == 10

    assert run("undelete").out.startswith("org/name@")
    assert run("undelete org/name@v2").code == 0
    assert run("restore org/name@v2 --fail-on-miss --to back").code == 0
    assert files_in(tmp_path / "work" / "back") == files_in(tmp_path / "v2")
    assert run("undelete org/name@v2").code == 10

    assert run("unpin org/name@v1").code == 0
    assert run("unpin org/name@v1").code == 10
    assert run("pin org/name@none").code in {10, 12}
    assert keys_below(store, keys.PINS) == []


def test_bytes_are_deleted_by_a_second_run_and_all_that_stays_is_proven(run: Run, store: Store, tmp_path: Path) -> None:
    fast = f"{OLD_ENOUGH} --keep-trash 0s --grace 0s --yes --json"
    first = run(f"prune --keep-last 1 {fast}").json
    assert (len(first["dropped"]), first["in_trash"], first["announced"]) == (2, 2, 0)
    blobs = len(keys_below(store, keys.BLOBS))
    last = [run(f"prune {fast}").json for _ in range(3)][-1]
    assert (last["in_trash"], last["announced"], last["waiting"]) == (0, 0, 0)
    assert len(keys_below(store, keys.BLOBS)) == blobs - 2
    assert len(keys_below(store, keys.MANIFESTS)) == 1
    assert run("verify").code == 0
    assert run("restore org/name@v3 --to model").code == 0
    assert files_in(tmp_path / "work" / "model") == files_in(tmp_path / "v3")


def test_a_brake_is_a_wrong_command_line_and_changes_nothing(run: Run, store: Store) -> None:
    before = keys_below(store, "")
    everything = run("prune --max-size 1k --min-age 0s --yes")
    assert (everything.code, "keeps none of the 3 snapshots" in everything.err) == (2, True)
    other = run("prune --store-id another --yes")
    assert (other.code, "should have the id another" in other.err) == (2, True)
    assert "is refused: the policy keeps none" in run("prune --max-size 1k --min-age 0s").err
    assert keys_below(store, "") == before
    assert run("prune --max-size 1k --min-age 0s --max-share 100% --allow-empty --yes").code == 0
    assert keys_below(store, keys.REFS) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--keep-days 0", "--keep-days"),
        ("--keep-last 0", "--keep-last"),
        ("--max-size 5X", "not a size"),
        ("--max-share 20", "not a share"),
        ("--max-share 101%", "not a share"),
        ("--min-age tomorrow", "not a duration"),
        ("--keep-lock missing.lock", "there is no missing.lock"),
        ("--yes --mode read", "writes to the store, and the mode is read"),
        ("--mode off", "the mode is off"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: Run, options: str, said: str) -> None:
    outcome = line(f"prune {options}")
    assert (outcome.code, said in outcome.err) == (2, True), outcome


def test_a_lock_keeps_what_it_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work" / "modelcache.toml").write_text('[[models]]\nrepo = "org/name"\nrevision = "v1"\n')
    assert run("lock").code == 0
    outcome = run(f"prune --keep-last 1 --keep-lock modelcache.lock {OLD_ENOUGH} --yes")
    assert outcome.code == 0
    assert revisions(run) == ["v1", "v3"]


def test_a_restore_from_the_store_notes_the_day_and_one_that_is_complete_does_not(run: Run, store: Store) -> None:
    assert run("restore org/name@v1 --to model").code == 0
    (marker,) = store.scan(keys.ACCESS)
    assert marker.size == 0
    store.delete(marker.key)
    assert run("restore org/name@v1 --to model").code == 0
    assert run("restore org/name@v1 --mode read --to other").code == 0
    assert keys_below(store, keys.ACCESS) == []
    assert run("restore org/name@v1 --to third").code == 0
    (used,) = [one for one in run("prune --json").json["kept"] if one["used"] is not None]
    assert used["used"].startswith(marker.key.rpartition("/")[2][:8])


def test_who_may_only_read_restores_looks_and_changes_nothing(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_below(store, "")
    login(monkeypatch, READER)
    assert run("restore org/name@v1 --to model").code == 0
    assert run(f"prune --keep-last 1 {OLD_ENOUGH}").code == 0
    assert run("du").code == 0
    for line in (f"prune --keep-last 1 {OLD_ENOUGH} --yes", "pin org/name@v1"):
        assert run(line).code == 12, line
    login(monkeypatch)
    assert keys_below(store, "") == before


def test_du_shows_repositories_and_the_whole(run: Run, tmp_path: Path) -> None:
    write_files(tmp_path / "other", {"model.safetensors": WEIGHTS, "more.bin": bytes(5000)})
    assert run(f"save {tmp_path}/other org/other@v1").code == 0
    head, *lines, last = run("du").out.splitlines()
    assert head.split() == ["REPOSITORY", "SNAPSHOTS", "SIZE", "STORED", "ITS", "OWN", "LAST", "USED", "PINNED"]
    assert [line.split()[:2] for line in lines] == [["org/other", "1"], ["org/name", "3"], ["total", "4"]]
    assert "needed, 0 B garbage" in last
    report: dict[str, Any] = run("du --json").json
    other, name = report["repositories"]
    assert (other["stored"], other["own"]) == (len(WEIGHTS) + 5000, 5000)
    assert (name["size"], name["stored"], name["own"]) == (3 * (len(WEIGHTS) + 14), len(WEIGHTS) + 42, 42)
    assert report["stored"] == len(WEIGHTS) + 5042


def test_two_prunes_at_once_end_well(run: Run, store: Store, tmp_path: Path) -> None:
    """As two real processes, twice, with all waiting left out."""
    line = f"prune --keep-last 1 {OLD_ENOUGH} --keep-trash 0s --grace 0s --yes"
    command = [sys.executable, "-m", "ci_modelcache", *shlex.split(line)]
    for _ in range(2):
        both = [subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [each.communicate(timeout=200)[1] for each in both]
        assert [each.returncode for each in both] == [0, 0], said
    assert revisions(run) == ["v3"]
    assert run("verify").code == 0
    assert run("restore org/name@v3 --fail-on-miss --to model").code == 0
    assert files_in(tmp_path / "work" / "model") == files_in(tmp_path / "v3")
    assert len(keys_below(store, keys.REFS)) == 1
