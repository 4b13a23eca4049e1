"""
The only list of settings: names, flags, variables, defaults and how their text is read.

`ci_modelcache.config` finds each one's value; the flags of the commands, `ci-modelcache config` and the checks of
the documentation are made from this list, so that there is no second one to keep in step.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.token import Token
from ci_modelcache.transfer.deadline import parse_duration

PREFIX = "CI_MODELCACHE_"
"""What the variables of this tool begin with."""

DEFAULT_ENDPOINT = "https://huggingface.co"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_MAX_WORKERS = 256
_MAX_EPOCH = 253402300799  # the end of the year 9999, which every archive format can still write


class Mode(StrEnum):
    """What may be done with the store."""

    READ = "read"
    READ_WRITE = "read-write"
    OFF = "off"


class ProgressStyle(StrEnum):
    """How progress is shown: a bar on terminals and lines elsewhere, or always the one named."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    OFF = "off"


class Flag(enum.Enum):
    """Which commands have a flag for a setting."""

    COMMON = enum.auto()
    SOME = enum.auto()
    NONE = enum.auto()


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
    """How a value is written: *read* turns its text into a value or raises `ConfigError`; *toml* are its types there."""

    expected: str
    read: Callable[[str, Base], object]
    metavar: str = "TEXT"
    toml: tuple[type, ...] = (str,)
    choices: tuple[str, ...] = ()


@frozen
class Alias:
    """A *variable* of another tool; *template* makes our text of its value, *ignored* ones count as unset."""

    variable: str
    template: str = "{}"
    ignored: frozenset[str] = frozenset()


