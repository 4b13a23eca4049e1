"""What people read: one table of figures and one of promises, on the terminal and as Markdown, made of the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from benchmarks.mirrors.entries import MB, Client, End, Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.mirrors.entries import Entry, Run
    from benchmarks.mirrors.measure import Measured

HEADS = ("what goes wrong", "client", "ended", "seconds (least-most)", "against theirs", "bytes", "CPU s", "busy")
_PROMISES = ("what goes wrong", "promise", "kept")
_COLORS = {End.OK: "green", End.FAILED: "yellow", End.CORRUPT: "bold red", End.KILLED: "red"}

LEGEND = (
    "ended: how every run ended; CORRUPT is a success with wrong bytes, KILLED had not ended when patience did.",
    "seconds: the whole process, from its start; the median of the runs. against theirs: how many times faster than huggingface_hub.",
    "bytes: what Hubs sent, as a multiple of the files. CPU s: of the client + of all Hubs.",
    "busy: the share of all cores that was busy, with whatever else ran on the machine: near 100 % the machine is the limit.",
)


def rows(measured: Measured) -> list[tuple[str, ...]]:
    """One row for each entry."""
    theirs = [entry.label for entry in measured.case.entries if entry.client is Client.THEIRS]
    found: list[tuple[str, ...]] = []
    for entry in measured.case.entries:
        runs = measured.runs[entry.label]
        seconds = Spread.of(run.seconds for run in runs)
        spread = f" ({seconds.least:.1f}-{seconds.most:.1f})" if len(runs) > 1 else ""
        found.append(
            (
                f"{measured.case.name}: {measured.case.says}" if not found else "",
                entry.label,
                ended(runs),
                f"{seconds.median:.1f}{spread}{_extra(runs)}",
                _against(entry, runs, [measured.runs[label] for label in theirs]),
                f"{Spread.of(run.received for run in runs).median / measured.case.size:.2f}x",
                f"{_median_cpu(runs):.1f} + {Spread.of(run.hubs_cpu for run in runs).median:.1f}",
                f"{Spread.of(run.busy for run in runs).median:.0%}",
            )
        )
    return found


def ended(runs: Sequence[Run]) -> str:
    """How *runs* ended, with the exceptions: ``FAILED (OSError)``, ``2x ok, 1x CORRUPT``."""
    ways = [f"{run.ended} ({run.error})" if run.error else f"{run.ended}" for run in runs]
    counts = {way: ways.count(way) for way in ways}
    return ways[0] if len(counts) == 1 else ", ".join(f"{count}x {way}" for way, count in counts.items())


def _extra(runs: Sequence[Run]) -> str:
    left = [run.left for run in runs if run.left is not None and run.ended is End.OK]
    again = [run.again for run in runs if run.again is not None]
    if left:
        return f"; left it after {max(left):.1f}"
    return f"; {max(again) / MB:.1f} MB again" if again else ""


def _against(entry: Entry, runs: Sequence[Run], theirs: Sequence[Sequence[Run]]) -> str:
    """Nothing where one of them brought no right files: a failure is soon done."""
    if entry.client is Client.THEIRS or not theirs:
        return ""
    if any(run.ended is not End.OK for run in (*runs, *theirs[0])):
        return ""
    return f"{Spread.of(run.seconds for run in theirs[0]).median / Spread.of(run.seconds for run in runs).median:.2f}x"


def _median_cpu(runs: Sequence[Run]) -> float:
    return Spread.of(run.cpu for run in runs).median


def promises(measured: Measured) -> list[tuple[str, str, str]]:
    """One row for each verdict."""
    return [(measured.case.name, verdict.says, "yes" if verdict.met else "MISSED") for verdict in measured.verdicts]


def figures_table(results: Iterable[Measured], *, title: str) -> Table:
    """All figures, for a terminal."""
    table = Table(*HEADS, title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for measured in results:
        for row, entry in zip(rows(measured), measured.case.entries, strict=True):
            worst = max((run.ended for run in measured.runs[entry.label]), key=list(End).index)
            table.add_row(*row[:2], f"[{_COLORS[worst]}]{row[2]}[/]", *row[3:])
        table.add_section()
    return table


def promises_table(results: Iterable[Measured]) -> Table:
    """What was promised, for a terminal."""
    table = Table(*_PROMISES, box=box.SIMPLE_HEAD)
    for measured in results:
        for name, says, kept in promises(measured):
            table.add_row(name, says, f"[{'green' if kept == 'yes' else 'bold red'}]{kept}[/]")
    return table


def markdown(results: Sequence[Measured], *, machine: Mapping[str, object], command: str) -> str:
    """The same as a page."""
    lines = [
        "# Mirrors: ci-modelcache beside huggingface_hub",
        "",
        f"Made by `{command}`; the figures of every run are in [mirrors.json](mirrors.json).",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in machine.items()),
        "",
        *(f"- {line}" for line in LEGEND),
        "",
        *_grid(HEADS, [row for measured in results for row in rows(measured)]),
        "",
        "## What is promised",
        "",
        *_grid(_PROMISES, [row for measured in results for row in promises(measured)]),
        "",
    ]
    return "\n".join(lines)


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]
