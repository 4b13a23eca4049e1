"""The only module that puts the figures of reports into words; what a file says is shown without what a terminal would obey."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci_modelcache.cli.progress import format_seconds
from ci_modelcache.cli.reports import columns, count, some
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci_modelcache.verbs.figures import SourceStats, StatsReport

NONE = "-"
_ABOUT_A_SECOND = 0.9995
_LONGEST = 80
"""Characters of a source."""
_HEAD = (
    "SOURCE", "ATTEMPTS", "ERRORS", "RECEIVED", "USED", "MEAN/S", "P50/S", "P95/S", "SLOW", "TTFB P50", "TTFB P95", "WAITED",
)  # fmt: skip  # one line is one table


def plain(text: str) -> str:
    """*text* without what a terminal would obey: it comes from a file that anybody may have written."""
    return "".join(char if char.isprintable() else "?" for char in text)


def percent(share: float | None) -> str:
    """*share* of 1 for people: ``3.1 %``."""
    return NONE if share is None else f"{100 * share:.1f} %"


def amount(size: float | None) -> str:
    """*size* in bytes for people."""
    return NONE if size is None else format_bytes(size)


def speed(bytes_a_second: float | None) -> str:
    """A speed for people: ``23.1 MB/s``."""
    return NONE if bytes_a_second is None else f"{format_bytes(bytes_a_second)}/s"


def duration(seconds: float | None) -> str:
    """A short time for people: ``42 ms``."""
    if seconds is None:
        return NONE
    if seconds < _ABOUT_A_SECOND:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s"


def _row(one: SourceStats) -> tuple[str, ...]:
    return (
        plain(one.source) if len(one.source) <= _LONGEST else f"{plain(one.source[:_LONGEST])}…",
        str(one.attempts),
        percent(one.error_rate),
        format_bytes(one.received),
        format_bytes(one.used),
        amount(one.speed),
        amount(one.speeds.p50),
        amount(one.speeds.p95),
        percent(one.slow_share),
        duration(one.ttfb.p50),
        duration(one.ttfb.p95),
        format_seconds(one.waited) if one.waits else NONE,
    )


def rows(report: StatsReport) -> list[tuple[str, ...]]:
    """The table of sources, its head first; a line for all of them follows unless there is one only."""
    return [_HEAD, *map(_row, report.sources), *([_row(report.total)] if len(report.sources) != 1 else [])]


def _by(causes: Mapping[str, int]) -> str:
    return some([f"{number} {plain(cause)}" for cause, number in causes.items()])


def counted(report: StatsReport) -> Iterator[str]:
    """What `stats` found."""
    yield from columns(rows(report))
    yield ""
    yield from columns([(name, text) for name, text in facts(report) if text])


def facts(report: StatsReport) -> Iterator[tuple[str, str]]:
    """What is not about a single source, by a word."""
    total, snapshots, tokens = report.total, report.snapshots, report.tokens
    yield "runs", _by(report.runs) + (f", {when(report)}" if report.runs else "")
    failed = f": {_by(total.causes)}" if total.causes else ""
    yield "errors", f"{total.failures} of {count(total.attempts, 'attempt')} ({percent(total.error_rate)}){failed}"
    slow = f"{total.slow} of {count(total.speeds.count, 'download')} ({percent(total.slow_share)})"
    yield "slow", f"{slow} under {format_bytes(report.slow_below)}/s"
    rate = "" if report.retry_rate is None else f": {report.retry_rate:.1f} per 100 files"
    yield "retries", f"{report.retries} for {count(report.files, 'file')}{rate}; {report.proven} of them proven"
    lost = f", {sum(snapshots.failed.values())} failed ({_by(snapshots.failed)})" if snapshots.failed else ""
    yield "snapshots", f"{snapshots.local} local, {snapshots.hit} hit, {snapshots.miss} miss{lost}"
    ratio = f"{percent(snapshots.hit_ratio)} of snapshots, {percent(snapshots.hit_ratio_bytes)} of bytes"
    yield "hit ratio", "" if snapshots.hit_ratio is None else ratio
    yield "speed", "" if snapshots.speed is None else f"{speed(snapshots.speed)} over all connections and waits"
    unmet = f" ({_by(tokens.causes)})" if tokens.causes else ""
    yield (
        "tokens",
        f"{count(tokens.requests, 'request')}, {tokens.failures} failed{unmet}, {tokens.cached} from the cache",
    )
    waited = f", {count(total.waits, 'wait')} of {format_seconds(total.waited)} together" if total.waits else ""
    yield "routing", f"{count(total.decisions, 'decision')}{waited}"
    if report.torn_count:
        more = f" and {report.torn_count - len(report.torn)} more" if report.torn_count > len(report.torn) else ""
        yield "unfinished", f"{count(report.torn_count, 'line')}: {', '.join(map(plain, report.torn))}{more}"
    yield "unknown", "" if not report.skipped else f"{_by(report.skipped)}: a later version wrote them"


def when(report: StatsReport) -> str:
    """The time from the first line to the last."""
    if report.since is None or report.until is None:
        return "at no time"
    since, until = _moment(report.since), _moment(report.until)
    same_day = since[:10] == until[:10]
    return f"{since} to {until[11:] if same_day else until} UTC"


def _moment(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar has"
