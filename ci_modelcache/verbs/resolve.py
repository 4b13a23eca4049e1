"""The only module that decides which commit a reference means, and who is believed about it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.errors import AccessDenied, IntegrityError, SnapshotNotFound, Unavailable

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.records import HeadRecord
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream

_log = logging.getLogger(__name__)

PINNED = "pinned"
STORE = "store"
AUTHORITY = "authority"
LOCK = "lock"
LOCAL = "local"


@frozen
class Resolution:
    """The *commit* that was meant, by whose word, and whether that word is older than was asked for."""

    commit: str
    anchor: str
    stale: bool = False


def resolve(ref: ModelRef, *, cache: ModelCache, upstream: Upstream, revision_ttl: float) -> Resolution:
    """
    Find the commit of *ref* with as few questions as its freshness allows.

    A full commit needs none. A branch or tag that somebody saved, or that the store saw within *revision_ttl*
    seconds, is believed. Otherwise the authority is asked; when it cannot answer, what the store saw last is used
    and called stale. Its definite no (`RevisionNotFound`, `AccessDenied`) is final.
    """
    if ref.is_pinned:
        return Resolution(ref.revision, PINNED)
    heads, broken = _known_heads(ref, cache=cache, host=upstream.host)
    for head in heads:
        if head.origin == SAVED or abs(cache.now() - head.observed_at) <= revision_ttl:
            return Resolution(head.commit, STORE)
    try:
        return Resolution(upstream.resolve(ref).commit, AUTHORITY)
    except (Unavailable, SnapshotNotFound) as error:
        # `SnapshotNotFound` is the answer of an upstream that may not ask; that of an authority is another `NotFound`.
        for head in heads:
            age = max(0.0, cache.now() - head.observed_at) / 3600
            _log.warning("using %s as it was %.1f h ago (%s): %s", ref, age, head.commit, error)
            return Resolution(head.commit, STORE, stale=True)
        for lie in broken:
            raise lie from error
        raise
    except AccessDenied as error:
        if heads:
            error.add_note(f"the store knows {ref} as {heads[0].commit}; pin that commit to need no Hub")
        raise


def resolve_now(ref: ModelRef, *, cache: ModelCache, upstream: Upstream) -> Resolution:
    """As `resolve`, by a word of now or a failure: for verbs that move a store or a lock forward."""
    if ref.is_pinned:
        return Resolution(ref.revision, PINNED)
    heads, _ = _known_heads(ref, cache=cache, host=upstream.host)
    for head in heads:
        if head.origin == SAVED:
            return Resolution(head.commit, STORE)
    return Resolution(upstream.resolve(ref).commit, AUTHORITY)


def _known_heads(
    ref: ModelRef, *, cache: ModelCache, host: str
) -> tuple[tuple[HeadRecord, ...], tuple[IntegrityError, ...]]:
    """What the store saw last, and what is wrong with that; each of them one or none."""
    try:
        return (cache.head(host, ref),), ()
    except SnapshotNotFound:
        return (), ()
    except IntegrityError as error:
        _log.warning("the store is not believed about %s: %s", ref, error)
        return (), (error,)


def note_head(ref: ModelRef, resolution: Resolution, *, cache: ModelCache, host: str) -> None:
    """Record in the store what the authority said, so that the next job need not ask."""
    if resolution.anchor == AUTHORITY:
        cache.put_head(host, ref, resolution.commit, HUB)
