"""Connections: who sees the token, where redirects may lead, TLS, proxies, and waits that end."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from ci_modelcache.demo.exchange import Reply
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import AccessDenied, ConfigError, DeadlineExceeded, IntegrityError, Stalled, Unavailable
from ci_modelcache.sources.answers import seconds_to_wait
from ci_modelcache.sources.http import Credential, HttpSession
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.token import StaticToken, Token
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.hub import REF, TINY, MakeEndpoint, read, read_verified
from tests.parts.hub_faults import HangUp, RedirectTo, Silence, Trickle, WithHeaders, always, api, naming
from tests.parts.proxy import LoopbackProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.demo.exchange import Request, Respond

TOKEN = "hf_reader"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def tls_hub(tls: ssl.SSLContext) -> Iterator[LoopbackHub]:
    with LoopbackHub(tls=tls, tokens={TOKEN: "reader"}) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        yield hub


@pytest.fixture
def bundle(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


# Tokens


def test_the_token_goes_to_its_own_origin_and_not_to_the_cdn(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    assert read(endpoint(hub.url, token=TOKEN), "model.safetensors") == TINY["model.safetensors"]
    assert {(seen.server, seen.authorized) for seen in hub.requests()} == {("hub", True), ("cdn", False)}


def test_the_token_stays_when_a_redirect_stays_at_the_origin(endpoint: MakeEndpoint) -> None:
    with LoopbackHub(resolve_cache=True, tokens={TOKEN: "reader"}) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        assert read(endpoint(hub.url, token=TOKEN), "config.json") == TINY["config.json"]
        assert [seen.authorized for seen in hub.requests(within="/resolve")] == [True, True]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_redirect_to_another_port_or_host_name_gets_no_token(
    hub: LoopbackHub, endpoint: MakeEndpoint, name: str
) -> None:
    with LoopbackHub(tokens={TOKEN: "reader"}) as other:
        other.add_repo("acme/tiny", {"main": TINY})
        elsewhere = other.url.replace("127.0.0.1", name)
        hub.faults.append(RedirectTo(location=f"{elsewhere}/api/models/acme/tiny/revision/main", when=api))
        endpoint(hub.url, token=TOKEN).resolve(REF)
        assert [seen.authorized for seen in other.requests()] == [False]


def test_the_token_comes_back_with_the_way_back(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    """A detour over another origin neither leaks the token nor loses it for the rest of the way."""
    with LoopbackHub(faults=[RedirectTo(location=f"{hub.url}/api/models/acme/tiny", when=always)]) as other:
        hub.faults.append(RedirectTo(location=f"{other.url}/x", when=naming("/revision/")))
        endpoint(hub.url, token=TOKEN).resolve(REF)
        assert [seen.authorized for seen in other.requests()] == [False]
        assert [seen.authorized for seen in hub.requests()] == [True, True]


def test_netrc_is_not_read(
    hub: LoopbackHub, endpoint: MakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y\nmachine localhost login x password y\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert read(endpoint(hub.url), "model.safetensors") == TINY["model.safetensors"]
    assert not any(seen.authorized for seen in hub.requests())


def test_cookies_are_not_sent_back(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    cookies: list[str | None] = []

    def watch(request: Request, respond: Respond) -> Reply:
        cookies.append(request.headers.get("Cookie"))
        return respond(request)

    hub.faults += [WithHeaders(change={"Set-Cookie": "session=abc; Path=/"}, when=always), watch]
    read(endpoint(hub.url), "config.json")
    assert cookies == [None, None, None]


def test_a_token_never_shows_itself() -> None:
    token = Token(" hf_secret\n")
    assert token.secret == "hf_secret"
    assert "hf_secret" not in f"{token} {token!r} {Credential(StaticToken(token), Origin.of('https://x'))!r}"


@pytest.mark.parametrize("bad", ["", "  ", "hf_a b", "hf_a\r\nX-Evil: 1", "hf_é"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_repeated(bad: str) -> None:
    with pytest.raises(ConfigError, match="the access token") as caught:
        Token(bad)
    assert not bad.strip() or bad not in caught.value.message


# Redirects


def test_redirects_in_a_circle_end(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(RedirectTo(when=api))
    with pytest.raises(IntegrityError, match="more than 10 redirects"):
        endpoint(hub.url).resolve(REF)
    assert len(hub.requests()) == 11


def test_a_redirect_from_https_to_http_is_refused(
    tls_hub: LoopbackHub, hub: LoopbackHub, endpoint: MakeEndpoint, bundle: Path
) -> None:
    tls_hub.faults.append(RedirectTo(location=f"{hub.url}/api/models/acme/tiny/revision/main", when=api))
    with HttpSession(ca_bundle=bundle) as session, pytest.raises(IntegrityError, match="redirects to unencrypted"):
        endpoint(tls_hub.url, over=session).resolve(REF)
    assert hub.requests() == []


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://127.0.0.1:99999/", "http://[::1/"]
)
def test_a_redirect_that_leads_nowhere_is_an_answer_that_makes_no_sense(
    hub: LoopbackHub, endpoint: MakeEndpoint, location: str
) -> None:
    hub.faults.append(RedirectTo(location=location, when=api))
    with pytest.raises(IntegrityError, match=r"asking http://127\.0\.0\.1"):
        endpoint(hub.url).resolve(REF)
    assert len(hub.requests()) == 1


def test_a_password_in_a_redirect_is_not_used_and_not_shown(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    location = hub.url.replace("http://", "http://user:s3cret@") + "/api/models/acme/tiny"
    hub.faults.append(RedirectTo(location=location, when=naming("/revision/")))
    endpoint(hub.url).resolve(REF)
    assert [seen.authorized for seen in hub.requests()] == [False, False]


def test_an_endless_body_of_a_redirect_is_not_read_to_its_end(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    sent: list[int] = []

    def endless(request: Request, respond: Respond) -> Reply:
        if "/revision/" not in request.target:
            return respond(request)

        def body() -> Iterator[bytes]:
            while not request.stopping.is_set():
                sent.append(65536)
                yield bytes(65536)

        return Reply(307, {"Location": f"{hub.url}/api/models/acme/tiny"}, body)

    hub.faults.append(endless)
    assert endpoint(hub.url).resolve(REF).commit
    assert sum(sent) < 64 * 1024 * 1024


# TLS


def test_a_private_ca_passes_when_it_is_named(tls_hub: LoopbackHub, endpoint: MakeEndpoint, bundle: Path) -> None:
    with HttpSession(ca_bundle=bundle) as session:
        assert read_verified(endpoint(tls_hub.url, over=session, token=TOKEN), "model.safetensors")


def test_an_unknown_ca_is_a_setting_to_mend_and_is_not_tried_again(
    tls_hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float]
) -> None:
    with pytest.raises(ConfigError, match="certificate cannot be verified") as caught:
        endpoint(tls_hub.url).resolve(REF)
    assert "--ca-bundle" in str(caught.value.hint)
    assert pauses == []


def test_a_server_that_speaks_no_tls_is_a_setting_to_mend_and_is_not_tried_again(
    hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float]
) -> None:
    with pytest.raises(ConfigError, match="speaks no TLS") as caught:
        endpoint(hub.url.replace("http:", "https:")).resolve(REF)
    assert "http://" in str(caught.value.hint)
    assert pauses == []


def test_a_certificate_for_another_name_is_refused(ca: trustme.CA, endpoint: MakeEndpoint, bundle: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("huggingface.co").configure_cert(context)
    with (
        LoopbackHub(tls=context) as hub,
        HttpSession(ca_bundle=bundle) as session,
        pytest.raises(ConfigError, match=r"certificate cannot be verified: .*127\.0\.0\.1"),
    ):
        endpoint(hub.url, over=session).resolve(REF)


def test_the_named_bundle_wins_over_the_variable_and_the_variable_alone_works(
    tls_hub: LoopbackHub,
    endpoint: MakeEndpoint,
    bundle: Path,
    session: HttpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    endpoint(tls_hub.url).resolve(REF)
    with HttpSession(ca_bundle=other) as mistaken, pytest.raises(ConfigError, match="certificate"):
        endpoint(tls_hub.url, over=mistaken).resolve(REF)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    session.close()
    with pytest.raises(ConfigError, match=r"nowhere\.pem") as caught:
        endpoint(tls_hub.url).resolve(REF)
    assert "REQUESTS_CA_BUNDLE" in str(caught.value.hint)


def test_a_bundle_that_is_no_bundle_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for path in (tmp_path / "junk.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=f"cannot use the CA bundle {path}"):
            HttpSession(ca_bundle=path)


def test_a_handshake_that_is_cut_may_pass(endpoint: MakeEndpoint, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_close_each, args=(server, 4))
        thread.start()
        with pytest.raises(Unavailable):
            endpoint(f"https://127.0.0.1:{server.getsockname()[1]}").resolve(REF)
        thread.join()
    assert len(pauses) == 3


def _close_each(server: socket.socket, times: int) -> None:
    for _ in range(times):
        connection, _address = server.accept()
        connection.recv(10)
        connection.close()


# Proxies


def test_plain_http_goes_through_the_proxy_of_the_environment(
    hub: LoopbackHub, endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackProxy(user="me:secret") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert read(endpoint(hub.url), "config.json") == TINY["config.json"]
    assert len(proxy.asked) == 3
    assert all(asked.startswith(f"GET {hub.url}/") for asked in proxy.asked)


def test_the_environment_is_looked_at_once_for_each_origin_until_the_connections_are_closed(
    hub: LoopbackHub, endpoint: MakeEndpoint, session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint(hub.url, over=session).resolve(REF)
    with LoopbackProxy() as proxy, LoopbackHub() as other:
        other.add_repo("acme/tiny", {"main": TINY})
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        endpoint(hub.url, over=session).resolve(REF)
        assert proxy.asked == []
        endpoint(other.url, over=session).resolve(REF)
        assert len(proxy.asked) == 1
        session.close()
        endpoint(hub.url, over=session).resolve(REF)
        assert len(proxy.asked) == 2


def test_https_is_tunnelled_so_that_the_proxy_sees_host_and_port_only(
    tls_hub: LoopbackHub, endpoint: MakeEndpoint, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackProxy(user="me:secret") as proxy, HttpSession(ca_bundle=bundle) as session:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert endpoint(tls_hub.url, over=session, token=TOKEN).resolve(REF).commit
    assert proxy.asked == [f"CONNECT {tls_hub.url.removeprefix('https://')}"]


def test_no_proxy_is_obeyed(hub: LoopbackHub, endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert read(endpoint(hub.url), "model.safetensors") == TINY["model.safetensors"]


@pytest.mark.parametrize("https", [True, False])
def test_a_proxy_that_wants_a_password_is_a_refusal(
    hub: LoopbackHub, tls_hub: LoopbackHub, endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch, *, https: bool
) -> None:
    with LoopbackProxy(refusing=407) as proxy:
        monkeypatch.setenv("HTTPS_PROXY" if https else "HTTP_PROXY", proxy.url)
        with pytest.raises(AccessDenied, match="407") as caught:
            endpoint((tls_hub if https else hub).url).resolve(REF)
    assert "HTTPS_PROXY" in str(caught.value.hint)


@pytest.mark.parametrize("refusing", [502, 503])
def test_a_proxy_that_cannot_reach_the_hub_may_pass(
    tls_hub: LoopbackHub, endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch, refusing: int
) -> None:
    with LoopbackProxy(refusing=refusing) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(Unavailable, match="the proxy fails"):
            endpoint(tls_hub.url, attempts=1).resolve(REF)


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    hub: LoopbackHub, endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:s3cret@127.0.0.1:1")
    with pytest.raises(Unavailable, match="the proxy fails: Connection refused") as caught:
        endpoint(hub.url, attempts=1).resolve(REF)
    assert "s3cret" not in str(caught.value)


# Waits


def test_silence_ends_with_the_deadline(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Silence(when=api))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="no answer in time"):
        endpoint(hub.url, seconds=0.3, attempts=2).resolve(REF)
    assert time.monotonic() - began < 5


def test_an_answer_that_trickles_is_given_up(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    commit = endpoint(hub.url).resolve(REF).commit
    hub.faults.append(_TrickledJson(rate=50, when=api))
    with HttpSession(answer_seconds=0.2) as session, pytest.raises(Unavailable, match=r"not complete after 0\.2 s"):
        endpoint(hub.url, over=session, attempts=1).listing(REF, commit)
    with pytest.raises(DeadlineExceeded):
        endpoint(hub.url, seconds=0.2).listing(REF, commit)


_NEVER_ENDING = {
    "a header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "headers of 100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the length of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "the trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize(("first", "again"), _NEVER_ENDING.values(), ids=_NEVER_ENDING)
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "through a proxy"])
def test_what_is_never_silent_and_never_ends_is_given_up(
    session: HttpSession, monkeypatch: pytest.MonkeyPatch, first: bytes, again: bytes, *, proxied: bool
) -> None:
    monkeypatch.setattr("ci_modelcache.sources.patience.SECONDS", 0.3)
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _address = server.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(first)
            for _ in range(500):  # what lasts until their end fails in another way
                if ended.wait(0.02):
                    break
                connection.sendall(again)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            url = "http://hub.example/"
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with (
            pytest.raises(Stalled, match="no answer in time"),
            session.ask(url, doing="asking", deadline=Deadline()) as answer,
        ):
            answer.read(1000)
        ended.set()
        thread.join()


class _TrickledJson(Trickle):
    """Trickle is for content; this one is for what the API says."""

    def __call__(self, request: Request, respond: Respond, /) -> Reply:
        return self.act(request, respond) if self.when(request) else respond(request)


def test_nobody_listening_is_unavailable(endpoint: MakeEndpoint, pauses: list[float]) -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        endpoint("http://127.0.0.1:1").resolve(REF)
    assert len(pauses) == 3


@pytest.mark.parametrize("reset", [False, True])
def test_a_hang_up_before_the_answer_is_tried_again(hub: LoopbackHub, endpoint: MakeEndpoint, *, reset: bool) -> None:
    hub.faults.append(HangUp(reset=reset, when=api, times=2))
    assert endpoint(hub.url).resolve(REF).commit
    assert len(hub.requests()) == 3


def test_a_server_that_speaks_no_http_is_unavailable(endpoint: MakeEndpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_greet, args=(server,))
        thread.start()
        with pytest.raises(Unavailable):
            endpoint(f"http://127.0.0.1:{server.getsockname()[1]}", attempts=1).resolve(REF)
        thread.join()


def _greet(server: socket.socket) -> None:
    connection, _address = server.accept()
    with connection:
        connection.sendall(b"220 mail.example.com ESMTP\r\n")


@pytest.mark.parametrize("resolve_cache", [False, True])
def test_connections_are_used_again_after_an_answer_and_after_a_redirect(
    session: HttpSession, *, resolve_cache: bool
) -> None:
    with LoopbackHub(resolve_cache=resolve_cache) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        url = f"{hub.url}/acme/tiny/resolve/main/config.json"
        for _ in range(3):
            with session.ask(url, doing="asking", deadline=Deadline(10)) as answer:
                assert answer.read(1000) == TINY["config.json"]
        pools = session.get_adapter(url).poolmanager.pools  # type: ignore[attr-defined]  # of requests' adapter
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  # it is no dict


# Reading what we are asked to wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1e99"}, None),
        ({"Retry-After": "Wed, 01 Jan 2025 00:01:00 GMT"}, 60),
        ({"Retry-After": "Tue, 31 Dec 2024 00:00:00 GMT"}, 0),
        ({"Retry-After": "Wed, 01 Jan 2025 09:00:30 GMT", "Date": "Wed, 01 Jan 2025 09:00:00 GMT"}, 30),
        ({"Retry-After": "Wed, 01 Jan 2025 00:01:00 -0000"}, 60),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": "Fri, 31 Dec 9999 23:59:57 GMT"}, 2),
        ({"Retry-After": "Wed, 01 Jan 99999999999999999999 00:01:00 GMT"}, None),
        ({"Retry-After": "Wed, 01 Jan 2025 00:01:00 +99999999999999999999"}, None),
        ({"Retry-After": "Wed, 01 Jan 2025 00:01:00 +9959"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=7;t=55'}, None),
        ({"RateLimit": '"api";r=7;t=55, "resolvers";r=0;t=9'}, 9),
        ({"RateLimit": '"api"; r=0; t=55', "Retry-After": "3"}, 55),
        ({"RateLimit": "limit=1, remaining=0"}, None),
    ],
)
def test_the_wait_that_is_asked_for_is_read_from_every_header(headers: dict[str, str], seconds: float | None) -> None:
    midnight = 1_735_689_600
    assert seconds_to_wait(headers, now=midnight) == seconds


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://HuggingFace.co/x", "https://huggingface.co"),
        ("https://huggingface.co:443", "https://huggingface.co"),
        ("http://h:443", "http://h:443"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, shown: str) -> None:
    assert str(Origin.of(url)) == shown
    assert Origin.of(url) == Origin.of(shown)
