"""A Hub as authority and as source of bytes: what it is asked, what is believed, and what each refusal means."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    RateLimited,
    RepositoryNotFound,
    RevisionNotFound,
    SizeMismatch,
    Unavailable,
    UnsafePath,
)
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.protocol import RefName
from ci_modelcache.sources.tree import parse_listing, parse_tree
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.hub import REF, TINY, WEIGHTS, MakeEndpoint, listed, read, read_verified
from tests.parts.hub_faults import (
    Body,
    Cut,
    Flipped,
    IgnoredRange,
    OverLong,
    Pointer,
    ResetAtShare,
    RetryAfterDate,
    Stall,
    Status,
    TooManyRequests,
    Trickle,
    Truncated,
    WebPage,
    WithHeaders,
    WrongOffset,
    api,
    files,
    naming,
    tree_entry,
)

if TYPE_CHECKING:
    from ci_modelcache.demo.exchange import Fault, Reply, Request, Respond
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.protocol import Upstream

MODEL = "model.safetensors"
MISSING = "0" * 40


def as_upstream(endpoint: HubEndpoint) -> Upstream:
    """Never called: the type checker sees here that the endpoint keeps the protocol."""
    return endpoint


# What is asked


def test_a_branch_a_tag_and_a_branch_with_a_slash_resolve_to_their_commits(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    repository = hub.add_repo("acme/tiny", {"main": TINY, "feature/x": {"a": b"1"}})
    repository.tags["v1.0"] = repository.branches["main"]
    upstream = endpoint(hub.url)
    assert upstream.resolve(REF) == upstream.resolve(REF.at("v1.0")) == repository.branches["main"]
    assert upstream.resolve(REF.at("feature/x")) == repository.branches["feature/x"]
    assert hub.requests()[-1].target == "/api/models/acme/tiny/revision/feature%2Fx"


def test_a_full_commit_resolves_to_itself_without_a_call(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    assert endpoint(hub.url).resolve(REF.at(MISSING)) == MISSING
    assert hub.requests() == []


def test_the_listing_tells_that_a_full_commit_does_not_exist(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    with pytest.raises(RevisionNotFound, match=MISSING):
        endpoint(hub.url).listing(REF, MISSING)


def test_a_listing_has_every_file_with_size_and_digest_and_costs_one_call(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    upstream = endpoint(hub.url)
    commit = upstream.resolve(REF)
    hub.forget()
    listing = upstream.listing(REF, commit)
    assert len(hub.requests()) == 1
    assert listing.commit == commit
    assert {file.path: file.size for file in listing.files} == {path: len(content) for path, content in TINY.items()}
    assert {file.path for file in listing.files if file.lfs} == {MODEL, "onnx/model.onnx"}


def test_every_file_is_read_and_proven_whatever_its_name(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    for path, content in TINY.items():
        assert read_verified(upstream, path) == content


@pytest.mark.parametrize(
    "ref",
    [ModelRef("gpt2"), ModelRef("acme/data", type=RepoType.DATASET), ModelRef("acme/space", type=RepoType.SPACE)],
    ids=str,
)
def test_repositories_without_organisation_datasets_and_spaces_have_their_own_addresses(
    hub: LoopbackHub, endpoint: MakeEndpoint, ref: ModelRef
) -> None:
    hub.add_repo(ref.repo, {"main": TINY}, type=ref.type)
    assert read_verified(endpoint(hub.url), MODEL, ref=ref) == WEIGHTS
    with pytest.raises(AccessDenied):
        endpoint(hub.url).resolve(ModelRef("acme/nope", type=ref.type))


@pytest.mark.parametrize("tail", ["", "/", "///"])
def test_an_endpoint_may_lie_below_a_prefix_and_end_in_slashes(endpoint: MakeEndpoint, tail: str) -> None:
    with LoopbackHub(prefix="/a/hf", resolve_cache=True, page_size=2) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        upstream = endpoint(hub.url + tail)
        assert upstream.url == hub.url
        for path in ("config.json", MODEL):
            assert read_verified(upstream, path) == TINY[path]


def test_branches_and_tags_are_listed_with_their_commits(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    repository = hub.add_repo("acme/tiny", {"main": TINY})
    second = repository.commit({"a": b"1"}, branch="feature/x")
    repository.tags["v1.0"] = repository.branches["main"]
    upstream = endpoint(hub.url)
    assert upstream.branches(REF) == (RefName("feature/x", second), RefName("main", repository.branches["main"]))
    assert upstream.tags(REF) == (RefName("v1.0", repository.branches["main"]),)


def test_a_renamed_repository_is_found_under_its_old_name(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.rename("old/name", "acme/tiny")
    assert read_verified(endpoint(hub.url), MODEL, ref=ModelRef("old/name")) == WEIGHTS


def test_bytes_are_asked_for_as_they_are(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    encodings: list[str] = []

    def watch(request: Request, respond: Respond) -> Reply:
        encodings.append(request.headers["Accept-Encoding"])
        return respond(request)

    hub.faults.append(watch)
    read(endpoint(hub.url), MODEL)
    assert set(encodings) == {"identity"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://huggingface.co", "huggingface.co"),
        ("https://HuggingFace.co:443/", "huggingface.co"),
        ("http://127.0.0.1:8000/a/hf", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_the_host_is_the_name_under_which_snapshots_are_kept(session: HttpSession, url: str, host: str) -> None:
    assert HubEndpoint(url, session=session, retry=RetryPolicy()).host == host


@pytest.mark.parametrize(
    "url",
    ["huggingface.co", "ftp://h", "https://", "https://user:s3cret@h", "https://h?token=s3cret", "https://h:99999", ""],
)
def test_an_address_that_is_none_is_refused_without_showing_a_password(session: HttpSession, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HubEndpoint(url, session=session, retry=RetryPolicy())
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


# Pages


def test_a_listing_of_many_pages_is_whole(endpoint: MakeEndpoint) -> None:
    with LoopbackHub(page_size=7) as hub:
        hub.add_repo("acme/tiny", {"main": {f"file-{number:03}.txt": b"%d" % number for number in range(40)}})
        upstream = endpoint(hub.url)
        listing = upstream.listing(REF, upstream.resolve(REF))
    assert [file.path for file in listing.files] == [f"file-{number:03}.txt" for number in range(40)]


def test_a_link_to_another_host_is_followed_here_and_gives_it_no_token(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    """A mirror that copies the Hub's Link header would otherwise send us, and the token, to the Hub."""
    with LoopbackHub(page_size=3, tokens={"hf_reader": "reader"}) as mirror:
        repository = mirror.add_repo("acme/tiny", {"main": TINY})
        commit = repository.branches["main"]
        link = f'<{hub.url}/api/models/acme/tiny/tree/{commit}?recursive=true&cursor=3>; rel="next"'
        mirror.faults.append(WithHeaders(change={"Link": link}, when=naming("expand=false"), times=1))
        listing = endpoint(mirror.url, token="hf_reader").listing(REF, commit)
    assert {file.path for file in listing.files} == set(TINY)
    assert hub.requests() == []


