"""``ci-modelcache info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import selecting
from ci_modelcache.cli.reports import described
from ci_modelcache.cli.targets import Asked
from ci_modelcache.verbs.inspect import info

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "info",
    examples=(
        ("its files, sizes and digests", "ci-modelcache info org/name@main"),
        ("the digest alone, as a cache key", "ci-modelcache info org/name --json | jq -r .digest"),
    ),
)
@click.argument("ref")
@selecting
def command(run: Run, ref: str, **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Show what the store holds of a model.

    The Hub is not asked: a branch is taken as the store saw it last.
    """
    for target in Asked((ref,), **given).named():
        found = info(target.ref, selection=target.selection, cache=run.cache_to_see(), upstream=run.nobody)
        run.show(found, described(found))
