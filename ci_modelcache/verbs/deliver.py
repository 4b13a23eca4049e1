"""The only module that brings a file from upstream where the store cannot give it, and mends the store then."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    NotDecodable,
    NotFound,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.layouts.protocol import Layout
from ci_modelcache.model.digest import Digest, Fingerprint, verified
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.transfer.beside import fingerprinter
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal
from ci_modelcache.transfer.receipts import Receipts
from ci_modelcache.verbs.near import Near
from ci_modelcache.verbs.publish import read_file, unwritten
from ci_modelcache.verbs.receive import Inbound, receive
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    *pinned*: the manifest is named by a lock, so that the leaves which it names prove a file, too.
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
    pinned: bool = False
    force: bool = False
    near: Near = field(factory=Near)


@contextmanager
def instead_of(failure: ModelCacheError) -> Iterator[None]:
    """
    Ask upstream in this block because of *failure* in the store; when that fails too, raise the error that matters.

    1. The store has wrong bytes, and upstream may not or will not give right ones: it is corruption (13), not a miss. Or it has them in an encoding
       that cannot be read here: a miss (10), whose remedy is what is to be installed.
    2. Otherwise what upstream says: a miss (10), also when a stored snapshot lost a file, for nobody told a lie and the remedy
       is that of a miss; a refusal (12), an outage (11). The store's failure is noted.
    """
    try:
        yield
    except (NotFound, AccessDenied) as refusal:
        if isinstance(failure, (IntegrityError, NotDecodable)):
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
    return ListedFile(file.path, file.size, file.git_oid, file.sha256, file.lfs, file.executable, file.leaves)


def from_upstream(file: ListedFile, route: Route) -> Delivery:
    """*file* from upstream, proven and at its place."""
    layout = route.layout
    target = layout.content(file)

    def take(chunks: Iterator[bytes], partial: Partial | None) -> Fingerprint:
        hasher = fingerprinter(file.expected, leaves=route.leaves)
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


def from_elsewhere(file: ListedFile, failure: ModelCacheError, route: Route) -> Delivery:
    """*file* from upstream because the store failed with *failure*; and then the store is mended."""
    _log.warning("%s: %s; asking %s", file.path, failure, route.upstream.url)
    with instead_of(failure):
        delivery = from_upstream(file, route)
    if isinstance(failure, NotDecodable):
        return delivery  # for all that is known here the store has it right
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
