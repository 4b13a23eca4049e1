"""``ci-modelcache unpin``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("unpin", examples=(("placeholder", "ci-modelcache unpin"),))
def command(run: Run) -> None:
    """Let prune decide about a model again."""
    raise NotImplementedError(run)
