"""``ci-modelcache du``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("du", examples=(("placeholder", "ci-modelcache du"),))
def command(run: Run) -> None:
    """Show which models use how much of the store."""
    raise NotImplementedError(run)
