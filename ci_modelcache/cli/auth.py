"""``ci-modelcache auth``."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import authenticated, count
from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.token import Token
from ci_modelcache.sources.tokens.issued import token_of
from ci_modelcache.verbs.auth import Named, host_of, login, logout, status

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run

_MAX_TOKEN = 64 * 1024


@verb(
    "auth",
    examples=(
        ("which token goes where, and until when?", "ci-modelcache auth status"),
        ("keep one, encrypted: it is asked for", "ci-modelcache auth login hub.internal"),
        ("the same in a script, from a file", "ci-modelcache auth login hub.internal < token.txt"),
        ("forget it, and what was traded for it", "ci-modelcache auth logout hub.internal"),
    ),
)
@click.argument("action", type=click.Choice(("status", "login", "logout")))
@click.argument("host", required=False)
def command(run: Run, action: str, host: str | None) -> None:
    """
    Show, keep or forget the access tokens of hosts.

    status lists the hosts that tokens are for, without the tokens. login HOST keeps a token, which is typed without being shown or
    read from stdin, never given as an argument: those are seen by everybody on the machine. logout HOST forgets all for HOST.
    """
    if action == "status":
        report = status(_named(run), vault=run.upstreams.vault)
        run.show(report, authenticated(report))
        return
    if host is None:
        msg = f"{action} of which host? it comes after {action}"
        raise click.UsageError(msg)
    known = host_of(host)
    if action == "logout":
        forgotten = logout(known, vault=run.upstreams.vault)
        run.show({"host": known, "forgotten": forgotten}, [f"{known}: {count(forgotten, 'token')} forgotten"])
        return
    login(known, _token(run, known), vault=run.upstreams.vault, now=time.time())
    used = any(one.host == known for one in run.config.token_sources)
    if not used:
        run.say(
            f'it is used once somebody says so: CI_MODELCACHE_TOKENS={known}=keep, or token = "keep" in your own [[mirrors]]'
        )
    run.show(
        {"host": known, "protection": run.upstreams.vault.protection},
        [f"{known}: kept, {run.upstreams.vault.protection}"],
    )


def _named(run: Run) -> list[Named]:
    config = run.config
    named = [
        Named(one.host, one.text, str(one.origin), one.provider if isinstance(one.provider, Token) else None)
        for one in config.token_sources
    ]
    endpoint = host_of(config.endpoint)
    if config.token is not None and all(one.host != endpoint for one in named):
        named.append(Named(endpoint, str(config.token), str(config.origins["token"]), config.token))
    return named


def _token(run: Run, host: str) -> Token:
    stdin = sys.stdin
    if stdin.isatty():
        text = str(click.prompt(f"token for {host}", hide_input=True, err=True))
    else:
        text = stdin.read(_MAX_TOKEN)
    if not text.strip():
        raise ConfigError("no token was given", hint=f"pipe it in: ci-modelcache auth login {host} < FILE")
    run.secrets.add(text.strip())
    return token_of(text, name="stdin", hint="give the token alone, without quotes")
