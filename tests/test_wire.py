"""Both ways of asking an S3 server, with a botocore client and without, say the same of everything; and the cheap one is taken."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
import trustme
from attrs import frozen
from botocore.response import StreamingBody
from urllib3.response import HTTPResponse

from ci_modelcache.errors import ConfigError, DigestMismatch, ModelCacheError, Unavailable
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_errors import explaining
from ci_modelcache.stores.s3_light import Light
from ci_modelcache.stores.s3_place import Place, place_of
from ci_modelcache.stores.s3_session import account_of
from ci_modelcache.stores.s3_wire import Body, spelled
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import MIB, PART, content, get, keys, put, sums_of
from tests.parts.faults import Fault, relaying
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, free_ports, login, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.parts.faults import Relay
    from tests.parts.servers import S3Server

_prefixes = map("both-{}".format, itertools.count())
WAYS = ("without a client", "with a client")


@frozen
class Address:
    """Where a server is, and whom to trust there."""

    endpoint: str
    ca_bundle: str | None = None


def open_at(address: Address, way: str, *, prefix: str, bucket: str = BUCKET, attempts: int = 1) -> S3Store:
    store = S3Store(
        bucket,
        prefix,
        endpoint_url=address.endpoint,
        region=REGION,
        ca_bundle=address.ca_bundle,
        retry=RetryPolicy(attempts=attempts, base=0.01, cap=0.05, deadline=Deadline(60)),
    )
    if way == "with a client":
        store._bucket._place = None
    return store


@pytest.fixture(scope="session")
def tls_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("seaweedfs-tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    (port,) = free_ports(1)
    tls = ["port.https", port], ["key.file", folder / "server.pem"], ["cert.file", folder / "server.pem"]
    with seaweedfs(folder, options=[f"-s3.{name}={value}" for name, value in tls]):
        yield Address(f"https://127.0.0.1:{port}", str(folder / "ca.pem"))


@pytest.fixture(params=["seaweedfs", "seaweedfs by TLS", "rclone", "moto"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Address:
    login(monkeypatch)
    if request.param == "seaweedfs by TLS":
        found: Address = request.getfixturevalue("tls_address")
        return found
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return Address(server.endpoint)


def said(call: Callable[[], object], *, prefix: str) -> object:
    """What comes of *call*: its result, or what it raises, as its user sees it; without the *prefix*, in which two stores differ, and which part failed first."""
    try:
        return call()
    except ModelCacheError as error:
        return type(error), re.sub(r"part \d+", "part", error.message.replace(prefix, "")), error.hint


Calls = dict[str, "Callable[[], object]"]


def outcomes(calls: Calls, prefix: str) -> dict[str, object]:
    return {name: said(call, prefix=prefix) for name, call in calls.items()}


def small_calls(store: S3Store) -> Calls:
    """What the requests of which there are many can be asked, in one request."""
    return {
        "put": lambda: put(store, "a/b", b"0123456789"),
        "put nothing": lambda: put(store, "empty", b""),
        "put much": lambda: put(store, "a/much", content(MIB)),
        "put with sums": lambda: store.write("summed", [b"x"], size=1, sums=sums_of(b"x")),
        "put with wrong sums": lambda: store.write("summed", [b"x"], size=1, sums=sums_of(b"y")),
        "put once": lambda: put(store, "once", b"first", create_only=True),
        "put twice": lambda: put(store, "once", b"other", create_only=True),
        "read": lambda: get(store, "a/b"),
        "read nothing": lambda: get(store, "empty"),
        "read of nothing": lambda: get(store, "empty", start=0, stop=5),
        "read a range": lambda: get(store, "a/b", start=2, stop=5),
        "read beyond the end": lambda: get(store, "a/b", start=10),
        "read over the end": lambda: get(store, "a/b", start=8, stop=99),
        "read once": lambda: get(store, "once"),
        "read what is missing": lambda: get(store, "missing"),
        "read a range of what is missing": lambda: get(store, "missing", start=1, stop=2),
        "stat": lambda: store.stat("a/b").size,
        "stat nothing": lambda: store.stat("empty").size,
        "stat what is missing": lambda: store.stat("missing"),
    }


def large_calls(store: S3Store) -> Calls:
    large = content(PART + 70_000)
    sums = sums_of(large)
    return {
        "put parts": lambda: store.write("large", [large], size=len(large), sums=sums),
        "put wrong parts": lambda: store.write("wrong", [large], size=len(large), sums=[sums[0], bytes(32)]),
        "read parts": lambda: get(store, "large") == large,
        "what is there": lambda: [(key, store.stat(key).size) for key in keys(store, "")],
    }


def test_both_ways_say_the_same_of_everything(address: Address) -> None:
    found: list[dict[str, object]] = []
    for way in WAYS:
        prefix = next(_prefixes)
        store = open_at(address, way, prefix=prefix)
        found.append(outcomes(small_calls(store) | large_calls(store), prefix))
    light, client = found
    assert light == client
    assert light["read"] == b"0123456789"
    assert light["read parts"] is True
    assert light["put wrong parts"][0] is DigestMismatch  # type: ignore[index]  # a refusal is a tuple


@pytest.mark.parametrize(
    ("bucket", "credentials"),
    [("not-there", ADMIN), (BUCKET, (ADMIN[0], "a-wrong-secret")), (BUCKET, ("unknown", "key")), (BUCKET, READER)],
)
def test_both_ways_are_refused_for_the_same_reason(
    address: Address, monkeypatch: pytest.MonkeyPatch, bucket: str, credentials: tuple[str, str]
) -> None:
    login(monkeypatch, credentials)
    prefixes = [next(_prefixes) for _ in WAYS]
    light, client = (
        outcomes(small_calls(open_at(address, way, prefix=prefix, bucket=bucket)), prefix)
        for way, prefix in zip(WAYS, prefixes, strict=True)
    )
    assert light == client


@pytest.fixture
def admin_relay(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    login(monkeypatch)
    with relaying(seaweedfs_server.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def answering(seaweedfs_server: S3Server) -> Iterator[tuple[Relay, list[S3Store]]]:
    """A relay, and a store behind it for each way."""
    with relaying(seaweedfs_server.port) as relay, pytest.MonkeyPatch.context() as patch:
        login(patch)
        yield relay, [open_at(Address(relay.endpoint), way, prefix="answering") for way in WAYS]


ANSWERS = [
    (400, "BadDigest"),
    (400, "ExpiredToken"),
    (400, "AuthorizationHeaderMalformed"),
    (400, ""),
    (403, "AccessDenied"),
    (403, "RequestTimeTooSkewed"),
    (403, "SignatureDoesNotMatch"),
    (403, ""),
    (404, "NoSuchBucket"),
    (404, "NoSuchUpload"),
    (404, ""),
    (409, "ConditionalRequestConflict"),
    (412, "PreconditionFailed"),
    (416, "InvalidRange"),
    (429, "TooManyRequests"),
    (301, "PermanentRedirect"),
    (307, "TemporaryRedirect"),
    (500, "InternalError"),
    (500, ""),
    (501, "NotImplemented"),
    (503, "SlowDown"),
    (507, "XMinioStorageFull"),
    (200, "InternalError"),
    (200, ""),
]
"""Status and code of what a server may say; without a code it says nothing more."""


@pytest.mark.parametrize(("status", "code"), ANSWERS)
def test_both_ways_understand_the_same_of_every_answer(
    answering: tuple[Relay, list[S3Store]], status: int, code: str
) -> None:
    relay, stores = answering
    body = f"<Error><Code>{code}</Code><Region>eu-west-9</Region></Error>".encode() if code else b""
    faults = [Fault("answer", each, "key", status=status, body=body, times=999) for each in ("GET", "HEAD", "PUT")]
    part = Body(b"x", hashlib.sha256(b"x").digest(), checked=True)
    found = []
    for store in stores:
        relay.faults = faults
        calls: Calls = {
            "read": lambda: get(store, "key"),  # noqa: B023  # called before the loop goes on
            "read a range": lambda: get(store, "key", start=2, stop=4),  # noqa: B023  # as above
            "stat": lambda: store.stat("key"),  # noqa: B023  # as above
            "put": lambda: put(store, "key", b"x"),  # noqa: B023  # as above
            "put once": lambda: put(store, "key", b"x", create_only=True),  # noqa: B023  # as above
            "put part": lambda: store._bucket.asked(  # noqa: B023  # as above
                lambda wire: wire.put_part("key", part, upload="id", number=1), doing="writing key"
            ),
        }
        found.append(outcomes(calls, "answering"))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["cut", "lose"])
def test_both_ways_say_the_same_of_a_connection_that_breaks(admin_relay: Relay, kind: Any) -> None:
    prefix = next(_prefixes)
    found: list[list[Any]] = []
    put(open_at(Address(admin_relay.endpoint), WAYS[0], prefix=prefix), "key", content(MIB))
    for way in WAYS:
        store = open_at(Address(admin_relay.endpoint), way, prefix=prefix)
        admin_relay.faults = [Fault(kind, method, "key", times=9, after=1000) for method in ("GET", "PUT")]
        found.append(
            [
                said(lambda: get(store, "key"), prefix=prefix),  # noqa: B023  # called before the loop goes on
                said(lambda: put(store, "key", content(MIB)), prefix=prefix),  # noqa: B023  # as above
            ]
        )
    assert found[0] == found[1]
    assert found[0][0][0] is Unavailable


# What the cheap way does


def test_reading_and_writing_small_objects_makes_no_client(address: Address) -> None:
    store = open_at(address, WAYS[0], prefix=next(_prefixes))
    put(store, "key", b"x")
    store.stat("key")
    get(store, "key")
    assert said(lambda: get(store, "missing"), prefix="")
    assert store._bucket._clients == {}


def test_a_body_is_signed_by_the_digest_that_is_known_of_it() -> None:
    """Nothing hashes the bytes once more: it would have found another one."""
    with environment() as patch:
        store = open_at(Address("http://127.0.0.1:1"), WAYS[0], prefix="signed")
        light: Any = store._bucket._light()
        patch.setattr(light._http, "send", raising)
        known = hashlib.sha256(b"of other bytes")
        with pytest.raises(Sent) as caught:
            light.put("key", Body(b"bytes", known.digest(), checked=True), create_only=False)
    assert caught.value.request.headers["X-Amz-Content-SHA256"] == known.hexdigest()
    assert caught.value.request.headers["x-amz-checksum-sha256"] == spelled(known.digest())


def test_a_bucket_that_moved_is_found_by_a_client_and_asked_by_it_from_then_on(admin_relay: Relay) -> None:
    store = open_at(Address(admin_relay.endpoint), WAYS[0], prefix=next(_prefixes))
    put(store, "key", b"x")
    body = f"<Error><Code>PermanentRedirect</Code><Region>{REGION}</Region></Error>".encode()
    admin_relay.faults = [Fault("answer", "GET", "key", status=301, body=body)]
    assert get(store, "key") == b"x"
    assert len(store._bucket._clients) == 1
    seen = len(admin_relay.seen)
    assert get(store, "key") == b"x"
    assert len(admin_relay.seen) == seen + 1
    assert store._bucket._light() is None


def test_a_server_that_hangs_up_in_the_middle_of_a_body_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the memory of the body any more then: it could not be given back."""
    login(monkeypatch)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def hang_up() -> None:
            for _ in range(2):
                connection, _peer = listener.accept()
                connection.recv(1000)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        address = Address(f"http://127.0.0.1:{listener.getsockname()[1]}")
        store = open_at(address, WAYS[0], prefix="hung-up", attempts=2)
        with pytest.raises(Unavailable, match="the connection was closed"):
            put(store, "key", content(8 * MIB))
        thread.join(30)


