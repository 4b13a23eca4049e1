"""What a mirror is, as its user names it: an address that tells its kind, and how it is to be treated."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HINT = "write https://host, files+https://host/folder, modelscope+https://www.modelscope.cn, s3://bucket/prefix or a folder"


class Kind(StrEnum):
    """Which protocol a mirror speaks."""

    HUB = "hub"
    """The Hub's own: ``https://host``."""
    FILES = "files"
    """Files below a URL, as any web server serves a folder: ``files+https://host/folder``."""
    MODELSCOPE = "modelscope"
    """The file API of ModelScope: ``modelscope+https://www.modelscope.cn``."""
    STORE = "store"
    """A store of this tool's format: ``s3://bucket/prefix``, ``file:///folder`` or ``/folder``."""


_KINDS = {
    "http": Kind.HUB,
    "https": Kind.HUB,
    "files+http": Kind.FILES,
    "files+https": Kind.FILES,
    "modelscope+http": Kind.MODELSCOPE,
    "modelscope+https": Kind.MODELSCOPE,
    "s3": Kind.STORE,
    "file": Kind.STORE,
    "": Kind.STORE,
}


_PROVIDERS = ("env:", "file:", "command:", "oidc:", "exchange:")
KEEP = "keep"
"""The provider of a token that was stored by ``ci-modelcache auth login``."""


def is_provider(text: str) -> bool:
    """Whether *text* begins as a provider of tokens does; a token itself does not."""
    return text == KEEP or any(text.startswith(scheme) and text != scheme for scheme in _PROVIDERS)


def mirror_url(text: str, path: Callable[[str], Path]) -> str:
    """
    The url of a `Mirror` that *text* means, in which *path* makes a folder absolute.

    A folder below the present one begins with ``./``: ``hub.internal`` is far more often a host whose scheme was forgotten.
    """
    if "://" in text:
        return text.rstrip("/")
    if text in {".", ".."} or text.startswith(("/", "./", "../", "~")):
        return str(path(text))
    msg = f"not the address of a mirror: {redact(text)!r:.200}"
    raise ConfigError(msg, hint=f"write https://{redact(text):.100} for a host, or ./{redact(text):.100} for a folder")


def _provider(text: str | None) -> str:
    return repr(None if text is None else redact(text))


@frozen
class Mirror:
    """
    One source of bytes. *url* is without credentials; anything that is no address raises `ConfigError`.

    *priority*: of equally good ones the lowest is asked first. *token* names a provider of tokens (``env:NAME``,
    ``file:PATH``, ...), never a token. *region* is for an S3 store. *max_rate* is in bytes a second. *trust*: its word
    counts about what a revision means when the authority cannot be reached.
    """

    url: str = field()
    priority: int = 100
    token: str | None = field(default=None, repr=_provider)
    region: str | None = None
    max_rate: int | None = None
    trust: bool = False

    @url.validator
    def _is_address(self, _attribute: object, value: str) -> None:
        try:
            parts = urlsplit(value)
            known = parts.scheme in _KINDS and parts.port != 0
        except ValueError:
            known = False
            parts = urlsplit("")
        if known and "@" in parts.netloc:
            msg = f"a user name or password in the address of the mirror {parts.hostname}"
            raise ConfigError(msg, hint="name a provider of its token instead, such as env:NAME")
        local = parts.scheme in {"", "file"}
        known = known and value.isprintable() and (local or " " not in value)
        if not known or not (parts.path.startswith("/") if local else parts.netloc) or parts.query or parts.fragment:
            msg = f"not the address of a mirror: {redact(value)!r:.200}"
            raise ConfigError(msg, hint=_HINT)

    @property
    def kind(self) -> Kind:
        """The protocol that it speaks."""
        return _KINDS[urlsplit(self.url).scheme]

    @property
    def address(self) -> str:
        """Its address without the part of the scheme that tells the kind: what a request is sent to."""
        scheme, plus, rest = self.url.partition("+")
        return rest if plus and "/" not in scheme else self.url

    @property
    def host(self) -> str:
        """The host name, with ``:port`` when one is written; empty for a folder."""
        return urlsplit(self.address).netloc
