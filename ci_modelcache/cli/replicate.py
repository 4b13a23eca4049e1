"""``ci-modelcache replicate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb("replicate", examples=(("placeholder", "ci-modelcache replicate"),))
def command(run: Run) -> None:
    """Copy what another store lacks, and nothing else."""
    raise NotImplementedError(run)
