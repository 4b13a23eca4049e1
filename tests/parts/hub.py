"""The loopback Hub as fixtures, and an endpoint that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.model.digest import verified
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from ci_modelcache.model.listing import ListedFile

WEIGHTS = bytes(range(256)) * 1200
"""307,200 bytes: more than one piece, less than a blink."""
TINY = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# tiny\n",
    "config.json": b'{"model_type": "bert"}\n',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "onnx/model.onnx": WEIGHTS[::-1],
    "onnx/odd name +é%#?&=;.txt": b"odd\n",
}
REF = ModelRef("acme/tiny")

MakeEndpoint = Callable[..., HubEndpoint]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub with ``acme/tiny``: main holds `TINY`, and v1.0 is a tag of it."""
    with LoopbackHub(tokens={"hf_reader": "reader", "hf_other": "other"}) as running:
        repository = running.add_repo("acme/tiny", {"main": TINY})
        repository.tags["v1.0"] = repository.branches["main"]
        yield running


@pytest.fixture
def session() -> Iterator[HttpSession]:
    with HttpSession() as opened:
        yield opened


@pytest.fixture
def pauses() -> list[float]:
    """Every pause that the `endpoint` made, in seconds; none is really slept."""
    return []


@pytest.fixture
def endpoint(session: HttpSession, pauses: list[float]) -> MakeEndpoint:
    """Makes endpoints: ``endpoint(hub.url, token="hf_reader", seconds=1)``."""

    def make(
        url: str,
        *,
        token: str | None = None,
        seconds: float | None = 20,
        attempts: int = 4,
        over: HttpSession | None = None,
    ) -> HubEndpoint:
        retry = RetryPolicy(attempts, base=0.01, cap=0.02, deadline=Deadline(seconds), sleep=pauses.append)
        return HubEndpoint(url, session=over or session, token=None if token is None else Token(token), retry=retry)

    return make


def listed(upstream: HubEndpoint, path: str, ref: ModelRef = REF) -> tuple[str, ListedFile]:
    """The commit that *ref* means, and *path* as it lists it."""
    commit = upstream.resolve(ref).commit
    return commit, next(file for file in upstream.listing(ref, commit).files if file.path == path)


def read(upstream: HubEndpoint, path: str, *, start: int = 0, ref: ModelRef = REF) -> bytes:
    """One attempt at *path* from *start*, unverified."""
    commit, file = listed(upstream, path, ref)
    with upstream.open(ref, commit, file, start=start) as pieces:
        return b"".join(pieces)


def read_verified(upstream: HubEndpoint, path: str, *, ref: ModelRef = REF, attempts: int = 4) -> bytes:
    """*path* as the verbs read it: resumed where it breaks off, and proven."""
    commit, file = listed(upstream, path, ref)
    retry = RetryPolicy(attempts, base=0.001, cap=0.01, deadline=Deadline(20), sleep=lambda _: None)
    chunks = read_through(lambda start: upstream.open(ref, commit, file, start=start), file.size, retry, what=path)
    return b"".join(verified(chunks, file.expected, path))
