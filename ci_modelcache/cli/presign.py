"""``ci-modelcache presign``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.output import Stdout
from ci_modelcache.cli.reports import presigned
from ci_modelcache.cli.targets import Asked, locks, naming_file, targets
from ci_modelcache.errors import ConfigError
from ci_modelcache.settings import variable
from ci_modelcache.sources.direct import DirectSession
from ci_modelcache.transfer.deadline import parse_duration
from ci_modelcache.transfer.outlet import FileOutlet
from ci_modelcache.verbs.export import held
from ci_modelcache.verbs.presign import presign, signing_of

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run
    from ci_modelcache.transfer.outlet import Outlet

_PRIVATE = 0o600


@verb(
    "presign",
    settings=("lock-file",),
    examples=(
        ("for a build: what modelcache.lock names, or else modelcache.toml", "ci-modelcache presign -o urls.json"),
        ("for longer, and one model", "ci-modelcache presign org/name@v1.2 --expires 2h > urls.json"),
        ("a part of a model", "ci-modelcache presign org/name --include '*.json' -o urls.json"),
    ),
)
@naming
@click.option(
    "--expires",
    default="1h",
    show_default=True,
    metavar="TIME",
    envvar=variable("expires"),
    help="For how long the URLs are good, such as 2h; at most 7d, and no longer than the credentials.",
)
@click.option(
    "-o",
    "--output",
    default="-",
    show_default=True,
    metavar="FILE",
    envvar=variable("output"),
    help="Where the list goes: a file that only you can read, or stdout (-).",
)
@locking
@selecting
def command(run: Run, expires: str, output: str, *, locked: bool | None, **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Print URLs by which a build reads models without credentials.

    The list has a signed URL for every object that restore --from-urls reads. Whoever has it can read these objects until the URLs end, and nothing else: keep
    it secret. Without REF all models of modelcache.lock are meant, or where there is none of modelcache.toml. What the store lacks is a miss (10).
    """
    outlet, seconds, named = _outlet(output, run), _seconds(expires), bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held_to = locks(run.config, locked=locked, named=named)
    chosen = targets(Asked(**given), run.config, locks=held_to)
    cache = run.cache_to_see()
    signing_of(cache, seconds=seconds)  # before the store is asked for anything
    models = [held(each.ref, each.selection, locks=held_to, cache=cache, host=run.nobody) for each in chosen]
    session = DirectSession(ca_bundle=run.config.store_ca_bundle, secrets=run.secrets)
    report = presign(models, outlet, seconds=seconds, cache=cache, step=run.step, session=session)
    for warning in report.warnings:
        run.warn(warning)
    run.say(presigned(report))
    if isinstance(outlet, FileOutlet):
        run.show(report, [report.path])


def _seconds(expires: str) -> int:
    try:
        seconds = int(parse_duration(expires))
    except ConfigError as error:
        msg = f"--expires: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error
    if seconds < 1:
        msg = f"--expires {expires}: the URLs would have ended already"
        raise ConfigError(msg, hint="write a time such as 2h")
    return seconds


def _outlet(output: str, run: Run) -> Outlet:
    """Where *output* says that the list goes."""
    if output == "-":
        if run.as_json:
            msg = "--json prints the result on stdout, where the list of URLs is to go, which is JSON too"
            raise ConfigError(msg, hint="name a file: -o FILE")
        return Stdout("list of URLs")
    if not output or "://" in output:
        msg = f"--output {output} is no file to write to" if output else "--output names no file"
        raise ConfigError(msg, hint="name a file, or leave it out to write to stdout")
    return FileOutlet(Path(output).absolute(), mode=_PRIVATE)
