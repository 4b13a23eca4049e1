"""Roles taken on with the identity of a CI job: exchanged, renewed in mid-run, refused, and never shown."""

from __future__ import annotations

import datetime as dt
import itertools
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from ci_modelcache.cache.urls import UrlList
from ci_modelcache.cli.identity import described, role_of_job
from ci_modelcache.cli.main import main
from ci_modelcache.errors import AccessDenied, ConfigError, ModelCacheError, Unavailable
from ci_modelcache.model.hidden import Secrets
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_role import AssumedRole
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import get, put
from tests.parts.command_line import Outcome
from tests.parts.faults import Fault, relaying
from tests.parts.issuer import AUDIENCE
from tests.parts.policies import MAIN, MERGE_REQUEST, PULL_REQUEST, RoleStore, arn, with_roles
from tests.parts.servers import BUCKET, READER, REGION, login
from tests.parts.token_servers import Reply, TokenServer, jwt, serving_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from ci_modelcache.sources.http import HttpSession

WRITER, READING = arn("github-writer"), arn("github-reader")
_prefixes = map("role-{}".format, itertools.count())


def impatient(*, attempts: int = 4) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, base=0.01, cap=0.05, deadline=Deadline(60))


def open_as(role: AssumedRole, endpoint: str, *, prefix: str | None = None, attempts: int = 4) -> S3Store:
    prefix = prefix or next(_prefixes)
    return S3Store(BUCKET, prefix, endpoint_url=endpoint, region=REGION, retry=impatient(attempts=attempts), role=role)


@pytest.fixture(autouse=True)
def at_the_store(role_store: RoleStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The STS is that of the store; whoever a test makes the jobs be, the next one finds them as they were."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", role_store.endpoint)
    yield
    role_store.github.subject, role_store.github.down = MAIN, False


@pytest.fixture
def minted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every secret that anybody adds to any `Secrets`."""
    added: list[str] = []
    add = Secrets.add

    def adding(self: Secrets, secret: str) -> None:
        added.append(secret)
        add(self, secret)

    monkeypatch.setattr(Secrets, "add", adding)
    return added


@pytest.fixture
def job(
    role_store: RoleStore,
    hub: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """A command line in a job of GitHub that may ask for ID tokens; *environ* adds variables."""
    monkeypatch.chdir(tmp_path)
    store = f"s3://{BUCKET}/{next(_prefixes)}"

    def run(line: str, *, role: str = WRITER, **environ: str) -> Outcome:
        usual = {
            **role_store.github.job(),
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": "push",
            "CI_MODELCACHE_CI": "off",
            "CI_MODELCACHE_STORE": store,
            "CI_MODELCACHE_ENDPOINT_URL": role_store.endpoint,
            "CI_MODELCACHE_REGION": REGION,
            "CI_MODELCACHE_ROLE_TO_ASSUME": role,
            "CI_MODELCACHE_STATE": str(tmp_path / "state"),
            "HF_ENDPOINT": hub.url,
        }
        for name, value in {**usual, **environ}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        return Outcome(main(shlex.split(line)), *capsys.readouterr())

    return run


# --- a job, from its identity to the store


def test_the_role_of_writing_fills_the_store_and_the_role_of_reading_restores_from_it(
    job: Callable[..., Outcome], role_store: RoleStore, hub: LoopbackHub
) -> None:
    filled = job("fetch acme/tiny")
    assert filled.code == 0, filled.err
    role_store.github.subject = PULL_REQUEST
    hub._routes.repositories.clear()
    restored = job("restore acme/tiny --to model --offline", role=READING, GITHUB_EVENT_NAME="pull_request")
    assert restored.code == 0, restored.err


def test_urls_that_a_role_has_signed_end_with_its_credentials_and_are_read_without_any(
    job: Callable[..., Outcome], minted: list[str], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour, when two were asked for. The session token is in every URL, and in nothing else."""
    assert job("fetch acme/tiny").code == 0
    hub._routes.repositories.clear()
    signed = job("presign acme/tiny -o urls.json --expires 2h -vv", role=READING)
    assert signed.code == 0, signed.err
    assert "sooner than the 2h asked for" in signed.err
    listed = UrlList.from_json((tmp_path / "urls.json").read_bytes(), "urls.json")
    assert 0 < listed.ends - time.time() < 3700
    with monkeypatch.context() as nothing:
        nothing.setattr(AssumedRole, "session", None)
        restored = job("restore --from-urls urls.json --to model --offline -vv", role=WRITER)
    assert restored.code == 0, restored.err
    assert any(quote(secret, safe="") in listed.objects["modelcache.json"].url for secret in minted)
    for secret in minted:
        assert secret not in signed.out + signed.err + restored.out + restored.err


