"""
The only module that draws: a picture is a title, some key figures and panels, each filled by a piece from here.

matplotlib is an extra and takes half a second to load, so it is imported when something is drawn. No display, no browser and
no font of the machine is needed. Texts may come from anywhere: they are shown as they stand, never as markup.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import field, frozen

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Place: TypeAlias = Axes
    """What a panel is drawn into, for those who pass it on."""

INK, QUIET, HAIR, GREY = "#1b1f24", "#59636e", "#d8dde3", "#8c959f"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe and Ito's colours, told apart by the colour-blind; what comes after the sixth is grey."""

_COLUMNS = 12
_INCHES = 13.0
_HEAD, _TITLE, _FOOT = 2.0, 0.95, 0.5
"""Inches above all panels, between two rows of them, and below the last."""
ROW = 0.5
"""Inches of one bar with its label."""
_LONGEST = 44
"""Characters of a label."""
_LINE = 125
"""Characters of all labels of a key together."""
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": HAIR,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": HAIR,
    "grid.linewidth": 0.8,
    "text.parse_math": False,  # a dollar in the name of a mirror is a dollar
    "svg.fonttype": "path",
    "svg.hashsalt": "ci-modelcache",  # the same picture is the same bytes
}


@frozen
class Panel:
    """A part of a picture: *fill* draws into the (matplotlib) axes that it is given; *columns* of twelve is its width, *inches* its height."""

    title: str
    fill: Callable[[Any], None]
    note: str = ""
    columns: int = _COLUMNS
    inches: float = 2.2


@frozen
class Picture:
    """A *title* with a line below it, *tiles* of a figure and what it is, and *panels* from left to right and down."""

    title: str
    subtitle: str
    tiles: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


@frozen
class Bar:
    """A bar of *parts*, each with its colour, below *label*; *text* is written at its end."""

    label: str
    parts: tuple[tuple[float, str], ...]
    text: str


@frozen
class Range:
    """How measurements lie: a thin line from *low* to *high*, a thick one over the middle half, a dot at the median *mid*."""

    label: str
    low: float
    quarter: float
    mid: float
    three_quarters: float
    high: float
    text: str
    color: str = PALETTE[0]


@frozen
class Line:
    """The points *x*, *y*, with *label* at the last one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = field(default=PALETTE[0])


def require_drawing() -> None:
    """Raise `ConfigError` unless matplotlib is installed."""
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415  # only looked for; and slow to load
    except ImportError as error:
        msg = "drawing needs matplotlib, which is not installed"
        raise ConfigError(msg, hint="pip install 'ci-modelcache[plot]'") from error


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour for each of *names*, by their order."""
    return {name: PALETTE[number] if number < len(PALETTE) else GREY for number, name in enumerate(names)}


def label(text: str, longest: int = _LONGEST) -> str:
    """*text* as a picture can show it: short, on one line, in letters that its font has."""
    name = text.removeprefix("https://").removeprefix("http://")
    shown = "".join(char if char.isprintable() and char.isascii() else "?" for char in name)
    half = longest // 2 - 1
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


def render(picture: Picture, kind: str) -> bytes:
    """*picture* as ``png`` or ``svg``; raises `ConfigError` when matplotlib is missing."""
    require_drawing()
    import matplotlib as mpl  # noqa: PLC0415  # as above

    with mpl.rc_context(_STYLE):
        figure = _laid_out(picture)
        out = io.BytesIO()
        # No date and no name of a program: two pictures of the same report are equal.
        nothing = {"png": {"Software": None}, "svg": {"Creator": None, "Date": None, "Format": None, "Type": None}}
        figure.savefig(out, format=kind, dpi=150, facecolor="white", metadata=nothing[kind])
    return out.getvalue()


def _rows(panels: Iterable[Panel]) -> list[list[Panel]]:
    """*panels* in rows, none wider than the picture."""
    rows: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(each.columns for each in rows[-1]) + panel.columns > _COLUMNS:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _laid_out(picture: Picture) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415  # as above

    rows = _rows(picture.panels)
    heights = [max(panel.inches for panel in row) for row in rows]
    height = _HEAD + sum(heights) + _TITLE * len(rows) - 0.5 + _FOOT
    figure = Figure(figsize=(_INCHES, height))
    left, right = 0.045, 0.97
    grid = figure.add_gridspec(
        len(rows),
        _COLUMNS,
        left=left,
        right=right,
        top=1 - (_HEAD + 0.45) / height,
        bottom=_FOOT / height,
        hspace=_TITLE * len(rows) / sum(heights),
        wspace=1.1,
        height_ratios=heights,
    )
    _head(figure, picture, left=left, right=right, height=height)
    for number, row in enumerate(rows):
        column = 0
        for panel in row:
            axes = figure.add_subplot(grid[number, column : column + panel.columns])
            column += panel.columns
            axes.set_title(panel.title, loc="left", fontsize=11.5, fontweight="bold", pad=22)
            axes.annotate(
                panel.note, (0, 1), (0, 9), "axes fraction", textcoords="offset points", color=QUIET, fontsize=9
            )
            panel.fill(axes)
    return figure


