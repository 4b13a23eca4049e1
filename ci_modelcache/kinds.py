"""The only module that knows how the value of a setting is written: a switch, a duration, a URL, a list of mirrors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.mirror import Mirror, is_provider, mirror_url
from ci_modelcache.model.mirror_table import REGION as REGION_LABEL
from ci_modelcache.model.rate import format_rate, parse_rate
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.deadline import parse_duration

if TYPE_CHECKING:
    from enum import StrEnum

FALSE = frozenset({"0", "false", "no", "off"})
"""What stands for no."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_ROLE = re.compile(r"arn:[\w-]+:iam::\d*:role/[\w+=,.@/-]+")
_HOST = re.compile(r"[\w.:\[\]-]+")


@frozen
class Base:
    """What a relative path and ``~`` mean where a value was written."""

    folder: Path
    home: Path

    def path(self, text: str) -> Path:
        """The absolute path meant by *text*."""
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        return self.folder / text


@frozen
class Kind:
    """
    How a value is written: *read* turns its text into a value or raises `ConfigError`; *toml* are its types there.

    *split* makes a list of a text; with it the value is a tuple of what *read* makes of each part.
    """

    expected: str
    read: Callable[[str, Base], object]
    metavar: str = "TEXT"
    toml: tuple[type, ...] = (str,)
    choices: tuple[str, ...] = ()
    split: Callable[[str], Iterable[str]] | None = None
    show: Callable[[Any], str] | None = None
    """What people are shown, when it is not simply the value."""


def _refuse(expected: str, text: str) -> ConfigError:
    return ConfigError(f'expected {expected}, got "{text:.200}"')


def _switch(text: str, _base: Base) -> bool:
    if text.lower() not in _TRUE | FALSE:
        raise _refuse(SWITCH.expected, text)
    return text.lower() in _TRUE


def _duration(text: str, _base: Base) -> float:
    return parse_duration(text)


def _deadline(text: str, _base: Base) -> float:
    seconds = parse_duration(text)
    if seconds == 0:
        msg = "a deadline of 0 leaves no time for anything"
        raise ConfigError(msg, hint="leave it out to have none, or write a time such as 15m")
    return seconds


def _region(text: str, _base: Base) -> str:
    if REGION_LABEL.fullmatch(text) is None:
        raise _refuse(REGION.expected, text)
    return text


def _role(text: str, _base: Base) -> str:
    if _ROLE.fullmatch(text) is None:
        raise _refuse(ROLE.expected, text)
    return text


def _mirror(text: str, base: Base) -> Mirror:
    return Mirror(mirror_url(text, base.path))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        msg = "a quotation mark has no partner"
        raise ConfigError(msg, hint=_PROVIDED) from None


def _provided(text: str, base: Base) -> tuple[str, str]:
    host, equals, provider = text.partition("=")
    if not equals or not is_provider(provider) or _HOST.fullmatch(host) is None:
        # What is wrong here may be a token, so it is not repeated.
        msg = f"expected {PROVIDERS.expected}, got something else"
        raise ConfigError(msg, hint=_PROVIDED)
    if provider.startswith("file:"):
        provider = f"file:{base.path(provider.removeprefix('file:'))}"
    return host.lower(), provider


def _number(text: str, _base: Base, *, low: int, high: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
    if not digits or not low <= int(text) <= high:
        expected = f"a whole number from {low} to {high}"
        raise _refuse(expected, text)
    return int(text)


def numbers(low: int, high: int) -> Kind:
    """A whole number from *low* to *high*."""
    return Kind(f"a whole number from {low} to {high}", partial(_number, low=low, high=high), "N", toml=(int,))


def _choice(text: str, _base: Base, *, among: type[StrEnum]) -> StrEnum:
    if text not in list(among):
        raise _refuse(" or ".join(among), text)
    return among(text)


def choices(among: type[StrEnum]) -> Kind:
    """One of *among*."""
    return Kind(" or ".join(among), partial(_choice, among=among), choices=tuple(one.value for one in among))


def _store(text: str, base: Base) -> str:
    return text if "://" in text else str(base.path(text))


def _url(text: str, _base: Base) -> str:
    hint = "a token belongs into HF_TOKEN, and S3 keys into the variables of AWS"
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises for a port that is none
    except ValueError:
        raise _refuse(URL.expected, text) from None
    if "@" in parts.netloc:
        msg = "a URL with a user name or password in it is not accepted"
        raise ConfigError(msg, hint=hint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise _refuse(URL.expected, text)
    return text.rstrip("/")


_PROVIDED = "write HOST=env:NAME, HOST=file:PATH or 'HOST=command:PROGRAM ARGS', not the token itself"

ROLE = Kind("the ARN of a role such as arn:aws:iam::123456789012:role/models", _role, "ARN")
REGION = Kind("a region such as eu-west-1", _region)
PATH = Kind("a path", lambda text, base: base.path(text), "PATH")
STORE = Kind("s3://BUCKET/PREFIX or a folder", _store, "URL|DIR")
STORES = Kind("stores, separated by white space", _store, "URL|DIR", toml=(str, tuple), split=str.split)
URL = Kind("a URL such as https://host:port/path", _url, "URL")
SWITCH = Kind("yes or no", _switch, toml=(bool,))
DURATION = Kind("a duration such as 90s, 15m or 1h30m", _duration, "TIME", toml=(str, int))
DEADLINE = Kind(DURATION.expected, _deadline, "TIME", toml=(str, int))
RATE = Kind(
    "a rate such as 20MB or 500kB, in bytes a second",
    lambda text, _base: parse_rate(text),
    "RATE",
    toml=(str, int),
    show=format_rate,
)
MIRRORS = Kind("URLs, separated by commas or white space", _mirror, "URL", toml=(), split=_words)
PROVIDERS = Kind("HOST=PROVIDER, separated by white space", _provided, toml=(), split=_shell_words)
TOKEN = Kind("a token", lambda text, _base: Token(text))
