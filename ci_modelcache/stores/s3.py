"""The only module that maps the five verbs of a store to requests of the S3 protocol."""

from __future__ import annotations

import hashlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from botocore.exceptions import ClientError

from ci_modelcache.errors import ObjectNotFound, StoreUnsupported
from ci_modelcache.stores.keys import PIECE, check_key, check_prefix, check_range, exactly, is_key
from ci_modelcache.stores.protocol import ObjectInfo
from ci_modelcache.stores.s3_bucket import Bucket
from ci_modelcache.stores.s3_errors import ArrivedDamaged, explaining, is_bare, proper
from ci_modelcache.stores.s3_memory import filled
from ci_modelcache.stores.s3_presign import presigned
from ci_modelcache.stores.s3_upload import PART, Upload
from ci_modelcache.stores.s3_wire import Body, spelled
from ci_modelcache.stores.sums import check_sums, sum_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from mmap import mmap

    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import (
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
    )

    from ci_modelcache.stores.protocol import SignedUrls
    from ci_modelcache.stores.s3_account import Surroundings
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.stores.s3_wire import Found, Opened, Wire
    from ci_modelcache.transfer.retry import RetryPolicy

T = TypeVar("T")

_FIRST_PIECE = 64 * 1024
"""Bytes of the first piece of a body; each is twice the one before, to `PIECE`. On a link that trickles the
first piece is there within a minute, and whoever counts time sees it, where a whole `PIECE` may take hours."""

_DOCUMENT = 256 * 1024
"""Bytes up to which malloc keeps nothing that matters; see `filled`."""


