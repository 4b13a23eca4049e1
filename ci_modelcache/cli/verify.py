"""``ci-modelcache verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import verified
from ci_modelcache.cli.targets import stored
from ci_modelcache.verbs.verify import verify

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "verify",
    examples=(
        ("the whole store, once a month", "ci-modelcache verify --store s3://bucket/models"),
        ("one model", "ci-modelcache verify org/name@main"),
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.pass_context
def command(ctx: click.Context, run: Run, refs: tuple[str, ...]) -> None:
    """
    Read stored models again and prove every byte.

    Without REF that is the whole store. Exit code 13 says that something is missing or wrong, and the output what.
    """
    cache = run.cache_to_see()
    snapshots = stored(refs, cache=cache, host=run.nobody)
    # A name that the store does not know fails now, not after hours of reading what the others mean.
    report = verify(tuple(snapshots) if refs else snapshots, cache=cache, step=run.step)
    run.show(report, verified(report))
    ctx.exit(report.exit_code)
