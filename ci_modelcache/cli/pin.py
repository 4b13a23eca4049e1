"""``ci-modelcache pin``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.changing import store_to_change
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.prune_words import pins
from ci_modelcache.cli.targets import stored
from ci_modelcache.verbs.keep import list_pins, pin_all

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "pin",
    examples=(
        ("no prune may drop this commit", "ci-modelcache pin org/name@v1.2 --reason 'in the product until 2027'"),
        ("what is pinned", "ci-modelcache pin"),
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--reason", default="", metavar="TEXT", help="Why, for people who read the list of pins.")
def command(run: Run, refs: tuple[str, ...], reason: str) -> None:
    """
    Keep a model, whatever prune is told.

    Without REF the pins are listed. Pinned is the commit that REF means to the store now, whole and in parts; a branch that moves on takes no pin with it.
    """
    if not refs:
        cache = run.cache_to_see()
        found = list_pins(cache)
        if not found:
            run.say(f"nothing is pinned in {cache.url}")
    else:
        cache = store_to_change(run)
        found = pin_all(tuple(stored(refs, cache=cache.alone, host=run.nobody)), cache=cache, reason=reason)
        run.say(f"pinned in {cache.url}, until unpin lets it go")
    run.show({"store": cache.url, "pins": found}, pins(found))
