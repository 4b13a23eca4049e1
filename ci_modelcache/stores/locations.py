"""The only module that turns what a user writes as a store into a store, and knows what its URL may say besides where it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.s3_account import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.transfer.retry import RetryPolicy

_SUPPORTED = "write s3://bucket/prefix, file:///folder or a path"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_QUERY = "write s3://bucket/prefix?endpoint_url=https://host&region=eu-west-1&profile=name&ca_bundle=/file.pem, of which each may be left out"
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")


@frozen
class Reach:
    """
    How an S3 store is reached, as far as its URL says; None: as the settings say.

    An empty *endpoint_url* is AWS's own, whatever the settings and the environment say. *profile* is one of AWS's files: its
    credentials are used then, and no others.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    ca_bundle: str | None = None

    @classmethod
    def parse(cls, query: str) -> Reach:
        """What the *query* of a URL says; raises `ConfigError`, which repeats no value: somebody may have written a secret there."""
        said: dict[str, str] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in _READ:
                msg = f"the URL of the store says something unknown: {key!r:.60}"
                raise ConfigError(msg, hint=f"{_QUERY}; credentials belong into AWS's variables or files")
            if key in said:
                msg = f"the URL of the store says {key} twice"
                raise ConfigError(msg, hint=_QUERY)
            said[key] = value
            if not _READ[key](value):
                msg = f"the URL of the store says no usable {key}: expected {_EXPECTED[key]}"
                raise ConfigError(msg, hint=_QUERY)
        return cls(**said)


def _is_endpoint(value: str) -> bool:
    if not value:
        return True
    _refuse_secrets(value, "endpoint")
    parts = urlsplit(value)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.fragment


_READ: dict[str, Callable[[str], bool]] = {
    "endpoint_url": _is_endpoint,
    "region": lambda value: _REGION.fullmatch(value) is not None,
    "profile": lambda value: bool(value) and value.isprintable(),
    "ca_bundle": lambda value: Path(value).is_absolute(),
}
_EXPECTED = {
    "endpoint_url": "a URL such as https://host, or nothing for AWS",
    "region": "a region such as eu-west-1",
    "profile": "the name of a profile of AWS",
    "ca_bundle": "the absolute path of a PEM file",
}


def open_store(
    url: str,
    *,
    create: bool = False,
    endpoint_url: str | None = None,
    region: str | None = None,
    ca_bundle: str | None = None,
    retry: RetryPolicy,
    role: Callable[[], AssumedRole | Surroundings | None] | None = None,
) -> Store:
    """
    The store at *url*: ``s3://bucket/prefix``, ``file:///folder`` or a path (with ``~`` expanded by the caller).

    *create* makes a missing folder; a bucket is never made, since its owner decides where and for whom. The other options
    are for S3 only, and what its URL says of them stands above them (`Reach`); *role* is called for such a store alone, unless its
    URL names a profile, and says whose credentials are used. Raises `ConfigError` for what is no store, and `BucketMissing` when the folder does not exist.
    Whether a bucket exists is seen at the first request.
    """
    scheme = _SCHEME.match(url)
    if not url:
        msg = "no store was given"
        raise ConfigError(msg, hint=_SUPPORTED)
    if scheme is None:
        return DirectoryStore(Path(url), create=create)
    kind = scheme[1].lower()
    if kind == "file":
        return DirectoryStore(_folder(url), create=create)
    if kind != "s3" or not url[scheme.end() :].startswith("//"):
        msg = f"not a store: it begins with {scheme[0]!r}"
        raise ConfigError(msg, hint=_SUPPORTED)
    bucket, prefix, reach = _bucket(url)
    _refuse_secrets(endpoint_url or "", "endpoint")
    from ci_modelcache.stores.s3 import S3Store  # noqa: PLC0415  # half a second of imports that only S3 needs

    return S3Store(
        bucket,
        prefix,
        endpoint_url=endpoint_url if reach.endpoint_url is None else reach.endpoint_url,
        region=reach.region or region,
        ca_bundle=reach.ca_bundle or ca_bundle,
        retry=retry,
        role=_asking(reach, role),
    )


def place_of(url: str, *, endpoint_url: str | None) -> tuple[str, ...]:
    """What the URLs of one store have in common, as far as text can tell: where it is, by *endpoint_url* unless *url* says another."""
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() != "s3":
        return (str((Path(url) if scheme is None else _folder(url)).resolve()),)
    bucket, prefix, reach = _bucket(url)
    endpoint = endpoint_url if reach.endpoint_url is None else reach.endpoint_url
    return (endpoint or "").rstrip("/"), bucket, prefix


def _asking(
    reach: Reach, role: Callable[[], AssumedRole | Surroundings | None] | None
) -> AssumedRole | Surroundings | None:
    """Whose credentials are used; None: those that AWS's own tools would use."""
    if reach.profile is None:
        return None if role is None else role()
    return Surroundings(profile=reach.profile)


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query or parts.fragment:
        msg = f"not the URL of a folder of this machine: {url!r:.300}"
        raise ConfigError(msg, hint="write it as file:///folder, with three slashes")
    return Path(unquote(parts.path))


def _bucket(url: str) -> tuple[str, str, Reach]:
    address, _, query = url.partition("?")
    _refuse_secrets(address, "store")
    bucket, _, prefix = address.split("//", maxsplit=1)[1].partition("/")
    return bucket, prefix.rstrip("/"), Reach.parse(query)


def _refuse_secrets(url: str, what: str) -> None:
    """Refuse user names and passwords in *url* without repeating them: this URL is written to logs and reports."""
    if "@" in url:
        msg = f"the URL of the {what} holds credentials"
        raise ConfigError(msg, hint="take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
