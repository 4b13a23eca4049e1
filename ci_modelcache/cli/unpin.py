"""``ci-modelcache unpin``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.changing import meant, store_to_change
from ci_modelcache.cli.command import verb
from ci_modelcache.verbs.keep import pinned_snapshots, unpin_all

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("unpin", examples=(("prune may drop it again", "ci-modelcache unpin org/name@v1.2"),))
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
def command(run: Run, refs: tuple[str, ...]) -> None:
    """
    Let prune decide about a model again.

    By itself that removes nothing. Unpinned is the commit that REF means to the store now, whole and in parts.
    """
    cache = store_to_change(run)
    known = pinned_snapshots(cache)
    hint = "ci-modelcache pin without REF lists the pins"
    snapshots = meant(refs, known, cache=cache.alone, host=run.nobody, what="pin", hint=hint)
    names = unpin_all(snapshots, cache=cache)
    run.show({"store": cache.url, "unpinned": names}, names)