def test_the_role_of_reading_is_refused_to_write(job: Callable[..., Outcome]) -> None:
    refused = job("fetch acme/tiny --mode read-write", role=READING)
    assert refused.code == 12
    assert "s3:PutObject" in refused.err


def test_who_may_not_have_a_role_is_told_who_he_is_and_what_the_trust_policy_must_allow(
    job: Callable[..., Outcome], role_store: RoleStore
) -> None:
    role_store.github.subject = PULL_REQUEST
    refused = job("fetch acme/tiny")
    assert refused.code == 12
    assert f"taking on the role {WRITER} for sub {PULL_REQUEST}, aud {AUDIENCE}" in refused.err
    assert "the trust policy of the role must allow sts:AssumeRoleWithWebIdentity" in refused.err


def test_a_job_that_may_not_ask_for_tokens_is_told_of_all_three_ways_to_say_who_it_is(
    job: Callable[..., Outcome],
) -> None:
    lost = job("fetch acme/tiny", ACTIONS_ID_TOKEN_REQUEST_URL="", ACTIONS_ID_TOKEN_REQUEST_TOKEN="")
    assert lost.code == 2
    for way in (
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "MODELCACHE_ID_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "id-token: write",
    ):
        assert way in lost.err
    assert "id_tokens:" in lost.err


def test_a_pull_request_of_a_fork_goes_on_without_the_role_and_the_store(job: Callable[..., Outcome]) -> None:
    nobody = {"ACTIONS_ID_TOKEN_REQUEST_URL": "", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ""}
    restored = job("restore acme/tiny --to model", GITHUB_EVENT_NAME="pull_request", **nobody)
    assert restored.code == 0, restored.err
    assert "what everybody may read can be read without" in restored.err


@pytest.mark.parametrize("way", ["variable", "file"])
def test_gitlab_gives_the_token_in_a_variable_and_others_in_a_file(
    job: Callable[..., Outcome], role_store: RoleStore, tmp_path: Path, way: str
) -> None:
    token = role_store.gitlab.token()
    (tmp_path / "token").write_text(f"{token}\n")
    given = {
        "variable": {"MODELCACHE_ID_TOKEN": token},
        "file": {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")},
    }
    nobody = {"ACTIONS_ID_TOKEN_REQUEST_URL": "", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ""}
    filled = job("fetch acme/tiny", role=arn("gitlab-writer"), **nobody, **given[way])
    assert filled.code == 0, filled.err


def test_the_role_that_is_named_wins_over_keys_in_the_environment(
    job: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch, READER)
    assert job("fetch acme/tiny").code == 0


def test_no_secret_is_said_however_much_is_said(
    job: Callable[..., Outcome], minted: list[str], role_store: RoleStore
) -> None:
    outcomes = [job("-vv fetch acme/tiny"), job("-vv fetch acme/tiny", role=arn("nobody"))]
    assert [outcome.code for outcome in outcomes] == [0, 12]
    secrets = {*minted, *role_store.github.issued, *role_store.github.job().values()}
    assert len(secrets) >= 6
    assert [secret for secret in secrets for outcome in outcomes if secret in f"{outcome.out}{outcome.err}"] == []


# --- exchange and renewal


def github_role(role_store: RoleStore, **attributes: Any) -> AssumedRole:
    return AssumedRole(WRITER, role_store.github.token, **attributes)


def test_threads_that_need_credentials_at_once_share_one_exchange(role_store: RoleStore) -> None:
    store = open_as(github_role(role_store), role_store.endpoint)
    before = len(role_store.github.issued)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(store, f"key-{number}", b"x"), range(8)))
    assert len(role_store.github.issued) == before + 1


def test_nothing_is_asked_before_the_first_request(role_store: RoleStore) -> None:
    before = len(role_store.github.issued)
    store = open_as(github_role(role_store), role_store.endpoint)
    assert not store.anonymous
    assert len(role_store.github.issued) == before


