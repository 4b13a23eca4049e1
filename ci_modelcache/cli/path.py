"""``ci-modelcache path``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.model.ref import ModelRef

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "path",
    settings=("hub-cache",),
    examples=(("in a script", 'cp "$(ci-modelcache path org/name@main)/config.json" .'),),
)
@click.argument("ref")
def command(run: Run, ref: str) -> None:
    """
    Print where a restored model is.

    That is its snapshot in the Hugging Face cache. Nobody is asked, and nothing is read again.
    """
    parsed = ModelRef.parse(ref)
    layout = HubCacheLayout(run.config.hub_cache, parsed.repo, parsed.type)
    commit = layout.resolve(parsed.revision)
    path = str(layout.snapshot_path(commit))
    run.show({"ref": str(parsed), "commit": commit, "path": path}, [path])
