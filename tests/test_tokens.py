"""Where tokens come from, when they are asked for, and what becomes of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    Misanswer,
    ModelCacheError,
    RateLimited,
    Unavailable,
)
from ci_modelcache.sources.http import Content, Credential, HttpSession
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.token import StaticToken, Token
from ci_modelcache.sources.tokens.issued import ASSUMED, Issued
from ci_modelcache.sources.tokens.parse import Means, given_source, provider_named, token_source
from ci_modelcache.sources.tokens.vault import Memory, open_vault
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.events import Event, TokenAsked
from tests.parts.clocks import Clock
from tests.parts.token_servers import Asked, Reply, TokenServer, handing_out, jwt, serving_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.sources.token import TokenSource
    from ci_modelcache.sources.tokens.vault import Vault

HOST = "hub.internal"
KEY = "long-lived-key-of-nobody"


class Events:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[TokenAsked] = []

    def record(self, event: Event, /) -> None:
        assert isinstance(event, TokenAsked)
        self.told.append(event)

    @property
    def causes(self) -> list[str]:
        return [event.cause for event in self.told]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def means(tmp_path: Path, clock: Clock, events: Events) -> Iterator[Means]:
    """With a clock of its own, a vault in a folder, and `KEY` in the variable KEY."""
    with HttpSession(now=clock) as session:
        vault = open_vault(tmp_path / "tokens", now=clock, keyring=lambda: None)
        environ = {"KEY": KEY}
        yield Means(session, lambda: vault, tmp_path / "locks", environ=environ, folder=tmp_path, events=events)


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """A token endpoint that hands out a new token, good for an hour, each time."""
    with serving_tokens(handing_out()) as running:
        yield running


def exchange(server: TokenServer, means: Means, options: str = "", subject: str = "env:KEY") -> TokenSource:
    return token_source(f"exchange:{server.url}/token?subject={subject}{options}", host=HOST, means=means)


def ask(source: TokenSource, seconds: float = 20) -> str:
    return source.token(deadline=Deadline(seconds)).secret


# --- providers on this machine


def test_a_variable_is_read_and_an_unset_one_says_so(means: Means, events: Events) -> None:
    assert ask(token_source("env:KEY", host=HOST, means=means)) == KEY
    with pytest.raises(ConfigError, match=r"^env:NONE: the variable NONE is not set$"):
        ask(token_source("env:NONE", host=HOST, means=means))
    assert events.causes == ["ok", "other"]


def test_a_token_that_was_given_is_given_on_and_never_replaced(means: Means) -> None:
    source = given_source(Token(KEY), host=HOST, origin="variable X", means=means)
    assert ask(source) == KEY
    assert not source.forget(Token(KEY))


def test_a_file_is_read_again_when_it_was_changed(means: Means, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first-of-the-file\n")
    source = token_source("file:token", host=HOST, means=means)
    assert ask(source) == "first-of-the-file"
    assert not source.forget(Token("first-of-the-file"))
    (tmp_path / "token").write_text("second-of-the-file\n")
    assert source.forget(Token("first-of-the-file"))
    assert ask(source) == "second-of-the-file"
    assert {"first-of-the-file", "second-of-the-file"} <= set(means.session.secrets)


def test_a_file_that_is_missing_or_holds_more_than_a_token_says_so(means: Means, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^file:.*/none: cannot be read: No such file"):
        ask(token_source("file:none", host=HOST, means=means))
    (tmp_path / "two").write_text("one token\nand another")
    with pytest.raises(ConfigError, match="has a space") as caught:
        ask(token_source("file:two", host=HOST, means=means))
    assert "another" not in str(caught.value)


def command(tmp_path: Path, code: str) -> str:
    """A provider text that runs Python *code*, which says in the file ``runs`` that it ran."""
    script = tmp_path / "helper.py"
    script.write_text(f"import sys, time, os\nopen({str(tmp_path / 'runs')!r}, 'a').write('x')\n{code}")
    return f"command:{sys.executable} {script} 'an argument' $HOME"


def test_a_program_is_run_without_a_shell_and_its_token_is_used_for_a_while(
    means: Means, tmp_path: Path, clock: Clock
) -> None:
    source = token_source(
        command(tmp_path, "print(sys.argv[1].replace(' ', '-') + sys.argv[2])"), host=HOST, means=means
    )
    assert [ask(source), ask(source)] == ["an-argument$HOME"] * 2
    assert (tmp_path / "runs").read_text() == "x"
    clock.now += ASSUMED
    ask(source)
    assert (tmp_path / "runs").read_text() == "xx"
    assert not list(tmp_path.glob("tokens/*.token")), "nobody knows how long it is good"


def test_a_program_may_print_what_a_token_endpoint_would(means: Means, tmp_path: Path, clock: Clock) -> None:
    code = """print('{"access_token": "from-json", "expires_in": 7200}')"""
    provider = provider_named(command(tmp_path, code), host=HOST, means=means)
    assert provider.issue(deadline=Deadline(20)) == Issued(Token("from-json"), clock.now, clock.now + 7200)


@pytest.mark.parametrize(("code", "kind"), [(1, AccessDenied), (75, Unavailable)])
def test_a_program_that_fails_is_quoted_without_its_token(
    means: Means, tmp_path: Path, code: int, kind: type[ModelCacheError]
) -> None:
    text = f"print('no-mark-at-all'); sys.stderr.write('denied: no-mark-at-all\\n'); sys.exit({code})"
    with pytest.raises(kind, match=rf"ended with exit code {code}: denied: \*\*\*$") as caught:
        ask(token_source(command(tmp_path, text), host=HOST, means=means))
    assert "an argument" not in str(caught.value)


def test_a_program_that_printed_a_page_before_it_failed_hides_no_ordinary_words(means: Means, tmp_path: Path) -> None:
    text = (
        "print(' '.join(f'ordinary{number}' for number in range(30_000)), 'no-mark-at-all-' * 2)\n"
        f"sys.stderr.write('denied: ordinary7 {'no-mark-at-all-' * 2}'); sys.exit(1)"
    )
    with pytest.raises(AccessDenied, match=r"denied: ordinary7 \*\*\*$"):
        ask(token_source(command(tmp_path, text), host=HOST, means=means))
    assert len(list(means.session.secrets)) < 100


def test_a_program_that_hangs_is_ended_with_what_it_started(means: Means, tmp_path: Path) -> None:
    code = "import subprocess\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    source = token_source(command(tmp_path, code), host=HOST, means=means)
    began = time.monotonic()
    with pytest.raises((DeadlineExceeded, Unavailable)):
        ask(source, seconds=1)
    assert time.monotonic() - began < 60


def test_a_program_that_does_not_exist_says_so(means: Means) -> None:
    with pytest.raises(ConfigError, match="cannot be run: No such file"):
        ask(token_source("command:/no/such/program", host=HOST, means=means))


# --- ID tokens of CI systems


def test_the_id_token_of_github_is_asked_for_with_its_audience(means: Means, clock: Clock) -> None:
    token = jwt(exp=clock.now + 600)
    with serving_tokens(lambda _: Reply({"count": 1, "value": token})) as github:
        environ = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{github.url}/idtoken?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token-of-the-runner",
        }
        source = token_source("oidc:github?audience=a b/c", host=HOST, means=evolve(means, environ=environ))
        assert [ask(source), ask(source)] == [token] * 2
        (asked,) = github.asked
    assert asked.query == {"api-version": "2.0", "audience": "a b/c"}
    assert asked.bearer == "request-token-of-the-runner"
    assert {token, "request-token-of-the-runner"} <= set(means.session.secrets)


def test_without_the_permission_there_is_no_id_token_and_the_hint_names_it(means: Means) -> None:
    with pytest.raises(ConfigError, match="ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set") as caught:
        ask(token_source("oidc:github", host=HOST, means=means))
    assert "id-token: write" in str(caught.value.hint)


def test_an_answer_from_where_a_redirect_led_is_no_token(means: Means) -> None:
    with (
        serving_tokens(handing_out()) as other,
        serving_tokens(lambda _: Reply(status=302, headers={"Location": f"{other.url}/x"})) as github,
    ):
        environ = {"ACTIONS_ID_TOKEN_REQUEST_URL": github.url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token"}
        with pytest.raises(Misanswer, match="not believed about tokens"):
            ask(token_source("oidc:github", host=HOST, means=evolve(means, environ=environ)))
        assert other.asked[0].bearer == ""


def test_gitlab_puts_its_id_token_into_a_variable_and_one_that_ended_is_not_sent(means: Means, clock: Clock) -> None:
    given = evolve(means, environ={"HUB_ID": jwt(exp=clock.now + 60)})
    source = token_source("oidc:gitlab?variable=HUB_ID", host=HOST, means=given)
    assert ask(source) == given.environ["HUB_ID"]
    clock.now += 90
    with pytest.raises(AccessDenied, match="ended 30 s ago"):
        ask(source)
    with pytest.raises(ConfigError, match="the variable OTHER is not set"):
        ask(token_source("oidc:gitlab?variable=OTHER", host=HOST, means=given))


# --- token endpoints


def test_an_id_token_is_exchanged_as_the_standard_says(means: Means, server: TokenServer) -> None:
    subject = jwt(sub="job")
    given = evolve(means, environ={"ID": subject})
    assert ask(exchange(server, given, "&audience=hub&scope=read", "oidc:gitlab?variable=ID")) == "issued-1-opaque"
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/token")
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.fields == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": subject,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": "hub",
        "scope": "read",
    }


@pytest.mark.parametrize(
    ("options", "method", "bearer", "fields"),
    [
        (
            "&grant=client-credentials&client_id=ci",
            "POST",
            "",
            {"grant_type": "client_credentials", "client_secret": KEY, "client_id": "ci"},
        ),
        ("&grant=bearer&body=json&scope=read", "POST", KEY, {"scope": "read"}),
        ("&grant=hub", "GET", KEY, {}),
        (
            "&type=id_token",
            "POST",
            "",
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": KEY,
                "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            },
        ),
    ],
)
def test_a_key_is_traded_in_the_ways_that_endpoints_know(  # what goes in and what is seen
    means: Means, server: TokenServer, options: str, method: str, bearer: str, fields: dict[str, str]
) -> None:
    assert ask(exchange(server, means, options)) == "issued-1-opaque"
    (asked,) = server.asked
    assert (asked.method, asked.bearer, asked.fields) == (method, bearer, fields)


@pytest.mark.parametrize(
    ("body", "lasts"),
    [
        ({"accessToken": "t", "exp": 1600, "casUrl": "x"}, 600),
        ({"token": "t", "expires_in": "90"}, 90),
        ({"access_token": "t", "expires_at": "1970-01-01T01:00:00Z"}, 2600),
        ({"access_token": "t", "expires_at": "9999-12-31T23:59:59-23:59"}, 366 * 86400),
        ({"access_token": "t", "expires_in": 1e308}, 366 * 86400),
        ({"access_token": "t", "expires_in": "NaN"}, None),
        ({"access_token": "t", "expires_at": "1970-01-01T01:00:00"}, None),
        ({"access_token": "t"}, None),
        ({"access_token": jwt(exp=1900)}, 900),
    ],
)
def test_the_end_of_a_token_is_told_in_several_ways(
    means: Means, server: TokenServer, clock: Clock, body: dict[str, object], lasts: float | None
) -> None:
    server.answer = lambda _: Reply(body)
    text = f"exchange:{server.url}/token?subject=env:KEY"
    issued = provider_named(text, host=HOST, means=means).issue(deadline=Deadline(20))
    assert issued.until == (None if lasts is None else clock.now + lasts)


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (
            Reply({"error": "invalid_grant", "error_description": f"bad {KEY}"}, 400),
            AccessDenied,
            r"invalid_grant: bad \*\*\*",
        ),
        (Reply({"error": "x"}, 401), AccessDenied, "answered 401: x"),
        (Reply({}, 404), ConfigError, "answered 404"),
        (Reply({}, 429, {"Retry-After": "7"}), RateLimited, "answered 429"),
        (Reply(b"<html>", 503), Unavailable, "answered 503"),
        (Reply(b"<html>"), Misanswer, "expected a token, got no JSON"),
        (Reply({"ok": True}), Misanswer, "expected a token, got JSON without access_token"),
        (Reply({"access_token": "a b"}), ConfigError, "has a space"),
        (Reply({"access_token": "t", "expires_in": 0}), Misanswer, "ended 0 s ago"),
        (Reply({}, 307, {"Location": "/elsewhere"}), Misanswer, "answered 307, a redirect"),
    ],
)
def test_each_failure_of_an_endpoint_is_named_and_quotes_no_secret(  # what goes in and what is seen
    means: Means, server: TokenServer, events: Events, reply: Reply, kind: type[ModelCacheError], message: str
) -> None:
    server.answer = lambda _: reply
    with pytest.raises(kind, match=message) as caught:
        ask(exchange(server, means))
    assert type(caught.value) is kind
    assert server.url in str(caught.value)
    assert KEY not in f"{caught.value} {caught.value.hint} {events.told}"
    assert events.causes[0] != "ok"
    assert len(server.asked) == 1


def test_a_token_that_was_created_is_a_token(means: Means, server: TokenServer) -> None:
    """GitHub answers 201 to who asks for the token of an installation (REST API, apps)."""
    server.answer = lambda _: Reply({"token": "t-of-app", "expires_at": "1970-01-01T01:00:00Z"}, 201)
    assert ask(exchange(server, means, "&grant=bearer")) == "t-of-app"


# --- asked for rarely, early and once


def test_a_hundred_callers_cost_one_exchange(means: Means, server: TokenServer, events: Events) -> None:
    hand_out = server.answer

    def slowly(asked: Asked) -> Reply:
        time.sleep(0.2)
        return hand_out(asked)

    server.answer = slowly
    source, got = exchange(server, means), []
    together = threading.Barrier(100)

    def caller() -> None:
        together.wait(30)
        got.append(ask(source))

    _in_threads(caller, 100)
    assert got == ["issued-1-opaque"] * 100
    assert len(server.asked) == 1
    assert events.causes == ["ok"]


def test_those_who_waited_for_a_failure_share_it(means: Means, server: TokenServer) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def refuse(_asked: Asked) -> Reply:
        reached.set()
        go_on.wait(30)
        return Reply({"error": "invalid_client"}, 401)

    server.answer = refuse
    source, failed = exchange(server, means), []

    def caller() -> None:
        try:
            ask(source)
        except AccessDenied as error:
            failed.append(error)

    threads = [threading.Thread(target=caller) for _ in range(20)]
    threads[0].start()
    assert reached.wait(30)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.3)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(failed) == 20
    assert len(server.asked) == 1
    with pytest.raises(AccessDenied):
        ask(source)
    assert len(server.asked) == 2, "who comes later asks again"


def test_who_waits_for_a_token_keeps_to_his_deadline(means: Means, server: TokenServer) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stall(_asked: Asked) -> Reply:
        reached.set()
        go_on.wait(30)
        return Reply({"access_token": "t"})

    server.answer = stall
    source = exchange(server, means)
    first = threading.Thread(target=lambda: ask(source))
    first.start()
    assert reached.wait(30)
    with pytest.raises(DeadlineExceeded, match=r"waiting for the token for hub\.internal"):
        ask(source, seconds=0.2)
    go_on.set()
    first.join(30)


def test_a_process_that_was_stopped_while_it_asked_stops_nobody_else(
    means: Means, server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci_modelcache.sources.tokens.cached.PATIENCE", 0.2)
    reached, go_on, hand_out = threading.Event(), threading.Event(), server.answer

    def stall(asked: Asked) -> Reply:
        if not reached.is_set():
            reached.set()
            go_on.wait(30)
        return hand_out(asked)

    server.answer = stall
    text = f"exchange:{server.url}/token?subject=env:KEY"
    arguments = [sys.executable, "-c", PROCESS, str(tmp_path), text, KEY]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert reached.wait(30)
        process.send_signal(signal.SIGSTOP)
        assert ask(token_source(text, host=HOST, means=means)) == "issued-1-opaque"
        process.send_signal(signal.SIGCONT)
        go_on.set()
        assert process.communicate(timeout=30)[0].split()[-1] == "issued-2-opaque"


PROCESS = """
import sys
from pathlib import Path
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.tokens.parse import Means, token_source
from ci_modelcache.sources.tokens.vault import open_vault
from ci_modelcache.transfer.deadline import Deadline
state, text = Path(sys.argv[1]), sys.argv[2]
means = Means(HttpSession(), lambda: open_vault(state, keyring=lambda: None), state / "locks", environ={"KEY": sys.argv[3]})
print("ready", flush=True)
sys.stdin.readline()
print(token_source(text, host="hub.internal", means=means).token(deadline=Deadline(60)).secret)
"""


def test_several_processes_cost_one_exchange_and_another_job_costs_its_own(tmp_path: Path, server: TokenServer) -> None:
    hand_out = server.answer

    def slowly(asked: Asked) -> Reply:
        time.sleep(0.5)
        return hand_out(asked)

    server.answer = slowly
    text = f"exchange:{server.url}/token?subject=env:KEY"

    def start(key: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", PROCESS, str(tmp_path / "state"), text, key]
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    processes = [start("one-key-here"), start("one-key-here"), start("other-key-here")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    first, second, other = (process.communicate("\n", timeout=60)[0] for process in _released(processes))
    assert first == second != other
    assert len(server.asked) == 2


def _released(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """*processes*, all of them told to go on before the first is waited for."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def test_a_token_that_ended_is_replaced(means: Means, server: TokenServer, clock: Clock) -> None:
    source = exchange(server, means)
    ask(source)
    clock.now += 3601
    assert ask(source) == "issued-2-opaque"


