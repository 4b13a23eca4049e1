"""What S3 servers and the wire to them do wrong, and what a store makes of it."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3.session
import pytest
import trustme

from ci_modelcache.errors import (
    AccessDenied,
    BucketMissing,
    ConfigError,
    DeadlineExceeded,
    ModelCacheError,
    NoSpace,
    ObjectNotFound,
    RateLimited,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_bucket import PART_MEMORY
from ci_modelcache.stores.s3_memory import PartMemory, Stopped
from ci_modelcache.stores.s3_upload import MAX_PARTS, PART, part_size
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through
from tests.contracts.store import MIB, breaking, content, get, keys, put
from tests.parts.faults import Fault, Relay
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, free_ports, login, rclone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.parts.servers import S3Server

_prefixes = map("wire-{}".format, itertools.count())


def patient(*, attempts: int = 4, seconds: float = 60) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, base=0.01, cap=0.05, deadline=Deadline(seconds))


def open_at(
    endpoint: str,
    *,
    bucket: str = BUCKET,
    prefix: str | None = None,
    retry: RetryPolicy | None = None,
    ca_bundle: str | None = None,
) -> S3Store:
    return S3Store(
        bucket,
        next(_prefixes) if prefix is None else prefix,
        endpoint_url=endpoint,
        region=REGION,
        retry=retry or patient(),
        ca_bundle=ca_bundle,
    )


@pytest.fixture
def _admin(monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch)


@pytest.fixture
def store(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    login(monkeypatch)
    return open_at(relay.endpoint)


def uploads(server: S3Server, store: S3Store) -> list[str]:
    """Keys of the multipart uploads below *store* that are neither completed nor aborted."""
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint, region_name=REGION)
    listed = client.list_multipart_uploads(Bucket=BUCKET, Prefix=store._bucket.full(""))
    client.close()
    return [upload["Key"] for upload in listed.get("Uploads", [])]


# Reading


def test_a_body_that_breaks_off_is_unavailable_and_a_reader_resumes_it(store: S3Store, relay: Relay) -> None:
    data = content(3 * MIB)
    put(store, "blob", data)
    relay.faults = [Fault("cut", "GET", "/blob", after=1_000_000) for _ in range(2)]
    with pytest.raises(Unavailable, match="broke off"):
        get(store, "blob")
    whole = read_through(lambda start: store.read("blob", start=start), len(data), patient(), what="blob")
    assert b"".join(whole) == data
    assert relay.count("GET", "/blob") == 3


def test_reading_is_one_attempt(store: S3Store, relay: Relay) -> None:
    put(store, "blob", b"x")
    relay.faults = [Fault("answer", "GET", "/blob", times=9)]
    with pytest.raises(RateLimited):
        get(store, "blob")
    assert relay.count("GET", "/blob") == 1


def test_a_body_that_falls_silent_is_given_up_before_the_usual_time_when_the_deadline_is_near(
    store: S3Store, relay: Relay
) -> None:
    put(store, "blob", content(MIB))
    hurried = open_at(relay.endpoint, prefix=store.url.rpartition("/")[2], retry=patient(seconds=1))
    relay.faults = [Fault("stall", "GET", "/blob", after=1000)]
    began = time.monotonic()
    with pytest.raises(Unavailable, match="the server fell silent"):
        get(hurried, "blob")
    assert time.monotonic() - began < 20


def test_a_server_that_ignores_ranges_is_refused_and_its_bytes_are_not_taken(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", "GET", "/blob", status=200, body=b"0123456789")]
    with pytest.raises(StoreUnsupported, match="asked for bytes=5-6, got the whole object") as caught:
        get(store, "blob", start=5, stop=7)
    assert "Range" in str(caught.value.hint)


@pytest.mark.parametrize("page", [b"<html><body>Log in to the proxy</body></html>", b"<html><br>Log in", b"", b"ok"])
def test_a_proxy_that_answers_200_in_place_of_the_store_is_no_success(
    store: S3Store, relay: Relay, page: bytes
) -> None:
    relay.faults = [
        Fault("answer", method, status=200, body=page, times=99) for method in ("GET", "HEAD", "PUT", "POST")
    ]
    for verb, error in refused(store, ("stat", "scan", "write", "upload")).items():
        assert type(error) is Unavailable, verb
        assert error.hint, verb


# Retried, and told when it does not help


def test_a_write_that_is_told_to_slow_down_twice_succeeds(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", "PUT", "/blob", times=2)]
    put(store, "blob", b"bytes")
    assert get(store, "blob") == b"bytes"
    assert relay.count("PUT", "/blob") == 3


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
def test_every_other_verb_is_tried_again(store: S3Store, relay: Relay, method: str) -> None:
    put(store, "a/b", b"x")
    verbs: dict[str, Callable[[], object]] = {
        "HEAD": lambda: store.stat("a/b"),
        "GET": lambda: keys(store, "a/"),
        "DELETE": lambda: store.delete("a/b"),
    }
    relay.faults = [Fault("answer", method, status=500, body=b""), Fault("lose", method)]
    verbs[method]()
    assert relay.count(method) == 3


def test_a_store_that_stays_down_is_unavailable_after_the_attempts(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", "PUT", times=99)]
    with pytest.raises(RateLimited, match="503 SlowDown"):
        put(store, "blob", b"bytes")
    assert relay.count("PUT") == 4


@pytest.mark.usefixtures("_admin")
def test_the_seconds_that_a_server_asks_for_are_waited(relay: Relay) -> None:
    pauses: list[float] = []
    store = open_at(relay.endpoint, retry=RetryPolicy(base=0.01, cap=0.05, sleep=pauses.append))
    relay.faults = [Fault("answer", "PUT", headers={"Retry-After": "7"}), Fault("answer", "PUT", status=429, body=b"")]
    put(store, "blob", b"bytes")
    assert 7 <= pauses[0] < 8
    assert pauses[1] < 1


def test_a_conflict_of_two_writers_is_tried_again(store: S3Store, relay: Relay) -> None:
    conflict = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    relay.faults = [Fault("answer", "PUT", status=409, body=conflict)]
    put(store, "ref", b"bytes", create_only=True)
    assert get(store, "ref") == b"bytes"


def test_bytes_that_arrive_damaged_are_sent_again(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", "PUT", status=400, body=b"<Error><Code>BadDigest</Code></Error>")]
    put(store, "blob", b"bytes")
    assert get(store, "blob") == b"bytes"


def test_every_write_carries_the_digest_of_its_bytes(store: S3Store, relay: Relay) -> None:
    relay.faults = [
        Fault("answer", "PUT", "x-amz-checksum-sha256", status=400, body=b"<Error><Code>BadDigest</Code></Error>")
    ]
    put(store, "blob", b"bytes")
    put(store, "big", content(PART + 1))
    assert relay.count("PUT", "/blob") == 2
    assert not relay.faults[0].times


def test_a_server_that_refuses_checksums_gets_none_from_then_on(store: S3Store, relay: Relay) -> None:
    refused = b"<Error><Code>NotImplemented</Code></Error>"
    relay.faults = [
        Fault("answer", "PUT", "x-amz-checksum-sha256", status=501, body=refused, times=99),
        Fault("answer", "POST", "x-amz-checksum-algorithm", status=501, body=refused, times=99),
    ]
    put(store, "one", b"bytes")
    put(store, "two", b"bytes")
    put(store, "big", content(PART + 1))
    assert get(store, "two") == b"bytes"
    assert hashlib.sha256(get(store, "big")).digest() == hashlib.sha256(content(PART + 1)).digest()
    assert relay.count("PUT", "/two") == 1


@pytest.mark.usefixtures("_admin")
def test_a_listing_whose_second_page_fails_twice_is_still_whole(store: S3Store, relay: Relay) -> None:
    def page(name: str, rest: str) -> Fault:
        listed = f"<Key>{store._bucket.full(name)}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
        body = f"<ListBucketResult>{rest}<Contents>{listed}</Contents></ListBucketResult>".encode()
        return Fault("answer", "GET", "list-type", status=200, body=body)

    first = page("a", "<IsTruncated>true</IsTruncated><NextContinuationToken>more+/=</NextContinuationToken>")
    last = page("b", "<IsTruncated>false</IsTruncated>")
    relay.faults = [first, Fault("answer", "GET", "continuation-token=more%2B%2F%3D", times=2), last]
    assert keys(store, "") == ["a", "b"]
    assert relay.count("GET", "continuation-token") == 3


# Uploads in parts


def test_a_part_that_fails_twice_is_sent_again(store: S3Store, relay: Relay) -> None:
    data = content(2 * PART + 1)
    relay.faults = [Fault("answer", "PUT", "partNumber=2", times=2)]
    put(store, "big", data)
    assert hashlib.sha256(get(store, "big")).digest() == hashlib.sha256(data).digest()


def test_an_upload_whose_part_never_arrives_is_aborted_and_leaves_no_object(
    store: S3Store, relay: Relay, seaweedfs_server: S3Server
) -> None:
    relay.faults = [Fault("answer", "PUT", "partNumber=2", status=500, body=b"", times=99)]
    with pytest.raises(Unavailable, match="writing big, part 2"):
        put(store, "big", content(3 * PART))
    assert keys(store, "") == []
    assert uploads(seaweedfs_server, store) == []
    # One more for each part that ended after the first: whether one does is chance.
    assert relay.count("DELETE", "uploadId=") in {1, 2, 3}


@pytest.mark.parametrize("error", [ValueError("wrong bytes"), KeyboardInterrupt()])
def test_an_upload_whose_source_breaks_is_aborted(
    store: S3Store, seaweedfs_server: S3Server, error: BaseException
) -> None:
    chunks = breaking([content(PART)] * 2, error)
    with pytest.raises(type(error)) as caught:
        store.write("big", chunks, size=3 * PART)
    assert caught.value is error
    assert uploads(seaweedfs_server, store) == []
    assert keys(store, "") == []


def test_ctrl_c_while_parts_are_on_their_way_aborts_the_upload(store: S3Store, relay: Relay) -> None:
    def chunks() -> Iterator[bytes]:
        yield content(PART)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        yield content(PART)

    with pytest.raises(KeyboardInterrupt):
        store.write("big", chunks(), size=4 * PART)
    # One more where a part ended after the first: whether one does is chance.
    assert relay.count("DELETE", "uploadId=") in {1, 2}
    assert keys(store, "") == []


def test_an_abort_that_fails_is_told_beside_the_failure_itself(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", "DELETE", status=500, body=b"", times=9)]
    with pytest.raises(RuntimeError, match="source") as caught:
        store.write("big", breaking([], RuntimeError("source")), size=PART + 1)
    (note,) = caught.value.__notes__
    assert "AbortIncompleteMultipartUpload" in note


def test_an_upload_whose_completion_was_done_and_its_answer_lost_succeeds(store: S3Store, relay: Relay) -> None:
    data = content(PART + 1)
    gone = b"<Error><Code>NoSuchUpload</Code></Error>"
    relay.faults = [
        Fault("lose", "POST", "uploadId="),
        Fault("answer", "POST", "uploadId=", status=404, body=gone),
    ]
    put(store, "big", data)
    assert store.stat("big").size == len(data)
    assert relay.count("POST", "uploadId=") == 2


def test_an_upload_that_somebody_aborted_is_no_success(store: S3Store, relay: Relay) -> None:
    put(store, "big", b"old")
    gone = b"<Error><Code>NoSuchUpload</Code></Error>"
    relay.faults = [Fault("answer", "POST", "uploadId=", status=404, body=gone, times=99)]
    with pytest.raises(Unavailable, match="NoSuchUpload") as caught:
        put(store, "big", content(PART + 1))
    assert "run again" in str(caught.value.hint)
    assert get(store, "big") == b"old"


def test_few_parts_are_in_memory_at_once(store: S3Store, relay: Relay) -> None:
    """While no part is answered, the source is read for the four that are on their way, and no further."""
    relay.faults = [Fault("hold", "PUT", "partNumber=", times=99)]
    pulled = 0

    def chunks() -> Iterator[bytes]:
        nonlocal pulled
        for _ in range(5 * PART // MIB):
            pulled += 1
            yield bytes(MIB)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.write, "big", chunks(), size=5 * PART)
        end = time.monotonic() + 30
        while relay.count("PUT", "partNumber=") < 4 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)
        ahead = pulled
        relay.released.set()
        writing.result()
    assert ahead * MIB == 4 * PART
    assert store.stat("big").size == 5 * PART


def until(met: Callable[[], bool]) -> None:
    """Wait for *met*, at most half a minute; the caller asserts."""
    end = time.monotonic() + 30
    while not met() and time.monotonic() < end:
        time.sleep(0.01)


def test_all_uploads_of_a_store_together_have_six_parts_in_memory(store: S3Store, relay: Relay) -> None:
    """While no part is answered, three uploads of four parts each read six; afterwards all of them end well."""
    relay.faults = [Fault("hold", "PUT", "partNumber=", times=99)]
    pulled: list[int] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            pulled.append(PART)
            yield bytes(PART)

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(store.write, f"big-{each}", chunks(), size=4 * PART) for each in range(3)]
        until(lambda: relay.count("PUT", "partNumber=") >= PART_MEMORY // PART)
        time.sleep(0.2)
        ahead = sum(pulled)
        relay.released.set()
        for each in writing:
            each.result()
    assert ahead == PART_MEMORY
    assert [store.stat(f"big-{each}").size for each in range(3)] == [4 * PART] * 3


def test_uploads_that_fail_give_their_memory_back(store: S3Store, relay: Relay) -> None:
    store._bucket.memory = PartMemory(PART)
    with pytest.raises(ValueError, match="source"):
        store.write("big", breaking([content(PART)], ValueError("source")), size=3 * PART)
    relay.faults = [Fault("answer", "PUT", "partNumber=1", status=403, body=b"", times=9)]
    with pytest.raises(AccessDenied):
        put(store, "big", content(3 * PART))
    relay.faults = []
    put(store, "big", content(PART + 1))
    assert store.stat("big").size == PART + 1


@pytest.mark.usefixtures("_admin")
@pytest.mark.parametrize("size", [MIB, PART + 1])
def test_a_write_in_one_request_or_in_parts_that_finds_no_memory_until_the_deadline_says_so(
    relay: Relay, size: int
) -> None:
    store = open_at(relay.endpoint, retry=patient(seconds=1))
    held = store._bucket.memory.room(PART_MEMORY, stopped=lambda: False, deadline=Deadline(), doing="holding")
    with held, pytest.raises(DeadlineExceeded, match="writing big"):
        put(store, "big", content(size))
    assert relay.count("PUT") == 0


@pytest.mark.usefixtures("_admin")
def test_a_small_object_waits_for_no_memory(relay: Relay) -> None:
    """On a slow network parts of large files would keep the sign of life of a job back until others take it for dead."""
    store = open_at(relay.endpoint, retry=patient(seconds=20))
    with store._bucket.memory.room(PART_MEMORY, stopped=lambda: False, deadline=Deadline(), doing="holding"):
        put(store, "small", content(1000))
    assert store.stat("small").size == 1000


def test_a_part_larger_than_the_memory_is_taken_alone_and_is_not_passed_by_smaller_ones() -> None:
    memory = PartMemory(8)
    order: list[str] = []

    def take(name: str, size: int) -> None:
        with memory.room(size, stopped=lambda: False, deadline=Deadline(30), doing=name):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with memory.room(4, stopped=lambda: False, deadline=Deadline(30), doing="first"):
            large = pool.submit(take, "large", 100)
            until(lambda: len(memory._line) == 1)
            small = pool.submit(take, "small", 1)
            until(lambda: len(memory._line) == 2)
            assert order == []
        large.result()
        small.result()
    assert order == ["large", "small"]


def test_who_waits_for_memory_is_let_go_when_the_upload_is_stopped() -> None:
    memory = PartMemory(8)
    stopped = threading.Event()

    def take() -> None:
        with memory.room(8, stopped=stopped.is_set, deadline=Deadline(30), doing="waiting"):
            pass

    with (
        ThreadPoolExecutor(1) as pool,
        memory.room(1, stopped=stopped.is_set, deadline=Deadline(30), doing="holding"),
    ):
        waiting = pool.submit(take)
        until(lambda: len(memory._line) == 1)
        stopped.set()
        memory.wake()
        with pytest.raises(Stopped):
            waiting.result(timeout=30)


def test_a_part_that_lands_after_the_abort_is_aborted_too(
    store: S3Store, relay: Relay, seaweedfs_server: S3Server
) -> None:
    relay.faults = [Fault("hold", "PUT", "partNumber=1")]

    def chunks() -> Iterator[bytes]:
        yield content(PART)
        until(lambda: relay.count("PUT", "partNumber=1") == 1)
        raise RuntimeError("source")

    with pytest.raises(RuntimeError, match="source"):
        store.write("big", chunks(), size=3 * PART)
    assert relay.count("DELETE", "uploadId=") == 1
    relay.released.set()
    until(lambda: relay.count("DELETE", "uploadId=") == 2)
    assert relay.count("DELETE", "uploadId=") == 2
    assert relay.count("PUT", "partNumber=") == 1
    assert uploads(seaweedfs_server, store) == []


@pytest.mark.usefixtures("_admin")
def test_a_part_is_not_tried_again_after_the_upload_failed(relay: Relay) -> None:
    pausing, woken = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        pausing.set()
        woken.wait(30)

    def chunks() -> Iterator[bytes]:
        yield content(PART)
        pausing.wait(30)
        raise RuntimeError("source")

    store = open_at(relay.endpoint, retry=RetryPolicy(base=0.01, cap=0.05, deadline=Deadline(60), sleep=sleep))
    relay.faults = [Fault("answer", "PUT", "partNumber=1")]
    with pytest.raises(RuntimeError, match="source"):
        store.write("big", chunks(), size=2 * PART)
    woken.set()
    until(lambda: store._bucket.memory._taken == 0)
    assert store._bucket.memory._taken == 0
    assert relay.count("PUT", "partNumber=1") == 1


@pytest.mark.parametrize(
    ("size", "part"),
    [(1, PART), (PART * MAX_PARTS, PART), (PART * MAX_PARTS + 1, 2 * PART), (5 * 1024**4, 64 * PART)],
)
def test_parts_grow_so_that_there_are_never_too_many(size: int, part: int) -> None:
    assert part_size(size) == part
    assert -(-size // part) <= MAX_PARTS


# Refusals


def refused(
    store: S3Store, verbs: tuple[str, ...] = ("stat", "read", "scan", "write", "upload", "delete")
) -> dict[str, ModelCacheError]:
    """What each verb raises."""
    calls: dict[str, Callable[[], object]] = {
        "stat": lambda: store.stat("key"),
        "read": lambda: get(store, "key"),
        "scan": lambda: keys(store, ""),
        "write": lambda: put(store, "key", b"x"),
        "upload": lambda: put(store, "key", content(PART + 1)),
        "delete": lambda: store.delete("key"),
    }
    errors: dict[str, ModelCacheError] = {}
    for verb in verbs:
        with pytest.raises(ModelCacheError) as caught:
            calls[verb]()
        errors[verb] = caught.value
    return errors


def test_a_wrong_secret_is_denied_with_what_to_check_and_is_never_repeated(
    seaweedfs_server: S3Server, rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch, (ADMIN[0], "a-wrong-secret"))
    for server in (seaweedfs_server, rclone_server):
        for verb, error in refused(open_at(server.endpoint)).items():
            assert type(error) is AccessDenied, verb
            assert "SignatureDoesNotMatch" in error.message
            assert "AWS_SECRET_ACCESS_KEY" in str(error.hint)
            assert "a-wrong-secret" not in repr(error)


def test_an_unknown_access_key_is_denied(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch, ("AKIDUNKNOWN000000001", "whatever"))
    for error in refused(open_at(seaweedfs_server.endpoint)).values():
        assert type(error) is AccessDenied
        assert "AWS_ACCESS_KEY_ID" in str(error.hint)
        assert "AKIDUNKNOWN" not in f"{error.message} {error.hint}"


def test_who_may_only_read_reads_and_is_denied_writing(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    owned = open_at(seaweedfs_server.endpoint)
    put(owned, "key", b"bytes")
    login(monkeypatch, READER)
    reader = open_at(seaweedfs_server.endpoint, prefix=owned.url.rpartition("/")[2])
    assert get(reader, "key") == b"bytes"
    assert reader.stat("key").size == 5
    assert keys(reader, "") == ["key"]
    with pytest.raises(ObjectNotFound):
        reader.stat("missing")
    for verb, error in refused(reader, ("write", "upload", "delete")).items():
        assert type(error) is AccessDenied, verb
        assert "s3:PutObject" in str(error.hint)
    assert get(owned, "key") == b"bytes"


def test_no_credentials_at_all_are_denied_with_how_to_give_them(seaweedfs_server: S3Server) -> None:
    for error in refused(open_at(seaweedfs_server.endpoint)).values():
        assert type(error) is AccessDenied
        assert "no credentials were found" in error.message
        assert "AWS_PROFILE" in str(error.hint)


def test_half_of_the_credentials_is_denied(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ADMIN[0])
    with pytest.raises(AccessDenied, match="incomplete"):
        open_at(seaweedfs_server.endpoint).stat("key")


def test_a_profile_that_is_nowhere_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    with pytest.raises(ConfigError, match="nightly") as caught:
        open_at("http://127.0.0.1:1")
    assert "AWS_PROFILE" in str(caught.value.hint)


def test_credentials_of_a_profile_are_found(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, bare_environment: Path
) -> None:
    lines = ["[ci]", f"aws_access_key_id={ADMIN[0]}", f"aws_secret_access_key={ADMIN[1]}"]
    (bare_environment / "aws-credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_PROFILE", "ci")
    assert keys(open_at(seaweedfs_server.endpoint), "") == []


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (400, "ExpiredToken", AccessDenied, "expired"),
        (400, "InvalidToken", AccessDenied, "AWS_SESSION_TOKEN"),
        (401, "Unauthorized", AccessDenied, "s3:GetObject"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (403, "AccessDenied", AccessDenied, "s3:ListBucket"),
        (403, "SomethingNew", AccessDenied, "s3:ListBucket"),
        (403, "QuotaExceeded", NoSpace, "quota"),
        (507, "XMinioStorageFull", NoSpace, "quota"),
        (301, "PermanentRedirect", ConfigError, "--region eu-west-9"),
        (400, "AuthorizationHeaderMalformed", ConfigError, "--region eu-west-9"),
        (400, "InvalidBucketName", ConfigError, "name of the bucket"),
        (404, "NoSuchBucket", BucketMissing, "create it"),
        (405, "MethodNotAllowed", StoreUnsupported, "doctor"),
        (501, "NotImplemented", StoreUnsupported, "doctor"),
        (400, "SomethingNew", StoreUnsupported, "doctor"),
        (429, "TooManyRequests", RateLimited, "fewer workers"),
        (503, "SlowDown", RateLimited, "fewer workers"),
        (500, "InternalError", Unavailable, "try later"),
        (400, "RequestTimeout", Unavailable, "try later"),
    ],
)
def test_every_refusal_is_one_of_ours_for_every_verb(
    store: S3Store, relay: Relay, status: int, code: str, kind: type[ModelCacheError], hint: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>SECRET</Message></Error>".encode()
    headers = {"x-amz-bucket-region": "eu-west-9"}  # which the answer to a HEAD has too
    relay.faults = [
        Fault("answer", method, status=status, body=body, headers=headers, times=99)
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE")
    ]
    for verb, error in refused(store).items():
        assert type(error) is kind, verb
        assert hint in str(error.hint), verb
        assert "SECRET" not in error.message
        assert store.url in error.message


def test_a_server_that_redirects_in_circles_is_a_wrong_setting(store: S3Store, relay: Relay) -> None:
    relay.faults = [Fault("answer", method, status=301, body=b"", times=9999) for method in ("GET", "HEAD")]
    for error in refused(store, ("stat", "read", "scan")).values():
        assert type(error) is ConfigError
        assert "--region" in str(error.hint)


def test_what_is_denied_is_asked_once(store: S3Store, relay: Relay) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    relay.faults = [Fault("answer", "DELETE", status=403, body=denied, times=99)]
    with pytest.raises(AccessDenied):
        store.delete("key")
    assert relay.count("DELETE") == 1


def test_a_missing_object_costs_one_request_once_the_bucket_was_seen(store: S3Store, relay: Relay) -> None:
    for _ in range(3):
        with pytest.raises(ObjectNotFound):
            store.stat("missing")
    assert (relay.count("HEAD"), relay.count("GET")) == (3, 1)


# The connection


@pytest.mark.usefixtures("_admin")
def test_an_endpoint_where_nobody_listens_is_unavailable() -> None:
    (port,) = free_ports(1)
    store = open_at(f"http://127.0.0.1:{port}")
    for verb, error in refused(store).items():
        assert type(error) is Unavailable, verb
        assert "--endpoint-url" in str(error.hint)


@pytest.mark.usefixtures("_admin")
def test_a_pause_beyond_the_deadline_is_not_begun(relay: Relay) -> None:
    store = open_at(relay.endpoint, retry=RetryPolicy(attempts=99, base=60, cap=60, jitter=max, deadline=Deadline(20)))
    relay.faults = [Fault("answer", "PUT", times=99)]
    with pytest.raises(DeadlineExceeded, match="503 SlowDown"):
        put(store, "key", b"x")


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "http://", "not a url"])
def test_an_endpoint_that_is_no_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="not the URL of an S3 endpoint"):
        open_at(url)


@pytest.mark.parametrize("bucket", ["", "a", "UPPER_case!", "-a-", "a/b", "b" * 64])
def test_a_bucket_that_can_have_no_such_name_is_a_wrong_setting(bucket: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a bucket"):
        open_at("http://127.0.0.1:1", bucket=bucket)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that a test may pause and stop."""
    with rclone(tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.mark.usefixtures("_admin")
def test_a_server_that_is_paused_and_then_stopped_is_unavailable_within_the_deadline(own_server: S3Server) -> None:
    put(open_at(own_server.endpoint), "key", b"x")
    own_server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
        # Time enough for one silence to be noticed, on a busy machine too.
        open_at(own_server.endpoint, retry=patient(seconds=10)).stat("key")
    assert time.monotonic() - began < 30
    assert "silent" in caught.value.message or "timed out" in caught.value.message
    own_server.stop()
    with pytest.raises(Unavailable, match="no connection"):
        open_at(own_server.endpoint).stat("key")


def test_a_certificate_is_trusted_only_with_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    pem = str(tmp_path / "server.pem")
    with rclone(tmp_path / "server", options=["--cert", pem, "--key", pem]) as server:
        login(monkeypatch)
        endpoint = server.endpoint.replace("http:", "https:")
        with pytest.raises(ConfigError, match="certificate is not trusted") as caught:
            open_at(endpoint).stat("key")
        assert "--ca-bundle" in str(caught.value.hint)
        store = open_at(endpoint, ca_bundle=str(tmp_path / "ca.pem"))
        put(store, "key", content(PART + 1))
        assert get(store, "key", start=PART - 1) == content(PART + 1)[PART - 1 :]
        with pytest.raises(ConfigError, match=r"missing\.pem"):
            open_at(endpoint, ca_bundle=str(tmp_path / "missing.pem"))
