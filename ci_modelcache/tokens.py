"""The only module that says where the token for a host comes from, and keeps it from hosts that a repository chose."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.mirror import Kind
from ci_modelcache.model.mirror_table import TOKEN_OF, MirrorTable, token_variable
from ci_modelcache.model.origin import Origin, Rank
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.mirror import Mirror

_log = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = re.compile(r"(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?")
_PUBLIC = ("HOME", "AWS_WEB_IDENTITY_TOKEN_FILE")
_NEEDED = (*_PUBLIC, "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "MODELCACHE_ID_TOKEN")
"""What a provider of files and the OIDC provider of GitHub's runners read, and what else says who a job is (`cli.identity`)."""
_NAMED = re.compile(r"\benv:([A-Za-z_]\w*)|[?&]variable=([A-Za-z_]\w*)")


def _shown(provider: str | Token) -> str:
    return repr(provider if isinstance(provider, Token) else redact(provider))


@frozen
class TokenSetting:
    """
    Where the token for one origin comes from.

    *address* is ``https://host`` or ``https://host:port``, in small letters and without the scheme's own port; the token is
    for nobody else. *provider* is its text (``file:PATH``, ``oidc:github?audience=A``, ...), or the `Token` itself when
    a variable holds it. *origin* is who said so.
    """

    address: str
    provider: str | Token = field(repr=_shown)
    origin: Origin

    @property
    def host(self) -> str:
        """Host name, with ``:port`` when it is not the scheme's own."""
        return self.address.partition("://")[2]

    @property
    def text(self) -> str:
        """The provider for people; a token is ``***``."""
        return str(self.provider) if isinstance(self.provider, Token) else redact(self.provider)


class Variables(Mapping[str, str]):
    """The few variables that providers of tokens may read. Their values are secrets: it shows nothing but names."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that nobody may see: all but those that name a place."""
        return tuple(value for name, value in self._values.items() if name not in _PUBLIC)

    def __repr__(self) -> str:
        return f"<variables {', '.join(sorted(self._values))}>"


@frozen
class Target:
    """Somebody who may be sent a token: *url*, and who named it."""

    url: str
    named: Rank

    @property
    def address(self) -> str:
        """The origin of *url*, spelled in one way."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{host}" + ("" if parts.port in {None, _PORTS.get(parts.scheme)} else f":{parts.port}")

    @property
    def host(self) -> str:
        """As in `TokenSetting`."""
        return self.address.partition("://")[2]

    @property
    def variables(self) -> tuple[str, ...]:
        """
        The variables that may hold its token.

        ``A_B`` may be meant for a.b or for a-b. Where a repository's file names the host, only the spelling counts that
        can mean no other one: whoever can change that file could otherwise register a host that fits a variable of the job.
        """
        strict = token_variable(self.host)
        return (strict,) if self.named is Rank.PROJECT else (strict, TOKEN_OF + re.sub(r"\W|_", "_", self.host.upper()))

    @property
    def is_open(self) -> bool:
        """Whether everybody between here and there could read the token."""
        return self.address.startswith("http://") and _LOOPBACK.fullmatch(self.host) is None


def targets(mirrors: tuple[tuple[Mirror, ...], Origin], endpoint: tuple[str, Origin]) -> tuple[Target, ...]:
    """The mirrors and the authority, as far as they speak HTTP; each origin once."""
    asked = [Target(endpoint[0], endpoint[1].rank)]
    asked += [Target(one.address, mirrors[1].rank) for one in mirrors[0] if one.kind is not Kind.STORE]
    return tuple({target.address: target for target in reversed(asked)}.values())[::-1]


@frozen
class TokenSearch:
    """All that may say where tokens come from; *stated* are the pairs of CI_MODELCACHE_TOKENS."""

    environ: Mapping[str, str]
    stated: tuple[tuple[str, str], ...]
    stated_at: Origin
    tables: tuple[tuple[MirrorTable, Rank], ...]

    def sources(self, asked: Iterable[Target]) -> tuple[TokenSetting, ...]:
        """
        Where the token for each of *asked* comes from, for those that have one.

        What names a host that is not asked, a variable that is not set, and a token that would be sent through an open
        line to a host of a repository's choice are warned about.
        """
        asked = tuple(asked)
        self._warn_of_strays(asked)
        return tuple(found for target in asked if (found := self._for(target)) is not None)

    def variables(self) -> Variables:
        """The variables that the providers name or need, as far as they are set."""
        texts = [provider for _, provider in self.stated]
        texts += [table.mirror.token for table, _ in self.tables if table.mirror.token]
        texts = [unquote(unquote(text)) for text in texts]  # a provider within another one may be quoted
        named = {name for text in texts for match in _NAMED.finditer(text) for name in match.groups() if name}
        return Variables({name: self.environ[name] for name in (*_NEEDED, *sorted(named)) if self.environ.get(name)})

    def _for(self, target: Target) -> TokenSetting | None:
        found = next(self._said(target), None)
        if found is None or not (target.is_open and target.named is Rank.PROJECT):
            return found
        _log.warning(
            "the token of %s is not used: a modelcache.toml of the project names %s, and without TLS anybody could read it",
            *(found.origin, target.address),
        )
        return None

    def _said(self, target: Target) -> Iterator[TokenSetting]:
        for name in target.variables:
            if value := self.environ.get(name):
                origin = Origin(Rank.VARIABLE, f"variable {name}")
                yield TokenSetting(target.address, _token(value, origin), origin)
        for host, provider in self.stated:
            if _same_host(host, target):
                yield from self._provided(target, provider, self.stated_at)
        for table, rank in self.tables:
            if table.mirror.token and Target(table.mirror.address, rank).address == target.address:
                yield from self._provided(target, table.mirror.token, Origin(rank, table.token_at))

    def _provided(self, target: Target, provider: str, origin: Origin) -> Iterator[TokenSetting]:
        if not provider.startswith("env:"):
            yield TokenSetting(target.address, provider, origin)
            return
        name = provider.removeprefix("env:")
        if value := self.environ.get(name):
            yield TokenSetting(target.address, _token(value, origin), origin)
        else:
            _log.warning("no token for %s: %s names the variable %s, which is not set", target.host, origin, name)

    def _warn_of_strays(self, asked: tuple[Target, ...]) -> None:
        known = {name for target in asked for name in target.variables}
        for name in sorted(self.environ):
            if name.startswith(TOKEN_OF) and self.environ[name] and name not in known:
                hosts = ", ".join(token_variable(target.host) for target in asked)
                _log.warning("variable %s is for no mirror and not for the endpoint; theirs are %s", name, hosts)
        for host, _ in self.stated:
            if not any(_same_host(host, target) for target in asked):
                _log.warning("%s: %s is no mirror and not the endpoint", self.stated_at, host)


def _same_host(host: str, target: Target) -> bool:
    scheme = target.address.partition("://")[0]
    return Target(f"{scheme}://{host}", target.named).address == target.address


def _token(value: str, origin: Origin) -> Token:
    try:
        return Token(value)
    except ConfigError as error:
        msg = f"{origin}: {error.message}"
        raise ConfigError(msg, hint="set the variable to the token alone, without quotes or line breaks") from error
