"""Parts of a file from a Hub: where they end, sources that know no parts, and redirects that need not be asked for again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.demo.exchange import Fault, Headers, Reply, Request, Respond
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import DigestMismatch, IntegrityError, Misanswer, ModelCacheError, RateLimited, Unavailable
from ci_modelcache.model.digest import verified
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.clocks import Clock
from tests.parts.hub import REF, TINY, WEIGHTS, MakeEndpoint, listed
from tests.parts.hub_faults import Cut, Flipped, IgnoredRange, Status, TooManyRequests, WithHeaders, files, naming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.model.listing import ListedFile

MODEL = "model.safetensors"
LARGE = bytes(range(256)) * 12_000
"""3,072,000 bytes: more than is skipped without blame."""


def part(source: HubEndpoint, path: str = MODEL, *, start: int = 0, stop: int | None = None) -> bytes:
    commit, file = listed(source, path)
    return opened(source, commit, file, start=start, stop=stop)


def opened(source: HubEndpoint, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None) -> bytes:
    with source.open(REF, commit, file, start=start, stop=stop) as pieces:
        return b"".join(pieces)


@pytest.fixture
def large() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_repo("acme/tiny", {"main": {MODEL: LARGE}})
        yield hub


def strict(hub: LoopbackHub, session: HttpSession) -> HubEndpoint:
    return HubEndpoint(hub.url, session=session, retry=RetryPolicy(1, deadline=Deadline(20)), strict_ranges=True)


# Parts


@pytest.mark.parametrize("cdn", [True, False])
@pytest.mark.parametrize(
    ("start", "stop", "asked"),
    [
        (0, 1, "bytes=0-0"),
        (100, 200, "bytes=100-199"),
        (100, 307_200, "bytes=100-"),
        (100, 999_999, "bytes=100-"),
        (0, 307_200, None),
        (0, None, None),
    ],
)
def test_a_part_ends_where_it_was_asked_to(
    endpoint: MakeEndpoint, start: int, stop: int | None, asked: str | None, *, cdn: bool
) -> None:
    with LoopbackHub(cdn=cdn) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        assert part(endpoint(hub.url), start=start, stop=stop) == WEIGHTS[start:stop]
        assert hub.requests(method="GET")[-1].range == asked


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (100, 100), (200, 100)])
def test_no_bytes_are_not_asked_for(hub: LoopbackHub, endpoint: MakeEndpoint, start: int, stop: int) -> None:
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    hub.forget()
    assert opened(source, commit, file, start=start, stop=stop) == b""
    assert hub.requests() == []


def test_an_empty_file_is_asked_for_as_it_may_be_missing(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    assert part(endpoint(hub.url), "empty.txt") == b""
    hub.faults.append(Status(status=404, when=files))
    with pytest.raises(ModelCacheError, match="404"):
        part(endpoint(hub.url), "empty.txt")


def test_a_part_that_is_shorter_than_asked_for_and_says_so_is_taken(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    """RFC 9110, 15.3.7: a server may send less than was asked for."""

    def shorter(request: Request, respond: Respond) -> Reply:
        if not request.is_file or "Range" not in request.headers:
            return respond(request)
        return respond(evolve(request, headers=Headers([("Range", "bytes=100-149")])))

    hub.faults.append(shorter)
    assert part(endpoint(hub.url), start=100, stop=200) == WEIGHTS[100:150]


def test_a_part_that_ends_later_than_asked_for_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WithHeaders(change={"Content-Range": "bytes 100-299/307200", "Content-Length": None}, when=files))
    with pytest.raises(Misanswer, match="asked for bytes 100 to 199, got bytes 100 to 299") as caught:
        part(endpoint(hub.url), start=100, stop=200)
    assert caught.value.about == "range"


def test_a_part_with_the_status_of_a_whole_file_is_known_by_its_range(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    """As ModelScope answers."""

    def calling_it_whole(request: Request, respond: Respond) -> Reply:
        reply = respond(request)
        return evolve(reply, status=200) if reply.status == 206 else reply

    hub.faults.append(calling_it_whole)
    source = endpoint(hub.url)
    assert part(source, start=100, stop=200) == WEIGHTS[100:200]
    assert source.sends_ranges is True


# Sources that know no parts


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (100, 200), (2_000_000, None)])
def test_a_source_that_knows_no_parts_is_read_up_to_the_first_byte_where_there_is_no_other(
    large: LoopbackHub, endpoint: MakeEndpoint, start: int, stop: int | None
) -> None:
    large.faults.append(IgnoredRange())
    source = endpoint(large.url)
    assert part(source, start=start, stop=stop)[: (stop or len(LARGE)) - start] == LARGE[start:stop]
    assert source.sends_ranges is False


def test_a_source_that_knows_no_parts_is_blamed_where_there_are_others(
    large: LoopbackHub, session: HttpSession
) -> None:
    large.faults.append(IgnoredRange())
    source = strict(large, session)
    commit, file = listed(source, MODEL)
    assert opened(source, commit, file, start=1000, stop=2000)[:1000] == LARGE[1000:2000]
    with pytest.raises(Misanswer, match=f"from {large.url}: asked for bytes from 2000000 of 3072000") as caught:
        opened(source, commit, file, start=2_000_000)
    assert caught.value.about == "range"
    assert opened(source, commit, file) == LARGE


def test_whether_a_source_sends_parts_is_learnt_from_large_files_only(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    source = endpoint(hub.url)
    assert source.sends_ranges is None
    hub.faults.append(IgnoredRange())
    part(source, start=100)
    assert source.sends_ranges is None
    hub.faults.clear()
    part(source, start=100)
    assert source.sends_ranges is True


# Redirects that are remembered


def test_further_parts_of_a_file_are_not_asked_of_the_hub_again(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    source = endpoint(hub.url, token="hf_reader")
    commit, file = listed(source, MODEL)
    hub.forget()
    parts = [opened(source, commit, file, start=at, stop=at + 100_000) for at in range(0, 307_200, 100_000)]
    assert b"".join(parts) == WEIGHTS
    assert [(seen.server, seen.authorized) for seen in hub.requests()] == [("hub", True), *[("cdn", False)] * 4]


def test_another_file_and_another_commit_are_asked_of_the_hub(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    source = endpoint(hub.url)
    part(source)
    hub.forget()
    part(source, "onnx/model.onnx")
    assert len(hub.requests(server="hub", within="/resolve/")) == 1


def test_a_small_file_without_a_redirect_is_asked_of_the_hub_each_time(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    source = endpoint(hub.url)
    assert [part(source, "config.json"), part(source, "config.json")] == [TINY["config.json"]] * 2
    assert len(hub.requests(server="hub", within="/resolve/")) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_link_that_expired_is_replaced_at_once(hub: LoopbackHub, endpoint: MakeEndpoint, status: int) -> None:
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    opened(source, commit, file, stop=100)
    hub.forget()
    hub.faults.append(Status(status=status, when=naming("/cdn/"), times=1))
    assert opened(source, commit, file, start=100, stop=200) == WEIGHTS[100:200]
    assert [seen.server for seen in hub.requests()] == ["cdn", "hub", "cdn"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (TooManyRequests(retry_after="7", when=naming("/cdn/"), times=1), RateLimited),
        (Status(status=503, when=naming("/cdn/"), times=1), Unavailable),
        (Cut(after=10, times=1), Unavailable),
        (WithHeaders(change={"Content-Range": "bytes 0-99/99"}, when=naming("/cdn/"), times=1), IntegrityError),
        (WithHeaders(change={"X-Linked-Etag": f'"{"0" * 64}"'}, when=naming("/cdn/"), times=1), Misanswer),
    ],
    ids=["429", "503", "cut", "wrong", "other content"],
)
def test_a_remembered_place_that_fails_is_named_and_forgotten(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, fault: Fault, kind: type[ModelCacheError]
) -> None:
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    opened(source, commit, file, stop=100)
    hub.faults.append(fault)
    with pytest.raises(kind, match=hub.url):
        opened(source, commit, file, start=100, stop=200)
    hub.forget()
    assert opened(source, commit, file, start=100, stop=200) == WEIGHTS[100:200]
    assert [seen.server for seen in hub.requests()] == ["hub", "cdn"]


def test_a_place_that_sent_wrong_bytes_is_forgotten_when_its_reader_finds_out(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    opened(source, commit, file)
    hub.faults.append(Flipped(at=0, times=1))
    with pytest.raises(DigestMismatch), source.open(REF, commit, file) as pieces:
        list(verified(pieces, file.expected, MODEL))
    hub.forget()
    opened(source, commit, file)
    assert [seen.server for seen in hub.requests()] == ["hub", "cdn"]


def test_a_place_is_remembered_for_some_minutes_only(hub: LoopbackHub) -> None:
    clock = Clock()
    with HttpSession(now=clock) as session:
        source = HubEndpoint(hub.url, session=session, retry=RetryPolicy(1, deadline=Deadline(20)))
        commit, file = listed(source, MODEL)
        for passed in (0, 299, 2):
            clock.now += passed
            hub.forget()
            opened(source, commit, file)
            assert [seen.server for seen in hub.requests()] == (["cdn"] if passed == 299 else ["hub", "cdn"])


def test_a_signed_address_is_shown_nowhere(
    hub: LoopbackHub, endpoint: MakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="ci_modelcache")
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    opened(source, commit, file)
    hub.faults.append(Status(status=500, when=naming("/cdn/")))
    with pytest.raises(Unavailable, match="which answered 500") as caught:
        opened(source, commit, file)
    secret = hub.requests(server="cdn")[-1].target.rpartition("X-Amz-Signature=")[2]
    assert len(secret) == 64
    assert secret not in f"{caplog.text} {caught.value} {caught.value.hint}"
    assert "X-Amz-Signature=***" in caplog.text


def test_many_threads_share_what_is_remembered(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    source = endpoint(hub.url)
    commit, file = listed(source, MODEL)
    opened(source, commit, file)
    hub.forget()

    def work(number: int) -> bytes:
        return opened(source, commit, file, start=number * 10_000, stop=(number + 1) * 10_000)

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(work, range(31))) == WEIGHTS
    assert hub.requests(server="hub") == []
