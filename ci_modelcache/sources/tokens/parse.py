"""The only module that reads which provider of tokens a text names: ``env:NAME``, ``file:PATH``, ``exchange:URL?...``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.tokens.cached import Asking, Cached, Direct
from ci_modelcache.sources.tokens.endpoint import checked_address
from ci_modelcache.sources.tokens.exchange import Exchange, Grant
from ci_modelcache.sources.tokens.keep import Kept
from ci_modelcache.sources.tokens.local import AtHand, FromCommand, from_file, from_variable
from ci_modelcache.sources.tokens.oidc import GitHub, GitLab
from ci_modelcache.sources.tokens.vault import Vault
from ci_modelcache.transfer.events import Events, Unrecorded

if TYPE_CHECKING:
    from ci_modelcache.sources.token import Token, TokenSource
    from ci_modelcache.sources.tokens.issued import Provider

HINT = (
    "write env:NAME, file:PATH, command:PROGRAM ARGUMENTS, oidc:github?audience=A, oidc:gitlab?variable=NAME, "
    "exchange:URL?subject=PROVIDER, or keep"
)

_OPTIONS = ("subject", "grant", "body", "type", "audience", "scope", "resource", "client_id")
_SENT = ("audience", "scope", "resource", "client_id")
_TYPE = "urn:ietf:params:oauth:token-type:"


@frozen
class Means:
    """What providers work with. *environ* are the variables; relative paths begin in *folder*; *locks* may be made anew any time."""

    session: HttpSession
    vault: Callable[[], Vault]
    locks: Path
    environ: Mapping[str, str] = field(factory=dict, repr=False)
    folder: Path = field(factory=Path.cwd)
    events: Events = field(factory=Unrecorded)


def token_source(text: str, *, host: str, means: Means) -> TokenSource:
    """The provider that *text* names, for the tokens of *host*; raises `ConfigError` saying what could have been written."""
    provider = provider_named(text, host=host, means=means)
    asking = Asking(host, provider, secrets=means.session.secrets, events=means.events)
    if isinstance(provider, FromCommand | GitHub | Exchange):
        return Cached(asking, vault=means.vault, locks=means.locks, now=means.session.now)
    return Direct(asking)


def given_source(token: Token, *, host: str, origin: str, means: Means) -> TokenSource:
    """*token* for *host*; *origin* says who named it."""
    provider = AtHand(origin, lambda: token, means.session.now)
    return Direct(Asking(host, provider, secrets=means.session.secrets, events=means.events))


def provider_named(text: str, *, host: str, means: Means) -> Provider:
    """As `token_source`, but the provider itself, which keeps nothing."""
    kind, colon, rest = text.strip().partition(":")
    if kind == "keep" and not colon:
        return Kept(host, means.vault)
    now = means.session.now
    if not rest.strip():
        raise _unknown(text)
    match kind:
        case "env":
            return from_variable(rest, means.environ, now)
        case "file":
            return from_file(_path(rest, means), now)
        case "command":
            return FromCommand.parse(rest, secrets=means.session.secrets, now=now)
        case "oidc":
            return _oidc(rest, means)
        case "exchange":
            return _exchange(rest, host, means)
    raise _unknown(text)


def _unknown(text: str) -> ConfigError:
    # The value could be the token itself, written where its provider belongs: it is not repeated.
    kind, colon, _ = text.strip().partition(":")
    named = f" {kind}:" if colon and kind.isalpha() and len(kind) < 12 else ""  # noqa: PLR2004  # longer than any
    return ConfigError(f"no provider of tokens is named{named}; a token itself is not accepted here", hint=HINT)


def _path(text: str, means: Means) -> Path:
    if text.startswith("~/"):
        return Path(text).expanduser()
    return means.folder / text


def _oidc(rest: str, means: Means) -> Provider:
    system, _, query = rest.partition("?")
    if system == "github":
        options = _options("oidc:github", query, ("audience",))
        return GitHub(options.get("audience"), means.environ, means.session)
    if system == "gitlab":
        options = _options("oidc:gitlab", query, ("variable",))
        if "variable" not in options:
            raise ConfigError(
                "oidc:gitlab: names no variable", hint="write oidc:gitlab?variable=NAME, as in id_tokens:"
            )
        return GitLab(options["variable"], means.environ, means.session)
    msg = f"oidc: expected github or gitlab, got {redact(system)!r:.40}"
    raise ConfigError(msg, hint=HINT)


def _exchange(rest: str, host: str, means: Means) -> Provider:
    url, _, query = rest.partition("?")
    origin = checked_address(url)
    if "@" in urlsplit(url).netloc:
        msg = f"exchange: a user name or password in the address of {origin}"
        raise ConfigError(msg, hint="name what is traded with subject=env:NAME")
    options = _options("exchange", query, _OPTIONS)
    if "subject" not in options:
        msg = f"exchange: what is traded at {origin} is not named"
        raise ConfigError(
            msg, hint="append ?subject=PROVIDER, such as ?subject=oidc:github; & and % in it as %26 and %25"
        )
    subject = provider_named(options["subject"], host=host, means=means)
    grant, body = options.get("grant", Grant.EXCHANGE), options.get("body", "form")
    if grant not in list(Grant) or body not in {"form", "json"}:
        msg = f"exchange: expected grant={' or '.join(Grant)} and body=form or json, got {grant!r:.40} and {body!r:.40}"
        raise ConfigError(msg)
    sent = [(name, options[name]) for name in _SENT if name in options]
    if "type" in options:
        kind = options["type"]
        sent.append(("subject_token_type", kind if ":" in kind else _TYPE + kind))
    return Exchange(url, origin, subject, Grant(grant), tuple(sent), body == "json", means.session)


def _options(what: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    # A plus stands for itself: command lines and scopes are written here by hand.
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    for name, value in pairs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            msg = f"{what}: there is no option {redact(name)!r:.40}{guess}"
            raise ConfigError(msg, hint=f"the options are {', '.join(known)}")
        if not value:
            msg = f"{what}: {name} is empty"
            raise ConfigError(msg)
    options = dict(pairs)
    if len(options) != len(pairs):
        msg = f"{what}: an option is given twice"
        raise ConfigError(msg)
    return options
