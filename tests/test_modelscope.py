"""ModelScope as a source of bytes: found by digest, whatever its commits are called."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.exchange import as_json, plain
from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    FileNotFound,
    Misanswer,
    ModelCacheError,
    RateLimited,
    SizeMismatch,
    Unavailable,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.modelscope import LISTED_SECONDS, ModelScope
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.clocks import Clock
from tests.parts.hub_faults import Cut, Status, TooManyRequests, WebPage, WithHeaders, always, naming
from tests.parts.modelscope import LoopbackModelScope, envelope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.demo.exchange import Fault, Reply, Request, Respond
    from ci_modelcache.demo.faults import When
    from ci_modelcache.sources.http import HttpSession

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REF = ModelRef("acme/tiny")
DATASET = ModelRef("acme/tiny", type=RepoType.DATASET)
WEIGHTS = bytes(range(256)) * 12_000
FILES = {
    "config.json": b'{"a": 1}\n',
    "README.md": b"# tiny\n",
    "model.safetensors": WEIGHTS,
    "onnx/odd name +é%#?&=;.onnx": WEIGHTS[::-1],
}
LISTING = naming("/repo/files")
BYTES = naming("FilePath=")


def wanted(path: str, data: bytes | None = None, *, sha256: bool = True) -> ListedFile:
    content = FILES[path] if data is None else data
    return ListedFile(path, len(content), "0" * 40, Digest.of(content) if sha256 else None)


@pytest.fixture
def scope() -> Iterator[LoopbackModelScope]:
    with LoopbackModelScope() as running:
        running.put("acme/tiny", FILES)
        running.put("acme/tiny", {"a.csv": b"1,2\n"}, kind="datasets")
        yield running


@pytest.fixture
def source(scope: LoopbackModelScope, session: HttpSession) -> ModelScope:
    return ModelScope(scope.url, session=session, deadline=Deadline(20))


def read(
    source: ModelScope, file: ListedFile, *, ref: ModelRef = REF, start: int = 0, stop: int | None = None
) -> bytes:
    with source.open(ref, COMMIT, file, start=start, stop=stop) as pieces:
        return b"".join(pieces)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("sha256", [True, False])
def test_a_file_is_found_by_its_digest_or_by_path_and_size(source: ModelScope, path: str, *, sha256: bool) -> None:
    assert read(source, wanted(path, sha256=sha256)) == FILES[path]


def test_a_part_comes_with_the_status_of_the_whole(scope: LoopbackModelScope, source: ModelScope) -> None:
    assert read(source, wanted("model.safetensors"), start=2_000_000, stop=2_000_100) == WEIGHTS[2_000_000:2_000_100]
    assert (scope.requests()[-1].status, scope.requests()[-1].sent) == (200, 100)
    assert source.sends_ranges is True


def test_a_small_file_comes_whole_whatever_part_is_asked_for(source: ModelScope) -> None:
    assert read(source, wanted("config.json"), start=3) == FILES["config.json"][3:]
    assert source.sends_ranges is None


def test_no_bytes_are_not_asked_for(scope: LoopbackModelScope, source: ModelScope) -> None:
    assert read(source, wanted("config.json"), start=3, stop=3) == b""
    assert scope.requests() == []


def test_it_is_listed_once_for_many_threads(scope: LoopbackModelScope, source: ModelScope) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: read(source, wanted("README.md")), range(16))) == {b"# tiny\n"}
    assert len(scope.requests(within="/repo/files")) == 1


def test_a_listing_that_fails_is_asked_for_again_and_all_who_wait_for_it_are_told(
    scope: LoopbackModelScope, source: ModelScope
) -> None:
    waiting = threading.Barrier(4)

    def slow(request: Request, respond: Respond) -> Reply:
        if LISTING(request):
            request.stopping.wait(0.3)
        return respond(request)

    def work(_: int) -> str:
        waiting.wait(10)
        try:
            return read(source, wanted("README.md")).decode()
        except Unavailable as error:
            return error.message

    scope.faults += [slow, Status(status=503, when=LISTING, times=1)]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(work, range(4)))
    assert all(f"modelscope+{scope.url} answered 503" in text for text in told)
    assert len(scope.requests(within="/repo/files")) == 1
    assert read(source, wanted("README.md")) == b"# tiny\n"


def test_what_is_pushed_later_is_found_after_some_minutes(scope: LoopbackModelScope, session: HttpSession) -> None:
    clock = Clock()
    source = ModelScope(scope.url, session=session, deadline=Deadline(20), clock=clock)
    with pytest.raises(FileNotFound):
        read(source, wanted("new.bin", b"new"))
    scope.put("acme/tiny", {"new.bin": b"new"})
    with pytest.raises(FileNotFound):
        read(source, wanted("new.bin", b"new"))
    clock.now += LISTED_SECONDS
    assert read(source, wanted("new.bin", b"new")) == b"new"


# What is missing


def test_a_file_with_other_bytes_is_missing_before_any_of_it_is_fetched(
    scope: LoopbackModelScope, source: ModelScope
) -> None:
    other = wanted("model.safetensors", WEIGHTS[::2] * 2)
    with pytest.raises(
        FileNotFound, match=f"modelscope\\+{scope.url} has another model.safetensors of acme/tiny"
    ) as caught:
        read(source, other)
    assert f"expected 3072000 bytes with digest {other.sha256}" in caught.value.message
    assert f"its master has 3072000 bytes with digest {Digest.of(WEIGHTS)}" in caught.value.message
    assert scope.requests(within="FilePath") == []


def test_a_file_with_the_right_digest_at_another_path_is_taken(source: ModelScope) -> None:
    assert read(source, wanted("pytorch/weights.bin", WEIGHTS)) == WEIGHTS


def test_a_file_of_which_no_digest_is_known_is_not_taken_from_another_path(source: ModelScope) -> None:
    with pytest.raises(FileNotFound, match=r"has no such file: other\.md of acme/tiny"):
        read(source, wanted("other.md", b"# tiny\n", sha256=False))
    with pytest.raises(FileNotFound, match=r"expected 3 bytes, its master has 7 bytes"):
        read(source, wanted("README.md", b"abc", sha256=False))


def test_a_repository_that_it_has_not_is_a_missing_file(scope: LoopbackModelScope, source: ModelScope) -> None:
    with pytest.raises(FileNotFound, match=f"modelscope\\+{scope.url} answered 404 for acme/other"):
        read(source, wanted("README.md"), ref=ModelRef("acme/other"))


def test_there_are_no_spaces(scope: LoopbackModelScope, source: ModelScope) -> None:
    with pytest.raises(FileNotFound, match=f"modelscope\\+{scope.url} has no spaces"):
        read(source, wanted("README.md"), ref=ModelRef("acme/tiny", type=RepoType.SPACE))
    assert scope.requests() == []


def test_a_folder_is_listed_when_the_listing_of_all_was_cut_off(scope: LoopbackModelScope, source: ModelScope) -> None:
    many = {f"shards/{number:04}.txt": b"%d" % number for number in range(3000)}
    scope.put("acme/tiny", {**many, "zz/last.bin": b"last", "zz-last.bin": b"root"})
    assert read(source, wanted("shards/0007.txt", b"7")) == b"7"
    assert len(scope.requests(within="/repo/files")) == 1
    assert read(source, wanted("zz/last.bin", b"last")) == b"last"
    assert read(source, wanted("zz-last.bin", b"root")) == b"root"
    assert len(scope.requests(within="/repo/files")) == 3
    with pytest.raises(FileNotFound):
        read(source, wanted("zz/none.bin", b"none"))


def test_a_data_set_is_found_on_any_page(scope: LoopbackModelScope, source: ModelScope) -> None:
    assert read(source, wanted("a.csv", b"1,2\n"), ref=DATASET) == b"1,2\n"
    files = {f"part/{number:04}.csv": b"%d" % number for number in range(401)}
    scope.put("acme/many", files, kind="datasets")
    ref = ModelRef("acme/many", type=RepoType.DATASET)
    assert read(source, wanted("part/0400.csv", b"400"), ref=ref) == b"400"
    assert len(scope.requests(within="acme/many/repo/tree")) == 3


# Errors


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (404, "no", FileNotFound),
        (10010205001, "获取模型信息失败,信息不存在", FileNotFound),
        (10010999, "The Model Does Not Exist", FileNotFound),
        (401, "please login", AccessDenied),
        (403, "forbidden", AccessDenied),
        (429, "too many", RateLimited),
        (500, "oops", Unavailable),
        (10010999, "try later", Unavailable),
        ([], "odd", Unavailable),
    ],
)
@pytest.mark.parametrize("when", [LISTING, BYTES], ids=["listing", "bytes"])
def test_an_error_with_status_200_is_understood(  # a table
    scope: LoopbackModelScope, source: ModelScope, code: int, message: str, kind: type[ModelCacheError], when: When
) -> None:
    scope.faults.append(lambda request, respond: envelope(code, message) if when(request) else respond(request))
    with pytest.raises(kind) as caught:
        read(source, wanted("model.safetensors"))
    assert type(caught.value) is kind
    assert f"modelscope+{scope.url} answered code {code} for " in caught.value.message
    assert message in caught.value.message


def test_no_success_is_an_error_whatever_the_code(scope: LoopbackModelScope, source: ModelScope) -> None:
    scope.faults.append(lambda _request, _respond: as_json({"Code": 200, "Message": "busy", "Success": False}))
    with pytest.raises(Unavailable, match=r"answered code 200 for acme/tiny: busy"):
        read(source, wanted("README.md"))


@pytest.mark.parametrize("when", [LISTING, BYTES], ids=["listing", "bytes"])
@pytest.mark.parametrize(
    ("status", "kind"), [(401, AccessDenied), (403, AccessDenied), (404, FileNotFound), (500, Unavailable)]
)
def test_an_error_with_a_status_of_its_own_is_understood(
    scope: LoopbackModelScope, source: ModelScope, status: int, kind: type[ModelCacheError], when: When
) -> None:
    scope.faults.append(Status(status=status, when=when))
    with pytest.raises(kind, match=f"modelscope\\+{scope.url} answered {status}"):
        read(source, wanted("model.safetensors"))


@pytest.mark.parametrize(
    "body", [b"<html>", b"{", b"[]", b'{"Code": 200}', b'{"Code": 200, "Data": {"Files": null}}', b'"text"']
)
def test_a_listing_that_is_none_is_an_answer_to_another_question(
    scope: LoopbackModelScope, source: ModelScope, body: bytes
) -> None:
    scope.faults.append(lambda _request, _respond: plain(200, body, "application/json"))
    with pytest.raises(Misanswer, match=f"listing acme/tiny on modelscope\\+{scope.url}: ") as caught:
        read(source, wanted("README.md"))
    assert caught.value.about == "page"


def test_a_path_that_no_request_can_hold_is_no_path(scope: LoopbackModelScope, source: ModelScope) -> None:
    entry = {"Path": "\ud800.md", "Size": 7, "Sha256": Digest.of(FILES["README.md"]).hex}
    scope.faults.append(lambda _request, _respond: envelope(200, "", data={"Files": [entry]}))
    with pytest.raises(FileNotFound):
        read(source, wanted("README.md"))


def test_pages_that_do_not_end_are_not_collected_for_ever(scope: LoopbackModelScope, source: ModelScope) -> None:
    page = [{"Path": f"{number}.csv", "Size": 1} for number in range(20_000)]
    scope.faults.append(lambda _request, _respond: envelope(200, "", data={"Files": page}))
    with pytest.raises(FileNotFound, match="has no such file"):
        read(source, wanted("a.csv", b"1,2\n"), ref=DATASET)
    assert len(scope.requests()) <= 2 * 5 + 1


def test_entries_that_cannot_be_read_hide_nothing_else(scope: LoopbackModelScope, source: ModelScope) -> None:
    entries = [7, {}, {"Path": 7, "Size": 1}, {"Path": "x", "Size": "1"}, {"Path": "y", "Size": 1, "Sha256": 5}]
    good = {"Path": "README.md", "Size": 7, "Type": "blob"}

    def odd(request: Request, respond: Respond) -> Reply:
        return envelope(200, "", data={"Files": [*entries, good]}) if LISTING(request) else respond(request)

    scope.faults.append(odd)
    assert read(source, wanted("README.md")) == b"# tiny\n"


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (WebPage(when=BYTES), Misanswer, "got a web page"),
        (Cut(after=10, when=always), BrokenOff, "ended early"),
        (TooManyRequests(when=BYTES), RateLimited, "answered 429"),
        (WithHeaders(change={"X-Linked-ETag": f'"{"0" * 64}"'}, when=naming("/lfs/")), Misanswer, "was offered 0000"),
        (WithHeaders(change={"Content-Range": "bytes 0-9/10"}, when=naming("/lfs/")), SizeMismatch, "got 10"),
        (lambda request, respond: envelope(200, "fine") if BYTES(request) else respond(request), Misanswer, "document"),
    ],
)
def test_bytes_that_are_not_those_asked_for_are_refused_with_the_name_of_the_source(  # a table
    scope: LoopbackModelScope, source: ModelScope, fault: Fault, kind: type[ModelCacheError], said: str
) -> None:
    scope.faults.append(fault)
    with pytest.raises(kind, match=said) as caught:
        read(source, wanted("model.safetensors"))
    assert f"modelscope+{scope.url}" in caught.value.message


def test_a_token_goes_to_its_origin_and_not_to_the_storage(session: HttpSession) -> None:
    with LoopbackModelScope(token="geheim99") as scope:
        scope.put("acme/tiny", FILES)
        source = ModelScope(scope.url, session=session, deadline=Deadline(20), token=Token("geheim99"))
        assert read(source, wanted("model.safetensors")) == WEIGHTS
        assert [(seen.server, seen.authorized) for seen in scope.requests()] == [
            ("hub", True),
            ("hub", True),
            ("cdn", False),
        ]
        scope.faults.append(lambda _request, _respond: envelope(403, "bad token geheim99"))
        with pytest.raises(AccessDenied, match=r"bad token \*\*\*"):
            read(
                ModelScope(scope.url, session=session, deadline=Deadline(20), token=Token("geheim99")),
                wanted("README.md"),
            )
        with pytest.raises(AccessDenied):
            read(ModelScope(scope.url, session=session, deadline=Deadline(20)), wanted("README.md"))
