"""The only module that knows the tokens of ``ci-modelcache auth login``: given once by a person, kept until logout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.tokens.issued import Issued, end_of
from ci_modelcache.sources.tokens.vault import EXTRA, Label, Vault

if TYPE_CHECKING:
    from ci_modelcache.sources.token import Token
    from ci_modelcache.transfer.deadline import Deadline

NAME = "keep"


@frozen
class Kept:
    """The token that was given for *host* (`Provider`)."""

    host: str
    vault: Callable[[], Vault]

    @property
    def name(self) -> str:
        return NAME

    def identity(self) -> str:
        return self.host

    def issue(self, *, deadline: Deadline) -> Issued:
        del deadline
        found = self.vault().get(Label(self.host, NAME))
        if found is None:
            msg = f"no token is kept for {self.host}"
            raise ConfigError(msg, hint=f"give it once: ci-modelcache auth login {self.host}")
        return found


def keep(host: str, token: Token, *, vault: Vault, now: float) -> None:
    """Keep *token* for *host*, from *now* on; raises `ConfigError` when it cannot be kept."""
    if not vault.keeps:
        msg = "a token cannot be kept without encryption, and the library for that is not installed"
        raise ConfigError(msg, hint=f"pip install '{EXTRA}', or name the token with env:NAME or file:PATH")
    label = Label(host, NAME)
    vault.put(label, Issued(token, now, end_of(token.secret)))
    read = vault.get(label)
    if read is None or read.token != token:
        msg = f"the token for {host} was not kept"
        raise ConfigError(msg, hint="the warning above says why; CI_MODELCACHE_STATE names another folder for it")