@pytest.mark.parametrize(("seconds", "before", "after"), [(3600, 3299, 3301), (100, 79, 81)])
def test_a_token_is_renewed_five_minutes_before_its_end_or_after_four_fifths_of_its_time(  # times
    means: Means, server: TokenServer, clock: Clock, seconds: float, before: float, after: float
) -> None:
    server.answer = handing_out(seconds=seconds)
    source, began = exchange(server, means), clock.now
    ask(source)
    clock.now = began + before
    assert ask(source) == "issued-1-opaque"
    clock.now = began + after
    assert ask(source) == "issued-2-opaque"


def test_while_one_renews_the_others_use_the_old_token_without_waiting(
    means: Means, server: TokenServer, clock: Clock
) -> None:
    source, hand_out = exchange(server, means), server.answer
    ask(source)
    reached, go_on = threading.Event(), threading.Event()

    def stall(asked: Asked) -> Reply:
        reached.set()
        go_on.wait(30)
        return hand_out(asked)

    server.answer = stall
    clock.now += 3400
    renewing = threading.Thread(target=lambda: ask(source))
    renewing.start()
    assert reached.wait(30)
    assert ask(source) == "issued-1-opaque"
    go_on.set()
    renewing.join(30)
    assert ask(source) == "issued-2-opaque"


