"""What people read: one table and one picture, made of the same figures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from benchmarks.docker.world import MB
from benchmarks.mirrors.entries import Spread
from ci_modelcache.cli.drawing import GREY, PALETTE, Bar, Panel, Picture, bars, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.docker.ways import Run, Way

HEADS = (
    "way",
    "seconds (least-most)",
    "from the store or Hub",
    "to the engine",
    "engine's disk",
    "client's disk",
    "image",
    "same layer",
)
_FIGURES = ("received", "sent", "engine", "client", "image")

_LAYERS = {"yes": "the same layer each time", "no": "another layer each time", "-": "one run"}

LEGEND = (
    "seconds: from the first command to the finished image; the median of the runs, which were taken in turns, each after everything had been cleaned.",
    "from the store or Hub, to the engine: bytes on the wire, as multiples of the model. A warm cache mount was filled before the clock started.",
    "engine's disk: what its folder grew by: the image's layer, the layers of stages, copies of contexts, the cache mount; client's disk: context and tier.",
    "same layer: whether the layer with the model had the same digest in every run, so that it is pushed and pulled once.",
    "huggingface_hub was in its base image before, and its Hub is on loopback, without limits of rate; so is the store.",
)


def rows(results: Sequence[tuple[Way, Sequence[Run]]], size: int) -> list[tuple[str, ...]]:
    """One row for each way."""
    found = []
    for way, runs in results:
        seconds = Spread.of(run.seconds for run in runs)
        spread = f" ({seconds.least:.1f}-{seconds.most:.1f})" if len(runs) > 1 else ""
        shares = [f"{Spread.of(getattr(run, name) for run in runs).median / size:.2f}x" for name in _FIGURES]
        found.append((way.says, f"{seconds.median:.1f}{spread}", *shares, same_layer(runs)))
    return found


def same_layer(runs: Sequence[Run]) -> str:
    """Whether all *runs* made the same layer; one alone says nothing."""
    if len(runs) == 1:
        return "-"
    return "yes" if len({run.layer for run in runs}) == 1 else "no"


def figures_table(results: Sequence[tuple[Way, Sequence[Run]]], size: int, *, title: str) -> Table:
    """All figures, for a terminal."""
    table = Table(*HEADS, title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for row in rows(results, size):
        table.add_row(*row)
    return table


def markdown(
    results: Sequence[tuple[Way, Sequence[Run]]], size: int, *, machine: Mapping[str, object], command: str
) -> str:
    """The same as a page."""
    cells = [HEADS, ["---"] * len(HEADS), *rows(results, size)]
    lines = [
        "# A model into an image: time, bytes and disk",
        "",
        f"Made by `{command}`; the figures of every run are in [docker.json](docker.json).",
        "",
        "![time, bytes and disk of every way](docker.svg)",
        "",
        f"- model: {size / MB:.0f} MB in 7 files, of random bytes",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in machine.items()),
        "",
        *(f"- {line}" for line in LEGEND),
        "",
        *(f"| {' | '.join(line)} |" for line in cells),
        "",
    ]
    return "\n".join(lines)


def picture(results: Sequence[tuple[Way, Sequence[Run]]], size: int, *, machine: Mapping[str, object]) -> bytes:
    """The same as bars, in SVG."""
    times = [
        Bar(
            way.says,
            ((Spread.of(run.seconds for run in runs).median, PALETTE[0] if way.ours else GREY),),
            f"{row[1]} s, {_LAYERS[row[-1]]}",
        )
        for (way, runs), row in zip(results, rows(results, size), strict=True)
    ]
    kinds = (("engine", PALETTE[1], 4), ("client", PALETTE[2], 5))
    disks = [
        Bar(
            way.says,
            tuple(
                (max(0.0, Spread.of(getattr(run, name) for run in runs).median / size), color)
                for name, color, _ in kinds
            ),
            " + ".join(row[number] for _, _, number in kinds),
        )
        for (way, runs), row in zip(results, rows(results, size), strict=True)
    ]
    wires = [
        Bar(
            way.says,
            tuple(
                (Spread.of(getattr(run, name) for run in runs).median / size, color)
                for name, color in (("received", PALETTE[3]), ("sent", PALETTE[5]))
            ),
            f"{row[2]} + {row[3]}",
        )
        for (way, runs), row in zip(results, rows(results, size), strict=True)
    ]
    height = 0.52 * len(results)
    count = len(results)

    def panel(title: str, note: str, content: list[Bar], **more: Any) -> Panel:  # noqa: ANN401  # passed on
        return Panel(title, partial(_drawn, content=content, count=count), note, inches=height, **more)

    return render(
        Picture(
            "A model into an image",
            f"{size / MB:.0f} MB in 7 files; {machine['processor']}, {machine['cores']} cores, {machine['engine']}",
            (),
            (
                panel("Seconds", "median (least-most); grey: not ci-modelcache", times, columns=12),
                panel(
                    "On the wire", "from the store or Hub + to the engine, in multiples of the model", wires, columns=6
                ),
                panel("On disks", "the engine's + the client's, in multiples of the model", disks, columns=6),
            ),
        ),
        "svg",
    )


def _drawn(axes: Any, *, content: list[Bar], count: int) -> None:  # noqa: ANN401  # matplotlib's, as in drawing
    bars(axes, content, places=count)
