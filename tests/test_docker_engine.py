"""An engine that is not there, not ours, too old or silent: each a failure of its own, within the deadline, with the remedy."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cli.main import main
from ci_modelcache.docker import engine as engines
from ci_modelcache.docker.engine import connect
from ci_modelcache.errors import AccessDenied, BrokenOff, ConfigError, ImageNotFound, Stalled, Unavailable
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.engine_wire import answering, wire
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import Engine

# The SDK leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SLACK = 20
"""Seconds that a busy machine may need besides the deadline."""


@pytest.fixture(autouse=True)
def no_litter() -> Iterator[None]:
    """None of it is collected in the test of somebody else."""
    yield
    gc.collect()


def reached(host: str, *, seconds: float | None = 30) -> str:
    """The address of the engine, once it has answered."""
    return address({"DOCKER_HOST": host}, seconds=seconds)


def address(environ: dict[str, str], *, seconds: float | None = 30) -> str:
    with connect(environ, deadline=Deadline(seconds)) as engine:
        return engine.where


def reply(body: str, *, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_the_engine_that_docker_uses_is_used(engine: Engine) -> None:
    assert reached(engine.host) == f"{engine.host} (DOCKER_HOST)"


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(ConfigError, match="needs the package docker, which is not installed") as caught:
        reached("unix:///nowhere")
    assert caught.value.hint == "pip install 'ci-modelcache[docker]'"


def test_no_socket_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(
        Unavailable, match=r"there is no engine at unix://.*/none \(DOCKER_HOST\): No such file"
    ) as caught:
        reached(f"unix://{tmp_path}/none")
    assert "DOCKER_HOST" in str(caught.value.hint)


def test_a_socket_that_nobody_listens_on_is_no_engine() -> None:
    with answering(None) as host:
        dead = Path(host.removeprefix("unix://"))
        dead.rename(dead.with_name("t"))
        other = f"unix://{dead.with_name('t')}"
    with pytest.raises(Unavailable, match="there is no engine at"):
        reached(other)
    with pytest.raises(Unavailable, match=r"there is no engine at tcp://127\.0\.0\.1:1 .*Connection refused"):
        reached("tcp://127.0.0.1:1")


def test_a_socket_of_others_is_access_denied_and_not_a_missing_engine() -> None:
    with answering(reply("{}")) as host:
        path = Path(host.removeprefix("unix://"))
        with (
            unprivileged(path, mode=0),
            pytest.raises(AccessDenied, match="this user may not use the engine") as caught,
        ):
            reached(host)
    assert "group" in str(caught.value.hint)


@pytest.mark.parametrize("seconds", [2.0, None])
def test_an_engine_that_says_nothing_is_given_up(seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a deadline."""
    monkeypatch.setattr(engines, "SILENCE", 1.0 if seconds is None else 60.0)
    started = time.monotonic()
    with answering(None) as host:
        code = _code(host, seconds)
    assert code == (Stalled.exit_code if seconds is None else 15)
    assert time.monotonic() - started < (seconds or 1.0) + SLACK


def _code(host: str, seconds: float | None) -> int:
    from ci_modelcache.errors import ModelCacheError  # noqa: PLC0415  # for one line

    with pytest.raises(ModelCacheError) as caught:
        reached(host, seconds=seconds)
    assert host in caught.value.message
    return caught.value.exit_code


@pytest.mark.parametrize("version", ["1.12", "1.23", "1.4"])
def test_an_engine_that_is_too_old_is_told_with_both_versions(version: str) -> None:
    with answering(reply(json.dumps({"ApiVersion": version}))) as host, pytest.raises(ConfigError) as caught:
        reached(host)
    assert f"it speaks version {version} of the API, and 1.24 is needed" in caught.value.message
    assert "1.12 or newer" in str(caught.value.hint)


@pytest.mark.parametrize("body", ["{}", "[]", '{"ApiVersion": null}', '{"ApiVersion": "new"}', '"1.41"'])
def test_another_service_is_not_taken_for_an_engine(body: str) -> None:
    with answering(reply(body)) as host, pytest.raises(ConfigError, match="expected the version of an engine, got "):
        reached(host)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", reply("<html>"), reply("{}")[:-1]])
