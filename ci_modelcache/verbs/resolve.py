"""The only module that decides which commit a reference means, and who is believed about it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import AccessDenied, ConfigError, IntegrityError, RateLimited, SnapshotNotFound, Unavailable
from ci_modelcache.sources.protocol import Meaning
from ci_modelcache.transfer.deadline import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

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
MIRROR = "mirror"

PATIENCE = 10.0
"""Seconds that an authority is waited for when the store knows what the branch meant last."""


@frozen
class Resolution:
    """The *commit* that was meant, by whose word, and whether that word is older than was asked for."""

    commit: str
    anchor: str
    stale: bool = False
    news: tuple[Meaning, ...] = field(default=(), eq=False)
    """The authority's answer, when it was one in full."""


def resolve(ref: ModelRef, *, cache: ModelCache, upstream: Upstream, revision_ttl: float) -> Resolution:
    """
    Find the commit of *ref* with as few questions as its freshness allows.

    A full commit needs none. A branch or tag that somebody saved, or that the store saw within *revision_ttl*
    seconds, is believed. Otherwise the authority is asked whether anything changed; when it does not answer within `PATIENCE`
    seconds, what the store saw last is used and called stale. Its definite no (`RevisionNotFound`, `AccessDenied`) is final.
    """
    if ref.is_pinned:
        return Resolution(ref.revision, PINNED)
    return resolve_by(ref, cache=cache, host=upstream.host, upstream=lambda: upstream, revision_ttl=revision_ttl)


def resolve_by(
    ref: ModelRef, *, cache: ModelCache, host: str, upstream: Callable[[], Upstream], revision_ttl: float
) -> Resolution:
    """As `resolve`, of a *ref* that is not pinned, with an *upstream* of the authority called *host* that is made if it must be asked."""
    from ci_modelcache.cache.records import SAVED  # noqa: PLC0415  # a pinned revision needs no records

    heads, broken = _known_heads(ref, cache=cache, host=host)
    for head in heads:
        if head.origin == SAVED or abs(cache.now() - head.observed_at) <= revision_ttl:
            return Resolution(head.commit, STORE)
    try:
        return _ask(ref, cache=cache, upstream=upstream(), before=heads, patience=PATIENCE if heads else None)
    except (Unavailable, SnapshotNotFound) as error:
        # `SnapshotNotFound` is the answer of an upstream that may not ask; that of an authority is another `NotFound`.
        for head in heads:
            _log.warning("using %s as it was %s (%s): %s", ref, _when(head, cache), head.commit, _why(error))
            return Resolution(head.commit, STORE, stale=True)
        for lie in broken:
            raise lie from error
        raise
    except AccessDenied as error:
        if heads:
            error.add_note(f"the store knows {ref} as {heads[0].commit}; pin that commit to need no Hub")
        raise


def resolve_now(ref: ModelRef, *, cache: ModelCache, upstream: Upstream, force: bool = False) -> Resolution:
    """
    As `resolve`, by a word of now or a failure: for verbs that move a store or a lock forward.

    By *force* the whole answer is asked for, whatever the store remembers of earlier ones; a name that somebody saved, of which
    there is no other source, is a `ConfigError` then.
    """
    if ref.is_pinned:
        return Resolution(ref.revision, PINNED)
    from ci_modelcache.cache.records import SAVED  # noqa: PLC0415  # as above

    heads, _ = _known_heads(ref, cache=cache, host=upstream.host)
    for head in heads:
        if head.origin == SAVED:
            if force:
                msg = (
                    f"{ref} was put into the store by ci-modelcache save, so there is no Hub to download it from again"
                )
                raise ConfigError(
                    msg, hint="leave --force-download out; ci-modelcache verify proves what the store has"
                )
            return Resolution(head.commit, STORE)
    return _ask(ref, cache=cache, upstream=upstream, before=() if force else heads, patience=None)


def _ask(
    ref: ModelRef,
    *,
    cache: ModelCache,
    upstream: Upstream,
    before: tuple[HeadRecord, ...],
    patience: float | None,
) -> Resolution:
    """The authority's word, in short where the store can tell it by what to recognise its last one; *before*: what that was."""
    from ci_modelcache.cache.answers import known_answer  # noqa: PLC0415  # as above

    known = known_answer(cache, upstream.host, ref) if before else None
    meaning = upstream.resolve(ref, known=known, patience=patience)
    if meaning is known:
        _log.debug("%s says that %s is %s as before", upstream.url, ref, meaning.commit)
    return Resolution(meaning.commit, word_of(upstream), news=() if meaning is known else (meaning,))


def word_of(upstream: Upstream) -> str:
    """Whose word *upstream* gave last: that of the authority, or of a mirror which stood in for it."""
    from ci_modelcache.sources.mirrors import Mirrors  # noqa: PLC0415  # for those who asked one

    return MIRROR if isinstance(upstream, Mirrors) and upstream.believed is not None else AUTHORITY


def _when(head: HeadRecord, cache: ModelCache) -> str:
    if not head.observed_at:
        return "in the archive that it was imported from"
    return f"{max(0.0, cache.now() - head.observed_at) / 3600:.1f} h ago"


def _why(error: Unavailable | SnapshotNotFound) -> str:
    asked = error.retry_after if isinstance(error, RateLimited) else None
    return str(error) if asked is None else f"{error}; it asks to wait {format_duration(asked)}"


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
    """Record in the store what the authority said, so that the next job need not ask, and the one after it ask less."""
    if resolution.anchor == AUTHORITY:
        from ci_modelcache.cache.answers import keep_answer  # noqa: PLC0415  # as above
        from ci_modelcache.cache.records import HUB  # noqa: PLC0415  # as above

        cache.put_head(host, ref, resolution.commit, HUB)
        for meaning in resolution.news:
            keep_answer(cache, host, ref, meaning)
