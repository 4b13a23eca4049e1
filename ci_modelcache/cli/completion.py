"""``ci-modelcache completion``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from ci_modelcache.cli.command import verb

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run

VARIABLE = "_CI_MODELCACHE_COMPLETE"
_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@verb(
    "completion",
    examples=(
        ("bash, in ~/.bashrc", 'eval "$(ci-modelcache completion bash)"'),
        ("zsh, in ~/.zshrc", 'eval "$(ci-modelcache completion zsh)"'),
        ("fish", "ci-modelcache completion fish > ~/.config/fish/completions/ci-modelcache.fish"),
    ),
)
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def command(ctx: click.Context, run: Run, shell: str) -> None:
    """Print the script that completes commands in your shell."""
    root = ctx.find_root()
    complete = _SHELLS[shell](root.command, {}, str(root.info_name), VARIABLE)
    # Not `complete.source()`: for bash it would start one to see how old it is.
    script = ShellComplete.source(complete)
    run.show({"shell": shell, "script": script}, [script])
