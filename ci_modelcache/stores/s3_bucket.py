"""The only module that makes botocore clients: their credentials, timeouts and dialect, and one request through them or without."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

import botocore.session
from attrs import frozen
from botocore import UNSIGNED
from botocore.config import Config
from botocore.handlers import add_expect_header

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.keys import is_key
from ci_modelcache.stores.s3_errors import explaining
from ci_modelcache.stores.s3_light import Elsewhere, Light
from ci_modelcache.stores.s3_memory import PartMemory
from ci_modelcache.stores.s3_place import place_of
from ci_modelcache.stores.s3_wire import ByClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.credentials import Credentials, ReadOnlyCredentials
    from mypy_boto3_s3.client import S3Client

    from ci_modelcache.stores.s3_place import Place
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.stores.s3_wire import Wire
    from ci_modelcache.transfer.retry import RetryPolicy

T = TypeVar("T")

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds; a server that is there accepts at once."""
READ_TIMEOUTS = (30.0, 15.0, 7.0, 3.0, 1.0)
"""Seconds of silence that are borne: the longest that fits into what is left until the deadline, or the shortest."""
MAX_CONNECTIONS = 64
PART_MEMORY = 96 * 1024 * 1024
"""Bytes that all writes to a store together have in memory: six parts of 16 MiB, fewer of larger ones."""
DEFAULT_REGION = "us-east-1"
"""For stores that have no regions; AWS redirects from there to the bucket's own."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


@frozen
class Profile:
    """The profile *name* of AWS's files, whose credentials are used in place of all others."""

    name: str

    def session(
        self,
        *,
        region: str | None,  # noqa: ARG002  # as that of `AssumedRole`
        ca_bundle: str | None,  # noqa: ARG002  # as above
        timeout: Callable[[], float],  # noqa: ARG002  # as above
    ) -> botocore.session.Session:
        """A session whose clients act by this profile."""
        return botocore.session.Session(profile=self.name)


