"""``ci-modelcache stats``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.charts import draw
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.figures import counted
from ci_modelcache.cli.page import require_page
from ci_modelcache.model.rate import parse_rate
from ci_modelcache.verbs.stats import stats

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "stats",
    examples=(
        ("how fast, how often wrong, how often tried again", "ci-modelcache stats report.jsonl"),
        ("a page to look at", "ci-modelcache stats report.jsonl --plot mirrors.html"),
        ("an alarm", "ci-modelcache stats report.jsonl --slow-below 5MB --json | jq .total.slow_share"),
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--slow-below", default="1MB", show_default=True, metavar="RATE", help="A download under RATE is slow.")
@click.option(
    "--plot", metavar="PATH", type=click.Path(path_type=Path), help="Draw it into PATH, a .png or .html file."
)
def command(run: Run, files: tuple[Path, ...], slow_below: str, plot: Path | None) -> None:
    """
    Count what reports say about speed, errors, retries and hits.

    FILE is what runs with --report have written; several are counted together.
    """
    if plot is not None:
        require_page(plot)
    report = stats(files, slow_below=parse_rate(slow_below))
    if plot is not None:
        draw(report, plot)
        run.say(f"drawn into {plot}")
    run.show(report, counted(report))
