"""``ci-modelcache pin``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("pin", examples=(("placeholder", "ci-modelcache pin"),))
def command(run: Run) -> None:
    """Keep a model, whatever prune is told."""
    raise NotImplementedError(run)