class Bucket:
    """
    The part of a bucket below *prefix*, and how to talk to it.

    Credentials are those of *role*, or come from botocore's own chain: environment, profiles, web identity, container and
    machine roles. Where none are found the bucket is asked without, as everybody may read some. An empty *endpoint_url* is AWS's
    own, whatever the environment says; None leaves that to botocore.
    botocore retries nothing, since *retry* does; and no single request outlasts its deadline by more than a second.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        ca_bundle: str | None,
        retry: RetryPolicy,
        role: AssumedRole | Profile | None = None,
    ) -> None:
        self.name = name
        self.url = f"s3://{name}/{prefix}" if prefix else f"s3://{name}"
        self.retry = retry
        self.memory = PartMemory(PART_MEMORY)
        self._prefix = f"{prefix}/" if prefix else ""
        self._clients: dict[float, S3Client] = {}
        self._lights: dict[float, Light] = {}
        self._lock = threading.Lock()
        self._endpoint_url, self._region, self._ca_bundle = endpoint_url, region, ca_bundle
        self._check(prefix)
        with explaining("opening the store", store=self.url):
            self._session = botocore.session.get_session() if role is None else self._session_of(role)
            self.anonymous = self._session.get_credentials() is None
            """Whether there are no credentials, so that nothing is signed."""
            self._place = place_of(self._session, name, endpoint_url=endpoint_url, region=self.region)
        if self.anonymous:
            _log.info("no credentials were found: %s is asked without", self.url)
        if self._place is None:
            self.client()  # now, so that a wrong setting is told before work begins

    def _session_of(self, role: AssumedRole | Profile) -> botocore.session.Session:
        return role.session(region=self._region or DEFAULT_REGION, ca_bundle=self._ca_bundle, timeout=self._timeout)

    def _check(self, prefix: str) -> None:
        if _BUCKET.fullmatch(self.name) is None:
            msg = f"not the name of a bucket: {self.name!r:.100}"
            raise ConfigError(msg, hint="write the store as s3://bucket or s3://bucket/prefix")
        if prefix and not is_key(prefix):
            msg = f"not a prefix for a store: {prefix!r:.100}"
            raise ConfigError(msg, hint="use letters, digits, '.', '_', '-' and single '/' between them")
        if self._ca_bundle is not None and not Path(self._ca_bundle).exists():
            msg = f"there is no CA bundle at {self._ca_bundle}"
            raise ConfigError(msg, hint="give --ca-bundle the path of a PEM file with the certificates to trust")

    def full(self, key: str) -> str:
        """What S3 calls *key*."""
        return self._prefix + key

    def short(self, full: str) -> str:
        """The inverse of `full`."""
        return full.removeprefix(self._prefix)

    def once(self, request: Callable[[S3Client], T], *, doing: str, key: str | None = None) -> T:
        """The result of one *request*; its failures are raised as a store's, with *doing* and *key* in their messages."""
        client = self.client()
        _log.debug("%s (%s)", doing, self.url)
        with explaining(doing, store=self.url, key=key, anonymous=self.anonymous):
            return request(client)

    def retried(self, request: Callable[[S3Client], T], *, doing: str, key: str | None = None) -> T:
        """The result of *request*, made again for as long as `retry` allows."""
        return self.retry.call(lambda: self.once(request, doing=doing, key=key), doing=f"{doing} ({self.url})")

    def asked(self, request: Callable[[Wire], T], *, doing: str, key: str | None = None) -> T:
        """As `once`, without a client where the bucket is at a place that is known."""
        light = self._light()
        if light is not None:
            _log.debug("%s (%s)", doing, self.url)
            try:
                with explaining(doing, store=self.url, key=key, anonymous=self.anonymous):
                    return request(light)
            except Elsewhere as said:
                _log.debug("%s (%s): the server sends it elsewhere: %s", doing, self.url, said)
        result = self.once(lambda client: request(ByClient(client, self.name)), doing=doing, key=key)
        if light is not None:
            self._place = None  # the client knows by now where the bucket is
        return result

    def _light(self) -> Light | None:
        place, seconds = self._place, self._timeout()
        if place is None:
            return None
        with self._lock:
            if seconds not in self._lights:
                self._lights[seconds] = self._new_light(place, seconds)
            return self._lights[seconds]

    def _new_light(self, place: Place, seconds: float) -> Light:
        with explaining("opening the store", store=self.url):
            credentials, verify = self.credentials(), self._ca_bundle or self._session.get_config_variable("ca_bundle")
            try:
                return Light(
                    place,
                    credentials,
                    verify=verify,
                    timeouts=(min(CONNECT_TIMEOUT, seconds), seconds),
                    connections=MAX_CONNECTIONS,
                    agent=f"{self._session.user_agent()} ci-modelcache",
                )
            except OSError as error:  # what is wrong with the file of authorities; that of ssl is one, too
                msg = (
                    f"no certificates can be read from {verify or 'the CA bundle of the environment'}: {error.strerror}"
                )
                hint = "give --ca-bundle, AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE the path of a PEM file with the certificates to trust"
                raise ConfigError(msg, hint=hint) from error

    def client(self) -> S3Client:
        """A client whose timeouts fit into the time that is left. It can be used from any thread."""
        seconds = self._timeout()
        with self._lock:
            if seconds not in self._clients:
                self._clients[seconds] = self._new_client(seconds)
            return self._clients[seconds]

    def credentials(self) -> Credentials | None:
        """What everything is signed with, None for a bucket that is asked without."""
        return self._session.get_credentials()

    def signer(self, frozen: ReadOnlyCredentials, *, region: str) -> S3Client:
        """A client for the *region* that signs with credentials which do not change meanwhile."""
        return self._new_client(self._timeout(), signing=(frozen, region))

    @property
    def region(self) -> str:
        """The one that the settings name, or the usual one."""
        return self._region or self._session.get_config_variable("region") or DEFAULT_REGION

    def _timeout(self) -> float:
        left = self.retry.deadline.remaining()
        return next((each for each in READ_TIMEOUTS if each <= left), READ_TIMEOUTS[-1])

    def _new_client(self, read_timeout: float, *, signing: tuple[ReadOnlyCredentials, str] | None = None) -> S3Client:
        keys, region = (_Keys(), self.region) if signing is None else (_spelled(signing[0]), signing[1])
        # Left to itself botocore signs URLs for AWS by the rules of 2006, which newer regions do not know.
        version = UNSIGNED if self.anonymous else None if signing is None else "s3v4"
        config = Config(
            connect_timeout=min(CONNECT_TIMEOUT, read_timeout),
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=MAX_CONNECTIONS,
            tcp_keepalive=True,
            user_agent_extra="ci-modelcache",
            signature_version=version,
            ignore_configured_endpoint_urls=self._endpoint_url == "",  # type: ignore[call-arg]  # the stubs do not know it
            # Checksums of botocore's choice break uploads to many stores, and cost CPU twice: every object is written
            # with an explicit SHA-256 and its bytes are proven by whoever reads them, on AWS too.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # The addressing style stays botocore's: virtual hosts for AWS, paths for other endpoints, or what the
            # user's profile says (some stores know virtual hosts only).
        )
        with explaining("opening the store", store=self.url):
            try:
                client: S3Client = self._session.create_client(  # type: ignore[assignment]  # botocore makes its classes at run time
                    "s3",
                    endpoint_url=self._endpoint_url or None,
                    region_name=region,
                    verify=self._ca_bundle,
                    config=config,
                    **keys,
                )
            except ValueError as error:  # botocore's own for "Invalid endpoint"
                msg = f"not the URL of an S3 endpoint: {self._endpoint_url!r}"
                raise ConfigError(msg, hint="write it as https://host or http://host:port") from error
        # "Expect: 100-continue" costs each write a second at servers that do not know it. Nothing is lost without it: what
        # would be refused is small, or the part of an upload that was granted.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client


class _Keys(TypedDict, total=False):
    """Credentials as botocore takes them."""

    aws_access_key_id: str | None
    aws_secret_access_key: str | None
    aws_session_token: str | None


def _spelled(frozen: ReadOnlyCredentials) -> _Keys:
    return {
        "aws_access_key_id": frozen.access_key,
        "aws_secret_access_key": frozen.secret_key,
        "aws_session_token": frozen.token,
    }
