"""Tell what is remembered of the sources of bytes, and which of them would be asked now; asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.sources.health import Health, Spread
from ci_modelcache.sources.protocol import ByteSource
from ci_modelcache.sources.router import Later, Router, Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNUSABLE = "unusable"


@frozen
class Candidate:
    """
    A source that is configured, whether it can be used or not.

    *source* is None when it cannot, and *problem* says why. *authority*: whether it is the endpoint that says what a revision means.
    """

    url: str
    kind: str
    priority: int
    authority: bool
    source: ByteSource | None = field(eq=False)
    problem: str = ""


@frozen
class MirrorStatus:
    """What is remembered of one source; sizes in bytes, times in seconds, speeds in bytes a second of one connection."""

    url: str
    """Its address."""
    kind: str
    """`hub`, `files`, `modelscope` or `store`."""
    authority: bool
    """Whether it is the endpoint, which also says what a revision means."""
    state: str
    """`ready`, `unknown` (never asked), `limited` (it asked for a pause), `barred` (by its failures) or `unusable`."""
    problem: str
    """Why it cannot be used; empty when it can."""
    attempts: int
    """How often it was asked for bytes."""
    failures: dict[str, int]
    """What went wrong, by cause."""
    received: int
    """Bytes that it sent."""
    proven: int
    """Bytes of it that were part of files that proved right."""
    ttfb: float | None
    """Mean time to the first byte, in which newer ones count more; null before it was measured."""
    ttfb_p50: float | None
    """The median of the newest times to the first byte."""
    ttfb_p95: float | None
    """95 of 100 of the newest times to the first byte are shorter."""
    speed: float | None
    """Mean speed, in which newer ones count more: what the router compares."""
    speed_p50: float | None
    """The median of the newest speeds."""
    speed_p95: float | None
    """95 of 100 of the newest speeds are lower."""
    last_limited: float | None
    """When it last answered 429, in seconds since 1970."""
    limited_until: float | None
    """Until when it asked to be left alone, in seconds since 1970; null when it did not, or that is over."""
    barred_until: float | None
    """Until when the breaker keeps it from being asked, in seconds since 1970; null when it does not."""
    barred: int
    """How often in a row the breaker opened."""
    blame: float
    """What its failures weigh since they were last forgiven; the breaker opens at 6."""
    seen: float | None
    """When it was last asked, in seconds since 1970."""
    decided: str
    """What the router decided about it last, in words; empty when it never did."""


@frozen
class MirrorsReport:
    """What is remembered of all sources that are configured, in order of priority."""

    now: float
    """The time of this report, in seconds since 1970."""
    mirrors: tuple[MirrorStatus, ...]
    """The sources."""
    first: str | None
    """Who would be asked first for a large file now; null when nobody can be."""
    why: str
    """Why that one, in words."""
    others: tuple[str, ...]
    """Addresses that are remembered and not configured."""

    @property
    def empty(self) -> bool:
        """Whether nothing is remembered of any of them."""
        return not any(each.attempts for each in self.mirrors)


def mirrors(candidates: Sequence[Candidate], known: Mapping[str, Health], *, now: float) -> MirrorsReport:
    """How the *candidates* did, as *known* by URL; *now* is in seconds since the epoch. Neither is changed."""
    shown = tuple(_status(each, known.get(each.url, Health()), now) for each in candidates)
    first, why = _first(candidates, known, now)
    others = tuple(sorted(set(known) - {each.url for each in candidates}))
    return MirrorsReport(now, shown, first, why, others)


def _status(candidate: Candidate, health: Health, now: float) -> MirrorStatus:
    first_bytes, speeds = Spread.of(health.first_bytes), Spread.of(health.speeds)
    return MirrorStatus(
        url=candidate.url,
        kind=candidate.kind,
        authority=candidate.authority,
        state=health.state(now) if candidate.source is not None else UNUSABLE,
        problem=candidate.problem,
        attempts=health.attempts,
        failures=dict(health.failures.most_common()),
        received=health.received,
        proven=health.proven,
        ttfb=health.first_byte,
        ttfb_p50=first_bytes.p50,
        ttfb_p95=first_bytes.p95,
        speed=health.speed,
        speed_p50=speeds.p50,
        speed_p95=speeds.p95,
        last_limited=health.last_limited,
        limited_until=_coming(health.limited_until, now),
        barred_until=_coming(health.barred_until, now),
        barred=health.barred,
        blame=health.blame,
        seen=health.seen or None,
        decided=health.decided,
    )


def _coming(until: float, now: float) -> float | None:
    return until if until > now else None


def _first(candidates: Sequence[Candidate], known: Mapping[str, Health], now: float) -> tuple[str | None, str]:
    """Who would be asked first, and why: the router's own answer, given copies, as it takes note of what it says."""
    sources = [
        Source(each.source, each.priority, health=evolve(known.get(each.url, Health())))
        for each in candidates
        if each.source is not None
    ]
    if not sources:
        return None, "none of them can be used"
    router = Router(sources, connections=1, clock=lambda: now, random=lambda: 1.0)
    choice = router.choose(avoid=(), waiting=lambda _url: 0.0, path="")
    if isinstance(choice, Later):
        return None, f"nobody can be asked for {choice.seconds:.0f} s"
    return choice.source.url, choice.why
