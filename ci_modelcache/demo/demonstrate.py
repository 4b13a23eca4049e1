"""The whole tool in one minute, without the Hub: a real model from a loopback Hub that misbehaves, into a store, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.demo.faults import Cut, TooManyRequests, api, naming
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.model import REPO
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.verbs.restore import RestoreReport, restore

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.verbs.step import Step

WEIGHTS = "model.safetensors"
CUT_AT = 0.4
"""Where in the weights the connection is cut, as a share of the file."""


@frozen
class DemoStep:
    """One restore of the demonstration; *requests* and *received* (bytes) are what the Hub saw of it."""

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
    store: str
    folder: str
    faults: tuple[str, ...]
    steps: tuple[DemoStep, ...]


def demonstrate(model: Path, folder: Path, *, step: Step) -> DemoReport:
    """
    Serve the files of *model* from a loopback Hub that answers 429 once and cuts one connection, and restore them thrice.

    Everything is made below *folder*. Raises what `restore` raises: a demonstration that fails is a bug report.
    """
    limited = TooManyRequests(retry_after="1", when=api, times=1)
    cut = Cut(after=int((model / WEIGHTS).stat().st_size * CUT_AT), reset=True, when=naming(WEIGHTS), times=1)
    with LoopbackHub(cdn=False, faults=[limited, cut]) as hub, HttpSession() as session:
        hub.add_repo(REPO, {"main": model})
        upstream = HubEndpoint(hub.url, session=session, retry=step.retry)
        cache = ModelCache(DirectoryStore(folder / "store", create=True), retry=step.retry)
        cached = HubCacheLayout(folder / "huggingface", REPO, RepoType.MODEL)
        plain = PlainLayout(folder / "model")
        steps = tuple(
            _restore(what, layout, hub=hub, upstream=upstream, cache=cache, step=step)
            for what, layout in (
                ("restore into a Hugging Face cache", cached),
                ("restore into a plain directory", plain),
                ("restore the cache again", cached),
            )
        )
        faults = (
            f"429 Too Many Requests, Retry-After: 1 ({limited.happened}x)",
            f"connection reset after {CUT_AT:.0%} of {WEIGHTS} ({cut.happened}x)",
        )
        return DemoReport(REPO, hub.url, cache.url, str(folder), faults, steps)


def _restore(
    what: str, layout: Layout, *, hub: LoopbackHub, upstream: HubEndpoint, cache: ModelCache, step: Step
) -> DemoStep:
    hub.forget()
    report = restore(ModelRef(REPO), layout, cache=cache, upstream=upstream, step=step)
    return DemoStep(what, report.result, len(hub.requests()), hub.sent, report)