@frozen
class Setting:
    """
    One setting. *name* is its flag, its key in modelcache.toml and, in capitals, its variable.

    *aliases* are heard before modelcache.toml, *ambient* ones after it, and then what the setting *like* says.
    *default* is a text with ``{cache}`` and other places that `Config.load` fills in; None means that there is no value.
    """

    name: str
    kind: Kind
    help: str
    default: str | None = None
    flag: Flag = Flag.COMMON
    in_file: bool = True
    secret: bool = False
    aliases: tuple[Alias, ...] = ()
    ambient: tuple[Alias, ...] = ()
    like: str | None = None
    default_file: str | None = None
    """The file, if it exists, that holds the value: a text with places, as *default*."""

    @property
    def variable(self) -> str:
        """The name of its variable."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        """The name of its attribute of `Config`."""
        return self.name.replace("-", "_")


def _refuse(expected: str, text: str) -> ConfigError:
    return ConfigError(f'expected {expected}, got "{text:.200}"')


def _switch(text: str, _base: Base) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise _refuse(SWITCH.expected, text)
    return text.lower() in _TRUE


def _duration(text: str, _base: Base) -> float:
    return parse_duration(text)


def _number(text: str, _base: Base, *, low: int, high: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
    if not digits or not low <= int(text) <= high:
        expected = f"a whole number from {low} to {high}"
        raise _refuse(expected, text)
    return int(text)


def _numbers(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low} to {high}", partial(_number, low=low, high=high), "N", toml=(int,))


def _choice(text: str, _base: Base, *, among: type[StrEnum]) -> StrEnum:
    if text not in list(among):
        raise _refuse(" or ".join(among), text)
    return among(text)


def _choices(among: type[StrEnum]) -> Kind:
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


TEXT = Kind("a text", lambda text, _base: text)
PATH = Kind("a path", lambda text, base: base.path(text), "PATH")
STORE = Kind("s3://BUCKET/PREFIX or a folder", _store, "URL|DIR")
URL = Kind("a URL such as https://host:port/path", _url, "URL")
SWITCH = Kind("yes or no", _switch, toml=(bool,))
DURATION = Kind("a duration such as 90s, 15m or 1h30m", _duration, "TIME", toml=(str, int))
TOKEN = Kind("a token", lambda text, _base: Token(text))

_REQUESTS = tuple(Alias(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))

SETTINGS: tuple[Setting, ...] = (
    Setting("store", STORE, "Where snapshots are kept: s3://BUCKET/PREFIX or a folder.", "{cache}/ci-modelcache/store"),
    Setting(
        "endpoint-url",
        URL,
        "URL of an S3 service other than AWS.",
        ambient=(Alias("AWS_ENDPOINT_URL_S3"), Alias("AWS_ENDPOINT_URL")),
    ),
    Setting(
        "region",
        TEXT,
        "Region of the S3 service.",
        ambient=(Alias("AWS_REGION"), Alias("AWS_DEFAULT_REGION")),
    ),
    Setting("mode", _choices(Mode), "What may be done with the store.", Mode.READ_WRITE),
    Setting(
        "endpoint",
        URL,
        "The Hub that says which files a revision has.",
        DEFAULT_ENDPOINT,
        aliases=(Alias("HF_ENDPOINT"),),
    ),
    Setting(
        "token",
        TOKEN,
        "Access token for the endpoint, and for no other host.",
        flag=Flag.NONE,
        in_file=False,
        secret=True,
        aliases=(Alias("HF_TOKEN"), Alias("HUGGING_FACE_HUB_TOKEN")),
        default_file="{token_file}",
    ),
    Setting(
        "offline",
        SWITCH,
        "Ask no Hub: what the store does not hold is a miss.",
        "no",
        aliases=(Alias("HF_HUB_OFFLINE"), Alias("TRANSFORMERS_OFFLINE")),
    ),
    Setting("deadline", DURATION, "Give up after this long, such as 15m."),
    Setting(
        "revision-ttl",
        DURATION,
        "How long the store is believed about the commit of a branch.",
        "1h",
        flag=Flag.SOME,
    ),
    Setting(
        "hub-cache",
        PATH,
        "The Hub cache to restore into when no folder is named.",
        "{cache}/huggingface/hub",
        flag=Flag.SOME,
        aliases=(Alias("HF_HUB_CACHE"), Alias("HUGGINGFACE_HUB_CACHE"), Alias("HF_HOME", "{}/hub")),
    ),
    Setting("state", PATH, "Folder of notes that may be lost without harm.", "{cache}/ci-modelcache", flag=Flag.NONE),
    Setting("workers", _numbers(1, _MAX_WORKERS), "Transfers at a time.", "8"),
    Setting("ca-bundle", PATH, "File of the authorities that TLS trusts, in place of the built-in ones."),
    Setting(
        "hub-ca-bundle",
        PATH,
        "The same for the Hub alone.",
        flag=Flag.NONE,
        ambient=_REQUESTS,
        like="ca-bundle",
    ),
    Setting(
        "store-ca-bundle",
        PATH,
        "The same for the store alone.",
        flag=Flag.NONE,
        ambient=(Alias("AWS_CA_BUNDLE"), Alias("SSL_CERT_FILE")),
        like="ca-bundle",
    ),
    Setting(
        "normalize",
        SWITCH,
        "Give every restored file the same time, so that image layers are reproducible.",
        "{in_container}",
        flag=Flag.SOME,
    ),
    Setting(
        "source-date-epoch",
        _numbers(0, _MAX_EPOCH),
        "That time, in seconds since 1970.",
        "0",
        flag=Flag.NONE,
        aliases=(Alias("SOURCE_DATE_EPOCH"),),
    ),
    Setting("lock-file", PATH, "The lock file.", "{project}/modelcache.lock", flag=Flag.SOME),
    Setting(
        "progress",
        _choices(ProgressStyle),
        "How progress is shown: a bar on a terminal, lines in a CI log.",
        ProgressStyle.AUTO,
        flag=Flag.NONE,
        ambient=(Alias("CI", "lines", ignored=_FALSE),),
    ),
    Setting("color", SWITCH, "Colours on a terminal.", "yes", flag=Flag.NONE, ambient=(Alias("NO_COLOR", "no"),)),
)
