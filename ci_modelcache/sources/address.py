"""The only module that knows what the addresses of Hubs and of other web servers have in common: how they are written, and read."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import redact
from ci_modelcache.model.ref import RepoType
from ci_modelcache.sources.origin import Origin

FOLDERS = {RepoType.MODEL: "", RepoType.DATASET: "datasets/", RepoType.SPACE: "spaces/"}
"""What stands before the name of a repository in the address of one of its files."""


def parse_address(url: str, *, of: str, example: str, instead: str) -> tuple[Origin, str]:
    """
    The origin of *url*, and *url* as it is shown and built upon: without a slash at its end.

    Raises `ConfigError` when it is no address *of* ("a Hub"), such as *example*, or has a user, password or query in it, which
    would be shown in messages and logs; *instead* is where a token belongs.
    """
    try:
        parts = urlsplit(url)
        origin = Origin.of(url)
    except ValueError as error:
        msg = f"not the address of {of}: {redact(url)!r:.200}"
        raise ConfigError(msg, hint=f"write it as {example}") from error
    if parts.username is not None or parts.password is not None:
        msg = f"a user or password in the address of {origin}"
        raise ConfigError(msg, hint=f"set {instead} instead: addresses are shown in messages and logs")
    if parts.query or parts.fragment:
        msg = f"the address of {of} has no query: {redact(urlunsplit(parts))!r:.200}"
        raise ConfigError(msg, hint=f"write it as {example}")
    return origin, f"{origin}{parts.path}".rstrip("/")


def file_url(base: str, type: RepoType, repo: str, *, commit: str, path: str) -> str:
    """Where a Hub whose address is *base* has the file *path* of *commit*; others may read it in a log or a Dockerfile."""
    return f"{base}/{FOLDERS[type]}{repo}/resolve/{commit}/{quote(path)}"
