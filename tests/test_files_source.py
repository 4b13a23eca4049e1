"""A folder on a web server as a source of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.exchange import plain
from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    ConfigError,
    DeadlineExceeded,
    FileNotFound,
    IntegrityError,
    Misanswer,
    ModelCacheError,
    RateLimited,
    SizeMismatch,
    Stalled,
    Unavailable,
)
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.files import HttpFolder
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.hub_faults import (
    Cut,
    HangUp,
    IgnoredRange,
    OverLong,
    RedirectTo,
    Silence,
    Stall,
    Status,
    TooManyRequests,
    Truncated,
    WebPage,
    WithHeaders,
    always,
)
from tests.parts.sites import FolderSite, plain_http_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.demo.exchange import Fault, Reply, Request, Respond
    from ci_modelcache.sources.http import HttpSession

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REF = ModelRef("acme/tiny")
MODEL = "onnx/odd name +é%#?&=;.bin"
DATA = bytes(range(256)) * 12_000
"""3,072,000 bytes."""


def listed(path: str = MODEL, data: bytes = DATA) -> ListedFile:
    return ListedFile(path, len(data), "0" * 40, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the documented layout is, with a model, a data set and a page."""
    files = {MODEL: DATA, "empty.txt": b"", "report.html": b"<html>"}
    for start, kept in ((f"acme/tiny/{COMMIT}", files), (f"datasets/acme/tiny/{COMMIT}", {"a.csv": b"1,2\n"})):
        for path, data in kept.items():
            (tmp_path / start / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / start / path).write_bytes(data)
    return tmp_path


@pytest.fixture
def site(folder: Path) -> Iterator[FolderSite]:
    with FolderSite(folder) as running:
        yield running


def source(url: str, session: HttpSession, *, seconds: float = 20, **settings: object) -> HttpFolder:
    return HttpFolder(url, session=session, deadline=Deadline(seconds), **settings)  # type: ignore[arg-type]  # a few of many


def read(
    mirror: HttpFolder, file: ListedFile | None = None, *, ref: ModelRef = REF, start: int = 0, stop: int | None = None
) -> bytes:
    with mirror.open(ref, COMMIT, file or listed(), start=start, stop=stop) as pieces:
        return b"".join(pieces)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (100, None), (0, 100), (100, 200), (0, 9_999_999)])
def test_a_file_and_any_part_of_it_is_read(
    site: FolderSite, session: HttpSession, start: int, stop: int | None
) -> None:
    assert read(source(f"{site.url}/", session), start=start, stop=stop) == DATA[start:stop]
    assert site.requests()[-1].target == (f"/acme/tiny/{COMMIT}/onnx/odd%20name%20%2B%C3%A9%25%23%3F%26%3D%3B.bin")


def test_a_data_set_lies_below_its_folder(site: FolderSite, session: HttpSession) -> None:
    ref = ModelRef("acme/tiny", type=RepoType.DATASET)
    assert read(source(site.url, session), listed("a.csv", b"1,2\n"), ref=ref) == b"1,2\n"


def test_it_is_named_as_its_user_writes_it(session: HttpSession) -> None:
    assert source("https://Mirror.example/models/", session).url == "files+https://mirror.example/models"


def test_an_empty_file_and_no_bytes_are_empty(site: FolderSite, session: HttpSession) -> None:
    mirror = source(site.url, session)
    assert read(mirror, listed("empty.txt", b"")) == b""
    assert len(site.requests()) == 1
    assert read(mirror, start=7, stop=7) == b""
    assert len(site.requests()) == 1


def test_a_page_that_is_a_file_is_read(site: FolderSite, session: HttpSession) -> None:
    assert read(source(site.url, session), listed("report.html", b"<html>")) == b"<html>"


