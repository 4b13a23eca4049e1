"""``ci-modelcache auth``, and that no secret leaves a command by any of its ways out."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from tests.parts.token_servers import Asked, Reply, handing_out, jwt, serving_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}
OPAQUE = "looks-like-any-other-word"
"""A token without a mark by which it could be known."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in a folder of its own, with *stdin*; returns exit code, stdout and stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CI_MODELCACHE_STORE", str(tmp_path / "store"))

    def run(line: str, stdin: str = "") -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main(shlex.split(line))
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub with a private repository, which `OPAQUE` may read, and whoever has the first token that is handed out."""
    with LoopbackHub(tokens={OPAQUE: "reader", "issued-1-opaque": "reader"}) as running:
        running.add_repo("org/private", {"main": FILES}, private=True, readers=["reader"])
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def host(url: str) -> str:
    return url.partition("//")[2]


# --- the command


def test_without_tokens_status_says_so_and_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    code, out, err = run("auth status")
    assert (code, err) == (0, "")
    assert out.startswith("no host has a token\n")
    assert not (tmp_path / "state").exists()


def test_a_token_that_was_given_once_is_kept_encrypted_and_used(
    run: Run, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fetch org/private")[0] == 12
    code, out, err = run(f"auth login {host(hub.url)}", f"{OPAQUE}\n")
    assert code == 0
    assert out.startswith(f"{host(hub.url)}: kept, encrypted (AES-256-GCM)")
    assert f"CI_MODELCACHE_TOKENS={host(hub.url)}=keep" in err
    monkeypatch.setenv("CI_MODELCACHE_TOKENS", f"{host(hub.url)}=keep")
    assert run("fetch org/private")[0] == 0
    shown = run("auth status")[1].splitlines()
    assert shown[1].split() == [host(hub.url), "keep", "variable", "CI_MODELCACHE_TOKENS", "-", "encrypted"]
    assert OPAQUE not in out + err + "".join(shown)
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or OPAQUE.encode() not in path.read_bytes(), path


def test_logout_forgets_the_token(run: Run, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_MODELCACHE_TOKENS", f"{host(hub.url)}=keep")
    run(f"auth login {hub.url}", OPAQUE)
    assert run(f"auth logout {hub.url}")[1] == f"{host(hub.url)}: 1 token forgotten\n"
    assert run(f"auth logout {hub.url}")[1] == f"{host(hub.url)}: 0 tokens forgotten\n"
    code, _, err = run("fetch org/private")
    assert code == 2
    assert f"hint: give it once: ci-modelcache auth login {host(hub.url)}" in err


def test_status_says_until_when_and_with_another_key_that_it_cannot_be_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("auth login hub.internal", jwt(exp=4102444800))
    (row,) = json.loads(run("auth status --json")[1])["hosts"]
    assert row == {
        "host": "hub.internal",
        "provider": "keep",
        "origin": "auth login",
        "until": "2100-01-01T00:00:00Z",
        "kept": True,
        "readable": True,
    }
    monkeypatch.setenv("HF_TOKEN", OPAQUE)
    (tmp_path / "state" / "tokens" / "key").unlink()
    lines = run("auth status")[1].splitlines()
    assert lines[1].split() == ["huggingface.co", "***", "variable", "HF_TOKEN", "-", "-"]
    assert lines[2].endswith("with another key")


@pytest.mark.parametrize(
    ("line", "stdin", "message"),
    [
        ("auth login", "x", "login of which host?"),
        ("auth logout", "", "logout of which host?"),
        ("auth login hub.internal", "", "no token was given"),
        ("auth login hub.internal", "two words", "stdin: the access token has a space"),
        ("auth login 'a b'", "x", "not a host: 'a b'"),
        ("auth login hub.internal a-token", "x", "unexpected extra argument"),
        ("auth show", "", "is not one of"),
    ],
)
def test_a_mistake_says_what_to_do(run: Run, line: str, stdin: str, message: str) -> None:
    code, out, err = run(line, stdin)
    assert (code, out) == (2, "")
    assert message in err
    assert "hint: " in err


# --- secrets


class Scene:
    """Every provider at work at once, and what each of them knew that nobody may see."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets = {
            "key": "the-long-lived-key-of-nobody",
            "request": "the-request-token-of-the-runner",
            "id": jwt(sub="this-job", exp=4102444800),
            "file": "what-the-file-holds-here",
            "program": "what-the-program-prints",
            "kept": "what-was-kept-by-login",
            "gitlab": jwt(sub="that-job", exp=4102444800),
            "issued": "issued-1-opaque",
        }
        self.tmp_path = tmp_path
        (tmp_path / "token").write_text(self.secrets["file"])
        (tmp_path / "helper").write_text(f"print({self.secrets['program']!r})")
        self.providers = {
            "env": "env:KEY",
            "file": f"file:{tmp_path / 'token'}",
            "program": f"command:{sys.executable} {tmp_path / 'helper'}",
            "github": "oidc:github?audience=hub",
            "gitlab": "oidc:gitlab?variable=GITLAB_ID",
            "exchange": "exchange:{sts}/token?subject=env:KEY",
            "chain": "exchange:{sts}/token?subject=oidc:github%3Faudience=sts&grant=client-credentials",
            "keep": "keep",
        }
        monkeypatch.setenv("KEY", self.secrets["key"])
        monkeypatch.setenv("GITLAB_ID", self.secrets["gitlab"])
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", self.secrets["request"])

    def seen_in(self, text: str) -> set[str]:
        return {name for name, secret in self.secrets.items() if secret in text}

    def files(self) -> Iterator[tuple[Path, set[str]]]:
        """Every file that the command left, names included, with the secrets in it."""
        for folder in ("state", "store", "work"):
            for path in (self.tmp_path / folder).rglob("*"):
                text = "" if path.is_dir() else path.read_bytes().decode("latin-1")
                yield path, self.seen_in(f"{path} {text}")