def test_a_token_that_cannot_be_renewed_is_used_until_its_end(
    means: Means, server: TokenServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = exchange(server, means)
    ask(source)
    server.answer = lambda _: Reply({}, 503)
    clock.now += 3400
    assert [ask(source) for _ in range(5)] == ["issued-1-opaque"] * 5
    assert len(server.asked) == 2, "not once more with every request"
    assert "could not be renewed" in caplog.text
    clock.now += 200
    with pytest.raises(Unavailable):
        ask(source)


def test_a_later_run_finds_the_token_of_an_earlier_one(means: Means, server: TokenServer, events: Events) -> None:
    ask(exchange(server, means))
    assert ask(exchange(server, means)) == "issued-1-opaque"
    assert events.causes == ["ok", "cached"]
    assert "issued-1-opaque" in set(means.session.secrets)


def test_without_a_vault_each_run_asks_for_itself(means: Means, server: TokenServer, tmp_path: Path) -> None:
    memory: Vault = Memory()
    given = evolve(means, vault=lambda: memory)
    assert [ask(exchange(server, given)), ask(exchange(server, given))] == ["issued-1-opaque", "issued-2-opaque"]
    assert not (tmp_path / "tokens").exists()


# --- refused tokens


def wanting(token: Callable[[], str]) -> Callable[[Asked], Reply]:
    """Answers 401 to everybody without that token."""
    return lambda asked: Reply({}) if asked.bearer == token() else Reply({}, 401)


def get(means: Means, server: TokenServer, source: TokenSource) -> int:
    credential = Credential(source, Origin.of(server.url))
    with means.session.ask(f"{server.url}/x", doing="asking", deadline=Deadline(20), credential=credential) as answer:
        return answer.status


def test_a_refused_token_is_replaced_once_also_on_the_disk(means: Means, server: TokenServer, clock: Clock) -> None:
    source = exchange(server, means)
    with serving_tokens(wanting(lambda: "issued-2-opaque")) as hub:
        ask(source)
        clock.now += 60
        assert get(means, hub, source) == 200
        assert [asked.bearer for asked in hub.asked] == ["issued-1-opaque", "issued-2-opaque"]
        assert get(means, hub, exchange(server, means)) == 200
    assert len(server.asked) == 2


def test_a_token_of_before_the_clock_was_set_back_is_not_taken_for_a_new_one(
    means: Means, server: TokenServer, clock: Clock
) -> None:
    source = exchange(server, means)
    with serving_tokens(wanting(lambda: "issued-2-opaque")) as hub:
        ask(source)
        clock.now -= 900
        assert get(means, hub, source) == 200
    assert len(server.asked) == 2


def test_a_new_token_that_is_refused_too_is_the_end_of_it(means: Means, server: TokenServer, clock: Clock) -> None:
    source = exchange(server, means)
    with serving_tokens(wanting(lambda: "never")) as hub:
        ask(source)
        clock.now += 60
        assert get(means, hub, source) == 401
        assert len(hub.asked) == 2
        assert get(means, hub, StaticToken(Token("static-token"))) == 401
        assert len(hub.asked) == 3


def test_a_token_that_is_refused_while_new_is_not_replaced_at_once(means: Means, server: TokenServer) -> None:
    source = exchange(server, means)
    with serving_tokens(wanting(lambda: "never")) as hub:
        assert get(means, hub, source) == 401
        assert (len(hub.asked), len(server.asked)) == (1, 1)
        get(means, hub, source)
    assert len(server.asked) == 2, "the refused one is not kept either"


def test_a_token_goes_to_its_own_origin_only_and_none_is_asked_for_elsewhere(means: Means, server: TokenServer) -> None:
    source = exchange(server, means)
    with serving_tokens(lambda _: Reply({})) as other:
        credential = Credential(source, Origin.of("https://hub.internal"))
        with means.session.ask(other.url, doing="asking", deadline=Deadline(20), credential=credential):
            pass
        assert "authorization" not in other.asked[0].headers
    assert server.asked == []


def test_what_is_posted_is_never_sent_on(means: Means, server: TokenServer) -> None:
    with serving_tokens(lambda _: Reply({}, 308, {"Location": server.url})) as other:
        content = Content(b"client_secret=x")
        with (
            pytest.raises(Misanswer, match="a redirect to"),
            means.session.ask(other.url, doing="asking", deadline=Deadline(20), content=content),
        ):
            pass
    assert server.asked == []
    assert "client_secret" not in repr(content)


# --- texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf_secretsecretsecret", "a token itself is not accepted here"),
        ("", "no provider of tokens is named"),
        ("env:", "no provider of tokens is named"),
        ("vault:x", "no provider of tokens is named vault:"),
        ("command:'", "a quote is not closed"),
        ("oidc:circle", "expected github or gitlab"),
        ("oidc:gitlab", "names no variable"),
        ("oidc:github?audince=x", "no option 'audince'; did you mean audience?"),
        ("exchange:ftp://x?subject=env:KEY", "not the address of a token endpoint"),
        ("exchange:http://sts.internal/t?subject=env:KEY", "not sent unencrypted"),
        ("exchange:https://u:p@x/t?subject=env:KEY", "a user name or password"),
        ("exchange:https://x/t", "what is traded at https://x is not named"),
        ("exchange:https://x/t?subject=env:KEY&grant=gift", "expected grant="),
        ("exchange:https://x/t?subject=env:KEY&scope=", "scope is empty"),
        ("exchange:https://x/t?subject=env:KEY&scope=a&scope=b", "given twice"),
        ("exchange:https://x/t?subject=secret-as-subject", "no provider of tokens is named"),
    ],
)
def test_a_text_that_names_no_provider_says_what_could_be_written(means: Means, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        token_source(text, host=HOST, means=means)
    assert "secret" not in str(caught.value).replace("secrets are", "")


def _in_threads(work: Callable[[], Any], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
