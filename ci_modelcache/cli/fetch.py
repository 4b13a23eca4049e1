"""``ci-modelcache fetch``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import naming, selecting
from ci_modelcache.cli.reports import fetched, pinned
from ci_modelcache.cli.targets import Asked, targets
from ci_modelcache.verbs.fetch import FetchReport, fetch

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "fetch",
    settings=("encoding",),
    examples=(
        ("before the jobs that need it", "ci-modelcache fetch org/name@main org/other@v2"),
        ("everything in modelcache.toml, at night", "ci-modelcache fetch --store s3://bucket/models"),
        ("a part of a data set", "ci-modelcache fetch dataset:org/name --include 'test/*'"),
    ),
)
@naming
@click.option("--force-download", is_flag=True, help="Fetch everything again, and replace what the store has.")
@selecting
def command(run: Run, *, force_download: bool, **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Fill the store with models, and restore nothing.

    The Hub is always asked what a branch means now. Without REF all models of modelcache.toml are meant.
    The commit of each is printed, as a REF that means exactly this for ever.
    """
    run.forced = force_download
    chosen = targets(Asked(**given), run.config)
    cache, reports = run.cache_to_fill(), list[FetchReport]()
    for target in chosen:
        with run.telling(target.ref) as tell:
            report = fetch(
                target.ref,
                selection=target.selection,
                cache=cache,
                upstream=run.upstream,
                step=run.step,
                force=force_download,
            )
            tell(report)
        reports.append(report)
        run.say(fetched(reports[-1]))
    run.show({"snapshots": reports}, [pinned(report.ref, report.commit) for report in reports])