@pytest.mark.parametrize(
    "link", ["<http://127.0.0.1:1/evil?cursor=1>", "</api/models/acme/other/tree/main?cursor=1>", "<x>"]
)
def test_a_link_that_is_no_next_page_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint, link: str) -> None:
    hub.faults.append(WithHeaders(change={"Link": f'{link}; rel="next"'}, when=api))
    upstream = endpoint(hub.url)
    with pytest.raises(IntegrityError, match="link to the next page leads elsewhere"):
        upstream.listing(REF, upstream.resolve(REF))


def test_pages_that_do_not_end_are_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    commit = upstream.resolve(REF)
    link = f'<{hub.url}/api/models/acme/tiny/tree/{commit}?recursive=true&cursor=0>; rel="next"'
    hub.faults.append(WithHeaders(change={"Link": link}, when=api))
    with pytest.raises(IntegrityError, match="the pages do not end"):
        upstream.listing(REF, commit)


# What is believed


def lfs(**changed: object) -> dict[str, object]:
    return tree_entry(size=5, lfs={"oid": "b" * 64, "size": 5, "pointerSize": 130, **changed})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"error": "x"}, r"\$: expected a list, got dict"),
        (["x"], r"\$\[0\]: expected an object, got str"),
        ([{"path": "a"}], r"\$\[0\]\.type is missing"),
        ([tree_entry(type="commit")], "expected file or directory, got 'commit'"),
        ([tree_entry(size=-1)], r"\$\[0\]\.size: expected a number of bytes, got -1"),
        ([tree_entry(size="1")], "expected a number of bytes, got '1'"),
        ([tree_entry(size=True)], "expected a number of bytes, got True"),
        ([tree_entry(size=1.0)], r"expected a number of bytes, got 1\.0"),
        ([tree_entry(size=2**53)], "expected a number of bytes"),
        ([tree_entry(size=None)], "expected a number of bytes, got None"),
        ([tree_entry(oid="abc")], r"\$\[0\]\.oid: expected 40 hex digits, got 'abc'"),
        ([tree_entry(oid="A" * 40)], "expected 40 hex digits"),
        ([tree_entry(oid=None)], "expected 40 hex digits, got None"),
        ([tree_entry(path="")], r"\$\[0\]\.path: expected a text, got ''"),
        ([tree_entry(path=7)], "expected a text, got 7"),
        ([tree_entry(lfs="x")], r"\$\[0\]\.lfs: expected an object, got str"),
        ([lfs(oid="b" * 63)], r"\$\[0\]\.lfs\.oid: expected a SHA-256 in hex"),
        ([lfs(oid="sha256:" + "b" * 64)], "expected a SHA-256 in hex"),
        ([lfs(size=6)], r"\$\[0\]\.lfs\.size: expected 5 as outside of lfs, got 6"),
        ([tree_entry("a"), tree_entry("a")], "two files at one path: 'a' and 'a'"),
        ([tree_entry("a"), tree_entry("A")], "two files at one path"),
        ([tree_entry("a"), tree_entry("a/b")], "is a file, and a folder"),
        ([tree_entry("../a")], r"unsafe path '\.\./a'"),
        ([tree_entry("/etc/passwd")], "it is absolute"),
        ([tree_entry("a\\b")], "backslash"),
        ([tree_entry(".git/config")], "reserved"),
    ],
)
def test_a_listing_that_makes_no_sense_is_refused_by_field_and_endpoint(
    hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float], tree: object, said: str
) -> None:
    hub.faults.append(Body(body=json.dumps(tree).encode(), when=api))
    with pytest.raises(IntegrityError, match=said) as caught:
        endpoint(hub.url).listing(REF, MISSING)
    assert hub.url in caught.value.message
    assert pauses == []


