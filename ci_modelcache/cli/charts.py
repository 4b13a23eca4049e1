"""The only module that decides what the picture of a report shows: what came from where, when, what failed, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cli.drawing import GREY, ROW, Bar, Panel, Picture, Range, bars, empty, palette, ranges, stacked
from ci_modelcache.cli.figures import NONE, duration, facts, percent, rows, speed, when
from ci_modelcache.cli.page import Table, write_page
from ci_modelcache.cli.progress import format_seconds
from ci_modelcache.cli.reports import count
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cli.drawing import Place
    from ci_modelcache.verbs.figures import SourceStats, StatsReport, Timeline

_SHOWN = 6
"""Sources and causes that have a place of their own; the rest is shown together."""
_REST = "all others"
_GAP = 3
"""Bins without an attempt; a longer pause is left out."""


def draw(report: StatsReport, path: Path) -> None:
    """Write the picture of *report* to *path*, a ``.png``, or a ``.html`` that has the figures too."""
    head, *body = rows(report)
    together = tuple((name, text) for name, text in facts(report) if text)
    tables = (
        Table("Sources", head, tuple(body), "Sizes in bytes, speeds in bytes a second of one connection."),
        Table("All together", ("", ""), together),
    )
    write_page(path, picture(report), tables)


def picture(report: StatsReport) -> Picture:
    """The picture of *report*."""
    runs = count(sum(report.runs.values()), "run")
    work = f"{count(report.total.attempts, 'attempt')} at {count(len(report.sources), 'source')}"
    third = 4
    inches = ROW * (_places(report) + 0.4)
    return Picture(
        title="How the models arrived",
        subtitle=f"{runs}, {when(report)}: {work}",
        tiles=_tiles(report),
        panels=(
            Panel(
                "Throughput",
                lambda axes: _throughput(axes, report),
                "MB/s of all connections together; time without any attempt is cut out (dotted)",
            ),
            Panel("Bytes", lambda axes: _received(axes, report), "by source, and share of all", third, inches),
            Panel("Failed attempts", lambda axes: _failures(axes, report), "by cause, share of all", third, inches),
            Panel(
                "Time to first byte", lambda axes: _ttfb(axes, report), "median, middle half, p5 to p95", third, inches
            ),
        ),
    )


def _places(report: StatsReport) -> int:
    """How many bars have room below each other, in all three panels: as many as the longest of them needs."""
    return max(4, min(_SHOWN + 1, max(len(report.sources), len(report.total.causes))))


def _tiles(report: StatsReport) -> tuple[tuple[str, str], ...]:
    return (
        (format_bytes(report.total.received), "received"),
        (speed(report.total.speed), "mean of a connection"),
        (percent(report.total.slow_share), f"slow, under {format_bytes(report.slow_below)}/s"),
        (percent(report.total.error_rate), "of attempts failed"),
        (NONE if report.retry_rate is None else f"{report.retry_rate:.3g}", "retries per 100 files"),
        (percent(report.snapshots.hit_ratio), "of snapshots were hits"),
    )


def _shown(report: StatsReport) -> dict[str, str]:
    """The sources that have a colour of their own, and it."""
    return palette([one.source for one in report.sources][:_SHOWN])


@frozen
class _Axis:
    """Bins beside each other, pauses cut out: None where a bin has nothing; *cuts* are where time is missing."""

    edges: tuple[float, ...]
    bins: tuple[Mapping[str, float] | None, ...]
    cuts: tuple[float, ...]


def _without_pauses(timeline: Timeline) -> _Axis:
    edges = [0.0]
    bins: list[Mapping[str, float] | None] = []
    cuts: list[float] = []
    end = timeline.bins[0].at if timeline.bins else 0.0
    for each in timeline.bins:
        missing = round((each.at - end) / timeline.width)
        if missing > _GAP:
            cuts.append(edges[-1] + timeline.width / 2)
            missing = 1
        for filling in (*[None] * missing, each.received):
            bins.append(filling)
            edges.append(edges[-1] + timeline.width)
        end = each.at + timeline.width
    return _Axis(tuple(edges), tuple(bins), tuple(cuts))


def _throughput(axes: Place, report: StatsReport) -> None:
    axis = _without_pauses(report.timeline)
    if not any(axis.bins):
        empty(axes, "no byte of a file came over a network")
        return
    colors = _shown(report)
    scale = 1e6 * report.timeline.width
    series = {name: [(each or {}).get(name, 0.0) / scale for each in axis.bins] for name in colors}
    rest = [sum(size for name, size in (each or {}).items() if name not in colors) / scale for each in axis.bins]
    if any(rest):
        series, colors = {**series, _REST: rest}, {**colors, _REST: GREY}
    stacked(axes, axis.edges, series, colors=colors)
    for cut in axis.cuts:
        axes.axvline(cut, color=GREY, linestyle=":", linewidth=1)
    axes.xaxis.set_major_formatter(lambda value, _: format_seconds(value))


def _received(axes: Place, report: StatsReport) -> None:
    sizes = {one.source: max(one.received, one.used) for one in report.sources}
    whole = sum(sizes.values())
    if not whole:
        empty(axes, "no bytes")
        return
    colors = _shown(report)
    drawn = [
        Bar(name, ((sizes[name], color),), f"{format_bytes(sizes[name])}, {percent(sizes[name] / whole)}")
        for name, color in colors.items()
        if sizes[name]
    ]
    rest = sum(size for name, size in sizes.items() if name not in colors)
    if rest:
        drawn.append(Bar(_REST, ((rest, GREY),), f"{format_bytes(rest)}, {percent(rest / whole)}"))
    bars(axes, drawn, places=_places(report))


def _failures(axes: Place, report: StatsReport) -> None:
    causes = list(report.total.causes)[:_SHOWN]
    if not causes:
        empty(axes, "none")
        return
    colors = _shown(report)
    drawn = []
    for cause in causes:
        parts = [(one.causes.get(cause, 0), colors.get(one.source, GREY)) for one in report.sources]
        number = report.total.causes[cause]
        text = f"{number}, {percent(report.total.cause_rates[cause])}"
        drawn.append(Bar(cause, tuple((float(size), color) for size, color in parts if size), text))
    bars(axes, drawn, places=_places(report))


def _range(one: SourceStats, color: str) -> Range | None:
    lies = one.ttfb
    if lies.p5 is None or lies.p25 is None or lies.p50 is None or lies.p75 is None or lies.p95 is None:
        return None
    return Range(one.source, lies.p5, lies.p25, lies.p50, lies.p75, lies.p95, duration(lies.p50), color)


def _ttfb(axes: Place, report: StatsReport) -> None:
    colors = _shown(report)
    by_name = {one.source: one for one in report.sources}
    drawn = [drawn for name, color in colors.items() if (drawn := _range(by_name[name], color)) is not None]
    if not drawn:
        empty(axes, "no first byte")
        return
    ranges(axes, drawn, format_value=duration, places=_places(report))
