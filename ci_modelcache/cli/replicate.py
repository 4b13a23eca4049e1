"""``ci-modelcache replicate``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.opening import open_named
from ci_modelcache.cli.reports import replicated
from ci_modelcache.cli.targets import stored
from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.locations import place_of
from ci_modelcache.stores.protocol import OnDisk
from ci_modelcache.transfer.deadline import parse_duration
from ci_modelcache.verbs.replicate import Replication, watch

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run
    from ci_modelcache.verbs.replicate import ReplicateReport


@verb(
    "replicate",
    examples=(
        ("all that the other region lacks", "ci-modelcache replicate s3://models-eu s3://models-us?region=us-east-1"),
        ("one model", "ci-modelcache replicate s3://models-eu /mnt/models org/name@main"),
        (
            "between providers, slowly, for ever",
            "ci-modelcache replicate s3://models 's3://copy?endpoint_url=https://s3.example&profile=copy' --limit-rate 20MB --watch",
        ),
    ),
)
@click.argument("source")
@click.argument("destination")
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--pins", is_flag=True, help="Pin there what is pinned here, too.")
@click.option("--watch", "watching", is_flag=True, help="Go on until --deadline, or until it is stopped.")
@click.option(
    "--every", metavar="TIME", default="60s", show_default=True, help="With --watch: about how often to look."
)
@click.pass_context
def command(  # noqa: PLR0913  # one for each option
    ctx: click.Context,
    run: Run,
    source: str,
    destination: str,
    refs: tuple[str, ...],
    *,
    pins: bool,
    watching: bool,
    every: str,
) -> None:
    """
    Copy what another store lacks, and nothing else.

    SOURCE and DESTINATION are stores: s3://BUCKET/PREFIX or a folder; --store does not count. Without REF all snapshots of SOURCE are
    meant. Every byte is proven on the way, and nothing is removed. Exit code 13 says that something in SOURCE is wrong, 10 that it is missing.
    """
    run.require_writing()
    pause = parse_duration(every)
    if pause <= 0:
        msg = f"--every {every} leaves no pause between two rounds"
        raise ConfigError(msg, hint="write a time such as 60s")
    here, there = _caches(run, source, destination)
    snapshots = partial(stored, refs, cache=here, host=run.nobody)
    replication = Replication(here, there, step=run.step, pins=pins)
    if watching:
        report = watch(snapshots, replication=replication, every=pause, step=run.step, told=partial(_tell, run))
    else:
        report = replication.round(snapshots())
    run.show(report, replicated(report))
    ctx.exit(report.exit_code)


def _caches(run: Run, source: str, destination: str) -> tuple[ModelCache, ModelCache]:
    """The two stores; the limit of all transfers counts each byte once, on its way over a network."""
    endpoint = run.config.endpoint_url
    if place_of(source, endpoint_url=endpoint) == place_of(destination, endpoint_url=endpoint):
        msg = f"SOURCE and DESTINATION are the same store: {source}"
        raise ConfigError(msg, hint="name another one to copy to")
    here = open_named(source, run, create=False, needed=True)
    there = open_named(destination, run, create=True, needed=True)
    if isinstance(here, OnDisk):
        there = run.paced(there)
    else:
        here = run.paced(here)
    return ModelCache(here, retry=run.retry), ModelCache(there, retry=run.retry)


def _tell(run: Run, report: ReplicateReport) -> None:
    """What a round did, on stderr, when it did anything."""
    if report.copied or report.failed or report.heads:
        for line in replicated(report):
            run.say(line)
