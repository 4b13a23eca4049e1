"""The only module that reads the ``[[mirrors]]`` tables of a modelcache.toml."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.mirror import Kind, Mirror, is_provider, mirror_url
from ci_modelcache.model.rate import parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ci_modelcache.model.table import Table

TOKEN_OF = "CI_MODELCACHE_TOKEN_"  # noqa: S105  # a name
"""What the variable of a host's token begins with."""

MIRROR_KEYS = ("url", "priority", "token", "region", "max_rate", "trust")
_LAST = 9999
REGION = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
"""What botocore takes for a region: one label of a host name."""


@frozen
class MirrorTable:
    """One table: the *mirror*, the *given* keys, and *where* the table and its token stand."""

    mirror: Mirror
    given: frozenset[str]
    where: str
    token_at: str


def token_variable(host: str) -> str:
    """The variable of the token for *host* and for no other one: ``.`` and ``:`` become ``_``, ``-`` becomes ``__``."""
    return TOKEN_OF + re.sub(r"[^A-Z0-9_]", "_", host.upper().replace("-", "__"))


def mirror_tables(tables: Iterable[Table], *, path: Callable[[str], Path], public: bool) -> tuple[MirrorTable, ...]:
    """
    The mirrors that *tables* describe, as they stand in the file; *path* and *public* are those of `Project.parse`.

    Raises `ConfigError` naming file and line, also for a URL that two of them name.
    """
    found: dict[str, MirrorTable] = {}
    for table in tables:
        one = _mirror(table, path=path, public=public)
        if one.mirror.url in found:
            msg = f"{one.where}: the mirror {one.mirror.url} has a table already, at {found[one.mirror.url].where}"
            raise ConfigError(msg, hint="keep one of the two")
        found[one.mirror.url] = one
    return tuple(found.values())


def completed(mirror: Mirror, tables: Iterable[MirrorTable]) -> Mirror:
    """*mirror*, which somebody named by its url alone, with what the first of *tables* says that says it about that url."""
    known: dict[str, Any] = {}
    for table in tables:
        if table.mirror.url == mirror.url:
            for key in table.given - {"url", "priority"}:
                known.setdefault(key, getattr(table.mirror, key))
    return attrs.evolve(mirror, **known)


def _mirror(table: Table, *, path: Callable[[str], Path], public: bool) -> MirrorTable:
    table.check("mirror", MIRROR_KEYS, needs="url", example="https://hub.example")
    given, key = dict[str, Any](), "url"
    try:
        mirror = Mirror(mirror_url(table.text(key), path))
        for key, read in _READERS.items():
            if key in table.values:
                given[key] = read(table, mirror)
    except ConfigError as error:
        if error.message.startswith(f"{table.at(key)}: "):
            raise
        msg = f"{table.at(key)}: {key}: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error
    if public and "token" in given:
        _check_public(given["token"], mirror, table)
    if str(given.get("token", "")).startswith("file:"):
        given["token"] = f"file:{path(given['token'].removeprefix('file:'))}"
    return MirrorTable(attrs.evolve(mirror, **given), frozenset({"url", *given}), table.at(), table.at("token"))


def _check_public(provider: str, mirror: Mirror, table: Table) -> None:
    """Whoever can propose a change to this file could otherwise have any secret of the job sent to a host of his own."""
    allowed = f"env:{token_variable(mirror.host)}"
    if provider != allowed:
        msg = f"{table.at('token')}: token: in the file of a project a mirror's token may come from {allowed} alone"
        users = "write another provider into ~/.config/ci-modelcache/modelcache.toml or into CI_MODELCACHE_TOKENS"
        raise ConfigError(msg, hint=f"whoever can change this file could have other secrets sent away; {users}")


def _priority(table: Table, _mirror: Mirror) -> int:
    value = table.values["priority"]
    if type(value) is not int or not 0 <= value <= _LAST:
        raise table.wrong("priority", f"a whole number from 0 to {_LAST}")
    return value


def _token(table: Table, mirror: Mirror) -> str:
    text = table.text("token")
    if not is_provider(text):
        # It is probably the token itself, so it is not repeated.
        msg = f"{table.at('token')}: token: expected what provides the token, such as env:NAME or file:PATH, not the token itself"
        raise ConfigError(msg, hint="if a token stands there, take it out and revoke it")
    if mirror.kind is Kind.STORE:
        msg = f"{table.at('token')}: token: a store takes no token"
        raise ConfigError(msg, hint="S3 keys are found as by every AWS tool, such as in AWS_ACCESS_KEY_ID")
    return text


def _region(table: Table, mirror: Mirror) -> str:
    text = table.text("region")
    if not mirror.url.startswith("s3://"):
        msg = f"{table.at('region')}: region: only a mirror at s3:// has one"
        raise ConfigError(msg, hint="take it out")
    if REGION.fullmatch(text) is None:
        raise table.wrong("region", "a region such as eu-west-1")
    return text


def _max_rate(table: Table, _mirror: Mirror) -> int:
    value = table.values["max_rate"]
    if type(value) is int and value > 0:
        return value
    if not isinstance(value, str):
        raise table.wrong("max_rate", "a rate such as 20MB, or bytes a second")
    return parse_rate(value)


def _trust(table: Table, _mirror: Mirror) -> bool:
    value = table.values["trust"]
    if not isinstance(value, bool):
        raise table.wrong("trust", "yes or no", hint="write true or false, without quotes")
    return value


_READERS: dict[str, Callable[[Table, Mirror], object]] = {
    "priority": _priority,
    "token": _token,
    "region": _region,
    "max_rate": _max_rate,
    "trust": _trust,
}
