"""The only module that puts into words what is remembered of mirrors, what a check found and what a measurement did."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from ci_modelcache.cli.figures import NONE, duration, percent, plain, speed
from ci_modelcache.cli.fitting import fitted
from ci_modelcache.cli.progress import format_seconds
from ci_modelcache.cli.reports import columns
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ci_modelcache.verbs.mirrors import MirrorsReport, MirrorStatus
    from ci_modelcache.verbs.mirrors_check import CheckReport
    from ci_modelcache.verbs.mirrors_figures import BenchReport, SourceBench

_SHORT = 12
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_ABOUT_A_SECOND = 0.9995
_LONGEST = 300
"""Characters of a decision or failure."""
_STANDING = ("SOURCE", "STATE", "TTFB P50, P95", "MB/S P50, P95", "FAILED", "LAST 429")
_BENCH = ("SOURCE", "FAILED", "TTFB P50, P95", "MB/S", "P50, P95", "RETRIES/100")


def megabytes(bytes_a_second: float | None) -> str:
    """A speed in MB/s, without the unit."""
    return NONE if bytes_a_second is None else f"{bytes_a_second / 1e6:.3g}"


def _short(seconds: float | None) -> str:
    return duration(seconds) if seconds is None or seconds >= _ABOUT_A_SECOND else f"{1000 * seconds:.0f} ms"


def pair(low: str, high: str) -> str:
    """A median and its 95th percentile."""
    return NONE if low == high == NONE else f"{low}, {high}"


def by_cause(causes: Mapping[str, int]) -> str:
    """How often what went wrong."""
    return ", ".join(f"{number} {plain(cause)}" for cause, number in causes.items()) or "none"


def _said(text: str) -> str:
    shown = plain(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


# --- what is remembered


def remembered(report: MirrorsReport, *, width: int) -> Iterator[str]:
    """What `mirrors` knows, in at most *width* columns but for sentences."""
    yield from fitted([_STANDING, *(_standing(each, report.now) for each in report.mirrors)], width)
    for each in report.mirrors:
        if each.seen is None and not each.problem:
            continue
        yield ""
        yield f"{each.url}, the authority" if each.authority else each.url
        yield from columns([(f"  {name}", text) for name, text in _more(each, report.now)])
    yield ""
    if report.first is None:
        yield f"a large file now: {report.why}"
    else:
        yield f"a large file now: {report.first} would be asked first: {report.why}"
    if report.others:
        yield f"also remembered, and not configured now: {', '.join(map(plain, report.others))}"
    if report.empty:
        yield "nothing is remembered of any of them yet: ci-modelcache mirrors bench ORG/NAME measures them,"
        yield "and so does whatever is fetched"


def _standing(one: MirrorStatus, now: float) -> tuple[str, ...]:
    return (
        one.url,
        one.state,
        pair(_short(one.ttfb_p50), _short(one.ttfb_p95)),
        pair(megabytes(one.speed_p50), megabytes(one.speed_p95)),
        f"{sum(one.failures.values())} of {one.attempts}" if one.attempts else NONE,
        NONE if one.last_limited is None else _ago(now - one.last_limited),
    )


def _more(one: MirrorStatus, now: float) -> Iterator[tuple[str, str]]:
    if one.problem:
        yield "problem", _said(one.problem)
    if one.seen is None:
        return
    proven = f", {format_bytes(one.proven)} of them proven" if one.received else ""
    yield "asked", f"{_ago(now - one.seen)}; {format_bytes(one.received)} came{proven}"
    yield "failures", by_cause(one.failures)
    if one.limited_until is not None:
        yield "limited", f"it asked for a pause, for another {format_seconds(one.limited_until - now)}"
    yield "breaker", _breaker(one, now)
    yield "router", _said(one.decided) or "has not chosen it yet"


def _breaker(one: MirrorStatus, now: float) -> str:
    if one.barred_until is not None:
        row = f", opened {one.barred} times in a row" if one.barred > 1 else ""
        return (
            f"open for another {format_seconds(one.barred_until - now)}{row}: it is asked only when nobody else is left"
        )
    return "closed again, and opens at the next lie or few failures" if one.barred else "closed"


def _ago(seconds: float) -> str:
    for unit, word in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {word} ago"
    return f"{max(0.0, seconds):.0f} s ago"


# --- a check


def checked(report: CheckReport) -> Iterator[str]:
    """What `mirrors check` found, model by model."""
    for number, (ref, checks) in enumerate(groupby(report.checks, key=lambda each: each.ref)):
        found = list(checks)
        head = next((each.expected for each in found if each.expected), None)
        if number:
            yield ""
        yield f"{ref} is {head} by the authority's word" if head else f"{ref}: the authority does not answer"
        for each in found:
            whose = " (the authority)" if each.authority else ""
            yield f"  {each.verdict:11} {each.url}{whose}"
            yield f"  {'':11}   {_said(each.detail)}"


# --- a measurement


def measured(report: BenchReport, *, width: int) -> Iterator[str]:
    """What `mirrors bench` found, in at most *width* columns but for sentences."""
    yield from fitted([_BENCH, *map(_measured, (*report.sources, report.together))], width)
    yield ""
    yield from columns(list(_facts(report)))


def _measured(one: SourceBench) -> tuple[str, ...]:
    return (
        one.source,
        f"{one.failed} of {one.downloads}" if one.downloads else NONE,
        pair(_short(one.ttfb_p50), _short(one.ttfb_p95)),
        megabytes(one.speed),
        pair(megabytes(one.speed_p50), megabytes(one.speed_p95)),
        NONE if one.retry_rate is None else f"{one.retry_rate:.3g}",
    )


def _facts(report: BenchReport) -> Iterator[tuple[str, str]]:
    proven = "proven by its digest" if report.proof == "digest" else "compared between the sources"
    part = "" if report.proof == "digest" else "the first "
    yield (
        "file",
        f"{part}{format_bytes(report.size)} of {report.path} of {report.ref} ({report.commit[:_SHORT]}), {proven}",
    )
    yield "utilisation", utilised(report)
    yield "together", shares(report.together.sources)
    for one in (*report.sources, report.together):
        if one.causes:
            yield "failures", f"{one.source}: {by_cause(one.causes)}"
    for one in (*report.sources, report.together):
        if one.error:
            yield "failed", f"{one.source}: {_said(one.error)}"
    if report.stopped:
        yield "stopped", _said(report.stopped)


def utilised(report: BenchReport) -> str:
    """What the router makes of the best."""
    best = next((each for each in report.sources if each.source == report.best), None)
    if best is None:
        return "none: no source brought the file alone"
    if report.utilisation is None:
        return f"none: {best.source} brought {speed(best.speed_p50)} alone, and all together did not bring the file"
    return (
        f"{percent(report.utilisation)} of the best: {speed(report.together.speed_p50)} together, "
        f"{speed(best.speed_p50)} from {best.source} alone"
    )


def shares(sources: Mapping[str, int]) -> str:
    """Who sent how much."""
    whole = sum(sources.values())
    return ", ".join(f"{percent(size / whole)} from {url}" for url, size in sources.items()) or "nothing"


def cells(rows: Iterable[SourceBench]) -> tuple[tuple[str, ...], ...]:
    """The table of a measurement, for a page."""
    return tuple(_measured(row) for row in rows)


HEAD = _BENCH