class BrokenTls(io.RawIOBase):
    """A body in the middle of which a record of TLS is damaged."""

    def readable(self) -> bool:
        return True

    def read(self, _size: int = -1) -> bytes:
        raise ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC]")


def test_a_damaged_record_in_the_middle_of_a_body_is_unavailable_so_that_it_is_read_again() -> None:
    body = StreamingBody(HTTPResponse(body=BrokenTls(), preload_content=False), 5)  # type: ignore[arg-type]  # of what it needs
    with pytest.raises(Unavailable, match="the TLS connection failed"), explaining("reading key", store="s3://bucket"):
        body.read(5)


def test_many_threads_share_the_connections(address: Address) -> None:
    store = open_at(address, WAYS[0], prefix=next(_prefixes), attempts=4)
    values = {f"many/{number}": content(40_000, seed=number) for number in range(32)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: put(store, *item), values.items()))
        assert dict(zip(values, pool.map(lambda key: get(store, key), values), strict=True)) == values


@pytest.mark.parametrize("way", WAYS)
def test_the_proxy_of_the_environment_is_taken(
    admin_relay: Relay, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("http_proxy", admin_relay.endpoint)
    store = open_at(Address(seaweedfs_server.endpoint), way, prefix=next(_prefixes))
    put(store, "key", content(MIB))
    assert get(store, "key") == content(MIB)
    assert [method for method, _ in admin_relay.seen] == ["PUT", "GET"]


# Where a bucket is


class Sent(Exception):
    """Carries a request out of whoever sends it."""

    def __init__(self, request: Any) -> None:
        super().__init__(request.url)
        self.request = request


def raising(request: Any, **_: object) -> None:
    raise Sent(request)


@contextmanager
def environment(**variables: str) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [each for each in os.environ if each.startswith("AWS_")]:
            patch.delenv(name)
        login(patch)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield patch


def requests_of(store: S3Store, *, way: str, patch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, str]]]:
    """Method, URL and headers of what *store* would send; of the headers those that are signed, and so all that matter."""
    body = Body(b"bytes", hashlib.sha256(b"bytes").digest(), checked=True)
    calls: list[Callable[[Any], object]] = [
        lambda wire: wire.get("a/b_c-d.e"),
        lambda wire: wire.get("a/b", wanted="bytes=1-2"),
        lambda wire: wire.head("a/b"),
        lambda wire: wire.put("a/b", body, create_only=True),
        lambda wire: wire.put_part("a/b", body, upload="x/+y=~ z", number=3),
    ]
    if way == "with a client":
        store._bucket.client().meta.events.register("before-send.s3", raising)
    else:
        light: Any = store._bucket._light()
        patch.setattr(light._http, "send", raising)
    found = []
    for call in calls:
        with pytest.raises(Sent) as caught:
            store._bucket.asked(call, doing="asking")
        request = caught.value.request
        plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
        ours = {name.lower(): value for name, value in plain.items() if not name.startswith(("amz-", "User-Agent"))}
        for each in ("authorization", "x-amz-date"):
            ours[each] = ours.get(each, "").partition("Signature=")[0][: 8 if each == "x-amz-date" else None]
        found.append((request.method, request.url, ours))
    return found


