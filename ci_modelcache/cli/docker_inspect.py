"""``ci-modelcache docker inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.image_words import inspected
from ci_modelcache.config import environment
from ci_modelcache.docker.engine import connect
from ci_modelcache.docker.image_inspect import inspect_images

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "docker inspect",
    examples=(
        ("which models, which commits, and where", "ci-modelcache docker inspect app:latest"),
        ("the commit, for a script", "ci-modelcache docker inspect app --json | jq -r '.images[0].models[0].commit'"),
    ),
)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.pass_context
def command(ctx: click.Context, run: Run, images: tuple[str, ...]) -> None:
    """
    Show which models an image says it has.

    That is in its label, which docker verify does not take for granted. IMAGE is a name or id that the engine has; nothing is
    pulled. An image without label is shown as such, with exit code 0.
    """
    with connect(environment(), deadline=run.step.deadline) as engine:
        report = inspect_images(images, engine=engine)
    run.show(report, inspected(report))
    ctx.exit(report.exit_code)
