"""The only module that knows where a bucket is without botocore's rules for endpoints: in the plain cases, and in no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen
from botocore.utils import is_valid_endpoint_url

if TYPE_CHECKING:
    from ci_modelcache.stores.s3_account import Account

_ENDPOINT = re.compile(r"(https?://[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::([0-9]{1,5}))?)/?")
_LAST_PORT = 65535
_AWS_REGION = re.compile(r"(?:af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]+")
"""Of the partition whose names end in amazonaws.com."""
_REGION = re.compile(r"[a-z0-9-]{1,63}")
_HOST = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
"""What a bucket is called that can be the first part of a host's name, has no dots (a certificate is for one part), and is of no special kind."""
_GLOBAL = "us-east-1"


@frozen
class Place:
    """*objects* and the name of an object make its URL; *endpoint* is what the proxies of the environment are chosen for."""

    endpoint: str
    objects: str
    region: str


def place_of(account: Account, bucket: str, *, endpoint_url: str | None, region: str) -> Place | None:
    """Where *bucket* of *account* is; None when that takes more knowledge than is here. The other arguments are those of `Bucket`."""
    if account.is_special or _REGION.fullmatch(region) is None or "--" in bucket:
        return None
    endpoint = account.endpoint_url if endpoint_url is None else endpoint_url
    if endpoint:
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or "amazonaws." in endpoint or not _may_be(match):
            return None
        return Place(match[1], f"{match[1]}/{bucket}/", region)
    if _AWS_REGION.fullmatch(region) is None or _HOST.fullmatch(bucket) is None:
        return None
    host = "s3.amazonaws.com" if region == _GLOBAL else f"s3.{region}.amazonaws.com"
    return Place(f"https://{host}", f"https://{bucket}.{host}/", region)


def _may_be(endpoint: re.Match[str]) -> bool:
    """Whether there can be such a host and port; what is wrong with others is said by botocore."""
    return is_valid_endpoint_url(endpoint[1]) and int(endpoint[2] or 0) <= _LAST_PORT