def test_an_unsafe_path_keeps_its_type(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Body(body=json.dumps([tree_entry("../a")]).encode(), when=api))
    with pytest.raises(UnsafePath, match="listing acme/tiny"):
        endpoint(hub.url).listing(REF, MISSING)


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff", b"null"])
def test_an_answer_that_is_not_json_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint, body: bytes) -> None:
    hub.faults.append(Body(body=body, when=api))
    for ask in (endpoint(hub.url).branches, endpoint(hub.url).resolve):
        with pytest.raises(IntegrityError, match=hub.url):
            ask(REF)


@pytest.mark.parametrize("body", [b"<html>", b"  <!doctype html>", b"Sign in"])
def test_a_web_page_in_place_of_json_is_called_one(hub: LoopbackHub, endpoint: MakeEndpoint, body: bytes) -> None:
    hub.faults.append(WebPage(page=body, when=api))
    with pytest.raises(IntegrityError, match="expected JSON, got a web page") as caught:
        endpoint(hub.url).resolve(REF)
    assert "login page" in str(caught.value.hint)


@pytest.mark.parametrize("sha", ["main", "A" * 40, None, 7, ""])
def test_a_commit_that_is_none_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint, sha: object) -> None:
    hub.faults.append(Body(body=json.dumps({"sha": sha}).encode(), when=api))
    with pytest.raises(IntegrityError, match="expected 40 hex digits"):
        endpoint(hub.url).resolve(REF)


@pytest.mark.parametrize(
    "refs",
    [{}, {"branches": {}}, {"branches": [{"name": "main"}]}, {"branches": [{"name": 1, "targetCommit": "a" * 40}]}],
)
def test_refs_that_make_no_sense_are_refused(hub: LoopbackHub, endpoint: MakeEndpoint, refs: object) -> None:
    hub.faults.append(Body(body=json.dumps(refs).encode(), when=api))
    with pytest.raises(IntegrityError, match=r"for the branches of acme/tiny: \$"):
        endpoint(hub.url).branches(REF)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "path", "size", "oid", "lfs"]), inner)
    ),
    max_leaves=20,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_json_at_all_raises_anything_but_an_integrity_error(plain: object) -> None:
    with suppress(IntegrityError):
        parse_listing(MISSING, parse_tree(plain, doing="listing"), doing="listing")


# Refusals


