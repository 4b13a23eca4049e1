"""``ci-modelcache prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cache.collection import CollectOptions
from ci_modelcache.cli.changing import store_to_change
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.prune_words import pruned, pruning
from ci_modelcache.model.retention import DAY, Policy
from ci_modelcache.model.share import parse_share
from ci_modelcache.model.size import parse_size
from ci_modelcache.transfer.deadline import parse_duration
from ci_modelcache.verbs.locked import read_lock
from ci_modelcache.verbs.prune import PruneOptions, prune

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "prune",
    examples=(
        ("what would go", "ci-modelcache prune --keep-days 30 --keep-last 3 --keep-lock modelcache.lock"),
        ("and away with it", "ci-modelcache prune --keep-days 30 --keep-last 3 --keep-lock modelcache.lock --yes"),
        ("no more than this", "ci-modelcache prune --max-size 500G --yes"),
        ("nothing but garbage", "ci-modelcache prune --yes"),
    ),
)
@click.option("--yes", is_flag=True, help="Do it; without this nothing is changed.")
@click.option(
    "--keep-days", type=click.IntRange(min=1), metavar="N", help="Keep what was used or published in the last N days."
)
@click.option(
    "--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the last N commits of each repository."
)
@click.option(
    "--keep-lock", "keep_locks", multiple=True, metavar="FILE", help="Keep what this modelcache.lock names; repeatable."
)
@click.option(
    "--max-size", metavar="SIZE", help="Drop what was used least recently until the rest fits into this, such as 500G."
)
@click.option("--min-age", default="7d", show_default=True, metavar="TIME", help="Drop nothing that is younger.")
@click.option(
    "--keep-trash",
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How long what was dropped can be brought back.",
)
@click.option(
    "--grace",
    default="1d",
    show_default=True,
    metavar="TIME",
    help="How long garbage that was announced is left to whoever reads it.",
)
@click.option(
    "--max-share",
    default="20%",
    show_default=True,
    metavar="PERCENT",
    help="Refuse to drop or delete more than this of all bytes.",
)
@click.option("--allow-empty", is_flag=True, help="Allow that no snapshot is left.")
@click.option("--store-id", metavar="ID", help="Refuse a store whose modelcache.json has another id.")
@click.option("--all", "with_kept", is_flag=True, help="Show what stays, too, and why.")
def command(run: Run, /, *, yes: bool, with_kept: bool, **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Remove what nobody needs any more from the store.

    Without --yes nothing is changed, and a table shows what would go and why. Snapshots that no rule keeps are dropped: they lie in the
    trash, from where undelete brings them back. What nobody names any more is deleted by a later run. Without a rule only garbage goes.
    """
    options = _options(applies=yes, **given)
    cache = store_to_change(run) if yes else run.cache_to_see()
    report = prune(cache, options=options, step=run.step)
    for warning in report.warnings:
        run.warn(warning)
    for line in pruning(report):
        run.say(line)
    run.show(report, pruned(report, all_of_them=with_kept))


def _options(*, applies: bool, keep_days: int | None, max_size: str | None, **given: Any) -> PruneOptions:  # noqa: ANN401  # as above
    min_age = parse_duration(given["min_age"])
    policy = Policy(
        keep_for=None if keep_days is None else keep_days * DAY,
        keep_last=given["keep_last"],
        max_size=None if max_size is None else parse_size(max_size),
        min_age=min_age,
    )
    collect = CollectOptions(
        grace=parse_duration(given["grace"]),
        min_age=min(DAY, min_age),
        max_share=parse_share(given["max_share"]),
        may_be_empty=given["allow_empty"],
        expected_id=given["store_id"],
    )
    locks = tuple(read_lock(Path(path)) for path in given["keep_locks"])
    return PruneOptions(policy, locks, collect, keep_trash=parse_duration(given["keep_trash"]), applies=applies)