@pytest.mark.parametrize("token", ["", "a-token"])
@pytest.mark.parametrize(
    ("bucket", "endpoint", "region"),
    [
        ("models", "http://127.0.0.1:9000", "us-east-1"),
        ("models", "http://127.0.0.1:9000/", "us-east-1"),
        ("models", "https://minio.example", "eu-central-9"),
        ("models", "http://localhost:80", "garage"),
        ("Models_of.all", "https://minio.example:9000", "us-east-1"),
        ("models.of.all", "https://s3.example", "auto"),
        ("models", None, "us-east-1"),
        ("models", None, "eu-west-1"),
        ("models-2", None, "ap-southeast-2"),
        ("a-b-c", None, "us-west-2"),
    ],
)
def test_both_ways_send_the_same_to_the_same_place(bucket: str, endpoint: str | None, region: str, token: str) -> None:
    found = []
    for way in WAYS:
        with environment(**({"AWS_SESSION_TOKEN": token} if token else {})) as patch:
            retry = RetryPolicy(attempts=1)
            store = S3Store(bucket, "", endpoint_url=endpoint, region=region, retry=retry)
            assert isinstance(store._bucket._place, Place)
            if way == "with a client":
                store._bucket._place = None
            found.append(requests_of(store, way=way, patch=patch))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("bucket", "endpoint", "region", "variables"),
    [
        ("models", "http://user@host", "us-east-1", {}),
        ("models", "http://127.0.0.1:9000/path", "us-east-1", {}),
        ("models", "http://[::1]:9000", "us-east-1", {}),
        ("models", "ftp://host", "us-east-1", {}),
        ("models", "http://-host", "us-east-1", {}),
        ("models", f"https://{'a' * 64}.example", "us-east-1", {}),
        ("models", "http://host:65536", "us-east-1", {}),
        ("models", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", {}),
        ("models--use1-az4--x-s3", None, "us-east-1", {}),
        ("models.of.all", None, "us-east-1", {}),
        ("Models", None, "us-east-1", {}),
        ("models", None, "cn-north-1", {}),
        ("models", None, "us-gov-west-1", {}),
        ("models", None, "nowhere", {}),
        ("models", None, "eu-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("models", None, "eu-west-1", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
        ("models", None, "us-east-1", {"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}),
        ("models", None, "us-east-1", {"AWS_DEFAULTS_MODE": "standard"}),
        ("models", None, "us-east-1", {"AWS_ENDPOINT_URL_S3": "http://host/path"}),
        ("models", "http://host", "us-east-1", {"AWS_PROFILE": "virtual"}),
        ("models", "http://host", "us-east-1", {"AWS_PROFILE": "unsigned"}),
    ],
)
def test_a_place_that_is_not_plain_is_left_to_botocore(
    tmp_path: Path, bucket: str, endpoint: str | None, region: str, variables: dict[str, str]
) -> None:
    (tmp_path / "config").write_text(
        "[profile virtual]\ns3 =\n  addressing_style = virtual\n"
        "[profile unsigned]\ns3 =\n  payload_signing_enabled = false\n"
    )
    with environment(AWS_CONFIG_FILE=str(tmp_path / "config"), **variables):
        account = account_of(botocore.session.get_session())
        assert place_of(account, bucket, endpoint_url=endpoint, region=region) is None


@pytest.mark.parametrize(
    ("variables", "endpoint", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://host:1"}, None, "http://host:1/models/"),
        ({"AWS_ENDPOINT_URL": "http://host:1", "AWS_ENDPOINT_URL_S3": "http://host:2"}, None, "http://host:2/models/"),
        ({"AWS_ENDPOINT_URL": "http://host:1"}, "http://host:3", "http://host:3/models/"),
        ({"AWS_ENDPOINT_URL": "http://host:1"}, "", "https://models.s3.eu-west-1.amazonaws.com/"),
        (
            {"AWS_ENDPOINT_URL": "http://host:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            None,
            "https://models.s3.eu-west-1.amazonaws.com/",
        ),
        ({"AWS_PROFILE": "other"}, None, "http://host:4/models/"),
    ],
)
def test_an_endpoint_comes_from_where_botocore_would_take_it(
    tmp_path: Path, variables: dict[str, str], endpoint: str | None, expected: str
) -> None:
    (tmp_path / "config").write_text("[profile other]\nendpoint_url = http://host:4\n")
    with environment(AWS_CONFIG_FILE=str(tmp_path / "config"), **variables):
        place = place_of(
            account_of(botocore.session.get_session()), "models", endpoint_url=endpoint, region="eu-west-1"
        )
    assert place is not None
    assert place.objects == expected


@pytest.mark.parametrize("content", [None, "no certificate\n"])
@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_authorities_that_cannot_be_read_are_a_wrong_setting(tmp_path: Path, name: str, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    with environment(**{name: str(bundle)}):
        store = open_at(Address("https://127.0.0.1:9"), WAYS[0], prefix=next(_prefixes))
        with pytest.raises(ConfigError, match="no certificates can be read from"):
            store.stat("key")


def test_what_has_no_body_tells_of_none() -> None:
    with environment():
        store = open_at(Address("http://127.0.0.1:9"), WAYS[0], prefix="")
        light: Any = store._bucket._light()
    assert light._signed("GET", "key", {}).body is None


def test_authorities_are_read_once_and_not_for_each_connection(
    tls_address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    store = open_at(tls_address, WAYS[0], prefix=next(_prefixes), attempts=4)
    put(store, "key", b"x")
    light = store._bucket._light()
    assert isinstance(light, Light)
    http: Any = light._http
    (pool,) = http._manager.pools._container.values()
    assert (pool.ca_certs, pool.cert_reqs) == (None, "CERT_REQUIRED")