@pytest.mark.parametrize(
    ("fault", "token", "kind", "hint"),
    [
        (Status(status=404, code="RepoNotFound", when=api), None, RepositoryNotFound, "check the name"),
        (Status(status=404, code="RepoNotFound", when=api), "hf_x", RepositoryNotFound, "token without access"),
        (Status(status=404, code="RevisionNotFound", when=api), None, RevisionNotFound, "branch, tag or commit"),
        (Status(status=404, when=api), None, RepositoryNotFound, "is a Hub"),
        (Status(status=401, code="RepoNotFound", when=api), None, AccessDenied, "set HF_TOKEN .* check the name"),
        (Status(status=401, when=api), None, AccessDenied, "set HF_TOKEN"),
        (Status(status=401, code="RepoNotFound", when=api), "hf_x", AccessDenied, "wrong, expired or revoked"),
        (Status(status=403, when=api), "hf_x", AccessDenied, "fine-grained"),
        (Status(status=403, when=api), None, AccessDenied, "set HF_TOKEN"),
        (Status(status=451, when=api), None, AccessDenied, "HF_TOKEN"),
        (Status(status=403, code="GatedRepo", when=api), "hf_x", AccessDenied, "accept the terms at .*/acme/tiny with"),
        (Status(status=401, code="GatedRepo", when=api), None, AccessDenied, "set HF_TOKEN .*accept the terms"),
        (
            Status(status=403, message="Access to this resource is disabled.", when=api),
            "hf_x",
            AccessDenied,
            "acme/tiny",
        ),
        (Status(status=407, when=api), None, AccessDenied, "HTTPS_PROXY"),
        (Status(status=400, when=api), None, IntegrityError, "right address"),
        (Status(status=405, when=api), None, IntegrityError, "right address"),
        (Status(status=204, when=api), None, IntegrityError, "right address"),
        (Status(status=304, when=api), None, IntegrityError, "right address"),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Status) else None,
)
def test_a_definite_no_has_its_own_type_a_hint_and_no_second_try(  # a table
    hub: LoopbackHub,
    endpoint: MakeEndpoint,
    pauses: list[float],
    fault: Status,
    token: str | None,
    kind: type[ModelCacheError],
    hint: str,
) -> None:
    hub.faults.append(fault)
    with pytest.raises(ModelCacheError) as caught:
        endpoint(hub.url, token=token).resolve(REF)
    assert type(caught.value) is kind
    assert caught.match("acme/tiny")
    assert re.search(hint, str(caught.value.hint)), caught.value.hint
    assert pauses == []
    assert len(hub.requests()) == 1


def test_a_private_repository_needs_a_token_of_somebody_who_may_read_it(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    hub.add_repo("acme/private", {"main": TINY}, private=True, readers=["reader"])
    ref = ModelRef("acme/private")
    with pytest.raises(AccessDenied):
        endpoint(hub.url).resolve(ref)
    with pytest.raises(RepositoryNotFound):
        endpoint(hub.url, token="hf_other").resolve(ref)
    with pytest.raises(AccessDenied, match="Invalid credentials"):
        endpoint(hub.url, token="hf_wrong").resolve(ref)
    assert read_verified(endpoint(hub.url, token="hf_reader"), MODEL, ref=ref) == WEIGHTS


def test_a_gated_repository_lists_its_files_and_says_where_to_accept_the_terms(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    hub.add_repo("acme/gated", {"main": TINY}, gated=True, readers=["reader"])
    ref = ModelRef("acme/gated")
    for token in (None, "hf_other"):
        with pytest.raises(AccessDenied, match="gated") as caught:
            read(endpoint(hub.url, token=token), "config.json", ref=ref)
        assert f"accept the terms at {hub.url}/acme/gated" in str(caught.value.hint)
    assert read(endpoint(hub.url, token="hf_reader"), "config.json", ref=ref) == TINY["config.json"]


def test_a_revision_that_is_not_there_is_named(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    with pytest.raises(RevisionNotFound, match="acme/tiny@nope"):
        endpoint(hub.url).resolve(REF.at("nope"))


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 520, 599])
def test_what_may_pass_is_tried_again(
    hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float], status: int
) -> None:
    hub.faults.append(Status(status=status, when=api, times=3))
    upstream = endpoint(hub.url)
    commit = upstream.resolve(REF)
    assert len(pauses) == 3
    hub.faults[:] = [Status(status=status, when=api, times=1)]
    assert upstream.listing(REF, commit).files
    hub.faults[:] = [Status(status=status, when=api)]
    with pytest.raises(Unavailable, match=f"answered {status} for acme/tiny: out of order") as caught:
        upstream.tags(REF)
    assert "after 4 attempts" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("fault", "wait"),
    [
        (TooManyRequests(retry_after="7", when=api, times=1), 7),
        (RetryAfterDate(seconds=30, when=api, times=1), 30),
        (Status(status=429, headers={"RateLimit": '"api";r=0;t=55'}, when=api, times=1), 55),
        (Status(status=503, headers={"Retry-After": "9"}, when=api, times=1), 9),
    ],
    ids=["seconds", "date", "RateLimit", "503"],
)
def test_the_wait_that_the_hub_asks_for_is_kept(
    hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float], fault: Fault, wait: float
) -> None:
    hub.faults.append(fault)
    endpoint(hub.url, seconds=1000).resolve(REF)
    assert pauses == pytest.approx([wait], abs=1)


