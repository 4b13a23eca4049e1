"""``ci-modelcache docker verify``."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.image_words import verified_image
from ci_modelcache.config import environment
from ci_modelcache.docker.engine import connect
from ci_modelcache.docker.image_verify import sought_by_label, sought_by_lock, verify_image
from ci_modelcache.errors import ConfigError
from ci_modelcache.verbs.locked import read_lock

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cli.run import Run
    from ci_modelcache.model.lock import Lock


@verb(
    "docker verify",
    settings=("lock-file",),
    examples=(
        ("every model of modelcache.lock, before a push", "ci-modelcache docker verify app:latest"),
        ("models that lie elsewhere", "ci-modelcache docker verify app --path /opt/models"),
        ("without a lock, by what its label promises", "ci-modelcache docker verify app --no-locked --store s3://b/p"),
    ),
)
@click.argument("image", metavar="IMAGE")
@click.option(
    "--locked/--no-locked",
    default=True,
    help="Compare with modelcache.lock; or with the manifests that the image's label names and the store has.",
)
@click.option(
    "--path",
    "folder",
    metavar="DIR",
    help="Folder of the image below which the models lie; default: what its label says, else /models.",
)
@click.pass_context
def command(ctx: click.Context, run: Run, image: str, *, locked: bool, folder: str | None) -> None:
    """
    Prove every model file in an image against the lock.

    The files are read out of IMAGE without running it, from a plain folder or a Hub cache. Exit code 13 says that a file is
    wrong or missing, 10 that a whole model is not there, and the output which.
    """
    root = None if folder is None else _absolute(folder)
    # What is wrong on this side shall be said before anybody waits for the engine.
    locks = (_lock(run.config.lock_file),) if locked else ()
    cache = None if locked else run.cache_to_see()
    with connect(environment(), deadline=run.step.deadline) as engine:
        found = engine.image(image)
        if cache is None:
            sought = [one for lock in locks for one in sought_by_lock(lock, found, image, root=root)]
        else:
            sought = list(sought_by_label(found, image, root=root, cache=cache))
        anchor = "lock" if locked else "label"
        report = verify_image(found, image, sought, anchor=anchor, engine=engine, step=run.step)
    run.show(report, verified_image(report))
    ctx.exit(report.exit_code)


def _lock(path: Path) -> Lock:
    """As `read_lock`, with the other way in the hint."""
    try:
        return read_lock(path)
    except ConfigError as error:
        error.hint = "name it with --lock-file; or verify what the label promises, with --no-locked"
        raise


def _absolute(folder: str) -> str:
    if not folder.startswith("/"):
        msg = f"--path is a folder of the image, and absolute: got {folder!r:.200}"
        raise ConfigError(msg, hint="write it such as /models")
    return normpath(folder)
