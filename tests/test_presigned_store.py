"""A store made of signed URLs, on a real server: it reads what is listed and nothing else, and says why when it cannot."""

from __future__ import annotations

import itertools
import logging
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
import trustme
from attrs import evolve

from ci_modelcache.cache.presigned import PresignedStore
from ci_modelcache.cache.urls import ListedModel, ObjectUrl, UrlList, moment
from ci_modelcache.errors import (
    AccessDenied,
    BucketMissing,
    ConfigError,
    ModelCacheError,
    ObjectNotFound,
    RateLimited,
    SizeMismatch,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.direct import DirectSession
from ci_modelcache.stores.protocol import OnDisk, OverNetwork, Presigning
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.throttled import ThrottledStore, throttled
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.transfer.throttle import Throttle
from tests.contracts.store import content, get, keys, put
from tests.parts.faults import Fault, Relay, relaying
from tests.parts.servers import ADMIN, BUCKET, REGION, login, rclone
from tests.parts.urls import COMMIT, listed_in, secrets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store
    from tests.parts.servers import S3Server

MIB = 1024 * 1024
OBJECTS = {"a/empty": b"", "a/small": b"some bytes", "a/large": content(3 * MIB + 5)}
_prefixes = map("presigned-{}".format, itertools.count())


def opened(endpoint: str, *, prefix: str | None = None, ca_bundle: str | None = None) -> S3Store:
    retry = RetryPolicy(attempts=2, base=0.01, deadline=Deadline(60))
    return S3Store(
        BUCKET, prefix or next(_prefixes), endpoint_url=endpoint, region=REGION, retry=retry, ca_bundle=ca_bundle
    )


@pytest.fixture
def signer(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The real store, with `OBJECTS` and ``b``, which is in no list; seen through the relay."""
    login(monkeypatch)
    store = opened(relay.endpoint)
    for key, data in {**OBJECTS, "b": b"not listed"}.items():
        put(store, key, data)
    return store


@pytest.fixture
def session() -> Iterator[DirectSession]:
    with DirectSession() as session:
        yield session


@pytest.fixture
def listed(signer: S3Store, relay: Relay) -> UrlList:
    found = listed_in(signer, OBJECTS)
    relay.seen.clear()
    return found


@pytest.fixture
def store(listed: UrlList, session: DirectSession) -> PresignedStore:
    return PresignedStore(listed, session=session, deadline=Deadline(60))


# --- what is listed is there


@pytest.mark.parametrize("key", OBJECTS)
def test_what_is_listed_is_read(key: str, store: PresignedStore) -> None:
    assert get(store, key) == OBJECTS[key]


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (1, None), (0, 10), (3, 7), (9, 10), (9, None), (0, 99), (3, 99), (10, None), (12, 20), (4, 4)],
)
def test_a_range_is_exactly_its_bytes(start: int, stop: int | None, store: PresignedStore) -> None:
    assert get(store, "a/small", start=start, stop=stop) == OBJECTS["a/small"][start:stop]


def test_a_range_that_is_none_is_a_mistake(store: PresignedStore) -> None:
    with pytest.raises(ValueError, match="not a range"), store.read("a/small", start=3, stop=2):
        pass
    with pytest.raises(ValueError, match="not a key"), store.read("../a"):
        pass


def test_sizes_and_names_are_the_list_s_and_cost_no_request(store: PresignedStore, relay: Relay) -> None:
    assert [store.stat(key).size for key in OBJECTS] == [0, 10, 3 * MIB + 5]
    assert keys(store, "") == sorted(OBJECTS)
    assert keys(store, "a/s") == ["a/small"]
    assert get(store, "a/empty") == b""
    assert relay.seen == []


def test_what_is_not_listed_is_not_there_and_nobody_is_asked(store: PresignedStore, relay: Relay) -> None:
    """Not even when the store has it: a list is what somebody was given."""
    attempts: list[Callable[[], object]] = [
        lambda: get(store, "b"),
        lambda: get(store, "b", start=4, stop=4),
        lambda: store.stat("b"),
    ]
    for attempt in attempts:
        with pytest.raises(ObjectNotFound, match="holds no object b"):
            attempt()
    assert keys(store, "b") == []
    assert relay.seen == []


def test_nothing_can_be_written_or_deleted(store: PresignedStore, relay: Relay) -> None:
    attempts: list[Callable[[], object]] = [lambda: put(store, "a/small", b"x"), lambda: store.delete("a/small")]
    for attempt in attempts:
        with pytest.raises(AccessDenied, match="only read"):
            attempt()
    assert relay.seen == []


def test_it_has_the_name_of_the_store_and_none_of_its_other_abilities(store: PresignedStore, signer: S3Store) -> None:
    assert store.url == signer.url
    for ability in (OnDisk, OverNetwork, Presigning):
        assert not isinstance(store, ability)


def test_what_a_branch_means_is_read_from_the_list(listed: UrlList, session: DirectSession, relay: Relay) -> None:
    """A branch that moves while a list is used would lead to what is not in it."""
    model = ListedModel("org/name@main", "huggingface.co", COMMIT)
    store = PresignedStore(evolve(listed, models=(model,)), session=session)
    (head,) = keys(store, "heads/")
    data = get(store, head)
    assert COMMIT.encode() in data
    assert store.stat(head).size == len(data)
    assert get(store, head, start=5, stop=9) == data[5:9]
    assert relay.seen == []


def test_the_same_url_reads_from_other_dialects_of_s3(
    rclone_server: S3Server, moto_server: S3Server, session: DirectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone sends parts with status 200, which Content-Range explains."""
    login(monkeypatch)
    for server in (rclone_server, moto_server):
        signer = opened(server.endpoint)
        put(signer, "a/small", b"some bytes")
        store = PresignedStore(listed_in(signer, ["a/small"]), session=session)
        assert get(store, "a/small") == b"some bytes"
        assert get(store, "a/small", start=2, stop=6) == b"me b"


# --- refusals


def refused(store: PresignedStore, kind: type[ModelCacheError], match: str, key: str = "a/small") -> ModelCacheError:
    with pytest.raises(kind, match=match) as caught:
        get(store, key)
    shown = f"{caught.value.message} {caught.value.hint} {getattr(caught.value, '__notes__', '')}"
    assert not secrets_of(shown)
    return caught.value


def test_urls_that_have_ended_are_denied_with_the_time_and_the_command(signer: S3Store, session: DirectSession) -> None:
    model = ListedModel("org/name@main", "huggingface.co", COMMIT)
    listed = evolve(listed_in(signer, OBJECTS, seconds=1), models=(model,))
    store = PresignedStore(listed, session=session)
    assert get(store, "a/small") == b"some bytes"
    time.sleep(2.5)
    error = refused(store, AccessDenied, f"403 AccessDenied; the URLs ended at {listed.expires}")
    assert "ci-modelcache presign org/name@main --expires" in str(error.hint)


def test_rclone_calls_it_a_wrong_clock_and_it_is_denied_too(
    rclone_server: S3Server, session: DirectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    signer = opened(rclone_server.endpoint)
    put(signer, "a/small", b"x")
    store = PresignedStore(listed_in(signer, ["a/small"], seconds=1), session=session)
    time.sleep(2.5)
    refused(store, AccessDenied, "the URLs ended at")


def test_a_wrong_clock_here_refuses_nothing(listed: UrlList, session: DirectSession) -> None:
    """Whether they have ended is for the server to say."""
    store = PresignedStore(evolve(listed, expires=moment(1)), session=session, now=lambda: 4e9)
    assert get(store, "a/small") == b"some bytes"


def test_a_wrong_signature_is_denied_and_not_shown(listed: UrlList, session: DirectSession) -> None:
    signed = listed.objects["a/small"]
    forged = ObjectUrl(signed.size, signed.url[:-8] + "00000000")
    store = PresignedStore(evolve(listed, objects={"a/small": forged}), session=session)
    error = refused(store, AccessDenied, "403 SignatureDoesNotMatch; the URLs are to last until")
    assert "a proxy changes requests" in str(error.hint)


def test_credentials_that_ended_before_their_urls_are_said_to(store: PresignedStore, relay: Relay) -> None:
    body = b"<?xml?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    relay.faults.append(Fault("answer", "GET", status=400, body=body))
    error = refused(store, AccessDenied, "400 ExpiredToken; the credentials that signed the URLs ended before")
    assert "credentials that last longer" in str(error.hint)


def test_an_object_that_is_gone_is_missing(store: PresignedStore, signer: S3Store) -> None:
    signer.delete("a/small")
    refused(store, ObjectNotFound, "holds no object a/small")


def test_a_bucket_that_is_gone_is_no_missing_object(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("answer", "GET", status=404, body=b"<Error><Code>NoSuchBucket</Code></Error>"))
    refused(store, BucketMissing, "no bucket")


def test_an_object_of_another_length_is_wrong_before_it_is_read(store: PresignedStore, signer: S3Store) -> None:
    put(signer, "a/small", b"short")
    refused(store, SizeMismatch, "expected 10 bytes, got 5")
    for start in (2, 7):
        with pytest.raises(SizeMismatch, match="expected 10 bytes, got 5"):
            get(store, "a/small", start=start)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, store: PresignedStore, listed: UrlList, relay: Relay) -> None:
    """Neither to another host nor to the same one: what would be sent there is a secret."""
    with relaying(1) as other:
        for target in (f"{other.endpoint}/x?X-Amz-Signature=0123", listed.objects["a/large"].url, "http://[", ""):
            headers = {"Location": target} if target else {}
            relay.faults.append(Fault("answer", "GET", status=status, headers=headers, body=b""))
            seen = len(relay.seen)
            error = refused(store, ConfigError, f"{status}, a redirect")
            assert "0123" not in error.message
            assert len(relay.seen) == seen + 1
        assert other.seen == []


@pytest.mark.parametrize("status", [408, 500, 502, 504, 599])
def test_trouble_of_the_server_may_pass(status: int, store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("answer", "GET", status=status, body=b"<html>oops</html>"))
    refused(store, Unavailable, f"the server said {status}$")
    assert get(store, "a/small") == b"some bytes"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
def test_the_seconds_that_a_server_asks_for_are_told(
    status: int, store: PresignedStore, relay: Relay, *, as_date: bool
) -> None:
    wait = formatdate(time.time() + 7, usegmt=True) if as_date else "7"
    relay.faults.append(Fault("answer", "GET", status=status, headers={"Retry-After": wait}))
    error = refused(store, RateLimited, f"{status} SlowDown")
    assert isinstance(error, RateLimited)
    assert error.retry_after == pytest.approx(7, abs=1.5)


def test_a_proxy_that_wants_a_password_is_told_from_the_store(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("answer", "GET", status=407, body=b""))
    assert "HTTPS_PROXY" in str(refused(store, AccessDenied, "407").hint)


def test_an_answer_that_no_store_gives_is_a_wrong_setting(store: PresignedStore, relay: Relay) -> None:
    for status, body in (
        (400, b"<Error><Code>AuthorizationQueryParametersError</Code></Error>"),
        (204, b""),
        (418, b""),
    ):
        relay.faults.append(Fault("answer", "GET", status=status, body=body))
        assert "--region" in str(refused(store, StoreUnsupported, str(status)).hint)


def test_the_text_of_an_error_is_never_repeated(store: PresignedStore, relay: Relay) -> None:
    """S3 sends the parts of a request back whose signature is wrong."""
    body = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>X-Amz-Signature=0123456789</StringToSign></Error>"
    relay.faults.append(Fault("answer", "GET", status=403, body=body))
    assert "0123456789" not in refused(store, AccessDenied, "SignatureDoesNotMatch").message


# --- the wire


def whole(store: Store, key: str, *, retry: RetryPolicy | None = None) -> bytes:
    retry = retry or RetryPolicy(base=0.01, deadline=Deadline(60))
    size = store.stat(key).size
    return b"".join(read_through(lambda start: store.read(key, start=start), size, retry, what=key))


def test_a_body_that_breaks_off_is_unavailable_and_a_reader_resumes_it(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("cut", "GET", times=2, after=MIB))
    assert whole(store, "a/large") == OBJECTS["a/large"]
    assert relay.count("GET") == 3


def test_reading_is_one_attempt(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("answer", "GET", times=9))
    refused(store, RateLimited, "503")
    assert relay.count("GET") == 1


def test_a_body_that_falls_silent_is_given_up_in_time(listed: UrlList, session: DirectSession, relay: Relay) -> None:
    deadline = Deadline(3)
    store = PresignedStore(listed, session=session, deadline=deadline)
    relay.faults.append(Fault("stall", "GET", times=99, after=MIB))
    began = time.monotonic()
    with pytest.raises(ModelCacheError) as caught:
        whole(store, "a/large", retry=RetryPolicy(base=0.01, deadline=deadline))
    assert caught.value.exit_code in {11, 15}
    assert time.monotonic() - began < 20


def test_a_server_that_ignores_ranges_is_refused_and_its_bytes_are_not_taken(
    store: PresignedStore, relay: Relay
) -> None:
    relay.faults.append(Fault("answer", "GET", status=200, body=OBJECTS["a/small"]))
    with pytest.raises(StoreUnsupported, match="'the whole object'"):
        get(store, "a/small", start=3)
    for start, stop in ((3, 6), (0, None)):
        other = "bytes 1-3/10" if start == 0 else "bytes 0-2/10"
        relay.faults.append(Fault("answer", "GET", status=206, body=b"abc", headers={"Content-Range": other}))
        with pytest.raises(StoreUnsupported, match=other):
            get(store, "a/small", start=start, stop=stop)


def test_a_range_that_cannot_be_had_without_a_reason_may_pass(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("answer", "GET", status=416, body=b""))
    with pytest.raises(Unavailable, match="refused to send a part"):
        get(store, "a/small", start=3)


def test_an_error_whose_text_breaks_off_is_still_that_error(store: PresignedStore, relay: Relay) -> None:
    relay.faults.append(Fault("cut", "GET", having="a/small", after=2))
    relay.faults.append(Fault("answer", "GET", status=403, body=b"<Err", headers={"Transfer-Encoding": "chunked"}))
    with pytest.raises(Unavailable):
        whole(store, "a/small", retry=RetryPolicy(attempts=1))
    refused(store, AccessDenied, "403;")


def test_nobody_who_listens_is_unavailable(listed: UrlList, session: DirectSession) -> None:
    lost = {"a/small": ObjectUrl(10, "http://127.0.0.1:9/x?X-Amz-Signature=0123456789")}
    refused(PresignedStore(evolve(listed, objects=lost), session=session), Unavailable, "Connection refused")


def test_a_certificate_is_trusted_only_with_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    pem = str(tmp_path / "server.pem")
    with rclone(tmp_path / "server", options=["--cert", pem, "--key", pem]) as server:
        login(monkeypatch)
        signer = opened(server.endpoint.replace("http:", "https:"), ca_bundle=str(tmp_path / "ca.pem"))
        put(signer, "a/small", b"some bytes")
        listed = listed_in(signer, ["a/small"])
        with DirectSession() as session:
            error = refused(PresignedStore(listed, session=session), ConfigError, "cannot be verified")
            assert "--ca-bundle" in str(error.hint)
        with DirectSession(ca_bundle=tmp_path / "ca.pem") as session:
            assert get(PresignedStore(listed, session=session), "a/small") == b"some bytes"


def test_no_signature_is_logged(store: PresignedStore, listed: UrlList, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    whole(store, "a/large")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("ci_modelcache"))
    assert "X-Amz-Signature=***" in ours
    assert not secrets_of(ours)
    # Of libraries nothing is shown below warnings, and all of it goes through the same filter.
    assert not secrets_of(redact(caplog.text))
    assert secrets_of(" ".join(found.url for found in listed.objects.values()))


# --- signing


def test_a_url_lets_its_reader_do_nothing_but_read_that_object(listed: UrlList) -> None:
    import requests  # noqa: PLC0415  # only here, to do what the store refuses to do

    url = listed.objects["a/small"].url
    assert requests.get(url, timeout=20).content == b"some bytes"
    for other in (url.replace("a/small", "b"), url.replace("a/small", ""), url.partition("?")[0]):
        assert requests.get(other, timeout=20).status_code == 403
    assert requests.put(url, data=b"x", timeout=20).status_code == 403
    assert requests.delete(url, timeout=20).status_code == 403


def test_urls_end_when_they_were_asked_to(signer: S3Store) -> None:
    began = time.time()
    signed = signer.presign(["a/small"], seconds=3600)
    assert began + 3599 <= signed.ends <= time.time() + 3600
    assert not signed.cut
    assert not signed.unsure
    assert not secrets_of(repr(signed))


@pytest.mark.parametrize("seconds", [-1, 0, 604_801])
def test_times_that_no_server_accepts_are_refused(seconds: int, signer: S3Store) -> None:
    with pytest.raises(ConfigError, match="1 to 604800 seconds") as caught:
        signer.presign(["a/small"], seconds=seconds)
    assert "7 days" in str(caught.value.hint)


def test_without_credentials_nothing_is_signed(relay: Relay) -> None:
    with pytest.raises(ConfigError, match="no credentials were found"):
        opened(relay.endpoint).presign((), seconds=60)
    assert relay.seen == []


def temporary(monkeypatch: pytest.MonkeyPatch, *, seconds: float | None) -> None:
    """Credentials of a session, as aws-actions/configure-aws-credentials leaves them, that end in *seconds* or do not say."""
    login(monkeypatch)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-of-this-job==")
    if seconds is not None:
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", moment(time.time() + seconds))


def test_credentials_that_end_sooner_are_the_end_of_their_urls(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary(monkeypatch, seconds=1800)
    signed = opened(moto_server.endpoint).presign(["a/small"], seconds=7200)
    assert signed.cut
    assert signed.ends == pytest.approx(time.time() + 1800, abs=30)
    assert not opened(moto_server.endpoint).presign(["a/small"], seconds=60).cut


def test_credentials_that_do_not_say_when_they_end_are_doubted(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary(monkeypatch, seconds=None)
    signed = opened(moto_server.endpoint).presign(["a/small"], seconds=7200)
    assert signed.unsure
    assert not signed.cut


def test_a_session_token_is_in_the_url_and_in_no_text_for_people(
    moto_server: S3Server, session: DirectSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ci_modelcache")
    temporary(monkeypatch, seconds=None)
    signer = opened(moto_server.endpoint)
    put(signer, "a/small", b"some bytes")
    listed = listed_in(signer, ["a/small"])
    assert "X-Amz-Security-Token=session-token-of-this-job%3D%3D" in listed.objects["a/small"].url
    assert get(PresignedStore(listed, session=session), "a/small") == b"some bytes"
    shown = redact(" ".join(found.url for found in listed.objects.values()))
    for text in (shown, caplog.text, repr(listed)):
        assert "session-token-of-this-job" not in text
        assert ADMIN[0] not in text
        assert not secrets_of(text)


def test_the_region_of_the_bucket_is_asked_for_and_not_guessed(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to the wrong region is sent on by botocore, a URL is not."""
    import boto3  # noqa: PLC0415  # slow, and not needed by most tests here

    login(monkeypatch)
    client = boto3.session.Session().client("s3", endpoint_url=moto_server.endpoint, region_name="eu-west-1")
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.close()
    retry = RetryPolicy(attempts=2)
    store = S3Store("far-away", "x", endpoint_url=moto_server.endpoint, region=None, retry=retry)
    assert "%2Feu-west-1%2Fs3%2F" in store.presign(["a"], seconds=60).urls["a"]


def test_a_store_that_is_slowed_down_signs_as_before(signer: S3Store) -> None:
    slowed = throttled(signer, Throttle(1e9), deadline=Deadline())
    assert isinstance(slowed, ThrottledStore)
    assert isinstance(slowed, Presigning)
    assert slowed.presign(["a/small"], seconds=60).urls