def test_a_wait_that_the_deadline_does_not_allow_is_not_begun(
    hub: LoopbackHub, endpoint: MakeEndpoint, pauses: list[float]
) -> None:
    hub.faults.append(TooManyRequests(retry_after="60", when=api))
    with pytest.raises(DeadlineExceeded, match="We had to rate limit you"):
        endpoint(hub.url, seconds=20).resolve(REF)
    assert pauses == []


def test_a_limit_met_without_a_token_hints_at_one(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(TooManyRequests(retry_after=None, when=api))
    for token, hint in ((None, "set HF_TOKEN"), ("hf_reader", "None")):
        with pytest.raises(RateLimited) as caught:
            endpoint(hub.url, token=token, attempts=1).resolve(REF)
        assert hint in str(caught.value.hint)
        assert caught.value.retry_after is None


def test_no_message_shows_the_token(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Status(status=500, message="you sent Bearer hf_reader0123456789abcdef", when=api))
    with pytest.raises(Unavailable, match=r"you sent Bearer \*\*\*") as caught:
        endpoint(hub.url, token="hf_reader0123456789abcdef", attempts=1).resolve(REF)
    assert "hf_reader" not in f"{caught.value} {caught.value.hint}"


# Bytes


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
    with pytest.raises(IntegrityError, match="asked for bytes from 100, got bytes from 99"):
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
        (None, IntegrityError, "does not say which"),
        ("bytes 100-", IntegrityError, "does not say which"),
        ("bytes */307200", IntegrityError, "does not say which"),
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
        (WebPage(), 37, "login page"),
    ],
    ids=["short", "long", "pointer", "page"],
)
def test_another_length_than_listed_is_refused_before_a_byte_is_passed_on(  # a table
    hub: LoopbackHub, endpoint: MakeEndpoint, fault: Fault, actual: int, hint: str
) -> None:
    hub.faults.append(fault)
    with pytest.raises(SizeMismatch, match=f"expected 307200 bytes, got {actual}") as caught:
        read(endpoint(hub.url), MODEL)
    assert caught.value.actual == actual
    assert hint in str(caught.value.hint)


def test_a_web_page_that_is_as_long_as_the_file_is_found_by_the_digest(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    hub.faults.append(WebPage(page=b"<html>".ljust(len(TINY["config.json"])), when=files))
    with pytest.raises(DigestMismatch):
        read_verified(endpoint(hub.url), "config.json")


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
    with pytest.raises(Unavailable, match=f"reading {MODEL} of acme/tiny@.*: the connection ended early"):
        read(endpoint(hub.url), MODEL)


def test_a_stall_for_ever_ends(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(Stall(after=100))
    with pytest.raises(Unavailable, match="no answer in time"):
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
    "change", [{"ETag": '"0000"'}, {"X-Repo-Commit": MISSING}, {"X-Linked-Etag": None, "ETag": None}]
)
def test_what_headers_say_about_a_file_is_not_believed_in_either_direction(
    hub: LoopbackHub, endpoint: MakeEndpoint, change: dict[str, str | None]
) -> None:
    """The listing and the bytes decide: mirrors write what they like into these headers."""
    hub.faults.append(WithHeaders(change=change))
    assert read_verified(endpoint(hub.url), MODEL) == WEIGHTS
    assert read_verified(endpoint(hub.url), "config.json") == TINY["config.json"]


def test_an_encoded_body_is_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    hub.faults.append(WithHeaders(change={"Content-Encoding": "gzip"}))
    with pytest.raises(IntegrityError, match="got them encoded as 'gzip'"):
        read(endpoint(hub.url), MODEL)


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
