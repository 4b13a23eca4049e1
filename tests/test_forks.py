"""What a job that gets no secrets does with a store, and what one does whose secrets are refused."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from tests.parts.servers import BUCKET, READER, S3Server, login, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}
STORE = f"s3://{BUCKET}/forks"
EVERYBODY = {"name": "anonymous", "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"]}


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store that everybody may read."""
    with seaweedfs(tmp_path_factory.mktemp("public") / "s3", identities=[EVERYBODY]) as server:
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": FILES})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a command line as a step of a job of *event* on *server*; returns its exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    def run(line: str, server: S3Server, event: str = "pull_request") -> tuple[int, str]:
        monkeypatch.setenv("GITHUB_EVENT_NAME", event)
        capsys.readouterr()
        code = main([*shlex.split(line), "--store", STORE, "--endpoint-url", server.endpoint])
        return code, capsys.readouterr().err

    return run


def fill(job: Any, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch)
    assert job("fetch org/name", server, "push")[0] == 0
    logout(monkeypatch)


def logout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)


def test_a_fork_reads_a_public_store_without_credentials(
    job: Any, hub: LoopbackHub, public: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job, public, monkeypatch)
    asked = len(hub.requests())
    code, log = job("restore org/name --to model", public)
    assert code == 0
    assert "restored from s3://" in log
    assert "warning" not in log
    assert len(hub.requests()) == asked


@pytest.mark.parametrize("mode", ["auto", "read"])
def test_a_fork_goes_on_without_a_store_that_it_may_not_read_and_says_so_once(
    mode: str, job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(job, seaweedfs_server, monkeypatch)
    del hub
    code, log = job(f"restore org/name --to model --mode {mode}", seaweedfs_server)
    assert code == 0
    assert (tmp_path / "model/model.safetensors").read_bytes() == FILES["model.safetensors"]
    warnings = [line for line in log.splitlines() if line.startswith("::warning ")]
    assert len(warnings) == 1
    assert "may not be read without credentials, and this job has none: it goes on without the store" in warnings[0]


def test_a_fork_that_may_ask_nobody_else_has_a_miss(
    job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job, seaweedfs_server, monkeypatch)
    del hub
    assert job("restore org/name --fail-on-miss", seaweedfs_server)[0] == 10


@pytest.mark.parametrize(
    ("event", "more"), [("push", ""), ("push", " --mode read"), ("pull_request", " --mode read-write")]
)
def test_a_job_that_is_expected_to_have_credentials_is_denied_without(
    event: str, more: str, job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job, seaweedfs_server, monkeypatch)
    del hub
    code, log = job(f"restore org/name{more}", seaweedfs_server, event)
    assert code == 12
    assert "AWS_ACCESS_KEY_ID" in log


def test_credentials_that_are_refused_are_an_error_in_a_pull_request_too(
    job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub
    login(monkeypatch, ("AKIDTESTNOBODY000001", "secret-of-nobody-at-all"))
    code, log = job("restore org/name", seaweedfs_server)
    assert code == 12
    assert "secret-of-nobody-at-all" not in log


def test_a_pull_request_with_reading_credentials_is_a_hit_and_writes_nothing(
    job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job, seaweedfs_server, monkeypatch)
    login(monkeypatch, READER)
    asked = len(hub.requests())
    code, log = job("restore org/name --to model", seaweedfs_server)
    assert code == 0
    assert "restored from s3://" in log
    assert "warning" not in log
    assert len(hub.requests()) == asked


def test_a_push_with_reading_credentials_restores_and_warns_that_nothing_was_saved(
    job: Any, hub: LoopbackHub, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/new", {"main": {"config.json": b"new"}})
    login(monkeypatch, READER)
    code, log = job("restore org/new --to model", seaweedfs_server, "push")
    assert code == 0
    assert "was restored but not saved" in log