def quoting(asked: Asked) -> Reply:
    """A server that tells everybody what it was sent, in every way there is."""
    said = f"{asked.bearer} {' '.join(asked.fields.values())}".strip()
    return Reply({"error": f"denied to {said}", "error_description": said}, 403, {"X-Error-Message": f"no: {said}"})


@pytest.mark.parametrize("provider", ["env", "file", "program", "github", "gitlab", "exchange", "chain", "keep"])
@pytest.mark.parametrize("talker", ["nobody", "the hub", "the token endpoint"])
def test_no_secret_is_in_any_log_report_exception_state_or_stored_object(  # fixtures and what varies
    provider: str, talker: str, run: Run, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, monkeypatch)
    tokens = handing_out() if talker != "the token endpoint" else quoting
    with (
        serving_tokens(tokens) as sts,
        serving_tokens(lambda _: Reply({"value": scene.secrets["id"]})) as github,
        serving_tokens(quoting) as talking,
    ):
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", github.url)
        endpoint = talking.url if talker == "the hub" else hub.url
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        text = scene.providers[provider].format(sts=sts.url)
        monkeypatch.setenv(
            "CI_MODELCACHE_TOKENS",
            shlex.join([f"{host(endpoint)}={text}"]) if " " in text else f"{host(endpoint)}={text}",
        )
        if provider == "keep":
            run(f"auth login {host(endpoint)}", scene.secrets["kept"])
        report = tmp_path / "work" / "report.jsonl"
        outputs = [
            "".join(run(line)[1:])
            for line in (
                f"fetch org/private -vv --report {report}",
                f"restore org/private -vv --json --report {report}",
                "config",
                "auth status --json",
            )
        ]
        sent = " ".join(f"{one.bearer} {one.fields}" for one in (*talking.asked, *sts.asked, *github.asked))
    assert not scene.seen_in("".join(outputs)), "".join(outputs)
    assert [(path, found) for path, found in scene.files() if found] == []
    if talker == "the hub":
        assert scene.seen_in(sent), "the test would prove nothing if no secret had been sent"


def test_a_bug_shows_its_traceback_without_the_tokens_that_were_in_use(
    run: Run, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ci_modelcache.sources import hub as module  # noqa: PLC0415  # only this test breaks it

    def broken(*_arguments: object, **_more: object) -> None:
        msg = f"a bug that names issued-1-opaque and {OPAQUE}"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(module, "parse_answer", broken)
    with serving_tokens(handing_out()) as sts:
        monkeypatch.setenv("KEY", OPAQUE)
        monkeypatch.setenv("CI_MODELCACHE_TOKENS", f"{host(hub.url)}=exchange:{sts.url}/token?subject=env:KEY")
        code, out, err = run("fetch org/private --json")
    assert code == 1
    assert "ZeroDivisionError: a bug that names *** and ***" in err
    assert "issued-1-opaque" not in out + err
    assert OPAQUE not in out + err
