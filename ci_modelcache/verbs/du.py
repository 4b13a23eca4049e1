"""Say who uses how much of a store: per repository and in total, each blob counted once and every time. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.collection import CollectOptions, survey
from ci_modelcache.cache.trash import trashed
from ci_modelcache.model.retention import size_of
from ci_modelcache.verbs.holdings import holdings
from ci_modelcache.verbs.prune import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.retention import Holding
    from ci_modelcache.verbs.step import Step


@frozen
class RepositoryUse:
    """What one repository takes of a store; sizes in bytes."""

    repo: str
    type: str
    host: str
    snapshots: int
    """How many snapshots it has."""
    size: int
    """Bytes of all its snapshots, a blob that several of them have counted each time."""
    stored: int
    """The same, each blob counted once: what it would take alone."""
    own: int
    """Bytes of blobs that no other repository has: what would be free without it."""
    used: str | None
    """The day on which one of its snapshots was restored last, or null when nobody has noted that."""
    pinned: int
    """How many of its snapshots are pinned."""


@frozen
class UseReport:
    """Who uses how much of *store*; sizes in bytes."""

    store: str
    repositories: tuple[RepositoryUse, ...]
    """Those that take most first."""
    snapshots: int
    """How many snapshots there are."""
    size: int
    """Bytes of all snapshots, a blob that several of them have counted each time."""
    stored: int
    """The same, each blob counted once."""
    total: int
    """Bytes of all blobs, leaf lists and manifests that lie in the store, whoever needs them."""
    objects: int
    """How many these are."""
    named: int
    """How many of these bytes are needed: by snapshots, pins, writers at work, or the trash."""
    unnamed: int
    """How many are garbage, which prune deletes."""
    condemned: int
    """How much of the garbage some prune has announced already."""
    in_trash: int
    """How many dropped snapshots can still be brought back."""
    seconds: float


def du(cache: ModelCache, *, step: Step) -> UseReport:
    """
    How much each repository of *cache* takes, by its manifests, and what lies in the store, by its listing; no blob is read.

    Raises `IntegrityError` when it cannot be read what is needed, `AccessDenied`, `Unavailable`.
    """
    started = step.clock()
    cache = cache.alone
    held = holdings(cache)
    having: Counter[Digest] = Counter()
    groups = [tuple(group) for _, group in groupby(held, key=_repository)]
    for group in groups:
        having.update({digest for one in group for digest in one.blobs})
    uses = [_use(group, having) for group in groups]
    found = survey(cache, options=CollectOptions(), deadline=step.deadline)
    return UseReport(
        store=cache.url,
        repositories=tuple(sorted(uses, key=lambda one: (-one.stored, one.repo, one.type, one.host))),
        snapshots=len(held),
        size=sum(one.size for one in held),
        stored=size_of(held),
        total=found.total.bytes,
        objects=found.total.objects,
        named=found.named.bytes,
        unnamed=found.unnamed.bytes,
        condemned=found.condemned.bytes,
        in_trash=len(trashed(cache)),
        seconds=step.clock() - started,
    )


def _repository(one: Holding) -> tuple[str, str, str]:
    return one.snapshot.host, one.snapshot.type.value, one.snapshot.repo


def _use(group: Sequence[Holding], having: Counter[Digest]) -> RepositoryUse:
    host, kind, repo = _repository(group[0])
    blobs = {digest: size for one in group for digest, size in one.blobs.items()}
    used = [one.used for one in group if one.used is not None]
    return RepositoryUse(
        repo=repo,
        type=kind,
        host=host,
        snapshots=len(group),
        size=sum(one.size for one in group),
        stored=size_of(group),
        own=sum(size for digest, size in blobs.items() if having[digest] == 1),
        used=moment(max(used)) if used else None,
        pinned=sum(one.pinned for one in group),
    )