def test_a_run_that_outlives_its_session_goes_on_with_a_new_token_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_roles(tmp_path / "store", lasts="8s") as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.endpoint)
        secrets = Secrets()
        store = open_as(github_role(running, secrets=secrets), running.endpoint)
        put(store, "key", b"bytes")
        end, reads = time.monotonic() + 9, 0
        while time.monotonic() < end:
            assert get(store, "key") == b"bytes"
            reads += 1
        assert 2 <= len(set(running.github.issued)) < reads / 4, "once per session, not once per request"
        assert set(running.github.issued) <= set(secrets)


def test_while_the_sts_is_down_the_old_credentials_serve_and_then_the_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with with_roles(tmp_path / "store", lasts="10s") as running, relaying(running.server.port) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", relay.endpoint)
        store = open_as(github_role(running), running.endpoint, attempts=2)
        put(store, "key", b"bytes")
        relay.faults = [Fault("answer", "POST", status=500, body=b"", times=99)]
        deadline, told = time.monotonic() + 60, ""
        while not told and time.monotonic() < deadline:
            try:
                store.stat("key")
            except Unavailable as error:
                told = error.message
            time.sleep(0.2)
        assert "the STS said 500" in told
    warned = [record for record in caplog.records if "could not be renewed" in record.message]
    assert len(warned) == 1, "one try in half a minute while they still serve"
    assert not [record for record in caplog.records if record.exc_info], "no traceback"


def test_an_sts_that_has_trouble_is_tried_again(role_store: RoleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with relaying(role_store.server.port) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", relay.endpoint)
        store = open_as(github_role(role_store), role_store.endpoint)
        relay.faults = [Fault("answer", "POST", status=500, body=b""), Fault("lose", "POST")]
        put(store, "key", b"bytes")
        assert relay.count("POST") == 3


def test_an_sts_that_is_not_there_is_unavailable_and_named(
    role_store: RoleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    store = open_as(github_role(role_store), role_store.endpoint, attempts=2)
    with pytest.raises(Unavailable, match=WRITER) as caught:
        put(store, "key", b"bytes")
    assert "AWS_ENDPOINT_URL_STS" in str(caught.value.hint)


def test_threads_that_wait_for_an_exchange_that_fails_share_its_failure(role_store: RoleStore) -> None:
    asked, waiting = 0, threading.Event()

    def token() -> str:
        nonlocal asked
        asked += 1
        waiting.wait(1)
        msg = "no token now"
        raise AccessDenied(msg)

    store = open_as(AssumedRole(WRITER, token), role_store.endpoint)

    def look() -> str:
        try:
            store.stat("key")
        except AccessDenied as error:
            return error.message
        return "found"

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: look(), range(6))) == {"no token now"}
    assert asked <= 2


def test_whoever_gives_tokens_may_fail_as_he_likes(role_store: RoleStore, session: HttpSession) -> None:
    role_store.github.down = True
    role = role_of_job(WRITER, environ=role_store.github.job(), session=session, deadline=Deadline(60), needed=True)
    assert role is not None
    store = open_as(role, role_store.endpoint, attempts=2)
    with pytest.raises(Unavailable, match="ID token of this job: answered 500"):
        store.stat("key")


def test_a_token_file_is_read_anew_for_each_exchange(
    role_store: RoleStore, session: HttpSession, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    environ = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(file)}
    role = role_of_job(arn("gitlab-writer"), environ=environ, session=session, deadline=Deadline(60), needed=True)
    assert role is not None
    store = open_as(role, role_store.endpoint)
    with pytest.raises(ConfigError, match="cannot be read"):
        put(store, "key", b"bytes")
    file.write_text(role_store.gitlab.token())
    put(store, "key", b"bytes")


# --- refusals


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"sub": "repo:evil/app:ref:refs/heads/main"}, "403 AccessDenied"),
        ({"aud": "https://github.com/acme"}, "403 AccessDenied"),
        ({"exp": 1_700_000_000}, "400 ExpiredTokenException"),
        ({"iss": "https://issuer.evil"}, "AccessDenied"),
    ],
)
def test_a_token_that_does_not_fit_is_denied_and_not_tried_again(
    role_store: RoleStore, claims: dict[str, object], says: str
) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(role_store.github.token(**{"audience": AUDIENCE, **claims}))  # type: ignore[arg-type]  # claims are anything
        return asked[-1]

    store = open_as(AssumedRole(WRITER, token, described=described), role_store.endpoint)
    with pytest.raises(AccessDenied, match=says) as caught:
        put(store, "key", b"bytes")
    assert len(asked) == 1
    assert asked[0] not in f"{caught.value!r}{caught.value.hint}{caught.value.__context__!r}"