class S3Store:
    """
    A `Store` in the S3 bucket *bucket* below *prefix* (may be empty).

    Settings and credentials: see `Bucket`. *retry* is for every request but those of `read`, which are one attempt
    each: whoever reads resumes (`transfer.streams.read_through`). An object of up to 16 MiB is one request, a larger one
    a multipart upload that is completed after its chunks ended well, and aborted otherwise.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None,
        region: str | None,
        retry: RetryPolicy,
        ca_bundle: str | None = None,
        role: AssumedRole | Surroundings | None = None,
    ) -> None:
        self._bucket = Bucket(
            bucket,
            prefix,
            endpoint_url=endpoint_url,
            region=region,
            ca_bundle=ca_bundle,
            retry=retry,
            role=role,
        )
        self._bucket_exists = False
        self._checksums = True

    @property
    def url(self) -> str:
        return self._bucket.url

    @property
    def anonymous(self) -> bool:
        """Whether it is asked without credentials, since none were found."""
        return self._bucket.anonymous

    @property
    def bucket(self) -> Bucket:
        """How it is asked, for what only S3 can do."""
        return self._bucket

    def presign(self, keys: Iterable[str], *, seconds: int) -> SignedUrls:
        return presigned(self._bucket, keys, seconds=seconds)

    # Reading

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        check_range(start, stop)
        if start == stop:
            self._head_once(key)  # S3 has no empty ranges, and a missing object is to be told all the same
            yield iter(())
            return
        answer = self._get(check_key(key), start, stop)
        if answer is None:
            yield iter(())
            return
        with closing(answer.body) as body:
            yield self._pieces(body, key)

    def _get(self, key: str, start: int, stop: int | None) -> Opened | None:
        """The answer to a GET of that range; None when the object ends at or before *start*."""
        name, doing = self._bucket.full(key), f"reading {key}"
        if start == 0 and stop is None:
            return self._bucket.asked(lambda wire: wire.get(name), doing=doing, key=key)
        wanted = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
        try:
            answer = self._bucket.asked(lambda wire: wire.get(name, wanted=wanted), doing=doing, key=key)
        except StoreUnsupported as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 416:  # noqa: PLR2004  # HTTP's number is its name
                return None
            raise
        if not answer.content_range.startswith(f"bytes {start}-"):
            answer.body.close()
            got = answer.content_range or "the whole object"
            msg = f"reading {key} ({self.url}): asked for {wanted}, got {got}"
            raise StoreUnsupported(
                msg, hint="the server, or a proxy before it, ignores the Range header: check --endpoint-url"
            )
        return answer

    def _pieces(self, body: StreamingBody, key: str) -> Iterator[bytes]:
        piece = _FIRST_PIECE
        while True:
            with explaining(f"reading {key}", store=self.url, key=key):
                chunk = body.read(piece)
            if not chunk:
                return
            yield chunk
            piece = min(2 * piece, PIECE)

    def stat(self, key: str) -> ObjectInfo:
        check_key(key)
        return self._bucket.retry.call(lambda: self._head_once(key), doing=f"looking at {key} ({self.url})")

    def _head_once(self, key: str) -> ObjectInfo:
        found = self._bucket.asked(
            lambda wire: self._head(wire, self._bucket.full(key)), doing=f"looking at {key}", key=key
        )
        return ObjectInfo(key, size=found.size, modified=found.modified)

    def _head(self, wire: Wire, name: str) -> Found:
        try:
            found = wire.head(name)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if not is_bare(error) or status >= 500 or (status == 404 and self._bucket_exists):  # noqa: PLR2004  # as above
                raise
            # A HEAD is refused without a reason: 404 may mean the bucket, 403 and 400 any of ten things. A GET says which.
            return self._reason(wire, name)
        self._bucket_exists = True
        return found

    def _reason(self, wire: Wire, name: str) -> Found:
        try:
            return wire.look(name)
        except ClientError as error:
            self._bucket_exists = error.response["Error"].get("Code") == "NoSuchKey"
            raise

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        return _in_order(self._listed(check_prefix(prefix)), folder=prefix.rpartition("/")[0])

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket.name, "Prefix": self._bucket.full(prefix)}
        while True:
            page = self._bucket.retried(
                lambda client: _page(client, request), doing=f"listing {prefix or 'everything'}"
            )
            for found in page.get("Contents", []):
                key = self._bucket.short(found["Key"])
                if is_key(key):  # a console leaves markers such as "folder/", which are no objects of ours
                    yield ObjectInfo(key, size=found["Size"], modified=found["LastModified"].timestamp())
            if not page["IsTruncated"]:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    # Writing

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        check_key(key)
        check_sums(sums, size)
        body = exactly(chunks, size, key)
        if size <= PART:
            self._put_whole(key, body, size=size, create_only=create_only, sums=sums)
            return
        self.begin(key).run(body, size=size, create_only=create_only, sums=sums)

    def _put_whole(
        self, key: str, body: Iterable[bytes], *, size: int, create_only: bool, sums: Sequence[bytes]
    ) -> None:
        if size <= _DOCUMENT:
            # Never in line behind parts of large files: on a slow network a job that says that it lives would look dead meanwhile.
            whole = b"".join(body)
            self._put(key, whole, create_only=create_only, sums=sums)
            return
        doing = f"writing {key} ({self.url})"
        with (
            self._bucket.memory.room(size, stopped=lambda: False, deadline=self._bucket.retry.deadline, doing=doing),
            filled(size, map(memoryview, body)) as data,
        ):
            self._put(key, data, create_only=create_only, sums=sums)

    def begin(self, key: str) -> Upload:
        """An upload to *key*, of which nothing is visible until it is complete."""
        return self._with_checksums(lambda checked: Upload(self._bucket, key, checksums=checked))

    def _with_checksums(self, request: Callable[[bool], T]) -> T:
        """The result of *request* with checksums; without, once and for all, where the server refuses them."""
        if not self._checksums:
            return request(False)  # noqa: FBT003  # the one thing that is asked
        try:
            return request(True)  # noqa: FBT003  # as above
        except StoreUnsupported:
            result = request(False)  # noqa: FBT003  # as above
            self._checksums = False
            return result

    def _put(self, key: str, data: bytes | mmap, *, create_only: bool, sums: Sequence[bytes]) -> None:
        sha256 = sum_of(data, sums, what=key)

        self._with_checksums(
            lambda checked: self._put_body(key, Body(data, sha256, checked=checked), create_only=create_only)
        )

    def _put_body(self, key: str, body: Body, *, create_only: bool = False) -> None:
        self._bucket.retry.call(
            lambda: self._put_once(key, body, create_only=create_only), doing=f"writing {key} ({self.url})"
        )

    def _put_once(self, key: str, body: Body, *, create_only: bool = False) -> None:
        name = self._bucket.full(key)
        self._bucket.asked(lambda wire: wire.put(name, body, create_only=create_only), doing=f"writing {key}", key=key)

    def try_checksums(self, key: str) -> Literal["verified", "ignored", "refused"]:
        """What the server does with SHA-256 checksums, tried with an object *key* that the caller deletes."""
        try:
            self._put_body(key, Body(b"right", hashlib.sha256(b"right").digest(), checked=True))
        except StoreUnsupported:
            return "refused"
        wrong = spelled(hashlib.sha256(b"wrong").digest())
        try:
            # By a client, which signs the right digest beside the wrong checksum: nothing else is wrong with the request.
            self._bucket.once(
                lambda client: client.put_object(
                    Bucket=self._bucket.name, Key=self._bucket.full(key), Body=b"right", ChecksumSHA256=wrong
                ),
                doing=f"writing {key}",
                key=key,
            )
        except (ArrivedDamaged, StoreUnsupported):
            return "verified"
        return "ignored"

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            self._bucket.retried(
                lambda client: client.delete_object(Bucket=self._bucket.name, Key=self._bucket.full(key)),
                doing=f"deleting {key}",
                key=key,
            )
        except ObjectNotFound:
            return


def _page(client: S3Client, request: ListObjectsV2RequestTypeDef) -> ListObjectsV2OutputTypeDef:
    page = proper(client.list_objects_v2(**request), "IsTruncated")
    return proper(page, "NextContinuationToken") if page["IsTruncated"] else page


def _in_order(listed: Iterable[ObjectInfo], *, folder: str) -> Iterator[ObjectInfo]:
    """
    *listed*, which all lie in *folder*, ordered by key.

    S3 lists in the order of the keys' bytes. SeaweedFS lists folder by folder, so that ``a/x`` comes before ``a-b``. In both
    orders all that can change places stands together: names in *folder* of which one begins the others.
    """
    start = len(folder) + 1 if folder else 0
    together: list[ObjectInfo] = []
    first = ""
    for found in listed:
        name = found.key[start:].partition("/")[0]
        if together and not name.startswith(first):
            yield from sorted(together, key=_key)
            together.clear()
        if not together:
            first = name
        together.append(found)
    yield from sorted(together, key=_key)


def _key(found: ObjectInfo) -> str:
    return found.key
