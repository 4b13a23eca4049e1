"""The only module that says what a host is: to whom a token belongs, and under which name snapshots are kept."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from attrs import frozen

from ci_modelcache.model.redact import redact

PORTS = {"http": 80, "https": 443}
"""The schemes, and the port that each has unless a URL says another."""


@frozen
class Origin:
    """Scheme, host and port: what a token belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of an absolute http or https *url*; anything else is a `ValueError`."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            msg = f"not an http or https URL: {redact(url)!r:.300}"
            raise ValueError(msg)
        return cls(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme])

    @property
    def authority(self) -> str:
        """Host name, with ``:port`` when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"
