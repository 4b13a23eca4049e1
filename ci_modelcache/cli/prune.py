"""``ci-modelcache prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("prune", examples=(("placeholder", "ci-modelcache prune"),))
def command(run: Run) -> None:
    """Remove what nobody needs any more from the store."""
    raise NotImplementedError(run)
