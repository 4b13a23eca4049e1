"""What people read: tables on the terminal, a page and a picture, made of the same figures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from benchmarks.speed.figures import MIB
from ci_modelcache.cli.drawing import GREY, PALETTE, Bar, Line, Panel, Picture, bars, lines, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.speed.figures import Result, Row

HEADS = ("way", "seconds (least-most)", "MB/s", "CPU s", "store's CPU s", "peak memory", "against", "CPU")
_NOT_DRAWN = {"startup", "disk", "memory", "profile"}
"""What is not about the seconds of moving bytes."""
_PROMISES = ("benchmark", "number", "kept")
LEGEND = (
    "seconds: the whole process, from its start to its end; the median of the runs, which were taken in turns, each in an empty place. against: its seconds as a multiple of those of the row that is named there; CPU: its CPU seconds likewise.",
    "CPU s: of the client, with the processes that it started. store's CPU s: of SeaweedFS meanwhile, on the same cores. peak memory: of the largest process of the client, in MiB.",
    "s5cmd, rclone, aws-cli and boto3 verify no SHA-256 of a file, and their time has none in it; s5cmd + sha256sum reads what was written once more, out of memory.",
)


def grid(result: Result) -> list[tuple[str, ...]]:
    """One row for each way, in the order of the table."""
    peer = result.row(result.against)
    return [_cells(row, peer) for row in result.rows]


def _cells(row: Row, peer: Row | None) -> tuple[str, ...]:
    seconds = row.spread("seconds")
    spread = f" ({_short(seconds.least)}-{_short(seconds.most)})" if len(row.samples) > 1 else ""
    return (
        row.label,
        f"{_short(seconds.median)}{spread}",
        f"{row.size / 1e6 / seconds.median:.0f}" if row.size else "",
        _short(row.median("cpu")),
        _short(row.median("store_cpu")),
        f"{row.spread('memory').most / MIB:.0f}",
        "" if peer is None else f"{seconds.median / peer.median():.2f}x",
        "" if peer is None else f"{row.median('cpu') / max(0.01, peer.median('cpu')):.2f}x",
    )


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"  # noqa: PLR2004  # what is read at a glance


def heads(result: Result) -> tuple[str, ...]:
    """The heads of the columns of that table."""
    return (*HEADS[:-2], f"against {result.against}" if result.against else "against", HEADS[-1])


def figures_table(result: Result) -> Table:
    """The figures of a benchmark, for a terminal."""
    title = f"{result.name}: {result.says}; {result.where}"
    table = Table(*heads(result), title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for row in grid(result):
        table.add_row(*row)
    return table


def promises_table(results: Sequence[Result]) -> Table:
    """What was promised, for a terminal."""
    table = Table(*_PROMISES, box=box.SIMPLE_HEAD, title_justify="left")
    for name, says, kept in promises(results):
        table.add_row(name, says, kept, style="" if kept == "yes" else "red")
    return table


def promises(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """One row for each number of the design."""
    return [
        (result.name, verdict.says, "yes" if verdict.met else "no") for result in results for verdict in result.verdicts
    ]


def disturbance(result: Result) -> str:
    """What else the machine did meanwhile."""
    samples = [sample for row in result.rows for sample in row.samples]
    others, seconds = sum(each.others_cpu for each in samples), sum(each.seconds for each in samples)
    return f"{others / seconds:.2f} cores were busy with something else, relays and Hubs included" if seconds else ""


def markdown(results: Sequence[Result], *, command: str, absent: Sequence[str]) -> str:
    """All of it as a page."""
    page = ["# Speed: beside the movers and caches that people know", ""]
    page += [f"Made by `{command}`; the figures of every run are in [speed.json](speed.json).", ""]
    page += ["![the seconds of every way](speed.svg)", ""]
    page += [*(f"- {line}" for line in LEGEND), *(f"- {line}" for line in absent), ""]
    page += ["## What is promised", "", *_lines(_PROMISES, promises(results)), ""]
    for result in results:
        page += [f"## {result.name}", "", f"{result.says}; {result.where}.", ""]
        page += [*_lines(heads(result), grid(result)), "", *(f"- {note}" for note in result.notes)]
        about = ", ".join(f"{name}: {value}" for name, value in result.machine.items())
        page += [f"- {disturbance(result)}", f"- {about}", ""]
    return "\n".join(page)


def _lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def picture(results: Sequence[Result]) -> bytes:
    """The seconds of all ways as bars, and of connections as lines, in SVG."""
    panels = tuple(_panel(result) for result in results if result.name not in _NOT_DRAWN)
    kept = [verdict.met for result in results for verdict in result.verdicts]
    tiles = ((f"{sum(kept)} of {len(kept)}", "promised numbers reached"),)
    subtitle = "seconds of whole processes, medians; ours in blue, peers in grey"
    return render(Picture("Speed", subtitle, tiles, panels), "svg")


def _panel(result: Result) -> Panel:
    if result.name == "connections":
        return Panel("MB/s by connections", partial(_draw_lines, result), _note(result), 4, 3.0)
    rows = [
        Bar(row.label, ((row.median(), PALETTE[0] if row.ours else GREY),), f"{_short(row.median())} s")
        for row in result.rows
    ]
    return Panel(result.name, partial(bars, rows=rows), _note(result), 4, 0.45 * max(4, len(rows)))


def _note(result: Result) -> str:
    return result.says.rpartition(": ")[2]


def _draw_lines(result: Result, axes: Any) -> None:  # noqa: ANN401  # matplotlib's
    found: dict[str, dict[int, float]] = {}
    for row in result.rows:
        name, _, count = row.label.partition(", ")
        if count.split()[0].isdigit():
            found.setdefault(name, {})[int(count.split()[0])] = row.size / 1e6 / row.median()
    colors = {"ours": PALETTE[0]}
    lines(axes, [Line(name, [*known], [*known.values()], colors.get(name, GREY)) for name, known in found.items()])
    counts = sorted({count for known in found.values() for count in known})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
