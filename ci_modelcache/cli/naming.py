"""The only module that declares the arguments and options by which models are named, chosen and locked; several commands have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.model.ref import RepoType
from ci_modelcache.settings import variable

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*options: Decorator) -> Decorator:
    """One decorator of several *options*, which help shows in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


naming = click.argument("refs", nargs=-1, metavar="[REF]...", envvar=variable("models"))
"""Which models."""

locking = click.option(
    "--locked/--no-locked",
    default=None,
    envvar=variable("locked"),
    help="Take nothing but what modelcache.lock names; without REF that is the default where there is one.",
)
"""Whether the lock says which."""

of_kind = click.option(
    "--type", type=click.Choice([kind.value for kind in RepoType]), help="What kind of repository; default: model."
)
"""Of which kind a model is."""

picking = _all(
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        envvar=variable("include"),
        help="Take only files such as '*.json'; repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        envvar=variable("exclude"),
        help="Leave out files such as '*.bin'; repeatable.",
    ),
)
"""Which files of it."""

selecting = _all(
    click.option("--revision", metavar="REV", help="Branch, tag or commit; the same as REF@REV."), of_kind, picking
)
"""What says more about models than their names do."""
