"""What answers say about further requests is read from every form that is in use, and nothing is read into the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import RateLimited
from ci_modelcache.sources.grants import grant_of, quota_of
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.budget import Budget, Grant
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.hub_faults import Status, WithHeaders, always, api

if TYPE_CHECKING:
    from pathlib import Path

HUB_POLICY = '"fixed window";"api";q=500;w=300'
READ = {
    "nothing": (200, {}, Grant(200)),
    "the Hub": (
        200,
        {"RateLimit": '"api";r=489;t=243', "RateLimit-Policy": HUB_POLICY},
        Grant(200, remaining=489, reset=243, limit=500, window=300),
    ),
    "the Hub, refusing": (
        429,
        {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": HUB_POLICY},
        Grant(429, wait=55, remaining=0, reset=55, limit=500, window=300),
    ),
    "spaces": (200, {"RateLimit": '"api" ; r=4 ; t=5'}, Grant(200, remaining=4, reset=5)),
    "no quotes": (200, {"RateLimit": "default;r=4;t=5"}, Grant(200, remaining=4, reset=5)),
    "another policy": (
        200,
        {"RateLimit": '"api";r=4;t=5', "RateLimit-Policy": '"pages";q=7;w=8'},
        Grant(200, remaining=4, reset=5),
    ),
    "several": (
        200,
        {
            "RateLimit": '"burst";r=90;t=1, "day";r=7;t=900, "hour";r=7;t=1800',
            "RateLimit-Policy": '"burst";q=100;w=1,"day";q=1000;w=86400,"hour";q=50;w=3600',
        },
        Grant(200, remaining=7, reset=1800, limit=50, window=3600),
    ),
    "earlier drafts": (
        200,
        {"ratelimit-limit": "100", "ratelimit-remaining": "0", "ratelimit-reset": " 50 "},
        Grant(200, remaining=0, reset=50, limit=100),
    ),
    "earlier drafts with a window": (
        200,
        {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "9", "RateLimit-Reset": "50"},
        Grant(200, remaining=9, reset=50),
    ),
    "seconds": (429, {"Retry-After": "37"}, Grant(429, wait=37)),
    "a date": (
        503,
        {"Retry-After": "Fri, 21 Nov 2025 04:31:07 GMT", "Date": "Fri, 21 Nov 2025 04:30:07 GMT"},
        Grant(503, wait=60),
    ),
    "429 without a word": (429, {}, Grant(429)),
    "a redirect that may be asked later": (302, {"Retry-After": "37"}, Grant(302)),
    "numbers that are none": (200, {"RateLimit": '"api";r=-1;t=x', "RateLimit-Remaining": "9"}, Grant(200)),
    "a number with a point": (200, {"RateLimit-Remaining": "1.5", "RateLimit-Reset": "50"}, Grant(200, reset=50)),
}


@pytest.mark.parametrize(("status", "headers", "expected"), READ.values(), ids=READ)
def test_an_answer_grants(status: int, headers: dict[str, str], expected: Grant) -> None:
    assert grant_of(status, CaseInsensitiveDict(headers), now=0) == expected


@given(
    st.sampled_from([200, 429, 503]),
    st.dictionaries(
        st.sampled_from(["RateLimit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After"]),
        st.text(alphabet='"api;qrtw=0123456789, -', max_size=60) | st.text(max_size=20),
    ),
)
def test_whatever_a_header_holds_the_numbers_are_sane(status: int, headers: dict[str, str]) -> None:
    grant = grant_of(status, CaseInsensitiveDict(headers), now=0)
    for number in (grant.wait, grant.remaining, grant.reset, grant.limit, grant.window):
        assert number is None or 0 <= number < 1e9


def test_calls_and_files_hosts_and_accounts_are_counted_apart_and_no_secret_is_in_a_quota() -> None:
    token = Token("hf_secret")
    quotas = [
        quota_of("https://huggingface.co/api/models/a/b", None),
        quota_of("https://huggingface.co/a/b/resolve/main/x?q=/api/", None),
        quota_of("https://hub.internal:8443/api/models/a/b", None),
        quota_of("https://huggingface.co/api/models/a/b", token),
        quota_of("https://huggingface.co/api/models/a/b", Token("hf_other")),
    ]
    assert len(set(quotas)) == 5
    assert [quota.bucket for quota in quotas] == ["api", "resolvers", "api", "api", "api"]
    assert quota_of("https://user:s3cret@huggingface.co/api/datasets/c", token) == quotas[3]
    assert "hf_secret" not in repr(quotas)


def test_a_header_as_long_as_a_server_can_send_it_takes_no_time() -> None:
    begun = time.monotonic()
    headers = {"RateLimit": "a" * 60_000, "RateLimit-Policy": '"' * 60_000}
    assert grant_of(429, CaseInsensitiveDict(headers), now=0) == Grant(429)
    assert time.monotonic() - begun < 1


# Over the wire


def asked(session: HttpSession, url: str) -> int:
    with session.ask(url, doing="asking", deadline=Deadline(20)) as answer:
        answer.read(10_000)
        return answer.status


def test_a_host_that_asked_to_wait_hears_nothing_more_of_this_machine(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.append(Status(status=429, headers={"Retry-After": "37"}, when=api))
    url = f"{hub.url}/api/models/acme/tiny"
    with HttpSession(budget=Budget(tmp_path)) as session, HttpSession(budget=Budget(tmp_path)) as other:
        assert asked(session, url) == 429
        for each in (session, other):
            with pytest.raises(RateLimited, match=rf"^{hub.url} asked this machine to wait 37 s \(429 at ") as caught:
                asked(each, url)
            assert 36 < (caught.value.retry_after or 0) <= 38
        assert len(hub.requests()) == 1
        assert asked(other, f"{hub.url}/acme/tiny/resolve/main/config.json") == 200


def test_a_quota_that_is_used_up_is_not_overdrawn(hub: LoopbackHub, tmp_path: Path) -> None:
    said: dict[str, str | None] = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": HUB_POLICY}
    hub.faults.append(WithHeaders(change=said, when=api))
    url = f"{hub.url}/api/models/acme/tiny"
    with HttpSession(budget=Budget(tmp_path)) as session:
        assert asked(session, url) == 200
        with pytest.raises(RateLimited, match=r"grants this machine no more requests for 55 s \(500 in 300 s\)$"):
            asked(session, url)
    assert len(hub.requests()) == 1


def test_a_redirect_to_a_host_that_asked_to_wait_is_not_followed(hub: LoopbackHub, tmp_path: Path) -> None:
    with LoopbackHub(faults=[Status(status=503, headers={"Retry-After": "20"}, when=always)]) as busy:
        hub.faults.append(WithHeaders(change={"Location": f"{busy.url}/x"}, when=always))
        url = f"{hub.url}/acme/tiny/resolve/main/model.safetensors"
        with HttpSession(budget=Budget(tmp_path)) as session:
            assert asked(session, url) == 503
            with pytest.raises(RateLimited, match=f"^{busy.url} asked this machine to wait 20 s"):
                asked(session, url)
        assert len(busy.requests()) == 1
        assert len(hub.requests(within="/resolve")) == 2


def test_without_a_budget_everything_is_sent(hub: LoopbackHub, session: HttpSession) -> None:
    hub.faults.append(Status(status=429, headers={"Retry-After": "37"}, when=api))
    url = f"{hub.url}/api/models/acme/tiny"
    assert [asked(session, url), asked(session, url)] == [429, 429]
