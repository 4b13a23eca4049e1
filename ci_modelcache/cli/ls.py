"""``ci-modelcache ls``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import listed
from ci_modelcache.verbs.inspect import list_snapshots

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "ls",
    examples=(
        ("what is in the bucket", "ci-modelcache ls --store s3://bucket/models"),
        ("for scripts", "ci-modelcache ls --json"),
    ),
)
def command(run: Run) -> None:
    """
    List the snapshots in the store.

    Each line is a repository, the revisions that mean this commit, the commit, which files, how many, how large.
    """
    cache = run.cache_to_see()
    snapshots = list_snapshots(cache)
    if not snapshots:
        run.say(f"{cache.url} holds no snapshots")
    run.show({"store": cache.url, "snapshots": snapshots}, listed(snapshots))
