"""The only module that says how objects are asked for and sent, of whichever kind the sender is; and the one that sends by a botocore client."""

from __future__ import annotations

import base64
from mmap import mmap  # attrs resolves annotations
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen
from botocore.response import StreamingBody  # attrs resolves annotations

from ci_modelcache.stores.s3_errors import proper

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

MAX_CONNECTIONS = 64
"""That one sender keeps open, at most."""


@frozen
class Body:
    """Bytes to send, and the raw *sha256* of them; *checked*: the server is to compare it."""

    data: bytes | mmap = field(repr=False)
    sha256: bytes
    checked: bool


@frozen
class Opened:
    """An answer to a GET: its *body*, and the *content_range* that it says it is, empty where it says none."""

    body: StreamingBody
    content_range: str


@frozen
class Found:
    """What is known of an object: *size* in bytes, *modified* in seconds since the epoch."""

    size: int
    modified: float


class Wire(Protocol):
    """
    The requests of which there are many; a *name* is a whole key, with its prefix.

    Each is one attempt, from any thread, and raises what botocore raises.
    """

    def get(self, name: str, *, wanted: str | None = None) -> Opened:
        """Its bytes, or those *wanted*: the value of a Range header."""

    def head(self, name: str) -> Found:
        """Size and age. A refusal has no reason, only a status."""

    def look(self, name: str) -> Found:
        """As `head`, by a GET, whose refusal has a reason."""

    def put(self, name: str, body: Body, *, create_only: bool) -> None:
        """Make it hold *body*."""

    def put_part(self, name: str, body: Body, *, upload: str, number: int) -> str:
        """Send part *number* of *upload*; returns its ETag."""


def spelled(sha256: bytes) -> str:
    """The raw *sha256* as S3 writes it."""
    return base64.b64encode(sha256).decode()


def _found(answer: HeadObjectOutputTypeDef | GetObjectOutputTypeDef) -> Found:
    for each in ("ETag", "ContentLength", "LastModified"):
        proper(answer, each)
    return Found(answer["ContentLength"], answer["LastModified"].timestamp())


class ByClient:
    """A `Wire` by *client*, for *bucket*: knows all that botocore knows."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def get(self, name: str, *, wanted: str | None = None) -> Opened:
        options: Any = {} if wanted is None else {"Range": wanted}
        answer = self._client.get_object(Bucket=self._bucket, Key=name, **options)
        return Opened(answer["Body"], answer.get("ContentRange", ""))

    def head(self, name: str) -> Found:
        return _found(self._client.head_object(Bucket=self._bucket, Key=name))

    def look(self, name: str) -> Found:
        answer = self._client.get_object(Bucket=self._bucket, Key=name)
        answer["Body"].close()
        return _found(answer)

    def put(self, name: str, body: Body, *, create_only: bool) -> None:
        options = self._options(body)
        if create_only:
            options["IfNoneMatch"] = "*"
        proper(self._client.put_object(Bucket=self._bucket, Key=name, **options), "ETag")

    def put_part(self, name: str, body: Body, *, upload: str, number: int) -> str:
        answer = self._client.upload_part(
            Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, **self._options(body)
        )
        return proper(answer, "ETag")["ETag"]

    def _options(self, body: Body) -> Any:  # noqa: ANN401  # a mmap is a file to botocore; its stubs ask for IO[Any]
        if not isinstance(body.data, bytes):
            body.data.seek(0)
        return {"Body": body.data, **({"ChecksumSHA256": spelled(body.sha256)} if body.checked else {})}
