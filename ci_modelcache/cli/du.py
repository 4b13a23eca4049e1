"""``ci-modelcache du``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.prune_words import used
from ci_modelcache.verbs.du import du

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "du",
    examples=(
        ("who uses how much", "ci-modelcache du --store s3://bucket/models"),
        ("the bytes that lie in the bucket", "ci-modelcache du --json | jq .total"),
    ),
)
def command(run: Run) -> None:
    """
    Show which models use how much of the store.

    SIZE counts a file for every snapshot that has it, STORED once. ITS OWN is what no other repository has: what would be free
    without it. No blob is read.
    """
    report = du(run.cache_to_see(), step=run.step)
    run.show(report, used(report))
