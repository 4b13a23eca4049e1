"""The only module that signs URLs by which others read single objects of a bucket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ci_modelcache.errors import AccessDenied, ConfigError
from ci_modelcache.stores.keys import check_key
from ci_modelcache.stores.protocol import SignedUrls
from ci_modelcache.stores.s3_errors import explaining

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botocore.credentials import Credentials, ReadOnlyCredentials

    from ci_modelcache.stores.s3_bucket import Bucket

LONGEST = 7 * 86_400
"""Seconds; a signature of version 4 that is to count for longer is refused by every server."""


def presigned(bucket: Bucket, keys: Iterable[str], *, seconds: int) -> SignedUrls:
    """See `Presigning.presign`. Besides what credentials cost it is one request, for the region of the bucket; without *keys* none."""
    if not 1 <= seconds <= LONGEST:
        msg = f"a signed URL counts for 1 to {LONGEST} seconds, not for {seconds}"
        raise ConfigError(msg, hint="S3 allows 7 days at most, and the credentials of a role end sooner than that")
    credentials = bucket.credentials()
    if credentials is None:
        msg = f"URLs of {bucket.url} cannot be signed: no credentials were found"
        raise ConfigError(
            msg, hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the job a role"
        )
    doing = "getting credentials to sign URLs with"
    with explaining(doing, store=bucket.url):
        # Once for all of them: credentials that were renewed in between would end at another time.
        frozen = bucket.retry.call(credentials.get_frozen_credentials, doing=f"{doing} ({bucket.url})")
    asked, known = float(int(time.time()) + seconds), _end_of(credentials)
    return SignedUrls(
        _signed(bucket, tuple(map(check_key, keys)), frozen, seconds=seconds),
        ends=min(asked, known or asked),
        cut=known is not None and known < asked,
        unsure=known is None and bool(frozen.token),
    )


def _signed(bucket: Bucket, keys: tuple[str, ...], frozen: ReadOnlyCredentials, *, seconds: int) -> dict[str, str]:
    if not keys:
        return {}
    client = bucket.signer(frozen, region=_region(bucket))
    with explaining("signing URLs", store=bucket.url):
        return {
            key: client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket.name, "Key": bucket.full(key)}, ExpiresIn=seconds
            )
            for key in keys
        }


def _end_of(credentials: Credentials) -> float | None:
    """When *credentials* end, in whole seconds since the epoch; None when they do not, or do not tell."""
    end = getattr(credentials, "_expiry_time", None)
    return None if end is None else float(int(end.timestamp()))


def _region(bucket: Bucket) -> str:
    """
    The region for which a signature must be.

    A request that went to the wrong one is sent on by botocore, a URL is not. Only AWS tells, and only about its own buckets.
    """
    try:
        answer = bucket.retried(lambda client: client.head_bucket(Bucket=bucket.name), doing="asking for the region")
    except AccessDenied:
        return bucket.region  # s3:ListBucket is not granted, and need not be
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return str(headers.get("x-amz-bucket-region") or bucket.region)
