"""``ci-modelcache doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import examined
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.doctor import doctor

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "doctor",
    settings=("hub-cache",),
    examples=(
        ("this machine and the store", "ci-modelcache doctor"),
        ("the way to the Hub as well, with the token", "ci-modelcache doctor org/name@main"),
    ),
)
@click.argument("ref", required=False)
@click.pass_context
def command(ctx: click.Context, run: Run, ref: str | None) -> None:
    """
    Find out what is wrong with this machine's setup.

    The folders, the store and, when REF is given, the Hub are tried out. Unless the mode is read, a few small objects are
    written to the store and removed again. The exit code is that of the first failure.
    """
    run.forced = True  # what is examined is how it is now
    report = doctor(
        cache=run.cache_to_see,
        # Who is asked what a revision means; of mirrors `mirrors check` tells.
        upstream=lambda: run.upstream if run.config.offline else run.upstreams.authority,
        folders=(run.config.state, run.config.hub_cache),
        ref=None if ref is None else ModelRef.parse(ref),
        write=run.may_save,
        step=run.step,
    )
    run.show(report, examined(report))
    ctx.exit(report.exit_code)
