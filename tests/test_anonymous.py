"""Stores that are read without credentials: asked unsigned, and a refusal says that there were none."""

from __future__ import annotations

import itertools
import json
import logging
import shlex
from typing import TYPE_CHECKING, Any, cast

import pytest

from ci_modelcache.cli.main import main
from ci_modelcache.errors import AccessDenied, ObjectNotFound
from ci_modelcache.stores.protocol import OverNetwork
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import content, get, keys, put
from tests.parts.policies import PUBLIC, admin, example
from tests.parts.servers import ADMIN, BUCKET, REGION, login

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from tests.parts.servers import S3Server

MIB = 1024 * 1024
_prefixes = map("anonymous-{}".format, itertools.count())


def open_at(server: S3Server, *, bucket: str = PUBLIC, prefix: str | None = None) -> S3Store:
    retry = RetryPolicy(attempts=2, base=0.01, cap=0.05, deadline=Deadline(60))
    prefix = prefix or next(_prefixes)
    return S3Store(bucket, prefix, endpoint_url=server.endpoint, region=REGION, retry=retry)


@pytest.fixture
def filled(identities_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of a store in `PUBLIC` that holds the objects ``a/small`` and ``large``."""
    with monkeypatch.context() as credentials:
        login(credentials)
        store = open_at(identities_server)
        put(store, "a/small", b"bytes")
        put(store, "large", content(17 * MIB))
    return store.url.rpartition("/")[2]


def test_without_credentials_a_public_bucket_is_read(identities_server: S3Server, filled: str) -> None:
    store = open_at(identities_server, prefix=filled)
    assert store.anonymous
    assert isinstance(store, OverNetwork)
    assert get(store, "a/small") == b"bytes"
    assert get(store, "large", start=16 * MIB) == content(17 * MIB)[16 * MIB :]
    assert store.stat("a/small").size == 5
    assert keys(store, "") == ["a/small", "large"]


def test_what_a_public_bucket_does_not_hold_is_missing_and_not_denied(identities_server: S3Server, filled: str) -> None:
    store = open_at(identities_server, prefix=filled)
    with pytest.raises(ObjectNotFound):
        store.stat("a/other")
    with pytest.raises(ObjectNotFound):
        get(store, "a/other")


def test_that_there_are_no_credentials_is_said_once(
    identities_server: S3Server, filled: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ci_modelcache")
    store = open_at(identities_server, prefix=filled)
    for _ in range(3):
        get(store, "a/small")
    (said,) = [record for record in caplog.records if "no credentials" in record.message]
    assert said.levelno == logging.INFO
    assert store.url in said.message


def test_a_public_bucket_is_not_written_without_credentials(identities_server: S3Server, filled: str) -> None:
    store = open_at(identities_server, prefix=filled)
    attempts: list[Callable[[], object]] = [
        lambda: put(store, "new", b"x"),
        lambda: put(store, "new", content(17 * MIB)),
        lambda: store.delete("a/small"),
    ]
    for attempt in attempts:
        with pytest.raises(AccessDenied, match="no credentials were found"):
            attempt()
    assert keys(store, "") == ["a/small", "large"]


@pytest.mark.parametrize("verb", ["read", "stat", "scan"])
def test_a_refusal_says_that_there_were_no_credentials_and_where_they_are_looked_for(
    identities_server: S3Server, verb: str
) -> None:
    store = open_at(identities_server, bucket=BUCKET)
    attempts: dict[str, Callable[[], object]] = {
        "read": lambda: get(store, "key"),
        "stat": lambda: store.stat("key"),
        "scan": lambda: keys(store, ""),
    }
    with pytest.raises(AccessDenied, match="no credentials were found") as caught:
        attempts[verb]()
    for place in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "--role-to-assume"):
        assert place in str(caught.value.hint)


def test_credentials_that_are_refused_are_another_matter(
    identities_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch, (ADMIN[0], "another-secret-than-that"))
    store = open_at(identities_server)
    assert not store.anonymous
    with pytest.raises(AccessDenied) as caught:
        get(store, "key")
    assert "no credentials" not in caught.value.message


def test_a_bucket_policy_that_lets_everybody_read_is_enough(identities_server: S3Server) -> None:
    client = admin(identities_server)
    bucket = "policy-models"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="at/key", Body=b"bytes")
    store = open_at(identities_server, bucket=bucket, prefix="at")
    with pytest.raises(AccessDenied):
        get(store, "key")
    policy: Any = json.dumps(example("public-read.json")).replace(BUCKET, bucket)
    client.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert get(store, "key") == b"bytes"
    assert keys(store, "") == ["key"]
    with pytest.raises(AccessDenied):
        put(store, "other", b"x")


@pytest.mark.parametrize("way", ["with a client", "without a client"])
def test_nothing_is_signed(identities_server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    store = open_at(identities_server, prefix=filled)
    signed: list[bool] = []

    def note(request: Any, **_: object) -> None:
        signed.append("Authorization" in request.headers or "X-Amz-Content-SHA256" in request.headers)

    if way == "with a client":
        store._bucket._place = None
        store._bucket.client().meta.events.register("before-send.s3", note)
    else:
        http = cast("Any", store._bucket._light())._http

        def send(request: Any, *, send: Any = http.send) -> Any:
            note(request)
            return send(request)

        monkeypatch.setattr(http, "send", send)
    assert get(store, "a/small") == b"bytes"
    assert signed == [False]


@pytest.mark.parametrize(("bucket", "code"), [(PUBLIC, 0), (BUCKET, 12)])
def test_a_command_restores_from_a_public_store_and_is_denied_a_private_one(
    identities_server: S3Server,
    hub: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bucket: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CI_MODELCACHE_STORE", f"s3://{bucket}/{next(_prefixes)}")
    monkeypatch.setenv("CI_MODELCACHE_ENDPOINT_URL", identities_server.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with monkeypatch.context() as credentials:
        login(credentials)
        assert main(shlex.split("fetch acme/tiny")) == 0
    hub._routes.repositories.clear()
    assert main(shlex.split("restore acme/tiny --to model --offline")) == code, capsys.readouterr().err
    assert ("no credentials were found" in capsys.readouterr().err) == (code != 0)
