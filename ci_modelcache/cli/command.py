"""
The only module that knows what all commands have in common: options made from settings, examples, logging, configuration.

A command is a function of a `Run` and its own parameters; `verb` makes the rest.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click
from attrs import evolve

from ci_modelcache.cli.logs import logging_to_stderr
from ci_modelcache.cli.run import Run
from ci_modelcache.cli.telling import Telling, channel_to, checkout_of, surroundings
from ci_modelcache.config import Config, Origin, Rank, environment, in_build, in_container, mounted_tier
from ci_modelcache.errors import ConfigError
from ci_modelcache.kinds import PATH, SWITCH
from ci_modelcache.model.hidden import Secrets
from ci_modelcache.model.redact import RedactingFilter, redact
from ci_modelcache.settings import SETTINGS, Flag, Setting
from ci_modelcache.transfer.scratch import IN_MEMORY, USUAL, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

P = ParamSpec("P")

_ABOUT_MODELS = frozenset({"restore", "fetch", "warm", "save", "export", "docker context", "docker build"})
"""The commands that have an outcome which a CI system is told."""
_OUTPUT = ("quiet", "verbose", "json")


class SettingOption(click.Option):
    """The flag of a setting; unset unless given, so that `Config` can look elsewhere."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        flag = f"--{setting.name}/--no-{setting.name}" if setting.kind is SWITCH else setting.option
        kind: Any = click.Choice(setting.kind.choices) if setting.kind.choices else None
        kind = click.Path() if setting.kind is PATH else kind
        metavar = None if setting.kind is SWITCH or setting.kind.choices else setting.kind.metavar
        many, name = setting.flag_name is not None, setting.attribute
        super().__init__([flag, name], type=kind, default=None, multiple=many, metavar=metavar, help=setting.help)


class Command(click.Command):
    """A command whose help ends with *examples*: pairs of a comment and a command line."""

    def __init__(self, name: str, *, examples: Iterable[tuple[str, str]], **attributes: Any) -> None:  # noqa: ANN401  # click's
        super().__init__(name, **attributes)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first; those that are settings stand apart."""
        own: list[tuple[str, str]] = []
        settings: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                (settings if isinstance(param, SettingOption) else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        if settings:
            with formatter.section("Settings, also read from variables CI_MODELCACHE_<NAME> and from modelcache.toml"):
                formatter.write_dl(settings)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Examples"):
            for comment, line in self.examples:
                formatter.write(f"  # {comment}\n  {line}\n")


def verb(
    name: str, *, examples: Iterable[tuple[str, str]], settings: Iterable[str] = ()
) -> Callable[[Callable[Concatenate[Run, P], None]], Command]:
    """Make a command of a function; besides the common ones it gets the flags of *settings*."""
    chosen = [s for s in SETTINGS if s.flag is Flag.COMMON or s.name in settings]

    def decorate(function: Callable[Concatenate[Run, P], None]) -> Command:
        @click.pass_context
        def run(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> None:
            given: dict[str, Any] = kwargs
            flags = {setting.name: given.pop(setting.attribute) for setting in chosen}
            output = {key: given.pop(key) for key in _OUTPUT}
            begun = _begin(ctx, name, flags, output)
            with begun.ci.command(finishing=name in _ABOUT_MODELS):
                function(begun, *args, **kwargs)

        own = list(reversed(getattr(function, "__click_params__", ())))
        params = [*own, *_output_options(), *(SettingOption(setting) for setting in chosen)]
        # Of a group: its own name is the last word.
        return Command(name.rpartition(" ")[2], examples=examples, callback=run, params=params, help=function.__doc__)

    return decorate


def _output_options() -> list[click.Option]:
    return [
        click.Option(["-q", "--quiet"], count=True, help="Say nothing but errors."),
        click.Option(["-v", "--verbose"], count=True, help="Say more; -vv names every request."),
        click.Option(["--json"], is_flag=True, help="Print the result as one JSON object."),
    ]


def _begin(ctx: click.Context, name: str, flags: dict[str, object], output: dict[str, Any]) -> Run:
    """Set up logging, then find the settings: what they warn about is to be seen."""
    outer = ctx.find_root().params if ctx.parent is not None else {}
    verbosity = sum(given["verbose"] - given["quiet"] for given in (outer, output) if given)
    secrets = ctx.find_object(Secrets) or Secrets()
    handler = ctx.with_resource(logging_to_stderr(verbosity))
    handler.addFilter(RedactingFilter(secrets=secrets))
    environ, built = environment(), in_build()
    config = _settings(ctx, flags, environ, secrets, command=name, built=built)
    for secret in config.secrets:
        secrets.add(secret)
    as_json = bool(output["json"] or outer.get("json"))
    run = Run(
        config,
        command=name,
        as_json=as_json,
        verbosity=verbosity,
        secrets=secrets,
        environ=environ,
        in_build=built,
    )
    secrets.listen(run.ci.channel.hide)
    ctx.call_on_close(run.close)
    return run


def _settings(
    ctx: click.Context,
    flags: dict[str, object],
    environ: Mapping[str, str],
    secrets: Secrets,
    *,
    command: str,
    built: bool,
) -> Config:
    """The settings of *command*; that they cannot be read is told like everything that ends a command."""
    try:
        config = Config.load(flags, environ=environ, cwd=Path.cwd(), in_container=in_container(), tier=mounted_tier())
        return _leaving_nothing(ctx, config, environ) if built else config
    except ConfigError:
        channel = channel_to(surroundings(environ), environ, pages="")
        telling = Telling(channel, root=checkout_of(environ), redact=partial(redact, secrets=secrets))
        with telling.command(finishing=command in _ABOUT_MODELS):
            raise


def _leaving_nothing(ctx: click.Context, config: Config, environ: Mapping[str, str]) -> Config:
    """*config*, for the build of an image: unless somebody said where, notes are kept in memory while *ctx* lasts."""
    if config.origins["state"].rank is not Rank.DEFAULT:
        return config
    # Not in the tier: other builds write there, too, and a receipt or a token is believed as it is.
    named = [Path(environ["TMPDIR"])] if environ.get("TMPDIR") else []
    state = ctx.with_resource(scratch([IN_MEMORY, *named, *USUAL]))
    why = "default in the build of an image: removed at the end"
    return evolve(config, state=state, origins=config.origins | {"state": Origin(Rank.DEFAULT, why)})
