"""A Hub as authority: what it is asked, and what of its answers is believed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    IntegrityError,
    RevisionNotFound,
    UnsafePath,
)
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.protocol import RefName
from ci_modelcache.sources.tree import parse_listing, parse_tree
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.hub import REF, TINY, WEIGHTS, MakeEndpoint, read, read_verified
from tests.parts.hub_faults import (
    Body,
    WebPage,
    WithHeaders,
    api,
    naming,
    tree_entry,
)

if TYPE_CHECKING:
    from ci_modelcache.demo.exchange import Reply, Request, Respond
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
    assert upstream.resolve(REF).commit == upstream.resolve(REF.at("v1.0")).commit == repository.branches["main"]
    assert upstream.resolve(REF.at("feature/x")).commit == repository.branches["feature/x"]
    assert hub.requests()[-1].target == "/api/models/acme/tiny/revision/feature%2Fx"


def test_a_full_commit_resolves_to_itself_without_a_call(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    assert endpoint(hub.url).resolve(REF.at(MISSING)).commit == MISSING
    assert hub.requests() == []


def test_the_listing_tells_that_a_full_commit_does_not_exist(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    with pytest.raises(RevisionNotFound, match=MISSING):
        endpoint(hub.url).listing(REF, MISSING)


def test_a_listing_has_every_file_with_size_and_digest_and_costs_one_call(
    hub: LoopbackHub, endpoint: MakeEndpoint
) -> None:
    upstream = endpoint(hub.url)
    commit = upstream.resolve(REF).commit
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
        listing = upstream.listing(REF, upstream.resolve(REF).commit)
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
        upstream.listing(REF, upstream.resolve(REF).commit)


def test_pages_that_do_not_end_are_refused(hub: LoopbackHub, endpoint: MakeEndpoint) -> None:
    upstream = endpoint(hub.url)
    commit = upstream.resolve(REF).commit
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
