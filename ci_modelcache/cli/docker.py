"""
``ci-modelcache docker``: the group of the commands about images.

Each is ``verb("docker <name>", ...)`` in the module ``cli/docker_<name>.py``, which is imported only when it is used.
"""

from __future__ import annotations

import click

from ci_modelcache.cli.groups import Group

COMMANDS = {
    "context": "Put models into a build context, or stream it with them.",
    "build": "Build an image from a context, with the models in it.",
    "inspect": "Show which models an image says it has.",
    "verify": "Prove every model file in an image against the lock.",
}
"""Every command and its summary, which a test compares with the command's own."""


class Docker(Group):
    table = COMMANDS
    prefix = "ci_modelcache.cli.docker_"


@click.group("docker", cls=Docker, no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context, /) -> None:
    """
    Build images with models in them, and check what is in one.

    The models lie in the image as modelcache.lock has them; layers do not change when bytes do not.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
