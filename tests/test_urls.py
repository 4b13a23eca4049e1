"""The document of presign: what was written is read, what is not one is refused, and no message shows a URL."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.cache.urls import ListedModel, ObjectUrl, UrlList, moment
from ci_modelcache.errors import ManifestInvalid, ModelCacheError, ObjectNotFound, StoreUnsupported
from ci_modelcache.model.digest import Digest
from tests.parts.documents import ROOT
from tests.parts.urls import COMMIT, GOLDEN, HOST, KEY, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = ROOT / "tests" / "golden" / "urls.json"
PLAIN: Any = json.loads(GOLDEN.to_json())


def read(plain: object) -> UrlList:
    return UrlList.from_json(json.dumps(plain).encode(), "urls.json")


def test_the_golden_file_is_read_and_written_byte_for_byte() -> None:
    """It must stay readable: a list may be made by one version, and used by another."""
    assert UrlList.from_json(FILE.read_bytes(), "urls.json") == GOLDEN
    assert GOLDEN.to_json() == FILE.read_bytes()


_segment = st.text("ABCabc019._-", min_size=1, max_size=20).filter(lambda text: text not in {".", "..", ".staging"})
_keys = st.lists(_segment, min_size=1, max_size=5).map("/".join)
_urls = st.builds(
    "{}://{}{}/{}?{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["127.0.0.1", "b.s3.amazonaws.com", "[::1]"]),
    st.sampled_from(["", ":8333"]),
    _keys,
    st.text("abcXYZ019-._~%&=+/", max_size=60),
)
_patterns = st.lists(st.text("abc*?.[]é", min_size=1, max_size=8), max_size=3).map(tuple)
_models = st.builds(
    ListedModel,
    ref=st.sampled_from(["org/name@main", "name@v1.2", "dataset:org/name@feature/x", f"space:org/name@{COMMIT}"]),
    host=st.sampled_from([HOST, "127.0.0.1:8080", "[::1]:80"]),
    commit=st.just(COMMIT),
    include=_patterns,
    exclude=_patterns,
)
_lists = st.builds(
    UrlList,
    store=st.sampled_from(["s3://bucket", "s3://bucket/a/b"]),
    expires=st.integers(0, 4_102_444_800).map(moment),
    models=st.lists(_models, max_size=3).map(tuple),
    objects=st.dictionaries(_keys, st.builds(ObjectUrl, size=st.integers(0, 2**53 - 1), url=_urls), max_size=5),
)


@given(_lists)
def test_what_was_written_is_read(listed: UrlList) -> None:
    assert UrlList.from_json(listed.to_json(), "urls.json") == listed


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary().map(repr),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _places(plain: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        list(plain.items()) if isinstance(plain, dict) else list(enumerate(plain)) if isinstance(plain, list) else []
    )
    return [at, *(place for key, value in inner for place in _places(value, (*at, key)))]


@given(st.sampled_from(_places(PLAIN)), _junk)
def test_no_junk_gets_through_wherever_it_stands(place: tuple[Any, ...], junk: Any) -> None:
    """What is read after all is a list that is read again, and no message shows what a URL has."""
    spoiled = copy.deepcopy(PLAIN)
    if place:
        inner = spoiled
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = junk
    else:
        spoiled = junk
    found = _read_or_refused(spoiled)
    if isinstance(found, UrlList):
        assert UrlList.from_json(found.to_json(), "urls.json") == found
    else:
        assert isinstance(found, ManifestInvalid | StoreUnsupported)
        assert "urls.json" in found.message
        assert SIGNATURE not in found.message


def _read_or_refused(plain: object) -> UrlList | ModelCacheError:
    try:
        return read(plain)
    except ModelCacheError as error:
        return error


@given(st.binary(max_size=200))
def test_bytes_that_are_no_list_are_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match=r"urls\.json") as caught:
        UrlList.from_json(data, "urls.json")
    assert "ci-modelcache presign" in str(caught.value.hint)


def _set(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(plain: Any) -> None:
        for step in path[:-1]:
            plain = plain[step]
        plain[path[-1]] = to

    return change


URL = ("objects", KEY, "url")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_set(*URL, to=f"ftp://host/?X-Amz-Signature={SIGNATURE}"), "url"),
        (_set(*URL, to=f"file:///etc/{SIGNATURE}"), "url"),
        (_set(*URL, to=f"https:///?{SIGNATURE}"), "url"),
        (_set(*URL, to=f"https://user:{SIGNATURE}@host/"), "url"),
        (_set(*URL, to=f"https://host:port/{SIGNATURE}"), "url"),
        (_set(*URL, to=f"https://host/a b{SIGNATURE}"), "url"),
        (_set(*URL, to=f"https://host/\r\nHost: other {SIGNATURE}"), "url"),
        (_set(*URL, to=f"https://host/#{SIGNATURE}"), "url"),
        (_set(*URL, to=f"https://host/{SIGNATURE}" + "a" * 20_000), "url"),
        (_set(*URL, to=[SIGNATURE]), "url"),
        (_set("objects", KEY, "size", to=-1), "size"),
        (_set("objects", KEY, "size", to=True), "size"),
        (_set("objects", KEY, "size", to=2**60), "size"),
        (_set("objects", KEY, "secret", to=SIGNATURE), "unknown field"),
        (_set("objects", "../etc/passwd", to=PLAIN["objects"][KEY]), "keys of a store"),
        (_set("objects", f"https://host/{SIGNATURE}", to=PLAIN["objects"][KEY]), "keys of a store"),
        (_set("objects", f"https://host/?X-Amz-Signature={SIGNATURE}", to={"size": 1}), "missing"),
        (_set("expires", to="tomorrow"), "expires"),
        (_set("expires", to="2026-13-41T00:00:00Z"), "expires"),
        (_set("expires", to="2026-11-21T13:22:30+02:00"), "expires"),
        (_set("store", to=f"s3://key:{SIGNATURE}@bucket"), "store"),
        (_set("store", to="s3://bucket\x1b[31m"), "store"),
        (_set("models", 0, "ref", to="../../etc"), "not a repository name"),
        (_set("models", 0, "ref", to=f"org/name@{'0' * 40}"), "cannot mean the commit"),
        (_set("models", 0, "host", to="a/b"), "host"),
        (_set("models", 1, to={**PLAIN["models"][0], "commit": "1" * 40}), "two commits"),
        (_set("models", 0, "commit", to="main"), "commit"),
        (_set("models", 0, "include", to=[""]), "empty pattern"),
        (_set("models", 0, "include", to=["\ud800"]), "codepoints"),
        (_set("more", to=1), "unknown field more"),
        (_set("format", to=0), "expected format 1, got 0"),
    ],
)
def test_a_defect_is_named_and_its_secret_is_not(change: Callable[[Any], None], where: str) -> None:
    spoiled = copy.deepcopy(PLAIN)
    change(spoiled)
    with pytest.raises(ManifestInvalid, match=where) as caught:
        read(spoiled)
    assert SIGNATURE not in caught.value.message


def test_a_later_format_is_not_guessed_at() -> None:
    with pytest.raises(StoreUnsupported, match="format 2; this version reads 1"):
        read({"format": 2, "what": "ever"})


def test_a_list_that_is_too_large_is_not_read() -> None:
    with pytest.raises(ManifestInvalid, match="at most"):
        UrlList.from_json(b" " * (33 << 20), "urls.json")


def test_its_repr_shows_no_url() -> None:
    assert SIGNATURE not in repr(GOLDEN)


def test_the_url_of_a_blob_is_that_of_its_copy() -> None:
    digest = Digest(KEY[-64:])
    assert SIGNATURE in GOLDEN.of_blob(digest)
    later = evolve(GOLDEN, objects={f"{KEY}.g{'0' * 26}": GOLDEN.objects[KEY]})
    assert later.of_blob(digest) == GOLDEN.of_blob(digest)
    with pytest.raises(ObjectNotFound):
        GOLDEN.of_blob(Digest("0" * 64))