def _head(figure: Figure, picture: Picture, *, left: float, right: float, height: float) -> None:
    def from_top(inches: float) -> float:
        return 1 - inches / height

    figure.text(left, from_top(0.5), picture.title, fontsize=19, fontweight="bold")
    figure.text(left, from_top(0.78), picture.subtitle, fontsize=10.5, color=QUIET)
    for number, (value, caption) in enumerate(picture.tiles):
        x = left + (right - left) * number / len(picture.tiles)
        figure.text(x, from_top(1.4), value, fontsize=19, color=INK)
        figure.text(x, from_top(1.62), caption, fontsize=9.5, color=QUIET)


def empty(axes: Axes, text: str) -> None:
    """Say *text* where there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0, 0.9, text, transform=axes.transAxes, color=QUIET, va="top")


def stacked(
    axes: Axes, edges: Sequence[float], series: Mapping[str, Sequence[float]], *, colors: Mapping[str, str]
) -> None:
    """Steps on top of each other: ``series[name][i]`` is the height from ``edges[i]`` to ``edges[i + 1]``."""
    base = [0.0] * (len(edges) - 1)
    bands = []
    room = _LINE // max(len(series), 1)
    for name, values in series.items():
        top = [low + value for low, value in zip(base, values, strict=True)]
        bands.append(
            axes.stairs(top, edges, baseline=base, fill=True, color=colors[name], linewidth=0, label=label(name, room))
        )
        base = top
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(base) * 1.06 or 1)
    axes.grid(axis="y")
    # In the order in which the eye meets them, from the top.
    axes.legend(
        handles=bands[::-1],
        loc="lower right",
        bbox_to_anchor=(1.008, 1 + 0.21 * axes.figure.dpi / axes.bbox.height),  # as high as the title
        borderaxespad=0,
        ncols=len(bands),
        frameon=False,
        fontsize=9.5,
        handlelength=0.9,
        handleheight=0.9,
        handletextpad=0.5,
        columnspacing=1.5,
    )


def lines(axes: Axes, series: Iterable[Line]) -> None:
    """Lines from the left to the right, each named at its end."""
    for each in series:
        axes.plot(each.x, each.y, color=each.color, linewidth=2, solid_capstyle="round")
        axes.annotate(
            label(each.label),
            (each.x[-1], each.y[-1]),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")


def _rows_from_the_top(axes: Axes, names: Sequence[str], *, places: int) -> None:
    """Room for *names*, one below the other, each written above what is drawn at its number."""
    axes.set_ylim(max(len(names), places) - 0.35, -0.75)
    axes.set_yticks([])
    for number, name in enumerate(names):
        axes.annotate(
            label(name),
            (0, number),
            (0, 7),
            ("axes fraction", "data"),
            textcoords="offset points",
            fontsize=9.5,
            color=INK,
        )


def bars(axes: Axes, rows: Sequence[Bar], *, places: int = 4) -> None:
    """Bars from the left, the first on top, each with its label above and its text at its end."""
    longest = max((sum(size for size, _ in row.parts) for row in rows), default=0) or 1
    _rows_from_the_top(axes, [row.label for row in rows], places=places)
    for number, row in enumerate(rows):
        begin = 0.0
        for size, color in row.parts:
            axes.barh(number + 0.12, size, left=begin, height=0.34, color=color)
            begin += size
        axes.annotate(
            row.text, (begin, number + 0.12), (5, 0), textcoords="offset points", va="center", fontsize=9.5, color=QUIET
        )
    axes.set_xlim(0, longest * 1.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def ranges(axes: Axes, rows: Sequence[Range], *, format_value: Callable[[float], str], places: int = 4) -> None:
    """Ranges on one logarithmic scale, the first on top; *format_value* writes the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415  # as above

    smallest = min((value for row in rows for value in (row.low, row.mid) if value > 0), default=1e-3)
    _rows_from_the_top(axes, [row.label for row in rows], places=places)
    axes.set_xscale("log")
    for number, row in enumerate(rows):
        y = number + 0.12
        low, quarter, mid, upper, high = (
            max(value, smallest) for value in (row.low, row.quarter, row.mid, row.three_quarters, row.high)
        )
        axes.plot([low, high], [y, y], color=row.color, linewidth=1.6, solid_capstyle="butt")
        axes.plot([quarter, upper], [y, y], color=row.color, linewidth=7, solid_capstyle="butt", alpha=0.45)
        axes.plot([mid], [y], "o", color=row.color, markersize=7, markeredgecolor="white")
        axes.annotate(row.text, (high, y), (7, 0), textcoords="offset points", va="center", fontsize=9.5, color=QUIET)
    largest = max((row.high for row in rows), default=1.0)
    axes.set_xlim(smallest / 1.6, max(largest, smallest) * 6)
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(axis="x")
