"""``ci-modelcache undelete``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.changing import meant, store_to_change
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.prune_words import trash
from ci_modelcache.verbs.keep import list_trash, trashed_snapshots, undelete_all

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "undelete",
    examples=(
        ("what can be brought back", "ci-modelcache undelete"),
        ("bring it back", "ci-modelcache undelete org/name@v1.2"),
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
def command(run: Run, refs: tuple[str, ...]) -> None:
    """
    Bring back models that prune dropped.

    Without REF what can be brought back is listed. Dropped models lie in the trash for a week, with all their bytes. What is back counts as published now.
    """
    if not refs:
        cache = run.cache_to_see()
        found = list_trash(cache)
        if not found:
            run.say(f"nothing lies in the trash of {cache.url}")
    else:
        cache = store_to_change(run)
        hint = "ci-modelcache undelete without REF lists what can be brought back; ci-modelcache fetch stores a model again"
        known = trashed_snapshots(cache)
        snapshots = meant(refs, known, cache=cache.alone, host=run.nobody, what="trash", hint=hint)
        found = undelete_all(snapshots, cache=cache)
        run.say(f"brought back in {cache.url}")
    run.show({"store": cache.url, "snapshots": found}, trash(found))
