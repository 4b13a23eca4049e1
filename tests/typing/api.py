"""Never run, only type-checked: what callers of the library rely on keeps its types, and every part is what it claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.fetch import FetchReport, fetch
from ci_modelcache.verbs.lock import LockReport, lock
from ci_modelcache.verbs.locked import read_lock
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.save import SaveReport, save
from ci_modelcache.verbs.verify import VerifyReport, verify
from ci_modelcache.verbs.wanted import RestoreOptions

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.blobsource import StoreSource
    from ci_modelcache.cli.progress import Bar, Lines
    from ci_modelcache.layouts.hub_cache import HubCacheLayout
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.sources.files import HttpFolder
    from ci_modelcache.sources.hub import HubEndpoint
    from ci_modelcache.sources.modelscope import ModelScope
    from ci_modelcache.sources.offline import Offline
    from ci_modelcache.sources.protocol import ByteSource, Upstream
    from ci_modelcache.sources.sparing import Sparing
    from ci_modelcache.stores.directory import DirectoryStore
    from ci_modelcache.stores.empty import EmptyStore
    from ci_modelcache.stores.protocol import OnDisk, Store
    from ci_modelcache.stores.s3 import S3Store
    from ci_modelcache.stores.throttled import ThrottledStore
    from ci_modelcache.transfer.progress import Progress, Silent
    from ci_modelcache.verbs.step import Step


def kept(s3: S3Store, folder: DirectoryStore, nothing: EmptyStore, slow: ThrottledStore) -> None:
    stores: tuple[Store, ...] = (s3, folder, nothing, slow)
    on_disk: OnDisk = folder
    del stores, on_disk


def asked(hub: HubEndpoint, offline: Offline, sparing: Sparing, mirrors: Mirrors) -> None:
    upstreams: tuple[Upstream, ...] = (hub, offline, sparing, mirrors)
    del upstreams


def asked_for_bytes(hub: HubEndpoint, folder: HttpFolder, modelscope: ModelScope, store: StoreSource) -> Upstream:
    """Each is a source of bytes, and any upstream says what a revision means."""
    sources: tuple[ByteSource, ...] = (hub, folder, modelscope, store)
    router = Router((Source(each, priority) for priority, each in enumerate(sources)), connections=8)
    return Mirrors(hub, router, retry=RetryPolicy())


def shown(bar: Bar, lines: Lines, silent: Silent, plain: PlainLayout, cache: HubCacheLayout) -> None:
    progresses: tuple[Progress, ...] = (bar, lines, silent)
    layouts: tuple[Layout, ...] = (plain, cache)
    del progresses, layouts


def three_lines_of_python(path: Path, upstream: Upstream, step: Step) -> None:
    """What the command line can do, so can they."""
    cache = ModelCache(open_store("s3://bucket/prefix", retry=RetryPolicy()))
    report = restore(ModelRef.parse("org/name@main"), PlainLayout(path), cache=cache, upstream=upstream, step=step)
    assert_type(report, RestoreReport)


def verbs(path: Path, cache: ModelCache, upstream: Upstream, layout: Layout, step: Step) -> None:
    ref, everything = ModelRef("org/name"), Selection.everything()
    options = RestoreOptions(selection=everything, locks=(Lock(),), fail_on_miss=True)
    assert_type(restore(ref, layout, cache=cache, upstream=upstream, step=step, options=options), RestoreReport)
    assert_type(fetch(ref, selection=everything, cache=cache, upstream=upstream, step=step), FetchReport)
    assert_type(save(path, ref, host="huggingface.co", selection=everything, cache=cache, step=step), SaveReport)
    assert_type(lock((), path, upgrade=False, cache=cache, upstream=upstream, step=step), LockReport)
    assert_type(verify(cache.snapshots(), cache=cache, step=step), VerifyReport)
    assert_type(read_lock(path), Lock)
