"""``ci-modelcache config``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import settings
from ci_modelcache.cli.shown import rows
from ci_modelcache.settings import SETTINGS, Flag

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "config",
    settings=[setting.name for setting in SETTINGS if setting.flag is Flag.SOME],
    examples=(
        ("why does it use that store?", "ci-modelcache config"),
        ("one value in a script", "ci-modelcache config --json | jq -r .settings.store.value"),
    ),
)
def command(run: Run) -> None:
    """
    Show every setting and where it comes from.

    Secrets are shown as ***.
    """
    shown = rows(run.config)
    values = {row.name: {"value": row.value, "origin": row.origin} for row in shown}
    run.show({"settings": values, "models": run.config.project.models}, settings(shown))
