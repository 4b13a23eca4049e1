"""``ci-modelcache save``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import of_kind, picking
from ci_modelcache.cli.reports import pinned, saved
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.save import save

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "save",
    settings=("encoding",),
    examples=(
        ("a model that a job has trained", "ci-modelcache save out/model org/name@2026-11-20"),
        ("without its checkpoints", "ci-modelcache save out/model org/name@nightly --exclude 'checkpoint-*'"),
    ),
)
@click.argument("directory", metavar="DIR")
@click.argument("ref")
@of_kind
@picking
def command(
    run: Run,
    directory: str,
    ref: str,
    type: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
) -> None:
    """
    Store a local folder as a model.

    REF names it: [dataset:|space:]ORG/NAME[@REVISION]. Its commit follows from its content, and is printed as a REF.
    Links are followed inside of DIR; .git is left out.
    """
    if not directory:
        msg = "DIR names no folder"
        raise ConfigError(msg, hint="an unset variable makes it empty")
    kind = None if type is None else RepoType(type)
    parsed, selection = ModelRef.parse(ref, type=kind), Selection(include, exclude)
    cache = run.cache_to_fill()
    with run.telling(parsed) as tell:
        report = save(Path(directory), parsed, host=run.nobody.host, selection=selection, cache=cache, step=run.step)
        tell(report)
    run.say(saved(report))
    run.show(report, [pinned(report.ref, report.commit)])
