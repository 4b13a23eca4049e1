"""The whole tool in one minute, without the Hub: a real model from a loopback Hub and a mirror of it, both bad, into a store, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.demo.faults import Cut, TooManyRequests, WrongBit, api, naming
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.model import REPO
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.layouts.protocol import Layout

WEIGHTS = "model.safetensors"
CUT_AFTER = 1_000_000
"""Bytes after which the mirror's first answer is cut; a third of the weights when that is less."""
WRONG_AT = 8
"""The offset in the weights of the byte that the mirror has wrong: in the first part of them, which is asked of it."""


@frozen
class DemoStep:
    """One restore of the demonstration; *requests* and *received* (bytes) are what the Hub and its mirror saw of it."""

    what: str
    result: str
    requests: int
    received: int
    report: RestoreReport


@frozen
class DemoReport:
    """What happened; *faults* lists what went wrong on purpose, *folder* holds store, cache and model."""

    model: str
    hub: str
    mirror: str
    """the address of its mirror"""
    store: str
    folder: str
    faults: tuple[str, ...]
    steps: tuple[DemoStep, ...]


@frozen
class _Stage:
    """The *hub* and the *mirror* that serve the model, and what is restored from both by *upstream* through *cache*."""

    hub: LoopbackHub
    mirror: LoopbackHub
    upstream: Mirrors
    cache: ModelCache
    step: Step

    def restore(self, what: str, layout: Layout) -> DemoStep:
        both = (self.hub, self.mirror)
        for each in both:
            each.forget()
        report = restore(ModelRef(REPO), layout, cache=self.cache, upstream=self.upstream, step=self.step)
        return DemoStep(
            what, report.result, sum(len(each.requests()) for each in both), sum(each.sent for each in both), report
        )


def demonstrate(model: Path, folder: Path, *, step: Step) -> DemoReport:
    """
    Serve the files of *model* from a Hub that answers 429 once and a mirror that breaks off once and lies, and restore them thrice.

    Everything is made below *folder*. Raises what `restore` raises: a demonstration that fails is a bug report.
    """
    limited = TooManyRequests(retry_after="1", when=api, times=1)
    after = min(CUT_AFTER, (model / WEIGHTS).stat().st_size // 3)
    cut = Cut(after=after, reset=True, pause=0.1, when=naming(WEIGHTS), times=1)
    lie = WrongBit(at=WRONG_AT, when=naming(WEIGHTS))
    with (
        LoopbackHub(cdn=False, faults=[limited]) as hub,
        LoopbackHub(cdn=False, faults=[cut, lie]) as mirror,
        HttpSession() as session,
    ):
        for each in (hub, mirror):
            each.add_repo(REPO, {"main": model})
        sources = [
            Source(HubEndpoint(each.url, session=session, retry=step.retry, strict_ranges=True), priority)
            for priority, each in enumerate((mirror, hub))
        ]
        router = Router(sources, connections=step.workers, events=step.retry.events)
        upstream = Mirrors(HubEndpoint(hub.url, session=session, retry=step.retry), router, retry=step.retry)
        cache = ModelCache(DirectoryStore(folder / "store", create=True), retry=step.retry)
        stage = _Stage(hub, mirror, upstream, cache, step)
        cached = HubCacheLayout(folder / "huggingface", REPO, RepoType.MODEL)
        steps = (
            stage.restore("restore into a Hugging Face cache", cached),
            stage.restore("restore into a plain directory", PlainLayout(folder / "model")),
            stage.restore("restore the cache again", cached),
        )
        faults = (
            f"the Hub: 429 Too Many Requests, Retry-After: 1 ({limited.happened}x)",
            f"its mirror: connection reset after {format_bytes(after)} of {WEIGHTS} ({cut.happened}x)",
            f"its mirror: a wrong bit in {WEIGHTS}, at its right size",
        )
        return DemoReport(REPO, hub.url, mirror.url, cache.url, str(folder), faults, steps)
