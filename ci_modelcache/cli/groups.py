"""The only module that knows groups of commands: tables of names and summaries, whose modules are imported when used."""

from __future__ import annotations

import difflib
import importlib
import keyword
from typing import TYPE_CHECKING, ClassVar

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem


def command_in(module: str) -> click.Command:
    """The command of *module*, which is imported; where its last word is one of Python's own, an underscore follows: ``import_``."""
    name = f"{module}_" if keyword.iskeyword(module.rpartition(".")[2]) else module
    command: click.Command = importlib.import_module(name).command
    return command


class Group(click.Group):
    """The commands of *table*, by name and summary; that of the name x is `command_in` the module *prefix* + x."""

    table: ClassVar[Mapping[str, str]]
    prefix: ClassVar[str]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in self.table:
            return None
        return command_in(f"{self.prefix}{cmd_name}")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        # At TAB click parses resiliently: a message would be written into the prompt.
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.table, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            msg = f"there is no command {name}{guess}"
            raise click.UsageError(msg, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # only the shell's TAB needs it

        names = [name for name in self.table if name.startswith(incomplete)]
        own = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=self.table[name]) for name in names] + own