def test_nonsense_in_place_of_an_answer_is_a_failure_of_ours(answer: bytes) -> None:
    with answering(answer) as host, pytest.raises(Unavailable):
        reached(host)


def test_a_refusal_of_the_engine_is_access_denied_and_tells_no_secret() -> None:
    told = json.dumps({"message": "authorization denied by plugin: Bearer abcdef0123456789"})
    with (
        answering(reply(told, status="403 Forbidden")) as host,
        pytest.raises(AccessDenied, match="denied by plugin") as caught,
    ):
        reached(host)
    assert "abcdef" not in caught.value.message


def test_trouble_of_the_engine_is_unavailable() -> None:
    told = json.dumps({"message": "no space left on device"})
    with (
        answering(reply(told, status="500 Internal Server Error")) as host,
        pytest.raises(Unavailable, match="no space"),
    ):
        reached(host)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DOCKER_HOST": "http//x"}, "the settings of docker cannot be used|DOCKER_HOST"),
        ({"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1"}, "the settings of docker cannot be used: "),
        ({"DOCKER_CONTEXT": "elsewhere"}, "DOCKER_CONTEXT names elsewhere, and there is no such context beside"),
    ],
)
def test_settings_of_docker_that_make_no_sense_are_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        address(environ)


def test_credentials_in_the_address_are_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"tcp://\*\*\*@127\.0\.0\.1:1") as caught:
        reached("tcp://me:hunter2secret@127.0.0.1:1")
    assert "hunter2" not in caught.value.message


def test_the_context_of_the_docker_command_is_used(
    engine: Engine, bare_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    (bare_environment / ".docker").mkdir()
    (bare_environment / ".docker" / "config.json").write_text("{}")
    home = {"HOME": str(bare_environment)}
    made = engine.docker("context", "create", "here", "--docker", f"host={engine.host}", env=home)
    assert made.code == 0, made
    where = f"{engine.host} (context here)"
    assert address({"DOCKER_CONTEXT": "here"}) == where
    assert engine.docker("context", "use", "here", env={**home, "DOCKER_HOST": ""}).code == 0
    assert address({}) == where
    assert reached(engine.host) == f"{engine.host} (DOCKER_HOST)"


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_an_image_that_is_not_there_is_a_miss_that_names_docker_pull(
    verb: str, docker_environment: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del docker_environment
    lock = tmp_path / "modelcache.lock"
    lock.write_text("version = 1\nmodels = []\n")
    options = ["--lock-file", str(lock)] if verb == "verify" else []
    assert main(["docker", verb, "nobody/none:v1", *options]) == ImageNotFound.exit_code == 10
    err = capsys.readouterr().err
    assert "has no image nobody/none:v1" in err
    assert "docker pull nobody/none:v1" in err


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "a@sha256:1", "../version"])
def test_a_name_that_no_image_can_have_is_told_as_such_or_as_a_miss(name: str, engine: Engine) -> None:
    with (
        connect({"DOCKER_HOST": engine.host}, deadline=Deadline(30)) as connected,
        pytest.raises((ConfigError, ImageNotFound)),
    ):
        connected.image(name)


def test_an_engine_that_goes_away_in_between_is_unavailable(engine: Engine) -> None:
    with wire(engine.host) as relay, connect({"DOCKER_HOST": relay.host}, deadline=Deadline(30)) as connected:
        relay.kind, relay.having, relay.after = "cut", b"/images/", 5
        with pytest.raises(Unavailable) as caught:
            connected.image("any")
    assert isinstance(caught.value, BrokenOff)


def test_the_same_failures_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    assert main(["docker", "inspect", "any", "--json"]) == 11
    failure = json.loads(capsys.readouterr().out)["error"]
    assert (failure["type"], failure["exit_code"]) == ("Unavailable", 11)
    assert "DOCKER_HOST" in failure["hint"]
    with answering(None) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert main(["docker", "inspect", "any", "--deadline", "2s"]) == 15
