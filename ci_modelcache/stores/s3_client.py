"""The only module that makes botocore clients: their timeouts and dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from botocore import UNSIGNED
from botocore.config import Config
from botocore.handlers import add_expect_header

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.s3_wire import MAX_CONNECTIONS

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials
    from botocore.session import Session
    from mypy_boto3_s3.client import S3Client


class _Keys(TypedDict, total=False):
    """Credentials as botocore takes them."""

    aws_access_key_id: str | None
    aws_secret_access_key: str | None
    aws_session_token: str | None


def new_client(
    session: Session,
    *,
    endpoint_url: str | None,
    region: str,
    ca_bundle: str | None,
    timeouts: tuple[float, float],
    anonymous: bool,
    signing: ReadOnlyCredentials | None = None,
) -> S3Client:
    """
    A client of *session*, which retries nothing; it can be used from any thread.

    An empty *endpoint_url* is AWS's own, whatever the settings say. *timeouts* are those of connecting and of silence, in seconds. With
    *signing* it signs with those, and what it signs is valid in every region. Raises `ConfigError` and what botocore raises.
    """
    # Left to itself botocore signs URLs for AWS by the rules of 2006, which newer regions do not know.
    version = UNSIGNED if anonymous else None if signing is None else "s3v4"
    connect_timeout, read_timeout = timeouts
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=MAX_CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra="ci-modelcache",
        signature_version=version,
        ignore_configured_endpoint_urls=endpoint_url == "",  # type: ignore[call-arg]  # the stubs do not know it
        # Checksums of botocore's choice break uploads to many stores, and cost CPU twice: every object is written
        # with an explicit SHA-256 and its bytes are proven by whoever reads them, on AWS too.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # The addressing style stays botocore's: virtual hosts for AWS, paths for other endpoints, or what the
        # user's profile says (some stores know virtual hosts only).
    )
    try:
        client: S3Client = session.create_client(  # type: ignore[assignment]  # botocore makes its classes at run time
            "s3",
            endpoint_url=endpoint_url or None,
            region_name=region,
            verify=ca_bundle,
            config=config,
            **({} if signing is None else _spelled(signing)),
        )
    except ValueError as error:  # botocore's own for "Invalid endpoint"
        msg = f"not the URL of an S3 endpoint: {endpoint_url!r}"
        raise ConfigError(msg, hint="write it as https://host or http://host:port") from error
    # "Expect: 100-continue" costs each write a second at servers that do not know it. Nothing is lost without it: what
    # would be refused is small, or the part of an upload that was granted.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


def _spelled(frozen: ReadOnlyCredentials) -> _Keys:
    return {
        "aws_access_key_id": frozen.access_key,
        "aws_secret_access_key": frozen.secret_key,
        "aws_session_token": frozen.token,
    }
