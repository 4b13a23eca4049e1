"""``ci-modelcache lock``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import count, locked
from ci_modelcache.errors import ConfigError
from ci_modelcache.verbs.lock import lock
from ci_modelcache.verbs.locked import check_lock, read_lock

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "lock",
    settings=("lock-file",),
    examples=(
        ("after a change to modelcache.toml; commit the result", "ci-modelcache lock"),
        ("in CI: fail if somebody forgot that", "ci-modelcache lock --check"),
        ("move branches and ranges forward", "ci-modelcache lock --upgrade"),
    ),
)
@click.option("--check", is_flag=True, help="Only look whether the lock matches modelcache.toml; asks nobody.")
@click.option("--upgrade", is_flag=True, help="Ask the Hub again what branches, tags and ranges mean.")
def command(run: Run, *, check: bool, upgrade: bool) -> None:
    """
    Write modelcache.lock: what --locked accepts, and nothing else.

    Every model of modelcache.toml is fetched into the store, for its files' digests; what is locked already
    stays at its commit. Commit modelcache.lock to git.
    """
    models, path = run.config.project.models, run.config.lock_file
    if check and upgrade:
        msg = "--check changes nothing, and --upgrade does"
        raise ConfigError(msg, hint="give one of the two")
    if not models:
        msg = f"{run.config.project.where} names no models to lock"
        raise ConfigError(msg, hint='add [[models]] repo = "org/name" to it')
    run.ci.named_in = (path,) if check else (Path(run.config.project.where),)
    if check:
        check_lock(models, read_lock(path))
        run.show({"path": str(path), "matches": len(models)}, [f"{path} matches: {count(len(models), 'model')}"])
        return
    run.forced = True  # somebody who has just pushed a tag locks it now
    report = lock(models, path, upgrade=upgrade, cache=run.cache_to_fill(), upstream=run.upstream, step=run.step)
    run.say(f"wrote {report.path} in {report.seconds:.1f} s; commit it")
    run.show(report, locked(report))
