"""The only module that brings one file of a known snapshot to its place: from the store, or from upstream when the store fails."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import (
    AccessDenied,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    NotFound,
    ObjectNotFound,
    Unavailable,
)
from ci_modelcache.layouts.protocol import Layout
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.protocol import Upstream
from ci_modelcache.transfer.land import land
from ci_modelcache.transfer.place import place
from ci_modelcache.transfer.progress import counted
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.transfer.retry import once_more
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.ingest import stream
from ci_modelcache.verbs.publish import read_file
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import BlobCopy
    from ci_modelcache.model.digest import Fingerprint
    from ci_modelcache.model.manifest import FileEntry

_log = logging.getLogger(__name__)

STORE = "store"
UPSTREAM = "upstream"


@frozen
class Delivery:
    """How the file at *path* came: *how* is reflink, hardlink, copy or download, *source* the store or upstream."""

    path: str
    size: int
    how: str
    source: str


@frozen
class Route:
    """Where files may come from and where they go; *ref* is pinned to the commit."""

    ref: ModelRef
    layout: Layout
    cache: ModelCache
    upstream: Upstream
    receipts: Receipts
    step: Step
    save: bool


def deliver(file: FileEntry, route: Route) -> Delivery:
    """
    Put the proven bytes of *file* at its place.

    A copy in the store that is missing or wrong is passed over for the next one, then for upstream, and then
    mended if the store may be written. When upstream cannot help either, the store's failure is raised.
    """
    try:
        return _from_store(file, route)
    except (ObjectNotFound, IntegrityError) as error:
        _log.warning("%s: %s; asking upstream", file.path, error)
        try:
            delivery = _from_upstream(file, route)
        except NotFound as miss:
            raise error from miss
    if route.save:
        _mend(file, route)
    return delivery


def _from_store(file: FileEntry, route: Route) -> Delivery:
    failure: ModelCacheError = ObjectNotFound(file.sha256.hex, route.cache.url)
    for copy in route.cache.blob_copies(file.sha256, file.size):
        try:
            return _from_copy(file, copy, route)
        except (ObjectNotFound, IntegrityError) as error:
            failure = error
    raise failure


def _from_copy(file: FileEntry, copy: BlobCopy, route: Route) -> Delivery:
    layout, target = route.layout, route.layout.content(file)
    for local in copy.files:
        placed = place(
            local,
            target,
            expected=file.expected,
            link=layout.linkable,
            mode=layout.mode(file),
            staging=layout.staging,
            receipts=route.receipts,
        )
        route.step.progress.advance(file.size)
        return Delivery(file.path, file.size, placed, STORE)

    def receive() -> Fingerprint:
        chunks = read_through(copy.open, file.size, route.step.retry, what=str(copy))
        counting = counted(chunks, route.step.progress)
        return land(counting, target, file.expected, mode=layout.mode(file), staging=layout.staging)

    once_more(receive, doing=f"reading {copy}")
    route.receipts.remember(target, file.sha256)
    return Delivery(file.path, file.size, "download", STORE)


def _from_upstream(file: FileEntry, route: Route) -> Delivery:
    listed = listed_of(file)
    once_more(partial(land_listed, listed, route), doing=f"fetching {file.path}")
    route.receipts.remember(route.layout.content(file), file.sha256)
    return Delivery(file.path, file.size, "download", UPSTREAM)


def listed_of(file: FileEntry) -> ListedFile:
    """A manifest entry as a listing would have it, were a Hub to publish every sha256."""
    return ListedFile(file.path, file.size, file.git_oid, file.sha256, file.lfs, file.executable)


def land_listed(file: ListedFile, route: Route) -> Fingerprint:
    """Land *file* from upstream at its place, proven by whatever was promised; wrong bytes name their source."""
    chunks = stream(route.ref, file, source=route.upstream, step=route.step)
    layout = route.layout
    try:
        return land(chunks, layout.content(file), file.expected, mode=layout.mode(file), staging=layout.staging)
    except IntegrityError as error:
        error.add_note(f"these bytes came from {route.upstream.url}")
        raise


def _mend(file: FileEntry, route: Route) -> None:
    """Give the store the right bytes; that it cannot be written is no reason to fail a restore that succeeded."""
    content = route.layout.content(file)
    try:
        with Publication(route.cache) as publication:
            publication.announce([file.sha256])
            publication.put_blob(file.expected, file.sha256, read_file(content), what=str(content))
    except (AccessDenied, Unavailable, NoSpace) as error:
        _log.warning("%s could not be mended in %s: %s", file.path, route.cache.url, error)
    else:
        _log.warning("%s was mended in %s", file.path, route.cache.url)