def test_a_token_that_was_tampered_with_is_denied(role_store: RoleStore) -> None:
    role = AssumedRole(WRITER, lambda: f"{role_store.github.token()[:-8]}AAAAAAAA")
    with pytest.raises(AccessDenied, match=WRITER):
        put(open_as(role, role_store.endpoint), "key", b"bytes")


def test_a_gitlab_branch_that_is_not_trusted_may_read_and_not_write(role_store: RoleStore) -> None:
    def open_for(kind: str) -> S3Store:
        role = AssumedRole(arn(f"gitlab-{kind}"), lambda: role_store.gitlab.token(sub=MERGE_REQUEST))
        return open_as(role, role_store.endpoint)

    assert list(open_for("reader").scan("")) == []
    with pytest.raises(AccessDenied):
        list(open_for("writer").scan(""))


def refusing(code: str, *, status: int) -> Callable[[object], Reply]:
    """An STS that says *code*, and repeats the token that it was sent, as some do."""
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>bad token {{}}</Message></Error></ErrorResponse>"

    def answer(asked: Any) -> Reply:
        return Reply(body.format(asked.fields["WebIdentityToken"]).encode(), status)

    return answer


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    with serving_tokens(lambda _asked: Reply(status=500)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        yield server


@pytest.mark.parametrize(
    ("code", "status", "kind", "hint"),
    [
        ("AccessDenied", 403, AccessDenied, "trust policy"),
        ("InvalidIdentityToken", 400, AccessDenied, "OIDC identity provider"),
        ("IDPRejectedClaim", 403, AccessDenied, "trust policy"),
        ("ExpiredTokenException", 400, AccessDenied, "has ended"),
        ("IDPCommunicationError", 400, Unavailable, "issued the ID token"),
        ("Throttling", 400, Unavailable, "try later"),
        ("ValidationError", 400, ConfigError, "ARN of the role"),
        ("InvalidAction", 400, ConfigError, "AWS_ENDPOINT_URL_STS"),
        ("RegionDisabledException", 403, ConfigError, "region"),
    ],
)
def test_what_an_sts_says_is_told_by_its_code_and_never_by_its_words(
    sts: TokenServer, role_store: RoleStore, code: str, status: int, kind: type[ModelCacheError], hint: str
) -> None:
    sts.answer = refusing(code, status=status)
    token = jwt(sub=MAIN)
    store = open_as(AssumedRole(WRITER, lambda: token), role_store.endpoint, attempts=1)
    with pytest.raises(kind, match=code) as caught:
        store.stat("key")
    assert hint in str(caught.value.hint)
    assert token not in f"{caught.value!r}"
    assert caught.value.__cause__ is None


def test_a_page_in_place_of_an_sts_is_unavailable(sts: TokenServer, role_store: RoleStore) -> None:
    sts.answer = lambda _asked: Reply(b"<html><body>Log in</body>")
    with pytest.raises((Unavailable, ConfigError), match=WRITER):
        open_as(AssumedRole(WRITER, lambda: "token"), role_store.endpoint, attempts=1).stat("key")


def test_credentials_that_ended_already_are_a_matter_of_clocks(sts: TokenServer, role_store: RoleStore) -> None:
    ended = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat()
    fields = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret", "SessionToken": "token", "Expiration": ended}
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    name = "AssumeRoleWithWebIdentity"
    body = f"<{name}Response><{name}Result><Credentials>{inner}</Credentials></{name}Result></{name}Response>"
    sts.answer = lambda _asked: Reply(body.encode())
    with pytest.raises(ConfigError, match=r"ended 36\d\d s ago") as caught:
        open_as(AssumedRole(WRITER, lambda: "token"), role_store.endpoint).stat("key")
    assert "clocks" in str(caught.value.hint)


def test_a_token_that_says_nothing_of_itself_is_of_this_job() -> None:
    assert described("opaque") == "this job"
    assert described(jwt(sub=MAIN, iss="https://issuer")) == f"sub {MAIN}, iss https://issuer"
