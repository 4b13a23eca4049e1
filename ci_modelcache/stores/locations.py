"""The only module that turns what a user writes as a store into a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.directory import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.transfer.retry import RetryPolicy

_SUPPORTED = "write s3://bucket/prefix, file:///folder or a path"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def open_store(
    url: str,
    *,
    create: bool = False,
    endpoint_url: str | None = None,
    region: str | None = None,
    ca_bundle: str | None = None,
    retry: RetryPolicy,
    role: Callable[[], AssumedRole | None] | None = None,
) -> Store:
    """
    The store at *url*: ``s3://bucket/prefix``, ``file:///folder`` or a path (with ``~`` expanded by the caller).

    *create* makes a missing folder; a bucket is never made, since its owner decides where and for whom. The other options
    are for S3 only; *role* is called for such a store alone, and says whose credentials are used. Raises `ConfigError` for what is no store, and `BucketMissing` when the folder does not exist.
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
    bucket, prefix = _bucket(url)
    _refuse_secrets(endpoint_url or "", "endpoint")
    from ci_modelcache.stores.s3 import S3Store  # noqa: PLC0415  # half a second of imports that only S3 needs

    return S3Store(
        bucket,
        prefix,
        endpoint_url=endpoint_url,
        region=region,
        ca_bundle=ca_bundle,
        retry=retry,
        role=None if role is None else role(),
    )


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query or parts.fragment:
        msg = f"not the URL of a folder of this machine: {url!r:.300}"
        raise ConfigError(msg, hint="write it as file:///folder, with three slashes")
    return Path(unquote(parts.path))


def _bucket(url: str) -> tuple[str, str]:
    _refuse_secrets(url, "store")
    bucket, _, prefix = url.split("//", maxsplit=1)[1].partition("/")
    return bucket, prefix.rstrip("/")


def _refuse_secrets(url: str, what: str) -> None:
    """Refuse user names and passwords in *url* without repeating them: this URL is written to logs and reports."""
    if "@" in url:
        msg = f"the URL of the {what} holds credentials"
        raise ConfigError(msg, hint="take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
