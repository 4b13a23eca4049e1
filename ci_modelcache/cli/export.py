"""``ci-modelcache export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.outcomes import outcome_of_export
from ci_modelcache.cli.output import Stdout
from ci_modelcache.cli.reports import exported
from ci_modelcache.cli.targets import Asked, locks, naming_file, targets
from ci_modelcache.errors import ConfigError
from ci_modelcache.settings import variable
from ci_modelcache.transfer.outlet import FileOutlet
from ci_modelcache.verbs.export import PLAIN, export, held

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run
    from ci_modelcache.transfer.outlet import Outlet


@verb(
    "export",
    settings=("lock-file",),
    examples=(
        ("a model into a file", "ci-modelcache export org/name@v1.2 -o name.tar"),
        ("everything in modelcache.lock, or else in modelcache.toml", "ci-modelcache export -o models.tar"),
        ("through a pipe", "ci-modelcache export org/name -o - | zstd > name.tar.zst"),
        ("back again, without this tool", "ci-modelcache export org/name -o - | tar xf - && sha256sum -c SHA256SUMS"),
    ),
)
@naming
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    envvar=variable("output"),
    help="The archive to write, in place of what is there; - is stdout.",
)
@click.option(
    "--format",
    type=click.Choice([PLAIN]),
    default=PLAIN,
    show_default=True,
    envvar=variable("format"),
    help="What is in the archive; plain: files for tar and sha256sum.",
)
@locking
@selecting
def command(run: Run, output: str, *, format: str, locked: bool | None, **given: Any) -> None:  # noqa: A002, ANN401  # the flag's name, and click's
    """
    Write models from the store into one tar archive.

    The same models make the same bytes, every time and everywhere. Without REF all models of modelcache.lock are meant, or
    where there is none of modelcache.toml. Nobody but the store is asked: what it lacks is a miss (10), and fetch
    puts it there. The archive's SHA-256 and path are printed as sha256sum prints them, unless it goes to stdout itself.
    """
    del format  # there is one
    outlet, named = _outlet(output, run), bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held_to = locks(run.config, locked=locked, named=named)
    chosen = targets(Asked(**given), run.config, locks=held_to)
    cache = run.cache_to_see()
    models = [held(each.ref, each.selection, locks=held_to, cache=cache, host=run.nobody) for each in chosen]
    report = export(models, outlet, cache=cache, step=run.step)
    for model in report.models:
        run.ci.add(outcome_of_export(model, report, store=cache.url))
    run.say(exported(report))
    if isinstance(outlet, FileOutlet):
        run.show(report, [f"{report.sha256}  {report.path}"])


def _outlet(output: str, run: Run) -> Outlet:
    """Where *output* says that the archive goes."""
    if output == "-":
        if run.as_json:
            msg = "--json prints the result on stdout, where the archive is to go"
            raise ConfigError(msg, hint="name a file: -o FILE")
        return Stdout()
    if not output or "://" in output:
        msg = f"--output {output} is no file to write to" if output else "--output names no file"
        raise ConfigError(
            msg, hint="name a file; or write to stdout with -o -, and let another program take it from there"
        )
    return FileOutlet(Path(output).absolute())
