"""``ci-modelcache import``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("import", examples=(("placeholder", "ci-modelcache import"),))
def command(run: Run) -> None:
    """Put the models of an archive into the store."""
    raise NotImplementedError(run)
