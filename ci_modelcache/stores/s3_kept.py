"""The only module that finds out what a store has of an upload that was begun, and whether that is what it should be."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.stores.s3_errors import UploadGone, proper
from ci_modelcache.stores.s3_upload import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ListPartsOutputTypeDef

    from ci_modelcache.stores.s3_bucket import Bucket


@frozen
class KeptPart:
    """A part that an earlier process has sent."""

    size: int
    etag: str
    sha256: str | None

    def is_of(self, data: mmap) -> bool:
        """Whether *data* is what it was made of; False also where the store's digests are none that can be computed here."""
        if self.size != len(data):
            return False
        if self.sha256 is not None:
            return self.sha256 == checksum(data)
        return self.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def kept_parts(bucket: Bucket, key: str, upload_id: str) -> dict[int, KeptPart]:
    """The parts by number; raises `UploadGone` for an upload that is complete or aborted."""
    return {
        part["PartNumber"]: KeptPart(part["Size"], part["ETag"], part.get("ChecksumSHA256"))
        for page in _pages(bucket, key, upload_id)
        for part in page.get("Parts", [])
    }


def _pages(bucket: Bucket, key: str, upload_id: str) -> Iterator[ListPartsOutputTypeDef]:
    """What the store has of an upload; raises `UploadGone`."""
    marker = 0
    while True:
        found = bucket.retry.call(
            partial(_page, bucket, key, upload_id, marker), doing=f"looking at what was sent of {key}"
        )
        if found is None:
            msg = f"{key}: the store does not know the upload that was begun"
            raise UploadGone(msg)
        yield found
        if not found.get("IsTruncated"):  # some say only that there is more
            return
        marker = proper(found, "NextPartNumberMarker")["NextPartNumberMarker"]


def _page(bucket: Bucket, key: str, upload_id: str, marker: int) -> ListPartsOutputTypeDef | None:
    """One answer; None for an upload that is not there, which no second try would find."""

    def request(client: S3Client) -> ListPartsOutputTypeDef:
        answer = client.list_parts(
            Bucket=bucket.name, Key=bucket.full(key), UploadId=upload_id, PartNumberMarker=marker
        )
        return proper(answer, "UploadId")

    try:
        return bucket.once(request, doing=f"looking at what was sent of {key}")
    except UploadGone:
        return None
