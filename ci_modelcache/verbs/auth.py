"""The only module that keeps tokens for people, and says which hosts have one; it never shows one."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.token import Token
from ci_modelcache.sources.tokens.issued import end_of
from ci_modelcache.sources.tokens.keep import NAME, keep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.sources.tokens.vault import Note, Vault

_HOST = re.compile(r"[\w.-]+(?::\d+)?|\[[0-9a-f:.]+\](?::\d+)?")


@frozen
class Named:
    """Somebody's word, *origin*, on where the token for *host* comes from: *provider*, or *token* itself."""

    host: str
    provider: str
    origin: str
    token: Token | None = None


@frozen
class HostTokens:
    """The tokens for one host."""

    host: str
    """The host, with its port if that is not the usual one."""
    provider: str
    """What provides the token; `***` is a token that was given itself."""
    origin: str
    """Who named it: a variable, a line of a file, `auth login`."""
    until: str | None
    """Until when the token here is good (UTC); null: there is none, or it does not say."""
    kept: bool
    """Whether one is on the disk, encrypted."""
    readable: bool
    """Whether the key is here that it was encrypted with."""


@frozen
class AuthReport:
    """What `status` found."""

    protection: str
    """How tokens are kept that outlast a process."""
    hosts: tuple[HostTokens, ...]
    """The hosts that tokens are for."""


def host_of(text: str) -> str:
    """The host that *text*, a name or a URL, means, spelled as everywhere; raises `ConfigError`."""
    try:
        host = Origin.of(text if "://" in text else f"https://{text}").authority
    except ValueError:
        host = ""
    if not _HOST.fullmatch(host):
        msg = f"not a host: {redact(text)!r:.100}"
        raise ConfigError(msg, hint="write hub.internal, hub.internal:8443 or https://hub.internal")
    return host


def status(named: Iterable[Named], *, vault: Vault) -> AuthReport:
    """Which hosts have tokens, from where and until when; nobody is asked for one."""
    notes = vault.notes()
    rows = []
    for one in named:
        mine = [note for note in notes if note.host == one.host and (note.provider == NAME) == (one.provider == NAME)]
        until = None if one.token is None else end_of(one.token.secret)
        rows.append(_row(one.host, one.provider, one.origin, mine, vault, until))
    known = {(row.host, row.provider == NAME) for row in rows}
    for note in notes:
        if (note.host, note.provider == NAME) not in known:
            origin = "auth login" if note.provider == NAME else "an earlier run"
            rows.append(_row(note.host, note.provider, origin, [note], vault, None))
    # The key is looked for when there is something to open: status makes none.
    protection = vault.protection if notes or not vault.keeps else "nothing is kept"
    return AuthReport(protection, tuple(rows))


def _row(  # the columns of a table
    host: str, provider: str, origin: str, notes: list[Note], vault: Vault, until: float | None
) -> HostTokens:
    readable = [note for note in notes if vault.can_open(note)]
    ends = [until, *(note.until for note in readable)]
    latest = max((end for end in ends if end is not None), default=None)
    return HostTokens(host, provider, origin, _time(latest), kept=bool(notes), readable=bool(readable))


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        # A year beyond 9999, which a JWT may well name.
        return None


def login(host: str, token: Token, *, vault: Vault, now: float) -> None:
    """Keep *token* for *host* from *now*, in epoch seconds; raises `ConfigError` when that cannot be done encrypted."""
    vault.drop_all(host)
    keep(host, token, vault=vault, now=now)


def logout(host: str, *, vault: Vault) -> int:
    """Keep no token for *host* any longer, given or cached; returns how many there were."""
    return vault.drop_all(host)
