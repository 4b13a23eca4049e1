"""`warm`: what jobs will need is in the store before they do; as locked, in its hours, and whatever becomes of one model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cli.main import main
from ci_modelcache.model.lock import Lock
from ci_modelcache.stores.directory import DirectoryStore
from tests.parts.cached import cache_in, publish
from tests.parts.command_line import Outcome
from tests.parts.documents import ROOT
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import Flipped, Limited, naming
from tests.parts.snapshots import manifest_of
from tests.parts.verbs import REPO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub

SIZE = sum(map(len, TINY.values()))
NEXT = {"config.json": b'{"next": 1}'}


@pytest.fixture
def run(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command line in an empty project, with a Hub and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("CI_MODELCACHE_STORE", str(tmp_path / "store"))

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(list(arguments))
        return Outcome(code, *capsys.readouterr())

    return run


def project(folder: Path, *models: str) -> None:
    """A modelcache.toml that names *models*."""
    (folder / "modelcache.toml").write_text("".join(f'[[models]]\nrepo = "{model}"\n' for model in models))


def hours(begin: float, end: float) -> str:
    """The window from so many hours after now until so many."""
    now = datetime.now(UTC)
    return "-".join(f"{now + timedelta(hours=each):%H:%M}" for each in (begin, end))


# --- what is warmed


def test_the_named_models_are_in_the_store_and_the_second_time_there_is_nothing_to_do(
    run: Any, hub: LoopbackHub
) -> None:
    first = run("warm", REPO, "--json")
    assert first.code == 0
    assert (first.json["result"], first.json["reason"]) == ("miss", "")
    (snapshot,) = first.json["snapshots"]
    assert (snapshot["result"], snapshot["bytes_downloaded"], snapshot["anchor"]) == ("miss", SIZE, "authority")
    hub.forget()
    again = run("warm", REPO)
    assert (again.code, again.out) == (0, f"{REPO}@{snapshot['commit']}\n")
    assert "in the store already" in again.err
    assert hub.sent == 0
    assert run("restore", REPO, "--to", "model", "--offline").code == 0


def test_without_a_lock_the_models_of_the_project_are_taken_as_their_branches_are_now(
    run: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    other = hub.add_repo("acme/other", {"main": {"config.json": b"{}"}})
    project(tmp_path, REPO, "acme/other")
    assert run("warm").code == 0
    other.commit(NEXT)
    outcome = run("warm", "--json")
    assert [each["result"] for each in outcome.json["snapshots"]] == ["hit", "miss"]
    assert outcome.json["snapshots"][1]["commit"] == other.branches["main"]
    assert outcome.json["result"] == "miss"


def test_with_a_lock_exactly_what_it_says_is_taken_and_the_hub_is_asked_for_bytes_alone(
    run: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    other = hub.add_repo("acme/other", {"main": {"config.json": b"{}", "a.safetensors": b"weights"}})
    project(tmp_path, "acme/other")
    assert run("lock", "--store", str(tmp_path / "elsewhere")).code == 0
    locked = Lock.from_toml((tmp_path / "modelcache.lock").read_text(), where="lock").models[0]
    other.commit(NEXT)
    hub.forget()
    outcome = run("warm", "--json")
    (snapshot,) = outcome.json["snapshots"]
    assert (snapshot["commit"], snapshot["manifest"], snapshot["anchor"]) == (
        locked.commit,
        locked.manifest.hex,
        "lock",
    )
    assert hub.requests(within="/api/") == []
    hub.forget()
    assert run("warm", "--json").json["result"] == "hit"
    assert hub.requests() == []
    assert run("restore", "--to", "model", "--offline").code == 0
    assert run("warm", "--no-locked", "--json").json["snapshots"][0]["commit"] == other.branches["main"]


def test_a_store_that_holds_something_else_than_the_lock_says_is_no_success(
    run: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add_repo("acme/other", {"main": {"config.json": b"{}"}})
    project(tmp_path, "acme/other")
    assert run("lock", "--store", str(tmp_path / "elsewhere")).code == 0
    locked = Lock.from_toml((tmp_path / "modelcache.lock").read_text(), where="lock").models[0]
    contents = {"config.json": b"lies"}
    lie = evolve(manifest_of(contents), host=locked.host, repo=locked.repo, commit=locked.commit)
    publish(cache_in(DirectoryStore(tmp_path / "store", create=True)), lie, contents)
    outcome = run("warm")
    assert outcome.code == 13
    assert locked.manifest.hex in outcome.err


def test_a_lock_that_does_not_match_the_project_is_refused(run: Any, tmp_path: Path) -> None:
    project(tmp_path, REPO)
    assert run("lock").code == 0
    project(tmp_path, REPO, "acme/other")
    assert run("warm").code == 2


# --- failures


def test_a_model_that_fails_stops_no_other_and_the_first_failure_is_that_of_the_command(
    run: Any, hub: LoopbackHub
) -> None:
    hub.add_repo("acme/secret", {"main": NEXT}, private=True, gated=True, readers=["reader"])
    hub.add_repo("acme/last", {"main": NEXT})
    outcome = run("warm", f"{REPO}@none", REPO, "acme/secret", "acme/last")
    assert outcome.code == 10
    assert f"{REPO}@none failed; 2 of 4 models are in the store" in outcome.err
    assert "and acme/secret@main: " in outcome.err
    for name in (REPO, "acme/last"):
        assert run("restore", name, "--to", f"to/{name}", "--offline").code == 0


def test_the_failure_is_the_one_object_of_json(run: Any) -> None:
    outcome = run("warm", "acme/none", REPO, "--json")
    assert outcome.json["error"]["exit_code"] == outcome.code != 0
    assert "1 of 2 models are in the store" in outcome.json["error"]["message"]


def test_after_a_failure_the_next_run_does_not_wait_for_the_one_that_failed(run: Any, hub: LoopbackHub) -> None:
    hub.faults.append(Flipped(at=0, when=naming("config.json")))
    assert run("warm", REPO).code == 13
    hub.faults.clear()
    outcome = run("warm", REPO)
    assert outcome.code == 0
    assert "another job" not in outcome.err


# --- hours


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_outside_of_the_window_nothing_is_done_and_that_is_said(
    run: Any, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    window = hours(2, 3)
    if way == "variable":
        monkeypatch.setenv("CI_MODELCACHE_WINDOW", window)
    arguments = ["--window", window] if way == "flag" else []
    outcome = run("warm", REPO, "--json", *arguments)
    assert outcome.code == 0
    assert (outcome.json["result"], outcome.json["snapshots"]) == ("skipped", [])
    assert f"UTC is outside of the window {window} UTC" in outcome.json["reason"]
    assert f"nothing was done: {outcome.json['reason']}\n" in outcome.err
    assert hub.requests() == []
    assert not (tmp_path / "store").exists()


def test_inside_of_the_window_it_is_done(run: Any) -> None:
    assert run("warm", REPO, "--window", hours(-1, 1), "--json").json["result"] == "miss"


def test_an_empty_variable_is_no_window_and_a_wrong_one_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_MODELCACHE_WINDOW", "")
    assert run("warm", REPO).code == 0
    outcome = run("warm", REPO, "--window", "at night")
    assert outcome.code == 2
    assert "22:00-06:00" in outcome.err


def test_the_end_of_the_window_ends_the_work_and_the_next_run_goes_on(
    run: Any, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci_modelcache.cli.warm._now", lambda: datetime(2026, 11, 21, 5, 59, 56, tzinfo=UTC))
    hub.faults.append(Limited(rate=30e3, when=naming(hashlib.sha256(WEIGHTS).hexdigest())))
    outcome = run("warm", REPO, "acme/other", "--window", "22:00-06:00")
    assert outcome.code == 15
    assert "the window 22:00-06:00 UTC passed while " in outcome.err
    assert "the deadline" not in outcome.err
    hub.faults.clear()
    hub.forget()
    assert run("warm", REPO, "--window", "22:00-06:00", "--deadline", "1h").code == 0
    assert len(WEIGHTS) <= hub.sent <= SIZE - len(WEIGHTS)  # not the other large file


def test_a_deadline_that_is_sooner_than_the_end_of_the_window_counts(run: Any, hub: LoopbackHub) -> None:
    hub.faults.append(Limited(rate=30e3, when=naming("/cdn/")))
    outcome = run("warm", REPO, "--window", hours(-1, 1), "--deadline", "3s")
    assert outcome.code == 15
    assert "the deadline of 3s" in outcome.err


# --- who may write


@pytest.mark.parametrize(
    "variables",
    [
        {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "pull_request"},
        {"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "merge_request_event"},
    ],
)
def test_a_job_that_only_reads_says_so_and_does_nothing(
    run: Any, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CI_MODELCACHE_CI", "off")
    outcome = run("warm", REPO, "--json")
    assert (outcome.code, outcome.json["result"]) == (0, "skipped")
    assert "only reads" in outcome.json["reason"]
    assert hub.requests() == []
    assert not (tmp_path / "store").exists()


def test_with_a_mode_that_forbids_it_warm_is_an_error(run: Any) -> None:
    for mode in ("read", "off"):
        outcome = run("warm", REPO, "--mode", mode)
        assert outcome.code == 2
        assert "--mode read-write" in outcome.err


# --- several at a time


@pytest.mark.timeout(300)
def test_two_that_warm_the_same_at_one_moment_fetch_it_once(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.append(Limited(rate=200e3, when=naming("/cdn/")))
    line = ["warm", REPO, "--store", str(tmp_path / "store"), "--endpoint", hub.url, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.parts.hurried", "30", "2", *line],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.stdout.split() == ["0", "0"], done.stderr
    results = [json.loads((tmp_path / f"{number}.out").read_text())["result"] for number in range(2)]
    assert sorted(results) == ["hit", "miss"]
    assert hub.sent == SIZE
