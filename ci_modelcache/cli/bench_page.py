"""The only module that decides what the picture of a measurement of mirrors shows."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ci_modelcache.cli.drawing import ROW, Bar, Panel, Picture, Range, bars, empty, palette, ranges
from ci_modelcache.cli.figures import NONE, duration, percent, speed
from ci_modelcache.cli.mirror_words import HEAD, by_cause, cells, shares, utilised
from ci_modelcache.cli.page import Table, write_page
from ci_modelcache.cli.reports import count
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ci_modelcache.cli.drawing import Place
    from ci_modelcache.verbs.mirrors_figures import BenchReport, SourceBench


def draw(report: BenchReport, path: Path) -> None:
    """Write the picture of *report* to *path*, a ``.png``, or a ``.html`` that has the figures too."""
    every = (*report.sources, report.together)
    failures = tuple((one.source, by_cause(one.causes), one.error or NONE) for one in every)
    tables = (
        Table(
            "Downloads",
            HEAD,
            cells(every),
            "Each source alone, then all together as a step takes them. Speeds in MB/s of whole downloads.",
        ),
        Table("What went wrong", ("SOURCE", "CAUSES", "LAST FAILURE"), failures),
        Table("Together", ("", ""), (("utilisation", utilised(report)), ("bytes", shares(report.together.sources)))),
    )
    write_page(path, picture(report), tables)


def picture(report: BenchReport) -> Picture:
    """The picture of *report*."""
    every = (*report.sources, report.together)
    colors = palette([one.source for one in every])
    places = max(4, len(every))
    half, inches = 6, ROW * (places + 0.4)
    downloads = count(max((one.downloads for one in every), default=0), "download")
    return Picture(
        title="How fast the mirrors are",
        subtitle=f"{downloads} of {format_bytes(report.size)} of {report.path} of {report.ref} from each of {count(len(report.sources), 'source')}",
        tiles=_tiles(report),
        panels=(
            Panel("Throughput", lambda axes: _speeds(axes, every, colors, places), "mean of whole downloads", half, inches),
            Panel("Speed of single downloads", lambda axes: _spread(axes, every, colors, places), "median, middle half, all", half, inches),
            Panel("Time to first byte", lambda axes: _ttfb(axes, every, colors, places), "of single requests: median, middle half, p5 to p95", half, inches),
            Panel("Failed attempts", lambda axes: _failures(axes, every, colors, places), "also those that others made up for", half, inches),
        ),
    )  # fmt: skip  # a line a panel


def _tiles(report: BenchReport) -> tuple[tuple[str, str], ...]:
    best = next((one for one in report.sources if one.source == report.best), None)
    together = report.together
    return (
        (speed(together.speed_p50), "together"),
        (NONE if best is None else speed(best.speed_p50), "the best alone"),
        (percent(report.utilisation), "utilisation of the best"),
        (NONE if together.retry_rate is None else f"{together.retry_rate:.3g}", "retries per 100 downloads"),
        (str(sum(one.failed for one in (*report.sources, together))), "failed downloads"),
    )


def _speeds(axes: Place, every: Sequence[SourceBench], colors: dict[str, str], places: int) -> None:
    drawn = [
        Bar(
            one.source,
            ((one.speed or 0.0, colors[one.source]),),
            speed(one.speed) if one.speed else "nothing right came",
        )
        for one in every
    ]
    bars(axes, drawn, places=places)


def _spread(axes: Place, every: Sequence[SourceBench], colors: dict[str, str], places: int) -> None:
    drawn = [
        _range(one.source, one.speeds, colors[one.source], _speed_of_range, low=0, high=100)
        for one in every
        if one.speeds
    ]
    _ranges(axes, drawn, _speed_of_range, places)


def _ttfb(axes: Place, every: Sequence[SourceBench], colors: dict[str, str], places: int) -> None:
    drawn = [_range(one.source, one.ttfbs, colors[one.source], duration, low=5, high=95) for one in every if one.ttfbs]
    _ranges(axes, drawn, duration, places)


def _ranges(axes: Place, drawn: Sequence[Range], words: Callable[[float], str], places: int) -> None:
    if not drawn:
        empty(axes, "nothing was measured")
        return
    ranges(axes, drawn, format_value=words, places=places)


def _speed_of_range(value: float) -> str:
    return speed(value)


def _range(  # one range
    name: str, values: Sequence[float], color: str, words: Callable[[float], str], *, low: int, high: int
) -> Range:
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered * 2 if len(ordered) == 1 else ordered, n=100, method="inclusive")
    at = [ordered[0], *cuts, ordered[-1]]
    return Range(name, at[low], at[25], at[50], at[75], at[high], words(at[50]), color)


def _failures(axes: Place, every: Sequence[SourceBench], colors: dict[str, str], places: int) -> None:
    failing = [one for one in every if one.causes]
    if not failing:
        empty(axes, "none")
        return
    drawn = [
        Bar(one.source, ((float(sum(one.causes.values())), colors[one.source]),), by_cause(one.causes))
        for one in failing
    ]
    bars(axes, drawn, places=places)
