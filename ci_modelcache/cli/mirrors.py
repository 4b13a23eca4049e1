"""``ci-modelcache mirrors``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve, frozen

from ci_modelcache.cli.bench_page import draw
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.fitting import width
from ci_modelcache.cli.mirror_words import checked, measured, remembered
from ci_modelcache.cli.page import require_page
from ci_modelcache.cli.targets import Asked, targets
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.project import ProjectModel
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.mirrors import mirrors
from ci_modelcache.verbs.mirrors_bench import DOWNLOADS, bench
from ci_modelcache.verbs.mirrors_check import check

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run

_ATTEMPTS = 2
"""Of a check: it is run every few minutes, and tells what is now."""


@frozen
class _Bench:
    """The options of ``bench``; all None unless given."""

    downloads: int | None
    file: str | None
    html: Path | None


@verb(
    "mirrors",
    examples=(
        ("how did they do, and who would be asked now?", "ci-modelcache mirrors"),
        ("measure them, with a page to look at", "ci-modelcache mirrors bench org/name --html mirrors.html"),
        ("monitoring: exit code 13 is wrong bytes, 11 unreachable or stale", "ci-modelcache mirrors check org/name"),
        ("which of them is not well", "ci-modelcache mirrors check --json | jq '.checks[] | select(.exit_code > 0)'"),
    ),
)
@click.argument("action", required=False, type=click.Choice(("bench", "check")))
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option(
    "--downloads",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help=f"bench: downloads from each; default: {DOWNLOADS}.",
)
@click.option("--file", metavar="PATH", help="bench: the file to download; default: the largest of the model.")
@click.option(
    "--html", metavar="FILE", type=click.Path(path_type=Path), help="bench: write a report with plots to FILE."
)
@click.pass_context
def command(ctx: click.Context, run: Run, /, action: str | None, refs: tuple[str, ...], **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Show how mirrors did, measure them, or check them.

    Alone it tells what earlier runs remember of every source, and asks nobody. bench REF downloads a file, or 64 MiB of it, from
    each source alone and then from all together; nothing is kept. check [REF]... (default: the models of modelcache.toml) compares
    what a branch means on each mirror with the authority, and a sample of the bytes of each; its exit code is 13 when one sends wrong bytes, 11
    when one is unreachable or stale, 12 when one refuses access, 10 when one has not the model, and 0 when all is well.
    """
    options = _Bench(**given)
    if action != "bench" and options != _Bench(None, None, None):
        msg = "--downloads, --file and --html go with bench"
        raise click.UsageError(msg)
    if action is None:
        _show(run)
    elif run.config.offline:
        msg = f"{action} asks the mirrors, and offline is set by {run.config.origins['offline']}"
        raise ConfigError(msg, hint="ci-modelcache mirrors alone asks nobody")
    elif action == "check":
        ctx.exit(_check(run, refs))
    else:
        ctx.exit(_bench(run, refs, options))


def _show(run: Run) -> None:
    report = mirrors(tuple(run.upstreams.candidates()), run.upstreams.standing.load(), now=time.time())
    run.show(report, remembered(report, width=width()))


def _check(run: Run, refs: tuple[str, ...]) -> int:
    run.forced = True  # what is examined is how it is now
    run.retry = evolve(run.retry, attempts=_ATTEMPTS)
    upstreams = run.upstreams
    report = check(
        _models(run, refs),
        tuple(upstreams.candidates()),
        authority=upstreams.authority,
        step=run.step,
    )
    run.show(report, checked(report))
    return report.exit_code


def _models(run: Run, refs: tuple[str, ...]) -> tuple[ProjectModel, ...]:
    """Those that *refs* name, or all of the project, of which a check also understands ranges of versions."""
    models = run.config.project.models
    if refs or not models:
        chosen = [target.ref for target in targets(Asked(refs, None, None, (), ()), run.config)]
        return tuple(ProjectModel(ref.repo, ref.revision, ref.type) for ref in dict.fromkeys(chosen))
    return tuple(dict.fromkeys(ProjectModel(model.repo, model.revision, model.type) for model in models))


def _bench(run: Run, refs: tuple[str, ...], options: _Bench) -> int:
    if len(refs) != 1:
        msg = "bench measures with one model: it comes after bench"
        raise click.UsageError(msg)
    if options.html is not None:
        require_page(options.html)
    report = bench(
        ModelRef.parse(refs[0]),
        upstream=run.upstreams.mirrors,
        authority=run.upstreams.authority.url,
        step=run.step,
        downloads=options.downloads or DOWNLOADS,
        path=options.file,
    )
    if options.html is not None:
        draw(report, options.html)
        run.say(f"drawn into {options.html}")
    run.show(report, measured(report, width=width()))
    return report.exit_code
