"""``ci-modelcache undelete``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("undelete", examples=(("placeholder", "ci-modelcache undelete"),))
def command(run: Run) -> None:
    """Bring back models that prune dropped."""
    raise NotImplementedError(run)
