"""The bytes of a file from a Hub: offsets, lengths, breaks, and what is never believed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import (
    BrokenOff,
    DeadlineExceeded,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    Misanswer,
    ModelCacheError,
    RateLimited,
    SizeMismatch,
    Stalled,
    Unavailable,
)
from tests.parts.hub import REF, TINY, WEIGHTS, MakeEndpoint, listed, read, read_verified
from tests.parts.hub_faults import (
    Cut,
    Flipped,
    HangUp,
    IgnoredRange,
    OverLong,
    Pointer,
    ResetAtShare,
    Stall,
    Status,
    Trickle,
    Truncated,
    WebPage,
    WithHeaders,
    WrongOffset,
    files,
    naming,
)

if TYPE_CHECKING:
    from ci_modelcache.demo.exchange import Fault

MODEL = "model.safetensors"
MISSING = "0" * 40


def test_a_file_that_the_hub_lost_is_not_found_at_that_commit(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    commit, file = listed(upstream, MODEL)
    for fault in (Status(status=404, code="EntryNotFound"), Status(status=404)):
        hub.faults[:] = [fault]
        with pytest.raises(FileNotFound, match=f"{MODEL} of acme/tiny@{commit}"), upstream.open(REF, commit, file):
            pass


@pytest.mark.parametrize("cdn", [True, False])
@pytest.mark.parametrize("start", [1, 255, 65_536, 307_199])
def test_a_read_begins_at_the_offset(endpoint: MakeEndpoint, start: int, *, cdn: bool) -> None:
    with LoopbackHub(cdn=cdn) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        assert read(endpoint(hub.url), MODEL, start=start) == WEIGHTS[start:]
        assert hub.requests(method="GET")[-1].range == f"bytes={start}-"


@pytest.mark.parametrize("start", [1, 100_000, 307_199])
def test_a_source_that_ignores_ranges_is_read_up_to_the_offset(
    hub: LoopbackHub, endpoint: MakeEndpoint, start: int
) -> None:
    hub.faults.append(IgnoredRange())
    assert read(endpoint(hub.url), MODEL, start=start) == WEIGHTS[start:]


def test_skipping_to_the_offset_keeps_to_the_deadline(endpoint: MakeEndpoint) -> None:
    with LoopbackHub(cdn=False, faults=[IgnoredRange(), Trickle(rate=50)]) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        with pytest.raises(DeadlineExceeded):
            read(endpoint(hub.url, seconds=0.3), MODEL, start=300_000)


def test_a_part_from_another_offset_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WrongOffset(off=-1))
    with pytest.raises(Misanswer, match="asked for bytes 100 to 307199, got bytes 99 to 307199"):
        read(endpoint(hub.url), MODEL, start=100)


def test_a_part_from_another_offset_that_lies_about_it_is_found_by_the_digest(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    hub.faults += [WrongOffset(off=-1, honest=False), Cut(after=100_000, times=1)]
    with pytest.raises(DigestMismatch):
        read_verified(endpoint(hub.url), MODEL)


@pytest.mark.parametrize(
    ("header", "kind", "said"),
    [
        (None, Misanswer, "does not say which"),
        ("bytes 100-", Misanswer, "does not say which"),
        ("bytes */307200", Misanswer, "does not say which"),
        ("bytes 100-99/307200", Misanswer, "does not say which"),
        ("bytes 100-307200/307200", Misanswer, "does not say which"),
        ("bytes 100-199/307200", Misanswer, "bytes 100 to 199 in a body of 307100"),
        ("bytes 100-307198/307199", SizeMismatch, "expected 307200 bytes, got 307199"),
    ],
)
def test_a_part_that_does_not_agree_with_the_listing_is_refused(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, header: str | None, kind: type[IntegrityError], said: str
) -> None:
    hub.faults.append(WithHeaders(change={"Content-Range": header}))
    with pytest.raises(kind, match=said):
        read(endpoint(hub.url), MODEL, start=100)


def test_a_part_of_a_file_of_unknown_length_is_taken(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WithHeaders(change={"Content-Range": "bytes 100-307199/*"}))
    assert read(endpoint(hub.url), MODEL, start=100) == WEIGHTS[100:]


@pytest.mark.parametrize(
    ("headers", "kind", "said"),
    [
        ({"Content-Range": "bytes */99"}, SizeMismatch, "expected 307200 bytes, got 99"),
        ({}, Unavailable, "refused to send bytes from 100 of 307200"),
    ],
)
def test_a_range_that_cannot_be_had_says_why(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, headers: dict[str, str], kind: type[ModelCacheError], said: str
) -> None:
    hub.faults.append(Status(status=416, headers=headers, when=files))
    with pytest.raises(kind, match=said):
        read(endpoint(hub.url), MODEL, start=100)


@pytest.mark.parametrize(
    ("fault", "actual", "hint"),
    [
        (Truncated(keep=100), 100, "None"),
        (OverLong(extra=1), 307_201, "None"),
        (Pointer(), 131, "git-lfs pointer"),
    ],
    ids=["short", "long", "pointer"],
)
def test_another_length_than_listed_is_refused_before_a_byte_is_passed_on(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, fault: Fault, actual: int, hint: str
) -> None:
    hub.faults.append(fault)
    with pytest.raises(SizeMismatch, match=f"expected 307200 bytes, got {actual}") as caught:
        read(endpoint(hub.url), MODEL)
    assert caught.value.actual == actual
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("page", [b"<html>", b"<html>".ljust(len(TINY["config.json"]))], ids=["short", "as long"])
def test_a_web_page_in_place_of_a_file_is_an_answer_to_another_question(
    hub: LoopbackHub, endpoint: MakeEndpoint, page: bytes
) -> None:
    hub.faults.append(WebPage(page=page, when=files))
    with pytest.raises(Misanswer, match=f"from {hub.url}: expected a file of 23 bytes, got a web page") as caught:
        read(endpoint(hub.url), "config.json")
    assert caught.value.about == "page"
    assert "login page" in str(caught.value.hint)


def test_a_file_that_is_a_web_page_is_read_and_another_page_in_its_place_is_not(endpoint: MakeEndpoint) -> None:
    with LoopbackHub(faults=[WithHeaders(change={"Content-Type": "text/html"}, when=files)]) as hub:
        hub.add_repo("acme/tiny", {"main": {"report.html": b"<html>fine</html>"}})
        assert read(endpoint(hub.url), "report.html") == b"<html>fine</html>"
        hub.faults[:] = [WebPage(when=files)]
        with pytest.raises(Misanswer, match="got a web page of 37 bytes"):
            read(endpoint(hub.url), "report.html")


def test_a_body_without_end_is_found_by_its_reader(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(OverLong(extra=10, announced=False))
    assert len(read(endpoint(hub.url), MODEL)) == len(WEIGHTS) + 10
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS


@pytest.mark.parametrize(
    "fault",
    [
        Cut(after=100_000, times=3),
        Cut(after=100_000, reset=True, times=3),
        ResetAtShare(share=0.5, times=3),
        Truncated(keep=70_000, matching=False, times=3),
        Status(status=503, times=3),
        Status(status=429, times=3),
    ],
    ids=["fin", "rst", "share", "truncated", "503", "429"],
)
def test_a_read_that_breaks_off_goes_on_where_it_was(hub: LoopbackHub, endpoint: MakeEndpoint, fault: Fault) -> None:
    hub.faults.append(fault)
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS
    assert hub.sent < 2 * len(WEIGHTS)


def test_a_break_is_unavailable_and_says_so(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Cut(after=100))
    with pytest.raises(BrokenOff, match=f"reading {MODEL} of acme/tiny@.*: the connection ended early"):
        read(endpoint(hub.url), MODEL)


@pytest.mark.parametrize("start", [0, 1000])
def test_an_end_that_the_connection_does_not_show_is_a_break(
    hub: LoopbackHub, endpoint: MakeEndpoint, start: int
) -> None:
    """Without Content-Length an early end looks like a good one."""
    hub.faults += [WithHeaders(change={"Content-Length": None}, when=files), Truncated(keep=100, matching=False)]
    with pytest.raises(BrokenOff, match=f"ended early, after 100 of {307_200 - start} bytes"):
        read(endpoint(hub.url), MODEL, start=start)


def test_a_reset_is_a_break(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(HangUp(reset=True, when=files))
    with pytest.raises(BrokenOff, match=f"from {hub.url}: "):
        read(endpoint(hub.url), MODEL)


def test_a_stall_for_ever_ends(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Stall(after=100))
    with pytest.raises(Stalled, match="no answer in time"):
        read(endpoint(hub.url, seconds=0.5), MODEL)


def test_a_trickle_lets_its_reader_look_at_the_deadline(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    """Bytes are handed on as they come, not when a piece is full: otherwise no deadline would be looked at."""
    hub.faults.append(Trickle(rate=100))
    upstream = endpoint(hub.url)
    commit, file = listed(upstream, MODEL)
    with upstream.open(REF, commit, file) as pieces:
        assert len(next(iter(pieces))) < 100


def test_a_flipped_bit_once_is_gone_the_second_time_and_always_is_a_mismatch(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    hub.faults.append(Flipped(at=123, times=1))
    with pytest.raises(DigestMismatch):
        read_verified(endpoint(hub.url), MODEL)
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS


@pytest.mark.parametrize(
    ("path", "change", "about", "said"),
    [
        (MODEL, {"X-Repo-Commit": MISSING}, "commit", f"asked for commit .*, got commit {MISSING}"),
        ("config.json", {"X-Repo-Commit": MISSING}, "commit", f"asked for commit .*, got commit {MISSING}"),
        (MODEL, {"X-Linked-Etag": f'W/"{"0" * 64}"'}, "etag", f"expected the content .*, was offered {'0' * 64}"),
        (MODEL, {"X-Linked-Etag": None, "ETag": f'"{"0" * 64}"'}, "etag", "expected the content"),
        ("config.json", {"ETag": f'"{MISSING}"'}, "etag", f"expected the content .*, was offered {MISSING}"),
    ],
)
def test_a_hub_that_says_that_it_has_something_else_is_not_read(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, path: str, change: dict[str, str | None], about: str, said: str
) -> None:
    hub.faults.append(WithHeaders(change=change, when=naming("/resolve/")))
    with pytest.raises(Misanswer, match=f"from {hub.url}: {said}") as caught:
        read(endpoint(hub.url), path)
    assert caught.value.about == about


def test_a_linked_size_that_is_another_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WithHeaders(change={"X-Linked-Size": "99"}, when=naming("/resolve/")))
    with pytest.raises(SizeMismatch, match="expected 307200 bytes, got 99"):
        read(endpoint(hub.url), MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"ETag": '"0000"'},
        {"ETag": f'"{MISSING}"', "X-Repo-Commit": None},
        {"ETag": f'"{"0" * 64}"', "X-Repo-Commit": None},
        {"X-Repo-Commit": "main"},
        {"X-Linked-Etag": None, "ETag": None},
        {"X-Linked-Size": "unknown"},
    ],
)
def test_what_says_nothing_about_the_content_is_no_reason_to_refuse_it(
    hub: LoopbackHub, endpoint: MakeEndpoint, change: dict[str, str | None]
) -> None:
    """The listing and the bytes decide: a server that is no Hub has tags of its own, and so has a CDN."""
    hub.faults.append(WithHeaders(change=change, when=files))
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS
    assert read_verified(endpoint(hub.url), "config.json") == TINY["config.json"]


def test_an_encoded_body_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WithHeaders(change={"Content-Encoding": "gzip"}))
    with pytest.raises(Misanswer, match="got them encoded as 'gzip'") as caught:
        read(endpoint(hub.url), MODEL)
    assert caught.value.about == "encoding"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_the_refusal_of_a_cdn_is_no_verdict_on_the_user(hub: LoopbackHub, endpoint: MakeEndpoint, status: int) -> None:
    """A signed link that expired answers 403; asking the Hub again gives a new one."""
    hub.faults.append(Status(status=status, when=naming("/cdn/")))
    with pytest.raises(Unavailable, match=rf"sent us to http://localhost:\d+ for .* which answered {status}"):
        read(endpoint(hub.url), MODEL)
    hub.faults[:] = [Status(status=status, when=naming("/cdn/"), times=2)]
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS


def test_the_wait_that_a_cdn_asks_for_is_passed_on(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Status(status=503, headers={"Retry-After": "12"}, when=naming("/cdn/")))
    with pytest.raises(RateLimited) as caught:
        read(endpoint(hub.url), MODEL)
    assert caught.value.retry_after == 12


def test_the_failure_of_a_reader_is_its_own_and_not_the_network(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    commit, file = listed(upstream, MODEL)
    with pytest.raises(OSError, match="disk full"), upstream.open(REF, commit, file):
        raise OSError(28, "disk full")


def test_two_hubs_side_by_side_have_plans_of_their_own(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Flipped(at=1))
    with LoopbackHub(faults=[Status(status=503, times=1)]) as other:
        other.add_repo("acme/tiny", {"main": TINY})
        assert read_verified(endpoint(other.url), MODEL) == WEIGHTS
    with pytest.raises(DigestMismatch):
        read_verified(endpoint(hub.url), MODEL)


def test_many_threads_share_one_endpoint(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    commit, file = listed(upstream, MODEL)

    def work(_: int) -> bytes:
        with upstream.open(REF, commit, file) as pieces:
            return b"".join(pieces)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(24))) == {WEIGHTS}
