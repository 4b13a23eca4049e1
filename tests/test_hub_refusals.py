"""What each refusal of a Hub means: a type of its own, a hint, and whether it is worth another try."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    ModelCacheError,
    RateLimited,
    RepositoryNotFound,
    RevisionNotFound,
    Unavailable,
)
from ci_modelcache.model.ref import ModelRef
from tests.parts.hub import REF, TINY, WEIGHTS, MakeEndpoint, read, read_verified
from tests.parts.hub_faults import (
    RetryAfterDate,
    Status,
    TooManyRequests,
    WithHeaders,
    api,
)

if TYPE_CHECKING:
    from ci_modelcache.demo.exchange import Fault

MODEL = "model.safetensors"
MISSING = "0" * 40


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
    commit = upstream.resolve(REF).commit
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


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 400])
@pytest.mark.parametrize("place", ["header", "body"])
def test_a_token_of_no_known_form_that_the_server_quotes_is_not_shown(
    hub: LoopbackHub, endpoint: MakeEndpoint, status: int, place: str
) -> None:
    said = "invalid token Zx81kkPq0aT5"
    fault = Status(status=status, message=said if place == "body" else "no", when=api)
    fault.headers["X-Error-Message"] = said if place == "header" else ""
    hub.faults.append(fault)
    with pytest.raises(ModelCacheError, match=r"invalid token \*\*\*") as caught:
        endpoint(hub.url, token="Zx81kkPq0aT5", attempts=1).resolve(REF)
    assert "Zx81kkPq0aT5" not in f"{caught.value!r} {caught.value} {caught.value.hint}"


def test_a_token_in_a_link_that_leads_elsewhere_is_not_shown(endpoint: MakeEndpoint) -> None:
    with LoopbackHub(tokens={"Zx81kkPq0aT5": "reader"}) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        upstream = endpoint(hub.url, token="Zx81kkPq0aT5")
        commit = upstream.resolve(REF).commit
        hub.faults.append(WithHeaders(change={"Link": f'<{hub.url}/Zx81kkPq0aT5/elsewhere>; rel="next"'}, when=api))
        with pytest.raises(IntegrityError, match=r"leads elsewhere: .*\*\*\*/elsewhere") as caught:
            upstream.listing(REF, commit)
    assert "Zx81kkPq0aT5" not in str(caught.value)
