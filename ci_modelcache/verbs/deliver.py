"""The only module that brings one file to its place: from the store, or from upstream when the store cannot give it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.cache.replicas import ReplicatedCache
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    NotFound,
    ObjectNotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.layouts.protocol import Layout
from ci_modelcache.model.digest import Digest, Fingerprint, verified
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal, land
from ci_modelcache.transfer.place import Linking, place
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.near import Near
from ci_modelcache.verbs.publish import read_file, unwritten
from ci_modelcache.verbs.receive import Inbound, receive
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.cache.modelcache import BlobCopy
    from ci_modelcache.model.manifest import FileEntry
    from ci_modelcache.transfer.partial import Partial

_log = logging.getLogger(__name__)

DOWNLOAD = "download"
NOT_WRITABLE = (AccessDenied, Unavailable, NoSpace, DeadlineExceeded, StoreUnsupported)
"""Why a store may not take what a restore, which has succeeded, would give it: a warning then, never a failure."""


@frozen
class Delivery:
    """
    How the file at *path* came, and what was *seen* of it: *how* is reflink, hardlink, copy or download.

    *mended*: the store should have had it right, and upstream gave it. *warning*: why the store is wrong still, or who lied, or empty.
    *received* bytes came over a network, *sources* are those of upstream by URL. *near*: it came from a tier; *replica* is the URL of that
    which it came from, or empty.
    """

    path: str
    size: int
    how: str
    seen: Fingerprint
    mended: bool = False
    warning: str = ""
    received: int = 0
    sources: dict[str, int] = field(factory=dict)
    near: bool = False
    replica: str = ""


@frozen
class Route:
    """
    Where files may come from and where they go; *ref* is pinned to the commit.

    *save*: whether the store may be written. *leaves*: whether leaf lists are needed, for a manifest that is to be made.
    *force*: what the destination and the store have already counts for nothing; all comes from upstream and replaces it.
    *near*: what is asked before the store.
    """

    ref: ModelRef
    layout: Layout
    cache: ModelCache
    upstream: Mirrors
    receipts: Receipts
    step: Step
    save: bool
    leaves: bool = False
    force: bool = False
    near: Near = field(factory=Near)


def deliver(file: ListedFile, route: Route) -> Delivery:
    """
    Put the proven bytes of *file*, which is of a snapshot that the store has, at its place.

    A copy in the store that is missing or wrong is passed over for the next one, then for upstream, and then
    mended if the store may be written. Which error is raised when upstream cannot help: see `instead_of`.
    """

    def farther() -> Delivery:
        try:
            return _from_store(file, route)
        except (ObjectNotFound, IntegrityError) as failure:
            return _from_elsewhere(file, failure, route)

    return _from_near(file, route, farther)


def obtain(file: ListedFile, route: Route) -> Delivery:
    """
    Put the proven bytes of *file*, which is of a snapshot that the store lacks, at its place.

    Large files often stay the same from commit to commit: what the store has of another snapshot is taken from there.
    """

    def farther() -> Delivery:
        if route.force:
            return _from_upstream(file, route)
        try:
            return _from_store(file, route)
        except ObjectNotFound as miss:
            _log.debug("%s: %s", file.path, miss)
            return _from_upstream(file, route)
        except IntegrityError as failure:
            return _from_elsewhere(file, failure, route)

    return _from_near(file, route, farther)


@contextmanager
def instead_of(failure: ModelCacheError) -> Iterator[None]:
    """
    Ask upstream in this block because of *failure* in the store; when that fails too, raise the error that matters.

    1. The store has wrong bytes, and upstream may not or will not give right ones: it is corruption (13), not a miss.
    2. Otherwise what upstream says: a miss (10), also when a stored snapshot lost a file, for nobody told a lie and the remedy
       is that of a miss; a refusal (12), an outage (11). The store's failure is noted.
    """
    try:
        yield
    except (NotFound, AccessDenied) as refusal:
        if isinstance(failure, IntegrityError):
            failure.add_note(f"and right bytes cannot be had: {refusal.message}")
            failure.hint = failure.hint or "restore it once where the Hub may be asked: that mends the store"
            raise failure from refusal
        refusal.add_note(f"asked because {failure.message}")
        raise
    except ModelCacheError as error:
        error.add_note(f"asked because {failure.message}")
        raise


def is_stored(file: ListedFile, cache: ModelCache) -> bool:
    """Whether *cache* has a blob of the name and size of *file*; False for one whose SHA-256 nobody has told."""
    if file.sha256 is None:
        return False
    try:
        return any(True for _ in cache.blob_copies(file.sha256, file.size))
    except IntegrityError:
        return False  # of another size


def listed_of(file: FileEntry) -> ListedFile:
    """A manifest entry as a listing would have it, were a Hub to publish every sha256."""
    return ListedFile(file.path, file.size, file.git_oid, file.sha256, file.lfs, file.executable)


def _from_near(file: ListedFile, route: Route, farther: Callable[[], Delivery]) -> Delivery:
    """*file* from a tier, or else as *farther* brings it, and then the tiers keep it."""
    near, layout, receipts = route.near, route.layout, route.receipts
    if file.sha256 is not None and not route.force:
        try:
            placed = near.bring(file, file.sha256, layout, receipts)
        except ObjectNotFound as miss:
            _log.debug("%s", miss)
        else:
            route.step.progress.advance(file.size)
            return Delivery(file.path, file.size, placed, Fingerprint(file.size, file.sha256, None, None), near=True)
    delivery = farther()
    near.keep(file, delivery.seen.sha256, layout, receipts)
    return delivery


def _from_store(file: ListedFile, route: Route) -> Delivery:
    if file.sha256 is None:
        named = f"of git name {file.git_oid}"
        raise ObjectNotFound(named, route.cache.url)
    failure: ModelCacheError = ObjectNotFound(file.sha256.hex, route.cache.url)
    for copy in route.cache.blob_copies(file.sha256, file.size):
        try:
            return _from_copy(file, file.sha256, copy, route)
        except (ObjectNotFound, IntegrityError) as error:
            failure = error
        except Unavailable as error:
            if not isinstance(route.cache, ReplicatedCache):
                raise
            route.cache.give_up(copy.store, error)
            failure = error
    raise failure


def _from_copy(file: ListedFile, digest: Digest, copy: BlobCopy, route: Route) -> Delivery:
    replica = "" if copy.store is route.cache.store else copy.store.url
    for local in copy.files:
        placed = place(
            local,
            route.layout.content(file),
            expected=file.expected,
            link=Linking.READ_ONLY if route.layout.linkable else Linking.NEVER,
            mode=route.layout.mode(file),
            staging=route.layout.staging,
            receipts=route.receipts,
        )
        route.step.progress.advance(file.size)
        return Delivery(file.path, file.size, placed, Fingerprint(file.size, digest, None, None), replica=replica)
    chunks = partial(read_through, copy.open, file.size, route.step.retry, what=str(copy))
    seen = route.step.receive(lambda count: _land(count(chunks()), file, route), doing=f"reading {copy}")
    return Delivery(file.path, file.size, DOWNLOAD, seen, received=file.size, replica=replica)


def _from_upstream(file: ListedFile, route: Route) -> Delivery:
    layout = route.layout
    target = layout.content(file)

    def take(chunks: Iterator[bytes], partial: Partial | None) -> Fingerprint:
        hasher = file.expected.fingerprinter(leaves=route.leaves)
        for _ in verified(chunks, file.expected, f"{file.path} of {route.ref}", into=hasher):
            pass
        with explaining_refusal(target), explaining_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            assert partial is not None  # noqa: S101  # room was seen to before the first byte (`placing.carry_out`)
            partial.land(target, mode=layout.mode(file))
        return hasher.finish()

    inbound = Inbound(route.ref, route.upstream, layout.staging, route.step, fresh=route.force)
    received = receive(file, inbound, take=take)
    route.receipts.remember(target, received.result.sha256)
    return Delivery(
        file.path,
        file.size,
        DOWNLOAD,
        received.result,
        received=received.fetched,
        sources=received.sources,
        warning="; ".join(received.warnings),
    )


def _land(chunks: Iterator[bytes], file: ListedFile, route: Route) -> Fingerprint:
    layout = route.layout
    target = layout.content(file)
    mode, staging = layout.mode(file), layout.staging
    seen = land(chunks, target, file.expected, mode=mode, staging=staging, leaves=route.leaves)
    route.receipts.remember(target, seen.sha256)
    return seen


def _from_elsewhere(file: ListedFile, failure: ModelCacheError, route: Route) -> Delivery:
    """*file* from upstream because the store failed with *failure*; and then the store is mended."""
    _log.warning("%s: %s; asking %s", file.path, failure, route.upstream.url)
    with instead_of(failure):
        delivery = _from_upstream(file, route)
    warnings = (delivery.warning, _mend(file, delivery.seen.sha256, route))
    return evolve(delivery, mended=True, warning="; ".join(filter(None, warnings)))


def _mend(file: ListedFile, digest: Digest, route: Route) -> str:
    """Give the store the right bytes of *file*; returns why that cannot be, or nothing."""
    if not route.save:
        why = f"{file.path} is still missing or wrong in {route.cache.url}: this run may not write there"
        _log.warning("%s", why)
        return why
    content = route.layout.content(file)
    try:
        with Publication(route.cache) as publication:
            publication.announce([digest])
            publication.put_blob(file.expected, digest, read_file(content), what=str(content))
    except NOT_WRITABLE as error:
        why = f"{file.path} could not be mended in {route.cache.url}: {unwritten(error)}"
        _log.warning("%s", why)
        return why
    _log.warning("%s was mended in %s", file.path, route.cache.url)
    return ""
