"""A mirror that cannot be used is none, one that is named twice is one, and none of them has the last word while the authority is away."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import FileNotFound, RepositoryNotFound, Unavailable
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.offline import Offline
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.transfer.partial import PREFIX
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.upstreams import hubs

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from ci_modelcache.sources.protocol import Meaning
    from tests.parts.upstreams import MirrorBench

FILES = {"config.json": b"{}\n"}


@pytest.fixture
def bench(mirror_bench: MirrorBench) -> MirrorBench:
    mirror_bench.files = FILES
    return mirror_bench


def test_a_mirror_in_a_folder_that_is_not_there_is_left_out_and_said(bench: MirrorBench, tmp_path: Path) -> None:
    with hubs(1, FILES) as (hub,):
        bench.authority = hub.url
        bench.mirrors = [str(tmp_path / "unmounted")]
        outcome = bench.succeeds("restore")
    assert "unmounted is left out" in outcome.err


def test_a_mirror_whose_token_cannot_be_had_is_passed_over(bench: MirrorBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with hubs(2, FILES) as (hub, mirror):
        bench.authority, bench.mirrors = hub.url, [mirror.url]
        monkeypatch.setenv("CI_MODELCACHE_TOKENS", f"{mirror.url.partition('://')[2]}=file:{bench.folder / 'nothing'}")
        outcome = bench.succeeds("restore")
        assert not mirror.requests()
    assert outcome.snapshot["mirrors"] == {hub.url: 3}


def test_a_mirror_that_is_named_twice_is_one_source(bench: MirrorBench) -> None:
    with hubs(2, FILES) as (hub, mirror):
        bench.authority, bench.mirrors = hub.url, [mirror.url, f"{mirror.url}/"]
        outcome = bench.succeeds("restore")
    asked = [each["source"] for each in outcome.events if each["event"] == "decision"]
    assert asked == [mirror.url]


class _Away(Offline):
    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> NoReturn:
        del ref, known, patience
        msg = "the authority is away"
        raise Unavailable(msg)


class _Ignorant(Offline):
    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> NoReturn:
        del ref, known, patience
        msg = "no such repository"
        raise RepositoryNotFound(msg)


def test_a_mirror_that_has_not_heard_of_a_model_does_not_say_that_there_is_none() -> None:
    upstream = Mirrors(
        _Away("a"), Router([Source(Offline("a"), 0)], connections=1), retry=RetryPolicy(), trusted=[_Ignorant("b")]
    )
    with pytest.raises(Unavailable, match="the authority is away") as caught:
        upstream.resolve(ModelRef.parse("acme/tiny"))
    assert "no such repository" in "".join(caught.value.__notes__)
    assert not isinstance(caught.value, FileNotFound)


def test_what_was_half_received_a_week_ago_makes_room_and_what_is_newer_is_kept(bench: MirrorBench) -> None:
    folder = bench.state / "partial"
    folder.mkdir(parents=True)
    old, new = folder / f"{PREFIX}{'1' * 64}", folder / f"{PREFIX}{'2' * 64}"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 8 * 86_400))
    with hubs(1, FILES) as (hub,):
        bench.authority = hub.url
        assert bench.run("fetch").code == 0
    assert (old.exists(), new.exists()) == (False, True)
