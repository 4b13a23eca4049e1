"""
The only module that knows what S3 servers and botocore raise, and which of our errors each of it is.

Sources: the error list of the S3 API reference, and what SeaweedFS, rclone, moto, MinIO and Ceph send in its place.
Of what a server says only the error's code is repeated: its text may echo parts of a signed request.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from botocore import exceptions as boto
from botocore.httpsession import URLLib3SSLError  # type: ignore[attr-defined]  # the stubs leave out what it imports
from botocore.parsers import ResponseParserError

from ci_modelcache.errors import (
    AccessDenied,
    AlreadyExists,
    BucketMissing,
    ConfigError,
    ModelCacheError,
    NoSpace,
    ObjectNotFound,
    RateLimited,
    StoreUnsupported,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Answer = TypeVar("Answer", bound="Mapping[str, Any]")


class ArrivedDamaged(Unavailable):
    """The server computed another checksum than we sent: worth another try."""


class UploadGone(Unavailable):
    """The server does not know the multipart upload: completed by a request whose answer was lost, or aborted."""


_DENIED = {
    "AccessDenied": (
        "these credentials may not do this: allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload"
        " on the objects and s3:ListBucket on the bucket (without it S3 says 403 of what is not there)"
    ),
    "ExpiredToken": "the temporary credentials have expired: get new ones, or let the session last longer than the step",
    "InvalidAccessKeyId": "the store does not know this access key: check AWS_ACCESS_KEY_ID or the profile, and --endpoint-url",
    "InvalidToken": "check AWS_SESSION_TOKEN: it belongs to other keys, or is left over from another session",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY (a space or newline at its end?), and that no proxy changes the Host header",
}
_ALIASES = {
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
    "RequestExpired": "RequestTimeTooSkewed",
    "InvalidClientTokenId": "InvalidAccessKeyId",
    "UnrecognizedClientException": "InvalidAccessKeyId",
    "InvalidIdentityToken": "AccessDenied",
    "AccessDeniedException": "AccessDenied",
}
_SLOW_DOWN = {
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_PASSING = {"ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout"}
_FULL = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
_ELSEWHERE = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the job a role"
_SEARCHED = (
    f"{_CREDENTIALS} (--role-to-assume); they are looked for in the variables AWS_*, the files of AWS_PROFILE, web identity"
    " and the roles of containers and machines"
)
_CONNECTION = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    URLLib3SSLError,  # what TLS says in the middle of a body, botocore passes on as it is
)
_STS = "check the region, AWS_ENDPOINT_URL_STS where the STS is not that of AWS, and that it can be reached from here"
_UNTRUSTED = {
    "AccessDenied": (
        "the trust policy of the role must allow sts:AssumeRoleWithWebIdentity to the issuer of the ID token, with conditions"
        " on sub and aud that fit this job: see examples/policies and docs/permissions.md"
    ),
    "ExpiredTokenException": "the ID token of this job has ended: let it live longer (GitLab: timeout: of the job), or write a new one into its file",
    "InvalidIdentityToken": (
        "the account needs an OIDC identity provider for the issuer of the ID token, with this audience: see docs/permissions.md"
    ),
}
_ENDPOINT = "check --endpoint-url, and that the server runs and can be reached from here"


@contextmanager
def explaining(doing: str, *, store: str, key: str | None = None, anonymous: bool = False) -> Iterator[None]:
    """
    Turn what botocore raises while *doing* something with *key* of *store* (its URL) into what a store raises.

    *anonymous*: there are no credentials, which explains every refusal.
    """
    try:
        yield
    except boto.ClientError as error:
        raised = _of_answer(error, doing, store, key)
        if anonymous and isinstance(raised, AccessDenied):
            msg = f"{raised.message}; no credentials were found, and without them it is refused"
            raise AccessDenied(msg, hint=_SEARCHED) from error
        raise raised from error
    except (boto.BotoCoreError, ResponseParserError, URLLib3SSLError) as error:
        raise _of_client(error, f"{doing} ({store})") from error
    except RecursionError as error:
        # botocore follows redirects between regions by calling itself, without end when no answer names a region.
        msg = f"{doing} ({store}): the server redirects in circles"
        raise ConfigError(msg, hint="check --region and --endpoint-url") from error


@contextmanager
def explaining_role(arn: str, *, whose: Callable[[], str]) -> Iterator[None]:
    """Turn what botocore raises while the role *arn* is taken on into what a store raises; *whose* says for whom, once that is known."""
    doing = f"taking on the role {arn} for {{}}"
    # Never `from error`: what an STS says may repeat the token.
    try:
        yield
    except boto.ClientError as error:
        raise _of_exchange(error, doing.format(whose())) from None
    except (boto.BotoCoreError, ResponseParserError) as error:
        raise _of_client(error, doing.format(whose()), hint=_STS) from None


def _of_exchange(error: boto.ClientError, doing: str) -> ModelCacheError:
    response: dict[str, Any] = dict(error.response)
    meta = response.get("ResponseMetadata", {})
    status, code = int(meta.get("HTTPStatusCode", 0)), str(response.get("Error", {}).get("Code", ""))
    said = f"{doing}: the STS said {status} {code}"
    if code == "IDPCommunicationError":
        return Unavailable(said, hint="the STS could not reach whoever issued the ID token; try later")
    if code in {"ValidationError", "RegionDisabledException", "InvalidAction"} or status in {404, 405, 501}:
        return ConfigError(said, hint=f"check the ARN of the role; {_STS}")
    return _of_trouble(code, status, said, meta.get("HTTPHeaders", {})) or AccessDenied(
        said, hint=_UNTRUSTED.get(code, _UNTRUSTED["AccessDenied"])
    )


def proper(answer: Answer, field: str) -> Answer:
    """
    *answer*, which must have *field*.

    botocore takes any 200 for success: that of a proxy's login page too, which would be a write that never happened.
    """
    if field not in answer:
        msg = f"no {field} in the answer"
        raise ResponseParserError(msg)
    return answer


def is_bare(error: boto.ClientError) -> bool:
    """Whether a refusal came without its reason: the answer to a HEAD has no body, so only the status is known."""
    return error.response["Error"].get("Code", "").isdigit()


def _of_answer(error: boto.ClientError, doing: str, store: str, key: str | None) -> ModelCacheError:
    response: dict[str, Any] = dict(error.response)
    meta = response.get("ResponseMetadata", {})
    status, code = int(meta.get("HTTPStatusCode", 0)), str(response.get("Error", {}).get("Code", ""))
    code = _ALIASES.get(code, code)
    said = (
        f"{doing} ({store}): the server said {status} {code}"
        if code != str(status)
        else f"{doing} ({store}): the server said {status}"
    )
    return (
        _of_absence(code, status, said, store, key)
        or _of_refusal(code, status, said, response)
        or _of_trouble(code, status, said, meta.get("HTTPHeaders", {}))
        or StoreUnsupported(
            said,
            hint="the server does not support this request of the S3 protocol: see its log, or ci-modelcache doctor",
        )
    )


def _of_absence(code: str, status: int, said: str, store: str, key: str | None) -> ModelCacheError | None:
    if code == "NoSuchBucket":
        return BucketMissing(
            f"there is no bucket for {store}", hint="create it, or check its name, the region and --endpoint-url"
        )
    if code == "NoSuchUpload":
        return UploadGone(said, hint="a lifecycle rule or another program aborted the upload; run again")
    if key is not None and (code == "NoSuchKey" or status == 404):  # noqa: PLR2004  # HTTP's own numbers are their names
        return ObjectNotFound(key, store)
    if key is not None and status == 412:  # noqa: PLR2004  # as above
        return AlreadyExists(key, store)
    return None


def _of_refusal(code: str, status: int, said: str, response: dict[str, Any]) -> ModelCacheError | None:
    if code in _FULL or status == 507:  # noqa: PLR2004  # as above
        return NoSpace(said, hint="free space in the store, or raise its quota")
    if code in _ELSEWHERE or status in {301, 307, 308}:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
        hint = (
            f"the bucket is in the region {region}: set --region {region}"
            if region
            else "check --region and --endpoint-url"
        )
        return ConfigError(said, hint=hint)
    if code in {"InvalidBucketName", "InvalidLocationConstraint"}:
        return ConfigError(said, hint="check the name of the bucket and --region")
    if code in _DENIED or status in {401, 403}:
        return AccessDenied(said, hint=_DENIED.get(code, _DENIED["AccessDenied"]))
    return None


def _of_trouble(code: str, status: int, said: str, headers: dict[str, str]) -> ModelCacheError | None:
    wait = headers.get("retry-after", "")
    if status in {429, 503} or code in _SLOW_DOWN:  # as above
        return RateLimited(
            said, retry_after=float(wait) if wait.isdecimal() else None, hint="use fewer workers, or try later"
        )
    if code in _DAMAGED:
        return ArrivedDamaged(
            said,
            hint="the bytes were damaged on the way; should it happen again, look for a proxy that rewrites bodies",
        )
    if code == "NotImplemented" or status == 501:  # noqa: PLR2004  # as above
        return None
    if status >= 500 or status == 409 or code in _PASSING:  # noqa: PLR2004  # as above
        return Unavailable(said, hint="the store has trouble of its own; try later")
    return None


def _of_client(error: Exception, doing: str, *, hint: str = _ENDPOINT) -> ModelCacheError:
    return _of_settings(error, doing) or _of_connection(error, doing, hint)


def _of_settings(error: Exception, doing: str) -> ModelCacheError | None:
    if isinstance(error, (boto.NoCredentialsError, boto.NoAuthTokenError)):
        return AccessDenied(f"{doing}: no credentials were found", hint=_CREDENTIALS)
    if isinstance(error, boto.PartialCredentialsError):
        return AccessDenied(f"{doing}: the credentials are incomplete", hint=_CREDENTIALS)
    if isinstance(error, (boto.CredentialRetrievalError, boto.TokenRetrievalError, boto.SSOError, boto.LoginError)):
        msg = f"{doing}: getting credentials failed ({type(error).__name__})"
        return AccessDenied(msg, hint="log in again (aws sso login), or check the role of the job")
    if isinstance(error, (boto.ProfileNotFound, boto.ConfigParseError, boto.ConfigNotFound)):
        return ConfigError(
            f"{doing}: {error}", hint="check AWS_PROFILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
        )
    return None


def _of_connection(error: Exception, doing: str, hint: str) -> ModelCacheError:
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ConfigError(
            f"{doing}: the server's certificate is not trusted", hint="give its authority with --ca-bundle"
        )
    if isinstance(error, ResponseParserError):
        msg = f"{doing}: the answer is not S3"
        return Unavailable(msg, hint=f"a proxy or a web page answered instead? {hint}")
    if isinstance(error, _CONNECTION):
        return Unavailable(f"{doing}: {_reason(error)}", hint=hint)
    return ConfigError(f"{doing}: {error}", hint="check the settings of the store and of AWS in this environment")


_REASONS = {
    "ConnectTimeoutError": "connecting timed out",
    "ConnectionClosedError": "the connection was closed",
    "EndpointConnectionError": "no connection to the endpoint",
    "IncompleteReadError": "the body broke off",
    "ProxyConnectionError": "no connection to the proxy",
    "ReadTimeoutError": "the server fell silent",
    "ResponseStreamingError": "the body broke off",
    "SSLError": "the TLS connection failed",
}


def _reason(error: Exception) -> str:
    return _REASONS.get(type(error).__name__, type(error).__name__)