def test_the_server_of_the_standard_library_will_do(folder: Path, session: HttpSession) -> None:
    with plain_http_server(folder) as url:
        mirror = source(url, session)
        assert read(mirror) == DATA
        assert [mirror.sends_ranges] == [None]
        assert read(mirror, start=2_000_000) == DATA[2_000_000:]
        assert [mirror.sends_ranges] == [False]
        with pytest.raises(Misanswer, match=f"from files\\+{url}: asked for bytes from 2000000 of 3072000"):
            read(source(url, session, strict_ranges=True), start=2_000_000)
        with pytest.raises(FileNotFound, match="answered 404"):
            read(mirror, listed("nothing.bin"))


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Status(status=404, when=always), FileNotFound, "answered 404"),
        (Status(status=401, when=always), AccessDenied, "answered 401"),
        (Status(status=403, when=always), AccessDenied, "answered 403"),
        (Status(status=500, when=always), Unavailable, "answered 500"),
        (Status(status=400, when=always), IntegrityError, "answered 400"),
        (TooManyRequests(retry_after="9", when=always), RateLimited, "answered 429"),
        (WebPage(when=always), Misanswer, "expected a file of 3072000 bytes, got a web page of 37 bytes"),
        (WithHeaders(change={"Content-Encoding": "gzip"}, when=always), Misanswer, "encoded as 'gzip'"),
        (OverLong(when=always), IntegrityError, "got 3072001|in a body of 3071901"),
        (Truncated(keep=9, when=always), IntegrityError, "got 9|in a body of 9"),
        (Truncated(keep=9, matching=False, when=always), BrokenOff, "ended early"),
        (Cut(after=99, when=always), BrokenOff, "ended early"),
        (Cut(after=99, reset=True, when=always), BrokenOff, "Connection reset by peer|ended early"),
        (HangUp(when=always), BrokenOff, "closed connection"),
    ],
)
def test_what_goes_wrong_is_told_apart_and_the_mirror_is_named(  # a table
    site: FolderSite, session: HttpSession, fault: Fault, kind: type[ModelCacheError], said: str, *, ranged: bool
) -> None:
    site.faults.append(fault)
    with pytest.raises(kind, match=said) as caught:
        read(source(site.url, session), start=100 if ranged else 0)
    assert f"files+{site.url}" in caught.value.message
    assert "HF_TOKEN" not in str(caught.value.hint)
    assert "Hub" not in str(caught.value.hint)


@pytest.mark.parametrize("fault", [Silence(when=always), Stall(after=10, when=always)])
def test_silence_is_a_stall(site: FolderSite, session: HttpSession, fault: Fault) -> None:
    site.faults.append(fault)
    with pytest.raises(Stalled, match=f"from files\\+{site.url}: no answer in time"):
        read(source(site.url, session, seconds=0.3))


def test_a_source_that_ignores_ranges_is_read_up_to_the_first_byte_within_the_deadline(
    site: FolderSite, session: HttpSession
) -> None:
    site.faults.append(IgnoredRange(when=always))
    assert read(source(site.url, session), start=2_000_000) == DATA[2_000_000:]
    with pytest.raises(DeadlineExceeded):
        read(source(site.url, session, seconds=0), start=2_000_000)


def test_another_size_than_listed_is_refused(site: FolderSite, session: HttpSession) -> None:
    for start in (0, 100):
        with pytest.raises(SizeMismatch, match=r"files\+.*expected 3071999 bytes, got 3072000"):
            read(source(site.url, session), listed(data=DATA[1:]), start=start)


def test_the_tag_of_a_web_server_is_its_own_business(site: FolderSite, session: HttpSession) -> None:
    site.faults.append(WithHeaders(change={"ETag": f'"{"f" * 64}"'}, when=always))
    assert read(source(site.url, session)) == DATA


def test_a_token_is_sent_to_its_origin_only_and_never_shown(folder: Path, session: HttpSession) -> None:
    with FolderSite(folder, token="geheim99") as site, FolderSite(folder) as other:
        assert read(source(site.url, session, token=Token("geheim99"))) == DATA
        with pytest.raises(AccessDenied, match="answered 401") as caught:
            read(source(site.url, session))
        assert f"check the token that is configured for files+{site.url}" in str(caught.value.hint)

        def quoting(request: Request, respond: Respond) -> Reply:
            del request, respond
            return plain(403, b'{"error": "bad token geheim99"}', "application/json")

        site.faults.append(quoting)
        with pytest.raises(AccessDenied, match=r"bad token \*\*\*"):
            read(source(site.url, session, token=Token("geheim99")))
        site.faults[:] = [RedirectTo(location=f"{other.url}/acme/tiny/{COMMIT}/empty.txt", when=always)]
        assert read(source(site.url, session, token=Token("geheim99")), listed("empty.txt", b"")) == b""
        assert [seen.authorized for seen in other.requests()] == [False]


@pytest.mark.parametrize(
    "url", ["ftp://mirror.example", "https://user:geheim@mirror.example", "https://m.example/?a=b"]
)
def test_an_address_that_is_none_is_a_setting_to_mend(session: HttpSession, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        source(url, session)
    assert "geheim" not in f"{caught.value} {caught.value.hint}"
